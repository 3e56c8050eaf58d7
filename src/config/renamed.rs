//! Settings of earlier versions: refused with what has become of them.

use super::layers::key_of;
use crate::{Result, invalid};

/// Old keys and what to do instead.
const RENAMED: [(&str, &str); 6] = [
    ("train.warmup.validation-users", "the warm-up has no validation: leave it out"),
    ("train.initial.validation-users", "it is train.validation.users now, for both stages"),
    ("train.anneal.validation-users", "it is train.validation.users now, for both stages"),
    ("train.item-softmax", "it is train.level-softmax now, over the tokens of each level"),
    ("train.item-token-init", "rows begin at the mean of the known ones: leave it out"),
    ("eval.exclude-history", "every evaluation reports both rules now: leave it out"),
];

/// Refuses a key that had another name once, in the file or on the command line.
pub(super) fn refuse(text: &str, origin: &str, overrides: &[String]) -> Result<()> {
    // What is no TOML at all is told by whoever reads it next.
    let table: toml::Table = text.parse().unwrap_or_default();
    for (key, instead) in RENAMED {
        let mut keys = key.split('.');
        let first = keys.next().and_then(|first| table.get(first));
        if keys.try_fold(first, |found, key| found.map(|value| value.get(key))).flatten().is_some()
        {
            invalid!("{origin}: there is no setting {key} any more: {instead}");
        }
        if let Some(text) = overrides.iter().find(|text| key_of(text) == key) {
            invalid!("--set {text}: there is no setting {key} any more: {instead}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::config::RunConfig;

    #[test]
    fn an_old_key_is_refused_with_its_new_name() {
        let set = ["train.anneal.validation-users=5".to_string()];
        let of_file = "[train.initial]\nvalidation-users = 5";
        for error in [
            RunConfig::parse(of_file, "mine.toml", &[]).unwrap_err().to_string(),
            RunConfig::parse("", "mine.toml", &set).unwrap_err().to_string(),
        ] {
            assert!(error.contains("train.validation.users"), "{error}");
        }
        RunConfig::parse("[train.validation]\nusers = 5", "mine.toml", &[]).unwrap();
    }
}
