//! What an import did: every rule, and how much it left out.

use std::fmt;

use serde::Serialize;

use super::log::Dropped;
use super::time::TimeKind;

/// What came to a dataset that was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Appended {
    /// New interactions.
    pub interactions: u64,
    /// New users.
    pub users: u64,
    /// New items.
    pub items: u64,
    /// Interactions passed over because their user's last one there came after them.
    pub earlier: u64,
}

/// What was read, left out and written.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "rules that are on or off")]
pub struct Report {
    /// The files of interactions, in the order they were read.
    pub sources: Vec<String>,
    /// The files of items.
    pub item_files: Vec<String>,
    /// Interactions read, those left out included.
    pub rows: u64,
    /// Lines of any file that could not be read.
    pub skipped_lines: u64,
    /// What was wrong with the first of them.
    pub first_faults: Vec<String>,
    /// The least rating asked for.
    pub min_rating: Option<f64>,
    /// Interactions rated lower.
    pub below_min_rating: u64,
    /// Whether interactions of a user with one item more than once were kept.
    pub keep_duplicates: bool,
    /// Those that were left out: all but the first.
    pub duplicates: u64,
    /// How many interactions every user and item has at least.
    pub core: u32,
    /// What the core left out.
    pub outside_core: Dropped,
    /// In how many rounds.
    pub core_rounds: u32,
    /// Whether items without text were left out.
    pub drop_textless: bool,
    /// What went with them.
    pub textless: Dropped,
    /// How times are spelt; none where there are none and the files' order is that of time.
    pub times: Option<TimeKind>,
    /// The day of the first and that of the last interaction read.
    pub days: Option<[String; 2]>,
    /// Whether the times were written beside the interactions, for splits by time.
    pub keeps_times: bool,
    /// Interactions that share their time with another of the same user; they stay in file order.
    pub tied: u64,
    /// Their share.
    pub tied_share: f64,
    /// Items in the files of items.
    pub listed_items: u64,
    /// Items listed again that say nothing new: the first text of each kind stands.
    pub listed_twice: u64,
    /// Items listed that are in no interaction kept; they are left out, unless all are asked for.
    pub unused_items: u64,
    /// Whether these were kept.
    pub all_items: bool,
    /// What is new of what follows, where it was put behind what was there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub appended: Option<Appended>,
    /// Users written.
    pub users: u64,
    /// Users with fewer than three interactions, whom leave-one-out passes over.
    pub short_users: u64,
    /// Items written.
    pub items: u64,
    /// Items written that have no text.
    pub items_without_text: u64,
    /// Interactions written.
    pub interactions: u64,
}

impl fmt::Display for Report {
    /// A figure a line; rules that were not asked for and left nothing out are passed over.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |label: &str, value: String| writeln!(f, "{label:<27}{value}");
        line("interactions read", self.rows.to_string())?;
        if self.skipped_lines > 0 {
            line("lines skipped", self.skipped_lines.to_string())?;
            for fault in &self.first_faults {
                line("", fault.clone())?;
            }
        }
        match (&self.times, &self.days) {
            (Some(_), days) => {
                let days = days.as_ref().map_or_else(
                    || "not told: times of no one unit, which order as numbers".into(),
                    |[first, last]| format!("{first} to {last}"),
                );
                line("days", days)?;
                if !self.keeps_times {
                    line(
                        "times",
                        "not kept: places in a sequence, of no one unit, or more than 136 years apart"
                            .into(),
                    )?;
                }
                let share = 100.0 * self.tied_share;
                line("of one time, in file order", format!("{} ({share:.2}%)", self.tied))?;
            }
            _ => line("times", "none: in file order".into())?,
        }
        if let Some(least) = self.min_rating {
            line(&format!("rated under {least}"), self.below_min_rating.to_string())?;
        }
        if !self.keep_duplicates {
            line("duplicates left out", self.duplicates.to_string())?;
        }
        let went = |dropped: &Dropped| {
            let Dropped { interactions, users, items } = dropped;
            format!("{interactions} interactions, {users} users, {items} items")
        };
        if self.drop_textless {
            line("left out without text", went(&self.textless))?;
        }
        if self.core > 1 {
            let rounds = format!("{}, in {} rounds", went(&self.outside_core), self.core_rounds);
            line(&format!("outside the {}-core", self.core), rounds)?;
        }
        if !self.item_files.is_empty() {
            line("items listed", self.listed_items.to_string())?;
            let kept = if self.all_items { "kept" } else { "left out" };
            line(&format!("unused items, {kept}"), self.unused_items.to_string())?;
            if self.listed_twice > 0 {
                line("listed again, passed over", self.listed_twice.to_string())?;
            }
        }
        if let Some(Appended { earlier: earlier @ 1.., .. }) = self.appended {
            line("earlier, passed over", earlier.to_string())?;
        }
        let new = self
            .appended
            .map(|Appended { interactions, users, items, .. }| [interactions, users, items]);
        let total = |count: u64, at: usize| match new {
            Some(new) => format!("{count}, {} of them new", new[at]),
            None => count.to_string(),
        };
        line("users", total(self.users, 1))?;
        line("  with fewer than 3 items", self.short_users.to_string())?;
        line("items", total(self.items, 2))?;
        line("  without text", self.items_without_text.to_string())?;
        line("interactions", total(self.interactions, 0))
    }
}
