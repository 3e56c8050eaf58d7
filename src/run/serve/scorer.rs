//! Recommending by a baseline's scores.

use rayon::prelude::*;

use super::query::Asked;
use crate::Result;
use crate::decode::Ranked;
use crate::eval::ItemScorer;
use crate::model::sequential::History;

/// Histories that are scored together.
const BATCH: usize = 256;

/// A baseline.
pub(super) struct Scorer {
    /// As an error calls it.
    pub(super) name: String,
    pub(super) scorer: Box<dyn ItemScorer>,
}

impl Scorer {
    /// Hands on the items that each of `asked` needs, best first, ties by id.
    pub(super) fn rank(
        &self,
        asked: &[Asked<'_>],
        found: &mut dyn FnMut(&Asked<'_>, &[Ranked]),
    ) -> Result<()> {
        for batch in asked.chunks(BATCH) {
            let histories: Vec<History<'_>> =
                batch.iter().map(|a| History { user: a.user, items: &a.stand_ins }).collect();
            let scores = self.scorer.scores(&histories)?;
            let rows = scores.par_chunks(scores.len() / batch.len()).zip(histories);
            let ranked = batch.par_iter().zip(rows).map(|(asked, (scores, history))| {
                let offered = |scores: &[f32]| -> Vec<Ranked> {
                    let items = asked.pick.offer.offered_as.keys();
                    let ranked = items.map(|&item| Ranked { item, score: scores[item as usize] });
                    ranked.filter(|ranked| ranked.score > f32::NEG_INFINITY).collect()
                };
                let mut ranked = offered(scores);
                let fits = |ranked: &&Ranked| asked.pick.allows(ranked.item);
                if ranked.iter().filter(fits).count() < asked.top {
                    ranked = offered(&self.scorer.scores_of_all(&[history])?);
                }
                Ok(best(ranked, asked.top + asked.pick.excluded.len()))
            });
            let ranked = ranked.collect::<Result<Vec<_>>>()?;
            batch.iter().zip(ranked).for_each(|(asked, ranked)| found(asked, &ranked));
        }
        Ok(())
    }
}

/// The best so many of some items, best first, ties by id.
pub(super) fn best(mut ranked: Vec<Ranked>, count: usize) -> Vec<Ranked> {
    if count < ranked.len() {
        ranked.select_nth_unstable_by(count, Ranked::best_first);
        ranked.truncate(count);
    }
    ranked.sort_unstable_by(Ranked::best_first);
    ranked
}
