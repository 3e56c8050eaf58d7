//! A run's model and the strongest baseline beside it, target by target.

use std::collections::HashMap;

use super::Reported;
use crate::Result;
use crate::data::{ItemId, Target};
use crate::eval::{DEPTH, Prediction};
use crate::run::{Ranker, StoredRanking};

/// The figure by which a baseline is the strongest.
const STRENGTH: &str = "ndcg@10";

/// What both recommended for the same targets.
pub(super) struct Duel<'a> {
    /// What the model came to.
    pub(super) model: &'a StoredRanking,
    /// The baseline, where there is one whose predictions are kept.
    pub(super) baseline: Option<&'a StoredRanking>,
    /// Target by target, in the order of the model's predictions.
    pub(super) pairs: Vec<Pair>,
}

/// What was recommended for one target.
pub(super) struct Pair {
    pub(super) target: Target,
    pub(super) model: Prediction,
    pub(super) baseline: Option<Prediction>,
}

/// Why there is nothing to show.
pub(super) type Lacking = String;

impl<'a> Duel<'a> {
    /// That of `reported`, whose own baselines come before those of the other runs.
    pub(super) fn of(
        reported: &'a Reported,
        runs: &'a [Reported],
    ) -> Result<std::result::Result<Self, Lacking>> {
        let (name, folder) = (&reported.name, &reported.folder);
        let Some(model) = reported.main() else {
            return Ok(Err(format!(
                "{name}: no result of its models is kept: run `llmbs --run {folder} eval`"
            )));
        };
        let Some(predictions) = model.predictions()? else {
            return Ok(Err(format!(
                "{name}: no predictions are kept: run `llmbs --run {folder} eval --force`"
            )));
        };
        let dataset = reported.run.dataset();
        if dataset.interactions_fingerprint != model.targets.interactions_fingerprint {
            return Ok(Err(format!(
                "{name}: its data are not those that were evaluated, so nobody's history is known here"
            )));
        }
        let strength =
            |stored: &StoredRanking| stored.report.metrics.get(STRENGTH).copied().unwrap_or(0.0);
        let by_strength = |runs: &'a [Reported]| {
            let all = runs.iter().flat_map(|run| &run.rankings).filter(|stored| {
                matches!(stored.ranker, Ranker::Baseline(_)) && stored.targets == model.targets
            });
            let mut all: Vec<&StoredRanking> = all.collect();
            all.sort_by(|a, b| strength(b).total_cmp(&strength(a)));
            all
        };
        let own = by_strength(std::slice::from_ref(reported));
        let mut found = None;
        for stored in own.into_iter().chain(by_strength(runs)) {
            if let Some(lines) = stored.predictions()? {
                found = Some((stored, lines));
                break;
            }
        }
        let (baseline, lines) = found.unzip();
        let key = |p: &Prediction| (p.user.clone(), p.position);
        let mut lines: HashMap<_, _> =
            lines.into_iter().flatten().map(|line| (key(&line), line)).collect();
        let users: HashMap<&str, usize> =
            dataset.users.iter().enumerate().map(|(i, user)| (user.id.as_str(), i)).collect();
        let mut pairs = Vec::new();
        for model in predictions {
            // Whoever is not in the data has no history.
            let Some(&user) = users.get(model.user.as_str()) else { continue };
            let target = Target { user, position: model.position };
            if dataset.users[user].items.get(model.position) != Some(&model.target) {
                continue;
            }
            let baseline = lines.remove(&key(&model));
            pairs.push(Pair { target, model, baseline });
        }
        Ok(Ok(Self { model, baseline, pairs }))
    }

    /// What the baseline is called.
    pub(super) fn baseline_name(&self) -> Option<String> {
        let stored = self.baseline?;
        Some(format!("{}, seed {}", super::ranker_name(stored), stored.seed))
    }
}

/// A place that counts: below the deepest cut all are alike.
pub(super) fn place(rank: Option<usize>) -> Option<usize> {
    rank.filter(|&rank| rank <= DEPTH)
}

/// Who ranked a target higher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Better,
    Worse,
    Equal,
}

impl Outcome {
    /// Of places from 1; none is behind all others.
    pub(super) fn of(model: Option<usize>, baseline: Option<usize>) -> Self {
        let [model, baseline] = [model, baseline].map(|rank| place(rank).unwrap_or(usize::MAX));
        match model.cmp(&baseline) {
            std::cmp::Ordering::Less => Self::Better,
            std::cmp::Ordering::Greater => Self::Worse,
            std::cmp::Ordering::Equal => Self::Equal,
        }
    }
}

/// How often each outcome is among `outcomes`: better, worse, equal.
pub(super) fn count(outcomes: impl Iterator<Item = Outcome>) -> [usize; 3] {
    let mut counts = [0; 3];
    for outcome in outcomes {
        counts[outcome as usize] += 1;
    }
    counts
}

/// What a user took before a target, as the model saw it.
pub(super) fn history(reported: &Reported, target: Target) -> &[ItemId] {
    reported.run.dataset().history(target, reported.run.config().data.history)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_the_deepest_cut_all_are_alike() {
        let outcomes = [(Some(1), Some(2)), (None, Some(20)), (Some(21), None), (Some(3), None)];
        let outcomes = outcomes.map(|(model, baseline)| Outcome::of(model, baseline));
        assert_eq!(outcomes, [Outcome::Better, Outcome::Worse, Outcome::Equal, Outcome::Better]);
        assert_eq!(count(outcomes.into_iter()), [2, 1, 1]);
    }
}
