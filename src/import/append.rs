//! New days of a log, put behind what a dataset folder holds: who and what is there keeps its number.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::collect::Collector;
use super::source::Counter;
use super::{Appended, Gathered, Report, Request, texts_of_users};
use crate::data::{self, Content, Item, ItemId, User, UserTexts};
use crate::files::Place;
use crate::{Result, invalid};

/// A dataset folder that grows.
struct Standing {
    content: Content,
    user_ids: HashMap<String, usize>,
    item_ids: HashMap<String, ItemId>,
}

/// What a user has taken.
struct Taken {
    /// Items; with their times where an item may be there again.
    items: HashSet<(ItemId, Option<i64>)>,
    keep_duplicates: bool,
    last: Option<i64>,
}

impl Taken {
    fn by(user: usize, content: &Content, keep_duplicates: bool) -> Self {
        let items = content.users[user].items.iter().copied();
        let times = content.times.as_ref().map(|times| times[user].as_slice());
        let items = match times {
            Some(times) if keep_duplicates => items.zip(times.iter().copied().map(Some)).collect(),
            // Nothing tells one that is taken again from one that was read before.
            None if keep_duplicates => HashSet::new(),
            _ => items.map(|item| (item, None)).collect(),
        };
        Self { items, keep_duplicates, last: times.and_then(|times| times.last().copied()) }
    }

    /// Whether an interaction is one of these.
    fn has(&self, item: ItemId, time: Option<i64>) -> bool {
        self.items.contains(&(item, time.filter(|_| self.keep_duplicates)))
    }

    /// Whether the last of these came after `time`.
    fn ends_after(&self, time: Option<i64>) -> bool {
        time.zip(self.last).is_some_and(|(time, last)| time < last)
    }
}

impl Standing {
    fn read(dir: &Path) -> Result<Self> {
        if let Some((path, field)) = data::foreign_field(dir)? {
            invalid!(
                "{}: has {field}, which would be lost, since the folder is written anew; import it into a folder of its \
                 own (llmbs data import {} --out ANOTHER), and append there",
                path.display(),
                dir.display()
            );
        }
        let content = data::read_folder(dir)?;
        if let Some(gap) = content.items.iter().position(|item| item.is_gap) {
            invalid!(
                "{}: no item has id {gap}, and what is written has an item for each id; import its log anew instead",
                dir.display()
            );
        }
        let name = |(id, item): (ItemId, &Item)| (item.name(id), id);
        Ok(Self {
            user_ids: (content.users.iter().map(|user| user.id.clone())).zip(0..).collect(),
            item_ids: (0..).zip(&content.items).map(name).collect(),
            content,
        })
    }

    /// The number of a user, the next one of somebody new.
    fn user(&mut self, raw: &str) -> usize {
        if let Some(&user) = self.user_ids.get(raw) {
            return user;
        }
        let user = self.content.users.len();
        self.content.users.push(User { id: raw.to_string(), items: Vec::new() });
        if let Some(times) = &mut self.content.times {
            times.push(Vec::new());
        }
        if let Some(texts) = &mut self.content.user_texts {
            texts.push(UserTexts::default());
        }
        self.user_ids.insert(raw.to_string(), user);
        user
    }

    /// The number of an item, the next one of a new item with texts of `collector`.
    fn item(&mut self, item: u32, collector: &Collector) -> ItemId {
        let raw = collector.items.name(item);
        if let Some(&id) = self.item_ids.get(raw) {
            return id;
        }
        let id = self.content.items.len() as ItemId;
        let texts = collector.catalogue.get(item).cloned().unwrap_or_default();
        self.content.items.push(Item { raw_id: Some(raw.to_string()), ..texts });
        self.item_ids.insert(raw.to_string(), id);
        id
    }

    /// Takes what is said about the users that are new, from number `first` on. Those that were there keep what was said of
    /// them, as items do.
    fn take_texts(&mut self, gathered: &Gathered, first: usize) -> Result<()> {
        let item_of = |raw: &str| self.item_ids.get(raw).copied();
        let Some(mut found) = texts_of_users(&gathered.plan, item_of)? else { return Ok(()) };
        let Content { users, user_texts, .. } = &mut self.content;
        for (user, number) in users[first..].iter().zip(first..) {
            if let Some(texts) = found.remove(&user.id) {
                let all = user_texts.get_or_insert_with(|| vec![UserTexts::default(); users.len()]);
                all[number] = texts;
            }
        }
        let is_other = |(raw, texts): &(&String, &UserTexts)| {
            let user = self.user_ids.get(*raw);
            user.is_some_and(|&user| user_texts.as_ref().map(|all| &all[user]) != Some(*texts))
        };
        let passed_over = found.iter().filter(is_other).count();
        if passed_over > 0 {
            tracing::warn!(
                "{passed_over} known users keep their texts, even if they have none: their texts beside \
                 {} are skipped",
                gathered.sources()
            );
        }
        Ok(())
    }

    /// Takes what was read; says what is new, and how many of the interactions were there.
    fn take(&mut self, gathered: &Gathered, request: &Request) -> Result<(Appended, u64)> {
        let Gathered { collector, sequences, .. } = gathered;
        if self.content.times.is_some() && !sequences.has_times() {
            invalid!(
                "{}: its interactions have no times, by which splits could go, and those of {} have: name the column \
                 with --time, or import the whole log anew",
                gathered.sources(),
                self.content.name
            );
        }
        if self.content.times.is_none() && sequences.has_times() {
            tracing::warn!(
                "the interactions of {} have no times: those of the new ones order these and are not kept",
                self.content.name
            );
        }
        let before = [self.content.users.len(), self.content.items.len()];
        let (mut appended, mut known, mut earlier) = (0, 0, 0);
        let mut times = sequences.times();
        for (number, taken) in (0..).zip(sequences.users()) {
            let times = times.as_mut().and_then(Iterator::next);
            if taken.is_empty() {
                continue;
            }
            let user = self.user(collector.users.name(number));
            let there = Taken::by(user, &self.content, request.keep_duplicates);
            let (mut new, mut new_times) = (Vec::new(), Vec::new());
            for (at, &item) in taken.iter().enumerate() {
                let time = times.as_ref().map(|times| times[at]);
                let id = self.item_ids.get(collector.items.name(item));
                if id.is_some_and(|&id| there.has(id, time)) {
                    known += 1;
                } else if request.lenient && there.ends_after(time) {
                    earlier += 1;
                } else {
                    new.push(self.item(item, collector));
                    new_times.extend(time);
                }
            }
            appended += new.len() as u64;
            self.put(user, &new, &new_times, gathered)?;
        }
        if request.all_items {
            for &item in &collector.catalogue.listed {
                self.item(item, collector);
            }
        }
        let [users, items] = before;
        self.take_texts(gathered, users)?;
        let new = Appended {
            interactions: appended,
            users: (self.content.users.len() - users) as u64,
            items: (self.content.items.len() - items) as u64,
            earlier,
        };
        Ok((new, known))
    }

    /// Puts what a user took behind what they took before; `times` are those of `items`, or none.
    fn put(
        &mut self,
        user: usize,
        items: &[ItemId],
        times: &[i64],
        gathered: &Gathered,
    ) -> Result<()> {
        let Content { users, items: all, times: standing, .. } = &mut self.content;
        if let Some(standing) = standing {
            let standing = &mut standing[user];
            if let (Some(&last), Some(&first)) = (standing.last(), times.first())
                && first < last
            {
                invalid!(
                    "{}: user {:?} took item {:?} at {first}, before {last}, the last time that the dataset \
                     has of them (both in seconds): what is appended comes later; import the whole log anew, or pass \
                     over what is earlier, with --lenient",
                    gathered.sources(),
                    users[user].id,
                    all[items[0] as usize].name(items[0]),
                );
            }
            standing.extend(times);
        }
        users[user].items.extend(items);
        Ok(())
    }

    /// Writes the folder as it has become.
    fn write(&self, place: Place) -> Result<()> {
        let Content { name, users, items, times, user_texts } = &self.content;
        let named = || users.iter().map(|user| (user.id.as_str(), user.items.as_slice()));
        let times = times.iter().flatten();
        place.build(|dir| {
            if let Some(texts) = user_texts {
                data::write_user_texts(dir, name, texts.iter().enumerate())?;
            }
            Ok(data::write_named(dir, name, named, || items.iter().cloned(), times)?)
        })
    }
}

/// Puts the interactions of `request` behind those of the dataset folder `out`, user by user. Users and items that are
/// there keep their numbers and texts, new ones get the next. What is there already is passed over, so that a log may
/// reach back into the days before: an item that the user has or, with `keep_duplicates`, has of the same time. The rules
/// that drop users and items, the core and `drop_textless`, are not applied: they would take away what is there.
///
/// # Errors
/// If a user's first new interaction is earlier than their last one there and the request is not lenient, if the dataset
/// has times and the interactions have none, if its files hold what would not be written again, and all that
/// [`import`](super::import) refuses of a file. Nothing is changed then.
pub fn append(request: &Request, out: &Path, show: &mut dyn FnMut(u64)) -> Result<Report> {
    let place = Place::claim(out, true, data::is_dataset_file)?;
    let mut standing = Standing::read(out)?;
    let counter = Counter::default();
    let mut gathered = Gathered::read(request, &counter, show)?;
    if gathered.sequences.len() == 0 {
        gathered.nothing_left()?;
    }
    gathered.read_items(request, &counter, show)?;
    let (appended, known) = standing.take(&gathered, request)?;
    if appended.interactions > 0 || appended.items > 0 {
        standing.write(place)?;
    }
    let Content { users, items, times, .. } = &standing.content;
    let report = gathered.report(request);
    Ok(Report {
        duplicates: report.duplicates + known,
        keeps_times: times.is_some(),
        appended: Some(appended),
        users: users.len() as u64,
        short_users: users.iter().filter(|user| user.items.len() < 3).count() as u64,
        items: items.len() as u64,
        items_without_text: items.iter().filter(|item| !item.has_text()).count() as u64,
        interactions: users.iter().map(|user| user.items.len() as u64).sum(),
        ..report
    })
}
