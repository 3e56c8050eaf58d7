//! Takes interactions as they are read: ids become numbers, times are checked, low ratings are left out.

use super::catalogue::Catalogue;
use super::faults::quoted;
use super::ids::{Batch, Ids, check};
use super::log::Log;
use super::record::{Record, Role, Wrong};
use super::time::Clock;

/// What was read of the interactions.
#[derive(Default)]
pub(super) struct Collector {
    pub(super) users: Ids,
    pub(super) items: Ids,
    pub(super) log: Log,
    pub(super) clock: Clock,
    pub(super) catalogue: Catalogue,
    /// Interactions rated lower are left out.
    pub(super) min_rating: Option<f64>,
    /// How many were.
    pub(super) low_rated: u64,
    /// Whether the first row that was taken has a time.
    timed: Option<bool>,
    /// Rows that wait for the numbers of their ids.
    waiting: Waiting,
}

#[derive(Default)]
struct Waiting {
    users: Batch,
    items: Batch,
    times: Vec<i64>,
}

/// So many rows get their numbers at once.
const BATCH: usize = 4096;

impl Collector {
    /// Takes a row.
    pub(super) fn take(&mut self, record: &Record<'_>) -> Result<(), Wrong> {
        if let Some(least) = self.min_rating
            && rating(record)? < least
        {
            self.low_rated += 1;
            return Ok(());
        }
        // What is wrong with a row is found before anything of it decides what others must look like.
        let id = |role| {
            let id = record.get(role).unwrap_or_default();
            check(id).map(|()| id).map_err(|what| Wrong::field(role, what))
        };
        let (user, item) = (id(Role::User)?, id(Role::Item)?);
        let time = record.get(Role::Time);
        if self.timed.is_some_and(|timed| timed != time.is_some()) {
            let what = match time {
                Some(_) => "has a time, but the first row has none",
                None => "has no time, but the first row has one",
            };
            return Err(Wrong::field(Role::Time, what));
        }
        let read = time.map_or(Ok(0), |time| self.clock.read(time));
        let read = read.map_err(|what| Wrong::field(Role::Time, what))?;
        self.timed = Some(time.is_some());
        self.waiting.users.push(user);
        self.waiting.items.push(item);
        self.waiting.times.push(read);
        let texts = Role::TEXTS.iter().any(|&role| record.get(role).is_some());
        if texts || self.waiting.times.len() == BATCH {
            self.settle().map_err(Wrong::row)?;
        }
        if texts && let Some(item) = self.items.get(item) {
            self.catalogue.beside(item, record);
        }
        Ok(())
    }

    /// Gives the rows that wait for it their numbers.
    ///
    /// # Errors
    /// If there are too many of anything.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        let Self { users, items, log, waiting, .. } = self;
        if log.len() + waiting.times.len() > u32::MAX as usize {
            return Err("is one interaction too many: 4,294,967,295 are the most".into());
        }
        let (of_users, of_items) =
            rayon::join(|| users.numbers(&waiting.users), || items.numbers(&waiting.items));
        for ((user, item), &time) in of_users?.into_iter().zip(of_items?).zip(&waiting.times) {
            log.push(user, item, time);
        }
        waiting.users.clear();
        waiting.items.clear();
        waiting.times.clear();
        Ok(())
    }
}

fn rating(record: &Record<'_>) -> Result<f64, Wrong> {
    let text = record.get(Role::Rating).unwrap_or_default().trim();
    let number = text.parse::<f64>().ok().filter(|rating| rating.is_finite());
    number.ok_or_else(|| {
        Wrong::field(Role::Rating, format!("{} is no rating; a number is", quoted(text)))
    })
}
