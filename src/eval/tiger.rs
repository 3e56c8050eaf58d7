//! Ranking by what a TIGER writes: beam search over the trie of the items.

use rayon::prelude::*;

use super::ranking::ItemScorer;
use crate::Result;
use crate::data::{Item, ItemId};
use crate::decode::{BeamSearch, Found, Normalize, Ranked};
use crate::index::Trie;
use crate::inference::{SHARE, TigerScorer};
use crate::model::sequential::{History, Tiger};

/// A TIGER with the items that it may write.
#[derive(Debug, Clone)]
pub struct TigerRecommender {
    /// The network, whose beam is that of the search.
    pub network: Tiger,
    /// The items that may be recommended.
    pub trie: Trie,
}

impl TigerRecommender {
    /// The best items that a search finds after each history, with and without those left out for it.
    fn search(
        &self,
        width: usize,
        histories: &[History<'_>],
        left_out: &[&[ItemId]],
    ) -> Result<Vec<Found>> {
        let search = BeamSearch { width, normalize: Normalize::Vocab };
        // A GPU takes what each thread asks for apart.
        self.network.device().synchronize()?;
        let shares = histories.par_chunks(SHARE).zip(left_out.par_chunks(SHARE));
        let found = shares.map(|(histories, left_out)| {
            let mut scorer = TigerScorer::new(&self.network, histories)?;
            search.run_beside(&self.trie, left_out, &mut scorer)
        });
        Ok(found.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// The log-probabilities of the items found, minus infinity for the others.
    fn scores_of(&self, width: usize, histories: &[History<'_>]) -> Result<Vec<f32>> {
        let num_items = self.network.num_items();
        let mut scores = vec![f32::NEG_INFINITY; histories.len() * num_items];
        let found = self.search(width, histories, &vec![&[][..]; histories.len()])?;
        for (scores, found) in scores.chunks_exact_mut(num_items).zip(found) {
            for Ranked { item, score } in found.ranked {
                scores[item as usize] = score;
            }
        }
        Ok(scores)
    }
}

impl ItemScorer for TigerRecommender {
    fn scores(&self, histories: &[History<'_>]) -> Result<Vec<f32>> {
        self.scores_of(self.network.config().beam, histories)
    }

    fn scores_of_all(&self, histories: &[History<'_>]) -> Result<Vec<f32>> {
        self.scores_of(self.network.num_items(), histories)
    }

    fn best(
        &self,
        histories: &[History<'_>],
        left_out: &[&[ItemId]],
        _items: &[Item],
    ) -> Result<Vec<Found>> {
        self.search(self.network.config().beam, histories, left_out)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::index::{ItemIndex, Level, Source};
    use crate::model::sequential::{Codes, TigerConfig};

    /// 24 items of which one is not recommended, under codes of 3, 4 and 3.
    fn recommender(beam: usize) -> TigerRecommender {
        let level = |num_codes| Level { source: Source::Random, num_codes };
        let codes = (0..24).flat_map(|item| [item % 3, item / 3 % 4, item / 12]).collect();
        let index = ItemIndex::new([3, 4, 3].map(level).to_vec(), codes).unwrap();
        let codes = Codes { of_items: index.codes().to_vec(), levels: vec![3, 4, 2] };
        let config = TigerConfig {
            dim: 8,
            heads: 2,
            head_dim: 4,
            feed_forward: 8,
            beam,
            ..TigerConfig::default()
        };
        TigerRecommender {
            network: Tiger::new(&config, codes, 3, DType::F32, &Device::Cpu).unwrap(),
            trie: Trie::subset(&index, 0..23).unwrap(),
        }
    }

    const HISTORIES: [History<'_>; 3] = [
        History { user: None, items: &[3, 5] },
        History { user: None, items: &[23] },
        History { user: None, items: &[7, 7, 1, 0] },
    ];

    #[test]
    fn a_beam_as_wide_as_the_catalogue_finds_what_scoring_every_item_does() {
        let recommender = recommender(24);
        let left_out = [&[3, 5][..], &[], &[7]];
        let found = recommender.best(&HISTORIES, &left_out, &[]).unwrap();
        for (i, history) in HISTORIES.iter().enumerate() {
            let items: Vec<u32> = (0..23).collect();
            let losses = recommender.network.losses(&[*history; 23], &items, None).unwrap();
            let scores = losses.reshape((23, 3)).unwrap().sum(1).unwrap().neg().unwrap();
            let scores: Vec<f32> = scores.to_vec1().unwrap();
            let mut ranked = items.clone();
            ranked.sort_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]));
            let order = |found: &[Ranked]| found.iter().map(|r| r.item).collect::<Vec<_>>();
            assert_eq!(order(&found[i].ranked), ranked);
            assert!(
                found[i].ranked.iter().all(|r| (r.score - scores[r.item as usize]).abs() < 1e-4)
            );
            ranked.retain(|item| !left_out[i].contains(item));
            assert_eq!(order(&found[i].others), ranked);
        }
    }

    #[test]
    fn what_a_search_does_not_find_has_no_score_until_all_are_asked_for() {
        let (narrow, wide) = (recommender(2), recommender(24));
        let (some, all) = (narrow.scores(&HISTORIES).unwrap(), narrow.scores_of_all(&HISTORIES));
        let (all, wide) = (all.unwrap(), wide.scores(&HISTORIES).unwrap());
        assert_eq!(all, wide);
        for (some, all) in some.chunks(24).zip(all.chunks(24)) {
            assert_eq!(some.iter().filter(|score| score.is_finite()).count(), 2);
            // The company in a batch may change how a product is summed.
            let alike = |(some, all): (&f32, &f32)| !some.is_finite() || (some - all).abs() < 1e-5;
            assert!(some.iter().zip(all).all(alike));
            assert_eq!(all.iter().position(|score| !score.is_finite()), Some(23));
        }
    }

    #[test]
    fn threads_and_company_change_nothing() {
        let recommender = recommender(5);
        let many: Vec<History<'_>> = HISTORIES.into_iter().cycle().take(70).collect();
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| recommender.scores(&many).unwrap())
        };
        let one = on(1);
        assert!(one == on(2));
        let alone = recommender.scores(&many[..1]).unwrap();
        for (a, b) in one[..24].iter().zip(&alone) {
            assert!(a == b || (a - b).abs() < 1e-5, "{a} {b}");
        }
    }
}
