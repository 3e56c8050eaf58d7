//! Datasets in the files that other programs read: LC-Rec, RecBole, S3-Rec, and the `user_sequence.txt` of
//! P5 and its kin.
//!
//! What is exported can be imported again: the same sequences and texts in the same order, if all items
//! are kept and texts are left as they are. Users go by their raw ids, items by theirs, or by their numbers
//! where they have none.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::str::FromStr;

use serde::Serialize;
use serde_json::json;

use crate::data::{self, Dataset, Item, PLAIN_TEXT_FIELDS, TextField};
use crate::files::{self, Place};
use crate::{Error, Result, invalid};

/// A format to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A folder in LC-Rec's format, with `user2id` and `item2id`.
    Lcrec,
    /// RecBole's atomic files, `X.inter` and `X.item`.
    Recbole,
    /// S3-Rec's sequences, numbered from 1, with `user2id` and `item2id`.
    S3rec,
    /// `user_sequence.txt` and `item_plain_text.txt`.
    UserSequence,
}

const TARGETS: [(&str, Target); 4] = [
    ("lcrec", Target::Lcrec),
    ("recbole", Target::Recbole),
    ("s3rec", Target::S3rec),
    ("user-sequence", Target::UserSequence),
];

impl FromStr for Target {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = TARGETS.iter().find(|(known, _)| *known == name);
        known.map(|(_, target)| *target).ok_or_else(|| {
            let names = TARGETS.map(|(name, _)| name).join(", ");
            Error::Invalid(format!("no format to export to is called {name:?}; there are {names}"))
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = TARGETS.iter().find(|(_, target)| target == self);
        f.pad(name.map_or("", |(name, _)| name))
    }
}

/// What was written.
#[derive(Debug, Serialize)]
pub struct Exported {
    /// The files, by name.
    pub files: Vec<String>,
    /// Users written.
    pub users: u64,
    /// Users that were left out because they have fewer than three interactions.
    pub short_users: u64,
    /// Items written.
    pub items: u64,
    /// Interactions written.
    pub interactions: u64,
    /// Texts that the format cannot hold as they are: line breaks and tabs became spaces, and a semicolon
    /// before the name of a field a comma.
    pub changed_texts: u64,
}

/// Endings of what is written after the name of the dataset.
const OURS: [&str; 9] = [
    ".inter.json",
    ".item.json",
    ".times.json",
    ".user.json",
    ".user2id",
    ".item2id",
    ".inter",
    ".item",
    ".items.jsonl",
];
/// Whole names of the rest of it.
const OTHERS: [&str; 2] = ["user_sequence.txt", "item_plain_text.txt"];

/// Writes `dataset` into the folder `out`, whole or not at all.
///
/// # Errors
/// If the folder is there and `force` is not given or it holds anything but such files, or if an id cannot
/// be written in the format.
pub fn export(dataset: &Dataset, target: Target, out: &Path, force: bool) -> Result<Exported> {
    let Some(name) = out.file_name().and_then(|name| name.to_str()) else {
        invalid!("{}: give a folder a name of its own", out.display());
    };
    let sequences = format!("{name}.txt");
    let place = Place::claim(out, force, |out| {
        let is_of_one = data::is_file_of_one(out, &OURS);
        move |file: &str| file == sequences || OTHERS.contains(&file) || is_of_one(file)
    })?;
    let writer = Writer { dataset, name, changed: Cell::new(0) };
    writer.check_ids(target)?;
    let files = place.build(|dir| match target {
        Target::Lcrec => writer.lcrec(dir),
        Target::Recbole => writer.recbole(dir),
        Target::S3rec => writer.s3rec(dir),
        Target::UserSequence => writer.user_sequence(dir),
    })?;
    Ok(Exported {
        files,
        users: dataset.users.len() as u64,
        short_users: dataset.short_users as u64,
        items: dataset.catalogue().count() as u64,
        interactions: dataset.num_interactions() as u64,
        changed_texts: writer.changed.get(),
    })
}

struct Writer<'d> {
    dataset: &'d Dataset,
    name: &'d str,
    /// How many texts could not stay as they are.
    changed: Cell<u64>,
}

/// An item's raw id, or its number.
fn item_name(id: usize, item: &Item) -> Cow<'_, str> {
    item.raw_id.as_deref().map_or_else(|| Cow::Owned(id.to_string()), Cow::Borrowed)
}

impl<'d> Writer<'d> {
    /// What items go by, by id.
    fn item_names(&self) -> Vec<Cow<'d, str>> {
        self.dataset.items.iter().enumerate().map(|(id, item)| item_name(id, item)).collect()
    }

    /// The items that there are, gaps between ids left out: their ids and what they go by.
    fn items(&self) -> impl Iterator<Item = (usize, Cow<'d, str>, &'d Item)> {
        let items = self.dataset.items.iter().enumerate().filter(|(_, item)| !item.is_gap);
        items.map(|(id, item)| (id, item_name(id, item), item))
    }

    /// Refuses ids that would be read as something else.
    fn check_ids(&self, target: Target) -> Result<()> {
        let spaces = target == Target::UserSequence;
        let users = self.dataset.users.iter().map(|user| Cow::Borrowed(user.id.as_str()));
        let mut names = HashSet::new();
        let item_names = || self.items().map(|(_, name, _)| name);
        if let Some(twice) = item_names().find(|name| !names.insert(name.clone())) {
            invalid!(
                "{}: two items are called {twice:?}, one by its raw id and one, which has none, by its number: give \
                 every item a raw id",
                self.dataset.name
            );
        }
        for id in users.chain(item_names()) {
            let breaks = |c: char| c.is_control() || (spaces && c.is_whitespace());
            if id.is_empty() || id.contains(breaks) {
                let what =
                    if spaces { "a space, tab or line break" } else { "a tab or line break" };
                let other = if spaces { "; lcrec, recbole and s3rec can hold spaces" } else { "" };
                invalid!(
                    "{}: the id {id:?} is empty or has {what}, which {target} cannot hold{other}",
                    self.dataset.name
                );
            }
        }
        Ok(())
    }

    fn lcrec(&self, dir: &Path) -> Result<Vec<String>> {
        let users =
            || self.dataset.users.iter().map(|user| (user.id.as_str(), user.items.as_slice()));
        let items = || self.dataset.items.iter().cloned();
        data::write_named(dir, self.name, users, items, self.dataset.times.iter().flatten())?;
        let times = self.dataset.times.as_ref().map(|_| ".times.json");
        let texts = self.dataset.user_texts.as_ref().map(|_| ".user.json");
        if let Some(texts) = &self.dataset.user_texts {
            data::write_user_texts(dir, self.name, texts.iter().enumerate())?;
        }
        let has_gaps = self.dataset.items.iter().any(|item| item.is_gap);
        if has_gaps {
            self.warn_of_lost_items();
        }
        let items = (!has_gaps).then_some(".item.json");
        let endings = [".inter.json", ".user2id", ".item2id"];
        let endings = endings.into_iter().chain(items).chain(times).chain(texts);
        Ok(endings.map(|ending| self.file(ending)).collect())
    }

    /// Without `X.item.json` an item is one by being taken.
    fn warn_of_lost_items(&self) {
        let taken: HashSet<_> = self.dataset.users.iter().flat_map(|user| &user.items).collect();
        let lost = self.dataset.catalogue().filter(|item| !taken.contains(item)).count();
        if lost > 0 {
            tracing::warn!(
                "{lost} items were taken only by users with fewer than 3 interactions, who are left out: as ids have \
                 gaps, no X.item.json lists items, so that these are missing in {}",
                self.name
            );
        }
    }

    fn recbole(&self, dir: &Path) -> Result<Vec<String>> {
        let names = self.item_names();
        let (inter, item) = (self.file(".inter"), self.file(".item"));
        files::write_with(&dir.join(&inter), |file| {
            file.write_all(b"user_id:token\titem_id:token\ttimestamp:float\n")?;
            for (number, user) in self.dataset.users.iter().enumerate() {
                let times = self.dataset.times.as_ref().map(|times| &times[number]);
                for ((at, place), &id) in (0..).zip(0i64..).zip(&user.items) {
                    // Where no times are known, their order is.
                    let time = times.map_or(place, |times: &Vec<i64>| times[at]);
                    writeln!(file, "{}\t{}\t{time}", user.id, names[id as usize])?;
                }
            }
            Ok(())
        })?;
        let has =
            |field: &TextField| self.dataset.items.iter().any(|item| !field.of(item).is_empty());
        let fields: Vec<TextField> = TextField::ALL.into_iter().filter(has).collect();
        files::write_with(&dir.join(&item), |file| {
            file.write_all(b"item_id:token")?;
            fields.iter().try_for_each(|field| write!(file, "\t{}:token_seq", field.name()))?;
            for (_, name, item) in self.items() {
                write!(file, "\n{name}")?;
                fields
                    .iter()
                    .try_for_each(|field| write!(file, "\t{}", self.line(field.of(item))))?;
            }
            file.write_all(b"\n")
        })?;
        Ok(vec![inter, item])
    }

    fn s3rec(&self, dir: &Path) -> Result<Vec<String>> {
        let mut files = vec![self.file(".txt"), self.file(".user2id"), self.file(".item2id")];
        files::write_with(&dir.join(&files[0]), |file| {
            for (user, number) in self.dataset.users.iter().zip(1..) {
                write!(file, "{number}")?;
                user.items.iter().try_for_each(|&id| write!(file, " {}", u64::from(id) + 1))?;
                file.write_all(b"\n")?;
            }
            Ok(())
        })?;
        let users = self.dataset.users.iter().map(|user| user.id.as_str());
        data::write_names(&dir.join(&files[1]), users.zip(1..))?;
        let items = self.items().map(|(id, name, _)| (name, id + 1));
        data::write_names(&dir.join(&files[2]), items)?;
        if self.dataset.has_text() {
            // S3-Rec has no texts of its own.
            let items = self.file(".items.jsonl");
            let lines: Vec<_> = self
                .items()
                .map(|(_, name, item)| {
                    json!({"item_id": name, "title": item.title, "description": item.description,
                    "brand": item.brand, "categories": item.categories})
                })
                .collect();
            files::write_json_lines(&dir.join(&items), &lines)?;
            files.push(items);
        }
        Ok(files)
    }

    fn user_sequence(&self, dir: &Path) -> Result<Vec<String>> {
        let names = self.item_names();
        let files = ["user_sequence.txt", "item_plain_text.txt"];
        files::write_with(&dir.join(files[0]), |file| {
            file.write_all(mark_before(self.dataset.users.first().map(|user| user.id.as_str())))?;
            for user in &self.dataset.users {
                file.write_all(user.id.as_bytes())?;
                user.items.iter().try_for_each(|&id| write!(file, " {}", names[id as usize]))?;
                file.write_all(b"\n")?;
            }
            Ok(())
        })?;
        files::write_with(&dir.join(files[1]), |file| {
            let first = self.items().next();
            file.write_all(mark_before(first.as_ref().map(|(_, name, _)| name.as_ref())))?;
            self.items().try_for_each(|(_, name, item)| {
                file.write_all(name.as_bytes())?;
                self.plain_text(item, file)?;
                file.write_all(b"\n")
            })
        })?;
        Ok(files.map(String::from).into())
    }

    /// Writes ` title: …; brand: …`, of the texts that there are.
    fn plain_text(&self, item: &Item, file: &mut impl Write) -> io::Result<()> {
        let mut before = " ";
        for field in
            [TextField::Title, TextField::Brand, TextField::Categories, TextField::Description]
        {
            let text = field.of(item);
            if !text.is_empty() {
                let line = self.line(text);
                write!(file, "{before}{}: {}", field.name(), self.without_fields(&line))?;
                before = "; ";
            }
        }
        Ok(())
    }

    /// `text` on one line, without tabs.
    fn line<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if !text.contains(['\n', '\r', '\t']) {
            return Cow::Borrowed(text);
        }
        self.changed.set(self.changed.get() + 1);
        Cow::Owned(text.replace(['\n', '\r', '\t'], " "))
    }

    /// `text` with nothing in it that would begin another field.
    fn without_fields<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let begins = |at: usize| {
            let after = text[at + 1..].trim_start();
            PLAIN_TEXT_FIELDS
                .iter()
                .any(|name| after.strip_prefix(name).is_some_and(|rest| rest.starts_with(':')))
        };
        let places: Vec<usize> =
            text.match_indices(';').map(|(at, _)| at).filter(|&at| begins(at)).collect();
        if places.is_empty() {
            return Cow::Borrowed(text);
        }
        self.changed.set(self.changed.get() + 1);
        let changed = text.char_indices();
        Cow::Owned(changed.map(|(at, c)| if places.contains(&at) { ',' } else { c }).collect())
    }

    fn file(&self, ending: &str) -> String {
        format!("{}{ending}", self.name)
    }
}

/// The byte order mark, where a file's first id begins with that very character, which would be taken for one.
fn mark_before(first: Option<&str>) -> &'static [u8] {
    const MARK: char = '\u{feff}';
    if first.is_some_and(|id| id.starts_with(MARK)) { "\u{feff}".as_bytes() } else { b"" }
}
