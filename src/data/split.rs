//! Leave-one-out, and the rule against leaks: training sees a user's items up to the last two,
//! through [`User::train`] and nothing else.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{DataError, ItemId, User};

/// Which held-out item of each user is the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// The item before the last.
    Valid,
    /// The last item.
    Test,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Valid => "valid",
            Self::Test => "test",
        })
    }
}

impl FromStr for Split {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, DataError> {
        match name {
            "valid" => Ok(Self::Valid),
            "test" => Ok(Self::Test),
            _ => Err(DataError::Split { found: name.to_string() }),
        }
    }
}

impl User {
    /// The items that training may see, oldest first: all but the last two.
    pub fn train(&self) -> &[ItemId] {
        &self.items[..self.items.len().saturating_sub(2)]
    }

    /// The held-out item of `split`.
    ///
    /// # Panics
    /// If the user has fewer than two items; users of a [`super::Dataset`] have at least three.
    pub fn target(&self, split: Split) -> ItemId {
        self.items[self.target_position(split)]
    }

    /// The last `max` items before the target of `split`, oldest first.
    ///
    /// The history of the test target ends with the validation target, which is fair in evaluation
    /// and a leak in training.
    ///
    /// # Panics
    /// If the user has fewer than two items; users of a [`super::Dataset`] have at least three.
    pub fn history(&self, split: Split, max: usize) -> &[ItemId] {
        let before = &self.items[..self.target_position(split)];
        &before[before.len().saturating_sub(max)..]
    }

    fn target_position(&self, split: Split) -> usize {
        match split {
            Split::Valid => self.items.len() - 2,
            Split::Test => self.items.len() - 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_two_items_are_held_out() {
        let user = User { id: "u".into(), items: vec![4, 7, 1, 9, 3] };
        assert_eq!(user.train(), [4, 7, 1]);
        assert_eq!(user.target(Split::Valid), 9);
        assert_eq!(user.target(Split::Test), 3);
        assert_eq!(user.history(Split::Valid, 20), [4, 7, 1]);
        assert_eq!(user.history(Split::Test, 20), [4, 7, 1, 9]);
        assert_eq!(user.history(Split::Test, 2), [1, 9]);
        assert!(user.history(Split::Test, 0).is_empty());
    }

    #[test]
    fn a_user_with_three_items_has_one_to_train_on() {
        let user = User { id: "u".into(), items: vec![4, 7, 1] };
        assert_eq!(user.train(), [4]);
        assert_eq!(user.history(Split::Valid, 20), [4]);
        assert_eq!((user.target(Split::Valid), user.target(Split::Test)), (7, 1));
    }

    #[test]
    fn names_parse_as_they_print() {
        for split in [Split::Valid, Split::Test] {
            assert_eq!(split.to_string().parse::<Split>().unwrap(), split);
            assert_eq!(serde_json::to_string(&split).unwrap(), format!("\"{split}\""));
        }
        let error = "train".parse::<Split>().unwrap_err().to_string();
        assert!(error.contains("\"train\"") && error.contains("valid and test"), "{error}");
    }
}
