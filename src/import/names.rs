//! `X.user2id` and `X.item2id`: the raw ids that numbers in a file stand for.

use std::collections::HashMap;
use std::path::Path;

use crate::data::{beside, read_names};

/// What numbers stand for; without a file each stands for itself.
#[derive(Debug, Default)]
pub(super) struct Names {
    users: Option<HashMap<String, String>>,
    pub(super) items: Option<HashMap<String, String>>,
}

impl Names {
    /// Reads the files beside `path`, which ends in `ending`, as far as they are there.
    pub(super) fn beside(path: &Path, ending: &str) -> crate::Result<Self> {
        let read =
            |other: &str| beside(path, ending, other).map(|path| read_names(&path)).transpose();
        Ok(Self { users: read(".user2id")?, items: read(".item2id")? })
    }

    /// A user by the number in the file.
    pub(super) fn user<'a>(&'a self, number: &'a str) -> Result<&'a str, String> {
        name(self.users.as_ref(), number, "user2id")
    }

    /// An item by the number in the file.
    pub(super) fn item<'a>(&'a self, number: &'a str) -> Result<&'a str, String> {
        name(self.items.as_ref(), number, "item2id")
    }
}

fn name<'a>(
    names: Option<&'a HashMap<String, String>>,
    number: &'a str,
    file: &str,
) -> Result<&'a str, String> {
    let Some(names) = names else { return Ok(number) };
    names
        .get(number)
        .map(String::as_str)
        .ok_or_else(|| format!("{number:?} is not in {file}; add its line or remove the file"))
}
