//! LC-Rec's dataset folders: `X/X.inter.json`, user → item ids in time order, and
//! `X/X.item.json`, item id → text fields.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::entries::{Entries, INTER, ITEM, POPULARITY, plain_id, read};
use super::{DataError, Dataset, Item, ItemId, User, UserTexts, names, times, user_texts};
use crate::files;

/// Fields that hold the id the shop knows an item by, which public datasets call differently; the first that an item has
/// is its raw id. One that has none goes by `X.item2id`.
pub const RAW_IDS: [&str; 3] = ["asin", "parent_asin", "item_id"];

/// Endings of the files of a dataset folder.
const ENDINGS: [&str; 6] =
    [INTER, ITEM, times::TIMES, user_texts::USER, names::USERS, names::ITEMS];

/// Tells the files of the dataset in the folder `dir` from all others by their names, those of further datasets there
/// included.
pub fn is_dataset_file(dir: &Path) -> impl Fn(&str) -> bool + use<> {
    is_file_of_one(dir, &ENDINGS)
}

/// Tells files `Xending` of one X, with one of these endings, from all others: the folder's own name, where there is such
/// a file, else the first X in it.
pub fn is_file_of_one<'e>(dir: &Path, endings: &'e [&'e str]) -> impl Fn(&str) -> bool + use<'e> {
    let of = |file: &str| endings.iter().find_map(|e| file.strip_suffix(e)).map(String::from);
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| of(entry.file_name().to_str()?));
    let own = folder_name(dir);
    let name = names.min_by_key(|name| (Some(name) != own.as_ref(), name.clone()));
    move |file| {
        endings
            .iter()
            .any(|ending| file.strip_suffix(ending).is_some_and(|x| name.as_deref() == Some(x)))
    }
}

/// A dataset folder as it stands: users with fewer than three interactions included.
#[derive(Debug)]
pub struct Content {
    /// The X of `X.inter.json`.
    pub name: String,
    /// The users, by raw id, in the order of [`Dataset::users`].
    pub users: Vec<User>,
    /// The items, by id.
    pub items: Vec<Item>,
    /// When each interaction happened, by user, in seconds; where that is known.
    pub times: Option<Vec<Vec<i64>>>,
    /// What is said about the users, by user; where there is such a file.
    pub user_texts: Option<Vec<UserTexts>>,
}

/// Reads all that a dataset folder holds.
///
/// # Errors
/// As those of [`Dataset::load`], but for a folder in which all users are short.
pub fn read_folder(dir: &Path) -> Result<Content, DataError> {
    let name = dataset_name(dir)?;
    let path = |ending: &str| dir.join(format!("{name}{ending}"));
    let (inter, item) = (path(INTER), path(ITEM));
    let Entries::<Vec<ItemId>>(sequences) = read(&inter)?;
    let mut users: Vec<_> = sequences.into_iter().map(|(id, items)| User { id, items }).collect();
    if users.iter().all(|user| user.id.parse::<u64>().is_ok()) {
        users.sort_by_key(|user| user.id.parse::<u64>().ok());
    }
    let times = times::read(&path(times::TIMES), &users)?;
    let user_texts = user_texts::read(&path(user_texts::USER), &users)?;
    names::name_users(&path(names::USERS), &mut users)?;
    let mut items = if item.is_file() {
        read_items(&item)?
    } else {
        tracing::info!("{}: not there, so items have no text", item.display());
        items_seen(&inter, &users)?
    };
    names::name_items(&path(names::ITEMS), &mut items, item.is_file())?;
    super::check_parts(&users, &items, &inter, &item)?;
    Ok(Content { name, users, items, times, user_texts })
}

/// Reads a dataset folder; see [`Dataset::load`].
pub(super) fn load(dir: &Path) -> Result<Dataset, DataError> {
    let Content { name, users, items, times, user_texts } = read_folder(dir)?;
    // A dataset passes over the others.
    let is_long: Vec<bool> = users.iter().map(|user| user.items.len() >= 3).collect();
    let inter = dir.join(format!("{name}{INTER}"));
    let dataset = Dataset::of_long(name, users, items, &inter)?;
    let times = times.map(|times| of_long(times, &is_long));
    let dataset = Dataset { times, ..dataset };
    Ok(match user_texts {
        Some(texts) => {
            let user_texts = Some(of_long(texts, &is_long));
            Dataset { user_texts, ..dataset }.with_fingerprints()
        }
        None => dataset,
    })
}

fn of_long<T>(of_users: Vec<T>, is_long: &[bool]) -> Vec<T> {
    of_users.into_iter().zip(is_long).filter_map(|(of, long)| long.then_some(of)).collect()
}

/// Writes `dataset` as `NAME.inter.json` and `NAME.item.json` to the folder `dir`, which is created if need be. Files of
/// these names are replaced.
///
/// Reading the folder gives the same dataset back, under this name and without the short users, whose sequences a
/// [`Dataset`] does not keep.
pub fn write(dir: &Path, name: &str, dataset: &Dataset) -> Result<(), DataError> {
    fs::create_dir_all(dir).map_err(|reason| DataError::Io { path: dir.into(), reason })?;
    // Interactions last: they are what makes a folder a dataset.
    write_known(dir, name, &dataset.items)?;
    remove(&dir.join(format!("{name}{}", names::USERS)))?;
    let keys = || dataset.users.iter().map(|user| &user.id);
    write_times(
        &dir.join(format!("{name}{}", times::TIMES)),
        keys().zip(dataset.times.iter().flatten()),
    )?;
    match &dataset.user_texts {
        Some(of_users) => user_texts::write_user_texts(dir, name, keys().zip(of_users))?,
        None => remove(&dir.join(format!("{name}{}", user_texts::USER)))?,
    }
    let users = keys().zip(dataset.users.iter().map(|user| &user.items));
    replace(&dir.join(format!("{name}{INTER}")), users)
}

/// Writes what is known of items to the folder `dir`; gives the file's name, if there is one.
///
/// Where ids have gaps, nothing but raw ids is known of the items: an entry of `NAME.item.json` would make an item of
/// every gap.
pub(super) fn write_known(
    dir: &Path,
    name: &str,
    items: &[Item],
) -> Result<Option<String>, DataError> {
    let [texts, ids] = [ITEM, names::ITEMS].map(|ending| format!("{name}{ending}"));
    let raw_ids = || (0..).zip(items).filter_map(|(id, item)| Some((item.raw_id.as_ref()?, id)));
    let has_gaps = items.iter().any(|item| item.is_gap);
    let written = if !has_gaps {
        replace(&dir.join(&texts), items.iter().map(ItemFields::from).enumerate())?;
        Some(&texts)
    } else if raw_ids().next().is_some() {
        names::write_names(&dir.join(&ids), raw_ids())?;
        Some(&ids)
    } else {
        None
    };
    [&texts, &ids]
        .into_iter()
        .filter(|file| Some(*file) != written)
        .try_for_each(|file| remove(&dir.join(file)))?;
    Ok(written.cloned())
}

/// Removes what an earlier dataset of this name had.
fn remove(path: &Path) -> Result<(), DataError> {
    files::remove_there(path).map_err(|reason| DataError::Io { path: path.into(), reason })
}

/// Writes times by key; without any, those of an earlier dataset of this name go.
fn write_times<K: fmt::Display, V: Serialize>(
    path: &Path,
    times: impl Iterator<Item = (K, V)>,
) -> Result<(), DataError> {
    let mut times = times.peekable();
    if times.peek().is_some() { replace(path, times) } else { remove(path) }
}

/// Writes users by raw id and items as the dataset `name` in the folder `dir`, which is there: numbered from 0
/// in order, with `X.user2id` and `X.item2id` for the raw ids, which hold no line breaks; `times` are theirs by
/// user, or none.
///
/// An item without a raw id goes by its number. Where ids have gaps, there is no `X.item.json`, which would make items of
/// them.
pub fn write_named<'a, U, I, T>(
    dir: &Path,
    name: &str,
    users: impl Fn() -> U + Sync,
    items: impl Fn() -> I,
    times: impl Iterator<Item = T> + Send,
) -> Result<(), DataError>
where
    U: Iterator<Item = (&'a str, &'a [ItemId])>,
    I: Iterator<Item = Item>,
    T: Serialize,
{
    let path = |ending: &str| dir.join(format!("{name}{ending}"));
    let mut has_gaps = false;
    let raw_ids = (0..).zip(items()).filter_map(|(id, item)| {
        has_gaps |= item.is_gap;
        (!item.is_gap).then(|| (item.name(id), id as usize))
    });
    names::write_names(&path(names::ITEMS), raw_ids)?;
    if !has_gaps {
        let fields = items().enumerate().map(|(id, item)| (id, ItemFields::from(&item)));
        replace(&path(ITEM), fields)?;
    }
    names::write_names(&path(names::USERS), users().map(|(raw, _)| raw).zip(0..))?;
    // The two long ones, each on a core of its own.
    let (times, sequences) = rayon::join(
        || write_times(&path(times::TIMES), times.enumerate()),
        || replace(&path(INTER), users().map(|(_, items)| items).enumerate()),
    );
    times.and(sequences)
}

/// The X of `X.inter.json`: the folder's own name, or that of the only such file in it.
pub(super) fn dataset_name(dir: &Path) -> Result<String, DataError> {
    if !dir.is_dir() {
        return Err(DataError::NoFolder { path: dir.into() });
    }
    if let Some(name) = folder_name(dir)
        && dir.join(format!("{name}{INTER}")).is_file()
    {
        return Ok(name);
    }
    match only_name(dir, INTER)? {
        Some(name) => Ok(name),
        None if only_name(dir, POPULARITY)?.is_some() => {
            Err(DataError::WithoutUsers { path: dir.into() })
        }
        None => Err(DataError::NoInteractions { path: dir.into() }),
    }
}

/// The X of the only file `Xending` in a folder, if there is one.
pub(super) fn only_name(dir: &Path, ending: &str) -> Result<Option<String>, DataError> {
    let failed = |reason| DataError::Io { path: dir.into(), reason };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        if let Ok(file) = entry.map_err(failed)?.file_name().into_string()
            && let Some(name) = file.strip_suffix(ending)
        {
            found.push(name.to_string());
        }
    }
    if found.len() > 1 {
        found.sort_unstable();
        let found = found.iter().map(|name| format!("{name}{ending}")).collect();
        return Err(DataError::SeveralInteractions { path: dir.into(), found });
    }
    Ok(found.pop())
}

/// The names of the files in `dir` that its dataset is read from.
pub(super) fn files_of(dir: &Path) -> Result<Vec<String>, DataError> {
    let name = dataset_name(dir)?;
    let files = ENDINGS.map(|ending| format!("{name}{ending}"));
    Ok(files.into_iter().filter(|file| dir.join(file).is_file()).collect())
}

/// A path such as `.` has no last part of its own, but the folder it leads to does.
fn folder_name(dir: &Path) -> Option<String> {
    let name = |path: &Path| Some(path.file_name()?.to_str()?.to_string());
    name(dir).or_else(|| name(&dir.canonicalize().ok()?))
}

pub(super) fn read_items(path: &Path) -> Result<Vec<Item>, DataError> {
    let Entries::<ItemFields>(entries) = read(path)?;
    let mut items = vec![None; entries.len()];
    for (key, fields) in entries {
        let Some(id) = plain_id(&key) else {
            return Err(DataError::ItemKey { path: path.into(), key });
        };
        if let Some(slot) = items.get_mut(id as usize) {
            *slot = Some(Item::from(fields));
        }
    }
    // An id beyond the range left its place in the range empty.
    if let Some(missing) = items.iter().position(Option::is_none) {
        let (items, missing) = (items.len(), missing as ItemId);
        return Err(DataError::ItemGap { path: path.into(), items, missing });
    }
    Ok(items.into_iter().flatten().collect())
}

/// Items that follow those of a dataset, as a file in the format of `item.json` has them.
#[derive(Debug)]
pub struct NewItems {
    path: PathBuf,
    /// By key, in file order.
    entries: Vec<(String, Item)>,
}

impl NewItems {
    /// Reads a file.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let Entries::<ItemFields>(entries) = read(path)?;
        if entries.is_empty() {
            return Err(DataError::NoNewItems { path: path.into() });
        }
        let entries = entries.into_iter().map(|(key, fields)| (key, Item::from(fields))).collect();
        Ok(Self { path: path.into(), entries })
    }

    /// How many there are.
    #[expect(clippy::len_without_is_empty, reason = "there is one at least")]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The items as they follow the `first` items of a dataset.
    ///
    /// Keys are either the next ids, `first` and on, or the shop's own; ids are then given in file order. Where the shop's
    /// own are numbers (`numeric_raw_ids`), keys are these, unless every item says its own in a field.
    ///
    /// # Errors
    /// Names the file and the key at fault.
    pub fn after(&self, first: ItemId, numeric_raw_ids: bool) -> Result<Vec<Item>, DataError> {
        let are_named = self.entries.iter().all(|(_, item)| item.raw_id.is_some());
        let by_id = (are_named || !numeric_raw_ids)
            && self.entries.iter().any(|(key, _)| plain_id(key).is_some());
        let mut items = vec![None; self.entries.len()];
        for (at, (key, item)) in self.entries.iter().enumerate() {
            let place = if by_id {
                plain_id(key).and_then(|id| id.checked_sub(first))
            } else {
                Some(at as u32)
            };
            let Some(slot) = place.and_then(|place| items.get_mut(place as usize)) else {
                let (path, key) = (self.path.clone(), key.clone());
                return Err(DataError::NewItemKey { path, key, first });
            };
            let mut item = item.clone();
            if !by_id && item.raw_id.is_none() {
                item.raw_id = Some(key.clone());
            }
            *slot = Some(item);
        }
        // As many entries as places, no key twice and one spelling of each: no place is left empty.
        Ok(items.into_iter().flatten().collect())
    }
}

/// The items where nothing but interactions tells of them.
fn items_seen(inter: &Path, users: &[User]) -> Result<Vec<Item>, DataError> {
    let seen: HashSet<ItemId> = users.iter().flat_map(|user| &user.items).copied().collect();
    let Some(&largest) = seen.iter().max() else { return Ok(Vec::new()) };
    // Hashed or raw ids would ask for memory, vocabulary and levels for items that do not exist.
    if largest as usize > 10 * seen.len() + 1000 {
        return Err(DataError::SparseIds { path: inter.into(), largest, distinct: seen.len() });
    }
    Ok((0..=largest).map(|id| Item { is_gap: !seen.contains(&id), ..Item::default() }).collect())
}

/// Writes `{"key": value, …}`, one entry a line, under a temporary name and renames it.
fn replace<K: fmt::Display, V: Serialize>(
    path: &Path,
    entries: impl Iterator<Item = (K, V)>,
) -> Result<(), DataError> {
    let written = files::replace_with(path, |file| {
        let mut before = "{\n";
        for (key, value) in entries {
            file.write_all(before.as_bytes())?;
            serde_json::to_writer(&mut *file, &key.to_string())?;
            file.write_all(b": ")?;
            serde_json::to_writer(&mut *file, &value)?;
            before = ",\n";
        }
        file.write_all(b"\n}\n")
    });
    written.map_err(|reason| DataError::Io { path: path.into(), reason })
}

/// An entry of `item.json`; fields not listed are ignored.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct ItemFields {
    title: Option<String>,
    description: Option<String>,
    brand: Option<String>,
    categories: Option<String>,
    // One for each of `RAW_IDS`.
    #[serde(skip_serializing_if = "Option::is_none")]
    item_id: Option<RawId>,
    #[serde(skip_serializing)]
    asin: Option<RawId>,
    #[serde(skip_serializing)]
    parent_asin: Option<RawId>,
}

/// A raw id: a string, or a number as it is spelt in the file.
#[derive(Serialize)]
struct RawId(String);

impl<'de> Deserialize<'de> for RawId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A number read as a number would lose zeros and digits.
        let value = Box::<RawValue>::deserialize(deserializer)?;
        match value.get() {
            text if text.starts_with('"') => {
                serde_json::from_str(text).map(Self).map_err(D::Error::custom)
            }
            text if text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => {
                Ok(Self(text.to_string()))
            }
            text => Err(D::Error::custom(format_args!(
                "an item's own id must be a string or a number, found {text}"
            ))),
        }
    }
}

impl ItemFields {
    /// The raw id under one of [`RAW_IDS`]; an empty text is none.
    fn take_raw_id(&mut self, name: &str) -> Option<String> {
        let RawId(id) = match name {
            "asin" => self.asin.take(),
            "parent_asin" => self.parent_asin.take(),
            "item_id" => self.item_id.take(),
            _ => None,
        }?;
        (!id.is_empty()).then_some(id)
    }
}

impl From<ItemFields> for Item {
    fn from(mut fields: ItemFields) -> Self {
        let raw_id = RAW_IDS.into_iter().find_map(|name| fields.take_raw_id(name));
        let text = |field: Option<String>| field.map_or_else(String::new, |s| s.trim().to_string());
        Self {
            title: text(fields.title),
            description: text(fields.description),
            brand: text(fields.brand),
            categories: text(fields.categories),
            raw_id,
            is_gap: false,
        }
    }
}

impl From<&Item> for ItemFields {
    fn from(item: &Item) -> Self {
        Self {
            title: Some(item.title.clone()),
            description: Some(item.description.clone()),
            brand: Some(item.brand.clone()),
            categories: Some(item.categories.clone()),
            item_id: item.raw_id.clone().map(RawId),
            ..Self::default()
        }
    }
}
