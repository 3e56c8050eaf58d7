//! Recommending by the model and baselines together, as an evaluation of them ranks.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::generator::Generator;
use super::query::{Asked, Wanted};
use super::scorer::best;
use crate::Result;
use crate::decode::Ranked;
use crate::eval::{ItemScorer, mean_probabilities, ranked_together};
use crate::model::sequential::History;

/// Histories that are scored together.
const BATCH: usize = 256;

/// What ranks beside the model.
pub(super) struct Baselines {
    pub(super) scorers: Vec<Box<dyn ItemScorer>>,
    /// Their share in the probability of an item.
    pub(super) weight: f64,
}

impl Baselines {
    /// Hands on the items that each of `asked` needs, best first; those for a text are the model's alone.
    pub(super) fn rank(
        &self,
        generator: &Generator<'_>,
        asked: &mut [Asked<'_>],
        found: &mut dyn FnMut(&Asked<'_>, &[Ranked]),
    ) -> Result<()> {
        let mut generated: BTreeMap<usize, Vec<Ranked>> = BTreeMap::new();
        generator.rank(asked, &mut |asked, ranked| {
            // As many as an evaluation keeps: what is beyond them has probability 0 there, too.
            let kept = ranked.iter().filter(|ranked| asked.pick.allows(ranked.item));
            generated.insert(asked.at, kept.take(generator.beam(asked)).copied().collect());
        })?;
        let of = |asked: &Asked<'_>| generated.get(&asked.at).map_or(&[][..], Vec::as_slice);
        let has_history = |asked: &&Asked<'_>| matches!(asked.wanted, Wanted::History(_));
        let (after_items, others): (Vec<&Asked<'_>>, Vec<_>) = asked.iter().partition(has_history);
        for asked in others {
            found(asked, of(asked));
        }
        for batch in after_items.chunks(BATCH) {
            let histories: Vec<History<'_>> =
                batch.iter().map(|a| History { user: a.user, items: &a.stand_ins }).collect();
            let probabilities =
                mean_probabilities(&self.scorers, &histories, generator.repeat_bias())?;
            let ranked = batch.par_iter().zip(probabilities).map(|(asked, probabilities)| {
                let offered = asked.pick.offer.offered_as.keys();
                let scored = offered
                    .map(|&item| Ranked { item, score: probabilities[item as usize] })
                    .collect();
                // As many as the search keeps: among these are the best, whatever the weight.
                let scored = best(scored, generator.width(asked));
                ranked_together(of(asked), &scored, &probabilities, self.weight)
            });
            let ranked: Vec<Vec<Ranked>> = ranked.collect();
            batch.iter().zip(ranked).for_each(|(asked, ranked)| found(asked, &ranked));
        }
        Ok(())
    }
}
