//! What is held out, and the rule against leaks: training sees [`Dataset::train`] and nothing else.

use std::ops::Range;
use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{DataError, Dataset, ItemId, User};
use crate::rng;

/// Which of the held-out items are the targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Those that settings and epochs are chosen by.
    Valid,
    /// Those that results are told of.
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

/// How interactions are divided among training, validation and test.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SplitRule {
    /// Each user's last item is for test, the one before it for validation. Training sees what others did
    /// later than a target.
    #[default]
    LeaveOneOut,
    /// The same of shares of the users; training sees all items of the others, so a model that is meant for use need
    /// not do without everybody's latest items.
    SampledLeaveOneOut,
    /// Training ends for everybody at one time. Each user's last item of the time for validation, and of the
    /// time for test, is a target.
    TimedLeaveOneOut,
    /// Training ends for everybody at one time, and everything of the times for validation and test is a
    /// target, as in `MiniOneRec`.
    Temporal,
}

impl fmt::Display for SplitRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::LeaveOneOut => "leave-one-out",
            Self::SampledLeaveOneOut => "sampled-leave-one-out",
            Self::TimedLeaveOneOut => "timed-leave-one-out",
            Self::Temporal => "temporal",
        })
    }
}

/// `[data.split]`: how interactions are divided.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct SplitConfig {
    /// The rule.
    pub rule: SplitRule,
    /// The share of users one of whose items is for validation; of `sampled-leave-one-out`.
    pub valid_users: f64,
    /// The same of the test.
    pub test_users: f64,
    /// The share of all interactions before the time for validation; of the rules that go by time.
    pub valid_from: f64,
    /// The same of the time for test.
    pub test_from: f64,
}

impl Default for SplitConfig {
    fn default() -> Self {
        Self {
            rule: SplitRule::default(),
            valid_users: 0.2,
            test_users: 1.0,
            valid_from: 0.8,
            test_from: 0.9,
        }
    }
}

/// An item that is held out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Target {
    /// Who took it: a position in [`Dataset::users`].
    pub user: usize,
    /// Which of their items it is, from 0. There is at least one before it.
    pub position: usize,
}

/// What is held out of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Division {
    pub(super) rule: SplitRule,
    /// How many items of each user training sees.
    pub(super) train: Vec<usize>,
    pub(super) valid: Vec<Target>,
    pub(super) test: Vec<Target>,
}

impl Division {
    /// The last two items of every user, who have at least three each.
    pub(super) fn leave_one_out(users: &[User]) -> Self {
        Self::last_items(SplitRule::LeaveOneOut, users, |_| [true; 2])
    }

    /// The last items of two samples of the users. Who is drawn depends on a user's position alone: users that are
    /// appended leave the others where they were.
    fn sampled(config: SplitConfig, users: &[User]) -> Self {
        let drawn = |label, user: usize, share| {
            rng::uniform(&mut rng::stream(0, label, &[user as u64])) < share
        };
        Self::last_items(config.rule, users, |user| {
            [
                drawn("users of validation", user, config.valid_users),
                drawn("users of test", user, config.test_users),
            ]
        })
    }

    /// An item of each user who is held out for validation, and for test, which is the later one.
    fn last_items(rule: SplitRule, users: &[User], held_out: impl Fn(usize) -> [bool; 2]) -> Self {
        let mut division = Self { rule, train: Vec::new(), valid: Vec::new(), test: Vec::new() };
        for (user, User { items, .. }) in users.iter().enumerate() {
            let [valid, test] = held_out(user);
            let mut position = items.len();
            for (held_out, targets) in [(test, &mut division.test), (valid, &mut division.valid)] {
                if held_out {
                    position -= 1;
                    targets.push(Target { user, position });
                }
            }
            division.train.push(position);
        }
        division
    }

    /// What lies before and after two times, which so many of the interactions come before; what happened at
    /// such a time comes after it.
    fn by_time(config: SplitConfig, times: &[Vec<i64>]) -> Self {
        let mut all: Vec<i64> = times.iter().flatten().copied().collect();
        all.sort_unstable();
        let cut = |share: f64| {
            let at = (share * all.len() as f64) as usize;
            all.get(at.min(all.len().saturating_sub(1))).copied().unwrap_or(i64::MAX)
        };
        let (valid_from, test_from) = (cut(config.valid_from), cut(config.test_from));
        let mut division =
            Self { rule: config.rule, train: Vec::new(), valid: Vec::new(), test: Vec::new() };
        for (user, times) in times.iter().enumerate() {
            let before = |cut: i64| times.partition_point(|&time| time < cut);
            let (valid, test) = (before(valid_from), before(test_from));
            let targets = |held_out: Range<usize>| {
                // Nothing is known before a user's first item.
                let held_out = held_out.start.max(1)..held_out.end;
                let first = match config.rule {
                    SplitRule::Temporal => held_out.start,
                    _ => held_out.start.max(held_out.end.saturating_sub(1)),
                };
                (first..held_out.end).map(move |position| Target { user, position })
            };
            division.train.push(valid);
            division.valid.extend(targets(valid..test));
            division.test.extend(targets(test..times.len()));
        }
        division
    }

    pub(super) fn targets(&self, split: Split) -> &[Target] {
        match split {
            Split::Valid => &self.valid,
            Split::Test => &self.test,
        }
    }
}

impl Dataset {
    /// The same interactions, divided as `config` says; a dataset is divided by leave-one-out before.
    ///
    /// # Errors
    /// If the rule goes by time and the dataset has no times, the second time is not after the first, or
    /// nothing is left for training, validation or test.
    pub fn divided(mut self, config: SplitConfig) -> Result<Self, DataError> {
        let SplitConfig { rule, valid_from, test_from, .. } = config;
        if rule == SplitRule::LeaveOneOut || self.users.is_empty() {
            return Ok(self);
        }
        let (division, remedy) = if rule == SplitRule::SampledLeaveOneOut {
            let remedy = "change data.split.valid-users or data.split.test-users";
            (Division::sampled(config, &self.users), remedy)
        } else {
            if !(0.0 < valid_from && valid_from < test_from && test_from < 1.0) {
                return Err(DataError::Cuts { valid_from, test_from });
            }
            let Some(times) = &self.times else {
                return Err(DataError::NoTimes { name: self.name, rule });
            };
            let remedy = "move data.split.valid-from or data.split.test-from";
            (Division::by_time(config, times), remedy)
        };
        let parts = [
            ("training", division.train.iter().all(|&seen| seen < 2)),
            ("validation", division.valid.is_empty()),
            ("test", division.test.is_empty()),
        ];
        if let Some((part, _)) = parts.into_iter().find(|(_, empty)| *empty) {
            return Err(DataError::EmptySplit { name: self.name, rule, part, remedy });
        }
        self.division = division;
        Ok(self.with_fingerprints())
    }

    /// How the interactions are divided.
    pub fn split_rule(&self) -> SplitRule {
        self.division.rule
    }

    /// The items of a user that training may see, oldest first; none, where all that they did came later.
    pub fn train(&self, user: usize) -> &[ItemId] {
        &self.users[user].items[..self.division.train[user]]
    }

    /// A user as networks know them that have a row for each; `None` of one in whose training nothing comes after
    /// anything, so that the row is as it was drawn.
    pub fn as_trained(&self, user: u32) -> Option<u32> {
        (self.train(user as usize).len() > 1).then_some(user)
    }

    /// What is held out for `split`, in the order of the users; one a user where the rule is to leave one out.
    pub fn targets(&self, split: Split) -> &[Target] {
        self.division.targets(split)
    }

    /// The item that is held out.
    pub fn target_item(&self, target: Target) -> ItemId {
        self.users[target.user].items[target.position]
    }

    /// The last `max` items before a target, oldest first.
    ///
    /// Later targets have earlier ones in their history, which is fair in evaluation and a leak in training.
    pub fn history(&self, target: Target, max: usize) -> &[ItemId] {
        let before = &self.users[target.user].items[..target.position];
        &before[before.len().saturating_sub(max)..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Item;

    fn dataset(sequences: &[&[ItemId]], times: Option<&[&[i64]]>) -> Dataset {
        let users = sequences.iter().enumerate();
        let users = users.map(|(i, items)| User { id: format!("u{i}"), items: items.to_vec() });
        let items = vec![Item::default(); 10];
        let dataset = Dataset::new("Shop", users.collect(), items).unwrap();
        let times = times.map(|times| times.iter().map(|times| times.to_vec()).collect());
        Dataset { times, ..dataset }
    }

    fn by(rule: SplitRule) -> SplitConfig {
        SplitConfig { rule, valid_from: 0.5, test_from: 0.75, ..SplitConfig::default() }
    }

    fn targets(dataset: &Dataset, split: Split) -> Vec<(usize, usize)> {
        dataset.targets(split).iter().map(|t| (t.user, t.position)).collect()
    }

    #[test]
    fn the_last_two_items_are_held_out() {
        let data = dataset(&[&[4, 7, 1, 9, 3], &[4, 7, 1]], None);
        assert_eq!((data.train(0), data.train(1)), (&[4, 7, 1][..], &[4][..]));
        let item = |split, user: usize| data.target_item(data.targets(split)[user]);
        assert_eq!((item(Split::Valid, 0), item(Split::Test, 0)), (9, 3));
        assert_eq!((item(Split::Valid, 1), item(Split::Test, 1)), (7, 1));
        let history = |split, user: usize, max| data.history(data.targets(split)[user], max);
        assert_eq!(history(Split::Valid, 0, 20), [4, 7, 1]);
        assert_eq!(history(Split::Test, 0, 20), [4, 7, 1, 9]);
        assert_eq!(history(Split::Test, 0, 2), [1, 9]);
        assert!(history(Split::Test, 0, 0).is_empty());
        assert_eq!(history(Split::Valid, 1, 20), [4]);
    }

    #[test]
    fn samples_of_the_users_are_held_out_and_stay_when_others_come() {
        let sequences: Vec<&[ItemId]> = vec![&[4, 7, 1, 9]; 2_000];
        let config = SplitConfig {
            rule: SplitRule::SampledLeaveOneOut,
            valid_users: 0.2,
            test_users: 0.5,
            ..SplitConfig::default()
        };
        let data = dataset(&sequences, None).divided(config).unwrap();
        let (valid, test) = (targets(&data, Split::Valid), targets(&data, Split::Test));
        assert!((350..450).contains(&valid.len()) && (930..1_070).contains(&test.len()));
        let both = valid.iter().filter(|target| target.1 == 2).count();
        assert!((160..240).contains(&both), "{both} users of {} are held out twice", valid.len());
        for user in 0..2_000 {
            let is_test = test.contains(&(user, 3));
            let at = 3 - usize::from(is_test);
            let is_valid = valid.contains(&(user, at));
            assert_eq!(data.train(user).len(), at + usize::from(!is_valid));
        }
        let before = dataset(&sequences[..1_000], None).divided(config).unwrap();
        let known = valid.iter().filter(|target| target.0 < 1_000);
        assert!(known.eq(&targets(&before, Split::Valid)));

        // Where all are tested, only few miss more than their last item.
        let all = SplitConfig { test_users: 1.0, ..config };
        let all = dataset(&sequences, None).divided(all).unwrap();
        assert!(targets(&all, Split::Test).iter().map(|target| target.0).eq(0..2_000));
        let other = dataset(&sequences, None);
        assert!(all.fingerprint != data.fingerprint && all.fingerprint != other.fingerprint);
        let none = SplitConfig { valid_users: 1e-9, ..config };
        let error = dataset(&sequences, None).divided(none).unwrap_err().to_string();
        assert!(error.contains("nothing for validation"), "{error}");
        assert!(error.contains("change data.split.valid-users or"), "{error}");
        let everybody = SplitConfig { valid_users: 1.0, test_users: 1.0, ..config };
        let error = dataset(&[&[0, 1, 2][..]; 3], None).divided(everybody).unwrap_err().to_string();
        assert!(error.contains("nothing for training"), "{error}");
    }

    #[test]
    fn a_cut_in_time_is_one_for_everybody() {
        let sequences: [&[ItemId]; 4] = [&[0, 1, 2, 3], &[4, 5, 6], &[7, 8, 9], &[0, 1, 2]];
        let times: [&[i64]; 4] = [&[0, 1, 6, 9], &[2, 3, 4], &[5, 7, 11], &[8, 9, 10]];
        // Of 13 interactions half come before the one at time 6, three quarters before the first at time 9.
        let data = dataset(&sequences, Some(&times)).divided(by(SplitRule::Temporal)).unwrap();
        let trained: Vec<_> = (0..4).map(|user| data.train(user).len()).collect();
        assert_eq!(trained, [2, 3, 1, 0]);
        // What happened at the time of a cut comes after it. User 3's first item, at 8, has no history.
        assert_eq!(targets(&data, Split::Valid), [(0, 2), (2, 1)]);
        assert_eq!(targets(&data, Split::Test), [(0, 3), (2, 2), (3, 1), (3, 2)]);
        let last = data.targets(Split::Test)[3];
        assert_eq!((data.target_item(last), data.history(last, 20)), (2, &[0, 1][..]));

        let timed = dataset(&sequences, Some(&times));
        let timed = timed.divided(by(SplitRule::TimedLeaveOneOut)).unwrap();
        assert_eq!(timed.train(0), data.train(0));
        assert_eq!(targets(&timed, Split::Valid), [(0, 2), (2, 1)]);
        assert_eq!(targets(&timed, Split::Test), [(0, 3), (2, 2), (3, 2)]);
        let fingerprints =
            [&dataset(&sequences, None), &data, &timed].map(|d| d.fingerprint.clone());
        assert!(fingerprints[0] != fingerprints[1] && fingerprints[1] != fingerprints[2]);
    }

    #[test]
    fn what_cannot_be_divided_is_refused() {
        let sequences: [&[ItemId]; 2] = [&[0, 1, 2], &[3, 4, 5]];
        let told = |times: Option<&[&[i64]]>, config: SplitConfig| {
            dataset(&sequences, times).divided(config).unwrap_err().to_string()
        };
        let error = told(None, by(SplitRule::Temporal));
        assert!(error.contains("no times") && error.contains("data.split.rule"), "{error}");
        let same: [&[i64]; 2] = [&[5; 3]; 2];
        let error = told(Some(&same), by(SplitRule::Temporal));
        assert!(error.contains("nothing for training"), "{error}");
        let late: [&[i64]; 2] = [&[0, 1, 9], &[2, 9, 9]];
        let error = told(Some(&late), by(SplitRule::TimedLeaveOneOut));
        assert!(error.contains("nothing for validation"), "{error}");
        let cuts = SplitConfig { valid_from: 0.9, test_from: 0.8, ..by(SplitRule::Temporal) };
        let error = told(Some(&late), cuts);
        assert!(error.contains("valid-from = 0.9") && error.contains("test-from = 0.8"), "{error}");
    }

    #[test]
    fn names_parse_as_they_print() {
        for split in [Split::Valid, Split::Test] {
            assert_eq!(split.to_string().parse::<Split>().unwrap(), split);
            assert_eq!(serde_json::to_string(&split).unwrap(), format!("\"{split}\""));
        }
        let error = "train".parse::<Split>().unwrap_err().to_string();
        assert!(error.contains("\"train\"") && error.contains("valid and test"), "{error}");
        for rule in [
            SplitRule::LeaveOneOut,
            SplitRule::SampledLeaveOneOut,
            SplitRule::TimedLeaveOneOut,
            SplitRule::Temporal,
        ] {
            assert_eq!(serde_json::to_string(&rule).unwrap(), format!("\"{rule}\""));
        }
    }
}
