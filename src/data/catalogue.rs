//! A dataset without its users: items, their texts, and how often each was taken in training
//! (`X.popularity.json`, a list by item id with `null` where no item has the id).

use std::fs;
use std::path::Path;

use super::entries::{self, POPULARITY};
use super::lcrec::{self, only_name};
use super::{DataError, Dataset, Item, names};
use crate::files;

/// Writes the items of `dataset` as `NAME.item.json` and `NAME.popularity.json` to the folder `dir`, which is created;
/// gives the names of what was written.
pub fn write_catalogue(dir: &Path, dataset: &Dataset) -> Result<Vec<String>, DataError> {
    fs::create_dir_all(dir).map_err(|reason| DataError::Io { path: dir.into(), reason })?;
    let file = |ending: &str| format!("{}{ending}", dataset.name);
    let mut written = vec![file(POPULARITY)];
    let items = &dataset.items;
    written.extend(lcrec::write_known(dir, &dataset.name, items)?);
    let counts = dataset.popularity();
    let counts: Vec<Option<u32>> =
        items.iter().zip(counts).map(|(item, n)| (!item.is_gap).then_some(n)).collect();
    let path = dir.join(file(POPULARITY));
    let done = files::replace_with(&path, |out| {
        serde_json::to_writer(&mut *out, &counts)?;
        std::io::Write::write_all(out, b"\n")
    });
    done.map_err(|reason| DataError::Io { path, reason })?;
    Ok(written)
}

/// Reads what [`write_catalogue`] wrote; `None` where the folder holds no such files.
///
/// # Errors
/// Names the file at fault.
pub(super) fn load(dir: &Path) -> Result<Option<Dataset>, DataError> {
    let Some(name) = only_name(dir, POPULARITY)? else { return Ok(None) };
    let file = |ending: &str| dir.join(format!("{name}{ending}"));
    let counts: Vec<Option<u32>> = entries::read(&file(POPULARITY))?;
    let path = file(entries::ITEM);
    let mut items = if path.is_file() {
        lcrec::read_items(&path)?
    } else {
        let item = |count: &Option<u32>| Item { is_gap: count.is_none(), ..Item::default() };
        counts.iter().map(item).collect()
    };
    if items.len() != counts.len() {
        let reason = format!("{} counts, but {} items", counts.len(), items.len());
        return Err(DataError::Malformed { path: file(POPULARITY), reason });
    }
    names::name_items(&file(names::ITEMS), &mut items, path.is_file())?;
    let counts = counts.into_iter().map(Option::unwrap_or_default).collect();
    Ok(Some(Dataset { counts: Some(counts), ..Dataset::of_items(name, items) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::User;

    fn dataset(items: Vec<Item>) -> Dataset {
        let user = User { id: "a".into(), items: vec![0, 2, 2, 0, 2] };
        Dataset::new("shop", vec![user], items).unwrap()
    }

    fn again(dataset: &Dataset) -> Dataset {
        let dir = tempfile::tempdir().unwrap();
        let written = write_catalogue(dir.path(), dataset).unwrap();
        let mut found: Vec<String> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        found.sort();
        let mut written = written;
        written.sort();
        assert_eq!(found, written);
        assert!(load(&dir.path().join("..")).is_ok_and(|other| other.is_none()));
        load(dir.path()).unwrap().unwrap()
    }

    #[test]
    fn items_come_back_with_texts_names_and_popularity() {
        let titled = |title: &str| Item { title: title.into(), ..Item::default() };
        let mut items = vec![titled("rose"), titled(""), titled("soap")];
        items[1].raw_id = Some("B01".into());
        let whole = dataset(items);
        let found = again(&whole);
        assert_eq!((&found.items, &found.name), (&whole.items, &whole.name));
        assert_eq!(found.popularity(), whole.popularity());
        assert!(found.users.is_empty());
    }

    #[test]
    fn gaps_between_ids_come_back() {
        let item = |raw: Option<&str>, is_gap| Item {
            raw_id: raw.map(String::from),
            is_gap,
            ..Item::default()
        };
        for raw in [None, Some("B2")] {
            let whole = dataset(vec![item(None, false), item(None, true), item(raw, false)]);
            let found = again(&whole);
            assert_eq!(found.items, whole.items);
            assert_eq!(found.popularity(), whole.popularity());
        }
    }
}
