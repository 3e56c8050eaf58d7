//! The figures that tell one dataset from another, for `llmbs data stats` and for result files.

use std::fmt;

use serde::Serialize;

use super::{Dataset, Item, Split, SplitRule};

/// What a dataset looks like from afar.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stats {
    /// The dataset's name.
    pub name: String,
    /// Users with at least three interactions.
    pub users: usize,
    /// Users left out because they have fewer.
    pub short_users: usize,
    /// Items, those in no sequence included.
    pub items: usize,
    /// Interactions of the users kept, held-out ones included.
    pub interactions: usize,
    /// Interactions divided by the number of user-item pairs.
    pub density: f64,
    /// Mean interactions a user.
    pub mean_length: f64,
    /// Median interactions a user.
    pub median_length: f64,
    /// Interactions of the longest user.
    pub max_length: usize,
    /// See [`Dataset::repeats`].
    pub repeats: f64,
    /// Items that no training sequence holds.
    pub items_not_in_training: usize,
    /// Items without any text field.
    pub items_without_text: usize,
    /// Mean characters of the titles present; 0 where there are none.
    pub mean_title_chars: f64,
    /// How the interactions are divided.
    pub split_rule: SplitRule,
    /// Targets of validation and of test.
    pub targets: [usize; 2],
    /// When the first and the last interaction happened, in seconds, where that is known.
    pub times: Option<[i64; 2]>,
    /// See [`Dataset::fingerprint`].
    pub fingerprint: String,
    /// See [`Dataset::interactions_fingerprint`].
    pub interactions_fingerprint: String,
    /// See [`Dataset::texts_fingerprint`].
    pub texts_fingerprint: String,
}

impl Stats {
    /// The figures of `dataset`.
    pub fn of(dataset: &Dataset) -> Self {
        let mut lengths: Vec<_> = dataset.users.iter().map(|user| user.items.len()).collect();
        lengths.sort_unstable();
        let (users, items) = (lengths.len(), dataset.num_items());
        let interactions = dataset.num_interactions();
        let median = |sorted: &[usize]| match sorted.len() {
            0 => 0.0,
            n => (sorted[(n - 1) / 2] + sorted[n / 2]) as f64 / 2.0,
        };
        let titles: Vec<_> = dataset.items.iter().map(|item| item.title.chars().count()).collect();
        let titled = titles.iter().filter(|&&chars| chars > 0).count();
        Self {
            name: dataset.name.clone(),
            users,
            short_users: dataset.short_users,
            items,
            interactions,
            density: ratio(interactions, users * items),
            mean_length: ratio(interactions, users),
            median_length: median(&lengths),
            max_length: lengths.last().copied().unwrap_or(0),
            repeats: dataset.repeats(),
            items_not_in_training: dataset.popularity().iter().filter(|&&n| n == 0).count(),
            items_without_text: dataset.items.iter().filter(|item| !Item::has_text(item)).count(),
            mean_title_chars: ratio(titles.iter().sum(), titled),
            split_rule: dataset.split_rule(),
            targets: [Split::Valid, Split::Test].map(|split| dataset.targets(split).len()),
            times: range_of(dataset.times.iter().flatten().flatten().copied()),
            fingerprint: dataset.fingerprint.clone(),
            interactions_fingerprint: dataset.interactions_fingerprint.clone(),
            texts_fingerprint: dataset.texts_fingerprint.clone(),
        }
    }
}

fn range_of(mut times: impl Iterator<Item = i64>) -> Option<[i64; 2]> {
    let first = times.next()?;
    Some(times.fold([first; 2], |[low, high], time| [low.min(time), high.max(time)]))
}

fn ratio(a: usize, b: usize) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

impl fmt::Display for Stats {
    /// A table of two columns, one figure a line, without a final newline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [valid, test] = self.targets;
        let rows = [
            ("dataset", self.name.clone()),
            ("users", self.users.to_string()),
            ("users left out (< 3)", self.short_users.to_string()),
            ("items", self.items.to_string()),
            ("interactions", self.interactions.to_string()),
            ("density", format!("{:.5}", self.density)),
            ("mean length", format!("{:.2}", self.mean_length)),
            ("median length", self.median_length.to_string()),
            ("longest", self.max_length.to_string()),
            ("repeats in training", format!("{:.4}", self.repeats)),
            ("items not in training", self.items_not_in_training.to_string()),
            ("items without text", self.items_without_text.to_string()),
            ("mean title characters", format!("{:.1}", self.mean_title_chars)),
            ("times, in seconds", self.times.map_or("none".into(), |[a, b]| format!("{a} to {b}"))),
            (
                "split",
                format!("{}: {valid} targets of validation, {test} of test", self.split_rule),
            ),
            ("fingerprint", self.fingerprint.clone()),
            ("  of interactions", self.interactions_fingerprint.clone()),
        ];
        for (label, value) in rows {
            writeln!(f, "{label:<23}{value}")?;
        }
        write!(f, "{:<23}{}", "  of texts", self.texts_fingerprint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::User;

    fn stats() -> Stats {
        let user = |id: &str, items: &[u32]| User { id: id.into(), items: items.into() };
        let users = vec![
            user("a", &[0, 1, 2, 3]),
            user("b", &[1, 1, 0]),
            user("c", &[1, 0, 3, 0, 2, 2, 3]),
            user("d", &[3, 2, 1, 0]),
            user("short", &[0, 1]),
        ];
        let titled = |title: &str| Item { title: title.into(), ..Item::default() };
        let items = vec![titled("café"), titled("sérums"), Item::default(), titled(""), titled("")];
        Stats::of(&Dataset::new("shop", users, items).unwrap())
    }

    #[test]
    fn figures_are_those_of_a_hand_count() {
        let stats = stats();
        assert_eq!((stats.users, stats.short_users, stats.items), (4, 1, 5));
        assert_eq!((stats.interactions, stats.max_length), (18, 7));
        assert_eq!((stats.mean_length, stats.median_length), (4.5, 4.0));
        assert_eq!(stats.density, 18.0 / 20.0);
        // Of the six items that training has after others of their user one was taken before.
        assert_eq!(stats.repeats, 1.0 / 6.0);
        // Item 4 is in no sequence at all; the other four are each trained on by somebody.
        assert_eq!(stats.items_not_in_training, 1);
        assert_eq!(stats.items_without_text, 3);
        assert_eq!(stats.mean_title_chars, 5.0);
    }

    #[test]
    fn the_table_is_aligned_and_says_everything() {
        let stats = stats();
        let table = stats.to_string();
        assert!(table.contains("users                  4\n"), "{table}");
        assert!(table.contains("users left out (< 3)   1\n"), "{table}");
        assert!(table.contains("density                0.90000\n"), "{table}");
        assert!(table.contains("repeats in training    0.1667\n"), "{table}");
        assert!(table.contains("leave-one-out: 4 targets of validation, 4 of test\n"), "{table}");
        assert!(table.contains("times, in seconds      none\n"), "{table}");
        assert!(table.ends_with(&stats.texts_fingerprint), "{table}");
        assert_eq!(table.lines().count(), 18);
        let json = serde_json::to_value(&stats).unwrap();
        assert_eq!(json["items_not_in_training"], 1);
    }
}
