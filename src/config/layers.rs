//! Tables of settings laid over each other: defaults, a file, the command line.

use super::places;
use crate::{Result, invalid};

/// Lays `over` over `table`, table by table.
pub(super) fn merge(table: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (table.get_mut(&key), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(value)) => merge(inner, value),
            (_, value) => {
                table.insert(key, value);
            }
        }
    }
}

/// The first key of `table` that is not in `known`.
pub(super) fn unknown(table: &toml::Table, known: &toml::Table, prefix: &str) -> Option<String> {
    table.iter().find_map(|(key, value)| match (value, known.get(key)) {
        (_, None) => Some(format!("{prefix}{key}")),
        (toml::Value::Table(inner), Some(toml::Value::Table(known))) => {
            unknown(inner, known, &format!("{prefix}{key}."))
        }
        _ => None,
    })
}

/// The key of a setting, `key.path=value`.
pub fn key_of(setting: &str) -> &str {
    setting.split('=').next().unwrap_or_default().trim()
}

/// What settings of the form `key.path=value` say, later ones over earlier ones.
pub(super) fn given(settings: &[String]) -> Result<toml::Table> {
    let mut table = toml::Table::new();
    settings.iter().try_for_each(|text| set(&mut table, text))?;
    Ok(table)
}

/// Applies `key.path=value`; a value that is no TOML is taken as a string, and so is a path of whatever form.
fn set(table: &mut toml::Table, text: &str) -> Result<()> {
    let Some((path, value)) = text.split_once('=') else {
        invalid!("--set {text}: expected key=value, for example --set index.semantic.k=32");
    };
    let parsed: std::result::Result<toml::Table, _> = format!("value = {value}").parse();
    let value = parsed
        .ok()
        .and_then(|mut t| t.remove("value"))
        .filter(|value| value.is_str() || !places::is_path(path.trim()))
        .unwrap_or_else(|| toml::Value::String(value.to_string()));
    let mut table = table;
    let mut keys = path.trim().split('.').peekable();
    while let Some(key) = keys.next() {
        if keys.peek().is_none() {
            merge(table, [(key.to_string(), value)].into_iter().collect());
            return Ok(());
        }
        let entry = table.entry(key).or_insert_with(|| toml::Table::new().into());
        let Some(inner) = entry.as_table_mut() else {
            invalid!("--set {text}: {key} is a value, not a table");
        };
        table = inner;
    }
    Ok(())
}
