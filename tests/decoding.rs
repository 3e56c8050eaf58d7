//! Beam search against exhaustive ranking and against a plain decoder without cache or trie.

use std::collections::BTreeSet;

use llmbs::Result;
use llmbs::decode::{BeamRow, BeamSearch, CodeScores, Normalize, search_freely};
use llmbs::index::{ItemIndex, Level, Source, Trie};
use llmbs::inference::{BatchScorer, ItemVocabulary, LlamaScorer};
use llmbs::model::{DropoutPair, Llama, LlamaConfig};
use llmbs::ops;
use proptest::prelude::*;

/// Scores that depend on the whole path, as a model's do.
struct PathScores {
    codes: Vec<usize>,
    paths: Vec<Vec<u32>>,
}

fn score(path: &[u32], code: u32) -> f32 {
    let hash = path.iter().chain([&code]).fold(17u32, |h, c| {
        h.wrapping_mul(2_654_435_761).wrapping_add(c.wrapping_mul(40_503)).rotate_left(7)
    });
    -((hash % 10_007) as f32) / 997.0
}

impl CodeScores for PathScores {
    fn scores(&mut self, level: usize, rows: &[BeamRow]) -> Result<Vec<f32>> {
        if level > 0 {
            let extend = |r: &BeamRow| [self.paths[r.parent].as_slice(), &[r.code]].concat();
            self.paths = rows.iter().map(extend).collect();
        }
        let codes = 0..self.codes[level] as u32;
        Ok(self.paths.iter().flat_map(|p| codes.clone().map(|c| score(p, c))).collect())
    }
}

fn positions(index: &ItemIndex, item: u32) -> Vec<u32> {
    let ranges = index.level_ranges();
    index.token_ids(item).iter().zip(ranges).map(|(&at, r)| at - r.start as u32).collect()
}

proptest! {
    #[test]
    fn a_wide_beam_equals_exhaustive_ranking(items in 2usize..60, seed in 0u64..1000) {
        let index = ItemIndex::random(items, &[4, 5, 6], seed).unwrap();
        let codes: Vec<usize> = index.level_ranges().iter().map(ExactSizeIterator::len).collect();
        let mut expected: Vec<(u32, f32)> = (0..items as u32)
            .map(|item| {
                let path = positions(&index, item);
                (item, (0..path.len()).map(|l| score(&path[..l], path[l])).sum())
            })
            .collect();
        expected.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));

        let trie = Trie::new(&index);
        let search = BeamSearch { width: items, normalize: Normalize::Level };
        let mut model = PathScores { codes: codes.clone(), paths: vec![Vec::new(); 2] };
        let ranked = search.run(&trie, 2, &mut model).unwrap();
        for user in &ranked {
            prop_assert_eq!(user.len(), items);
            for (found, (item, score)) in user.iter().zip(&expected) {
                prop_assert!((found.score - score).abs() < 1e-4);
                prop_assert_eq!(found.item, *item);
            }
        }
        // A narrow beam gives a prefix's worth of legal items, best first.
        let search = BeamSearch { width: 3, normalize: Normalize::Level };
        let mut model = PathScores { codes, paths: vec![Vec::new()] };
        let narrow = search.run(&trie, 1, &mut model).unwrap().remove(0);
        prop_assert_eq!(narrow.len(), items.min(3));
        prop_assert!(narrow.windows(2).all(|w| w[0].score >= w[1].score));
    }
}

proptest! {
    #[test]
    fn without_the_trie_the_items_among_all_sequences_rank_as_with_it(
        items in 1usize..60,
        seed in 0u64..1000,
    ) {
        let index = ItemIndex::random(items, &[4, 5, 6], seed).unwrap();
        let codes: Vec<usize> = index.level_ranges().iter().map(ExactSizeIterator::len).collect();
        let everything = codes.iter().product();
        let model = || PathScores { codes: codes.clone(), paths: vec![Vec::new(); 2] };
        let free = search_freely(everything, codes.len(), 2, &mut model()).unwrap();
        let search = BeamSearch { width: items, normalize: Normalize::Level };
        let ranked = search.run(&Trie::new(&index), 2, &mut model()).unwrap();
        for (free, ranked) in free.iter().zip(&ranked) {
            prop_assert_eq!(free.len(), everything);
            prop_assert!(free.windows(2).all(|w| w[0].score >= w[1].score));
            let named = free.iter().filter_map(|path| {
                let item = (0..items as u32).find(|&i| index.item_positions(i) == path.codes)?;
                Some((item, path.score))
            });
            let mut named: Vec<(u32, f32)> = named.collect();
            // Which of two equal scores comes first is another matter without items.
            named.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let expected: Vec<(u32, f32)> = ranked.iter().map(|r| (r.item, r.score)).collect();
            prop_assert_eq!(named, expected);
        }
    }
}

const INSTRUCTION: [u32; 3] = [4, 9, 2];

/// Log-probability of every item after a history, by full forward passes over the whole sequence; the model's repeat bias
/// goes to what ends the items `owned`.
fn exhaustive(
    model: &Llama,
    index: &ItemIndex,
    vocabulary: &ItemVocabulary,
    history: &[u32],
    owned: &[u32],
    normalize: Normalize,
) -> Vec<f32> {
    let log_softmax = |x: &[f32]| {
        let max = x.iter().copied().fold(f32::MIN, f32::max);
        let sum: f32 = x.iter().map(|v| (v - max).exp()).sum();
        x.iter().map(|v| v - max - sum.ln()).collect::<Vec<_>>()
    };
    let of_item = |item: u32| {
        let tokens: Vec<u32> = index.token_ids(item).iter().map(|t| vocabulary.first + t).collect();
        let row = [&INSTRUCTION, history, &tokens].concat();
        let h =
            model.hidden(&crate::common::packed(&[&row]), None, DropoutPair::default()).unwrap();
        let mut logits: Vec<Vec<f32>> =
            ops::linear(&h, model.lm_head(), ops::Precision::Full).unwrap().to_vec2().unwrap();
        let start = INSTRUCTION.len() + history.len() - 1;
        let last = tokens.len() - 1;
        for owned in owned.iter().map(|&item| index.token_ids(item)) {
            if owned[..last] == index.token_ids(item)[..last] {
                let end = (vocabulary.first + owned[last]) as usize;
                logits[start + last][end] += model.config().repeat_bias.unwrap_or(0.0) as f32;
            }
        }
        let step = |(level, token): (usize, &u32)| {
            let logits = &logits[start + level];
            if normalize == Normalize::Vocab {
                return log_softmax(logits)[*token as usize];
            }
            let range = &vocabulary.levels[level];
            let first = vocabulary.first as usize + range.start;
            log_softmax(&logits[first..first + range.len()])[*token as usize - first]
        };
        tokens.iter().enumerate().map(step).sum()
    };
    (0..index.num_items() as u32).map(of_item).collect()
}

#[test]
fn the_engine_equals_a_plain_decoder() {
    let index = ItemIndex::random(25, &[3, 4, 5], 1).unwrap();
    engine_equals_a_plain_decoder(&crate::common::model(), &index);
}

#[test]
fn a_repeat_bias_goes_to_what_ends_an_item_of_the_history() {
    let config = LlamaConfig { repeat_bias: Some(-4.0), ..crate::common::config() };
    let model = Llama::new(&config, &crate::common::weights(&config)).unwrap();
    for levels in [&[3, 4, 5][..], &[30]] {
        let index = ItemIndex::random(25, levels, 1).unwrap();
        engine_equals_a_plain_decoder(&model, &index);
    }
    // Nobody's items, and the others of a cluster gain what they lose.
    let index = ItemIndex::random(25, &[30], 1).unwrap();
    let vocabulary = ItemVocabulary { first: 30, levels: index.level_ranges() };
    let history = [30 + index.token_ids(3)[0], 30 + index.token_ids(9)[0]];
    let of =
        |owned: &[u32]| exhaustive(&model, &index, &vocabulary, &history, owned, Normalize::Level);
    let (without, with) = (of(&[]), of(&[3, 9]));
    assert!(with[3] < without[3] - 3.0 && with[9] < without[9] - 3.0);
    assert!((0..25).filter(|i| ![3, 9].contains(i)).all(|i| with[i] >= without[i]));
}

fn engine_equals_a_plain_decoder(model: &Llama, index: &ItemIndex) {
    let vocabulary = ItemVocabulary { first: 30, levels: index.level_ranges() };
    let trie = Trie::new(index);
    let item = |i: u32| index.token_ids(i).iter().map(|t| 30 + t).collect::<Vec<_>>();
    let owned = [&[3, 9, 3][..], &[20], &[1, 2, 4]];
    let histories: Vec<Vec<u32>> =
        owned.iter().map(|items| items.iter().flat_map(|&i| item(i)).collect()).collect();
    for normalize in [Normalize::Level, Normalize::Vocab] {
        let mut scorer = LlamaScorer::new(model, &vocabulary, normalize, &INSTRUCTION).unwrap();
        // Twice: the second search must not see anything of the first.
        for _ in 0..2 {
            scorer.start(&histories).unwrap();
            let search = BeamSearch { width: 25, normalize };
            let ranked = search.run(&trie, histories.len(), &mut scorer).unwrap();
            for ((history, owned), ranked) in histories.iter().zip(owned).zip(&ranked) {
                let owned: BTreeSet<u32> = owned.iter().copied().collect();
                let owned: Vec<u32> = owned.into_iter().collect();
                let scores = exhaustive(model, index, &vocabulary, history, &owned, normalize);
                assert_eq!(ranked.len(), 25);
                for r in ranked {
                    let expected = scores[r.item as usize];
                    assert!((r.score - expected).abs() < 1e-3, "{} {expected}", r.score);
                }
                assert!(ranked.windows(2).all(|w| w[0].score >= w[1].score));
            }
        }
    }
}

#[test]
fn products_in_bf16_give_nearly_the_same_scores() {
    let index = ItemIndex::random(25, &[3, 4, 5], 1).unwrap();
    let vocabulary = ItemVocabulary { first: 30, levels: index.level_ranges() };
    let trie = Trie::new(&index);
    let of = |precision| {
        let model = crate::common::model().with_precision(precision);
        let normalize = Normalize::Level;
        let mut scorer = LlamaScorer::new(&model, &vocabulary, normalize, &INSTRUCTION).unwrap();
        scorer.start(&[vec![30, 34, 40, 31, 35, 39]]).unwrap();
        let search = BeamSearch { width: 25, normalize };
        let mut ranked = search.run(&trie, 1, &mut scorer).unwrap().remove(0);
        ranked.sort_by_key(|r| r.item);
        ranked
    };
    for (full, rounded) in of(ops::Precision::Full).iter().zip(of(ops::Precision::Bf16)) {
        assert!((full.score - rounded.score).abs() < 0.1, "{} {}", full.score, rounded.score);
    }
}

#[test]
fn users_of_a_large_batch_are_divided_and_come_back_in_order() {
    let model = crate::common::model();
    let index = ItemIndex::random(25, &[3, 4, 5], 1).unwrap();
    let vocabulary = ItemVocabulary { first: 30, levels: index.level_ranges() };
    let trie = Trie::new(&index);
    let search = BeamSearch { width: 25, normalize: Normalize::Level };
    let item = |i: u32| index.token_ids(i).iter().map(|t| 30 + t).collect::<Vec<_>>();
    let histories: Vec<_> =
        (0..70).map(|user| [item(user % 25), item(user % 7)].concat()).collect();
    let mut divided = BatchScorer::new(&model, &vocabulary, search.normalize, INSTRUCTION.into());
    let run = |scorer: &mut LlamaScorer<'_>, users: std::ops::Range<usize>| {
        search.run(&trie, users.len(), scorer)
    };
    let found = divided.search(&histories, run).unwrap();
    assert_eq!(found.len(), histories.len());
    let mut alone = LlamaScorer::new(&model, &vocabulary, search.normalize, &INSTRUCTION).unwrap();
    for (history, mut found) in histories.into_iter().zip(found) {
        alone.start(&[history]).unwrap();
        let mut expected = search.run(&trie, 1, &mut alone).unwrap().remove(0);
        // Scores of hypotheses that lie close together may round to another order.
        found.sort_by_key(|r| r.item);
        expected.sort_by_key(|r| r.item);
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found.score - expected.score).abs() < 1e-4, "{found:?} {expected:?}");
        }
    }
}

#[test]
fn users_decoded_together_equal_users_alone() {
    let model = crate::common::model();
    let index = ItemIndex::random(25, &[3, 4, 5], 1).unwrap();
    let vocabulary = ItemVocabulary { first: 30, levels: index.level_ranges() };
    let trie = Trie::new(&index);
    let search = BeamSearch { width: 4, normalize: Normalize::Level };
    let histories = vec![vec![30, 34, 40], vec![31, 35, 39, 30, 34, 40]];
    let mut scorer = LlamaScorer::new(&model, &vocabulary, Normalize::Level, &INSTRUCTION).unwrap();
    scorer.start(&histories).unwrap();
    let together = search.run(&trie, 2, &mut scorer).unwrap();
    for (history, expected) in histories.iter().zip(together) {
        scorer.start(std::slice::from_ref(history)).unwrap();
        let alone = search.run(&trie, 1, &mut scorer).unwrap().remove(0);
        assert_eq!(alone.len(), expected.len());
        for (alone, together) in alone.iter().zip(&expected) {
            assert_eq!(alone.item, together.item);
            assert!((alone.score - together.score).abs() < 1e-4);
        }
    }
}

#[test]
fn allowed_adds_nothing_where_a_node_has_one_child() {
    // Items differ in the first code: the second level of each has one child.
    let level = |num_codes| Level { source: Source::Random, num_codes };
    let index = ItemIndex::new(vec![level(3), level(2)], vec![0, 1, 1, 0, 2, 1]).unwrap();
    let trie = Trie::new(&index);
    let mut model = PathScores { codes: vec![3, 2], paths: vec![Vec::new()] };
    let search = BeamSearch { width: 3, normalize: Normalize::Allowed };
    let ranked = search.run(&trie, 1, &mut model).unwrap().remove(0);
    let total: f32 = ranked.iter().map(|r| r.score.exp()).sum();
    assert!((total - 1.0).abs() < 1e-5, "{total}");
}

#[test]
fn a_search_beside_equals_two_searches() {
    for (seed, width) in [(1, 3), (2, 5), (3, 25)] {
        let items = 60;
        let index = ItemIndex::random(items, &[4, 5, 6], seed).unwrap();
        let trie = Trie::new(&index);
        let left_out: Vec<Vec<u32>> = vec![vec![], vec![7], (10..22).collect()];
        let slices: Vec<&[u32]> = left_out.iter().map(Vec::as_slice).collect();
        let search = BeamSearch { width, normalize: Normalize::Level };
        let codes: Vec<usize> = index.level_ranges().iter().map(ExactSizeIterator::len).collect();
        let model = || PathScores { codes: codes.clone(), paths: vec![Vec::new(); 3] };
        let found = search.run_beside(&trie, &slices, &mut model()).unwrap();
        let ranked = search.run(&trie, 3, &mut model()).unwrap();
        for (user, left_out) in left_out.iter().enumerate() {
            assert_eq!(found[user].ranked, ranked[user]);
            let wider = BeamSearch { width: width + left_out.len(), ..search };
            let mut others = wider.run(&trie, 3, &mut model()).unwrap().remove(user);
            others.retain(|r| !left_out.contains(&r.item));
            others.truncate(width);
            assert_eq!(found[user].others, others, "seed {seed}, user {user}");
        }
    }
}
