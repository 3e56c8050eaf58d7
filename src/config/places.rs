//! Paths in a configuration: those of a file are relative to it, those of `--set` to where the program runs.

use std::path::{Path, absolute};

use crate::model::BackboneSource;

/// Settings that name a file or a folder.
const PATHS: [&str; 3] = ["data.path", "index.semantic.embeddings", "index.behavior.embeddings"];

/// A setting that names a folder or a file, if there is one of that name, or else a model of a hub.
const PATH_OR_HUB_ID: &str = "backbone.path";

/// Whether the setting of this name is a path.
pub(super) fn is_path(key: &str) -> bool {
    PATHS.contains(&key) || key == PATH_OR_HUB_ID
}

/// Makes the relative paths of `table` absolute, seen from `folder`.
pub(super) fn make_absolute(table: &mut toml::Table, folder: &Path) {
    for key in PATHS.into_iter().chain([PATH_OR_HUB_ID]) {
        let Some(toml::Value::String(path)) = value_of(table, key) else { continue };
        let place = folder.join(&*path);
        let on_hub = key == PATH_OR_HUB_ID && !place.exists() && BackboneSource::may_be_hub(path);
        // An empty path says that one is to be given.
        if path.is_empty() || on_hub {
            continue;
        }
        if let Some(place) = absolute(&place).ok().and_then(|p| p.to_str().map(String::from)) {
            *path = place;
        }
    }
}

fn value_of<'t>(table: &'t mut toml::Table, key: &str) -> Option<&'t mut toml::Value> {
    let (tables, last) = key.rsplit_once('.')?;
    let mut table = table;
    for name in tables.split('.') {
        table = table.get_mut(name)?.as_table_mut()?;
    }
    table.get_mut(last)
}
