//! A T5 over codes, held to Hugging Face's, to finite differences and to itself.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::safetensors;

use super::layers::buckets;
use super::*;
use crate::model::sequential::tests::{add_noise, check_gradients, values};
use crate::nn::Gradients;

const ITEMS: usize = 9;

/// Those of `scripts/peers/tiger_golden.py`.
fn codes() -> Codes {
    let of_items = [
        [0, 0, 0],
        [0, 0, 1],
        [1, 2, 4],
        [3, 1, 2],
        [2, 2, 2],
        [2, 0, 3],
        [1, 2, 0],
        [3, 0, 4],
        [0, 1, 1],
    ];
    Codes { of_items: of_items.concat(), levels: vec![4, 3, 5] }
}

const HISTORIES: [History<'_>; 3] = [
    History { user: Some(7), items: &[1, 2, 3, 4, 1] },
    History { user: Some(1), items: &[6, 2, 0, 8, 5, 5, 7, 1, 3, 4, 2, 6] },
    History { user: None, items: &[8] },
];
const TARGETS: [u32; 3] = [4, 0, 7];

fn whole(dropout: u64) -> TigerPart {
    TigerPart::whole(TARGETS.len(), dropout)
}

/// Tiny, in f64, and far enough from its start that every part of it shows.
fn tiger() -> Tiger {
    tiger_of(DType::F64)
}

fn tiger_of(dtype: DType) -> Tiger {
    let config = TigerConfig {
        dim: 8,
        heads: 2,
        head_dim: 3,
        feed_forward: 10,
        history: 12,
        user_tokens: 5,
        dropout: 0.2,
        ..TigerConfig::default()
    };
    let tiger = Tiger::new(&config, codes(), 3, dtype, &Device::Cpu).unwrap();
    add_noise(tiger.params(), 0.3);
    tiger
}

#[track_caller]
fn assert_close(a: &[f64], b: &[f64], most: f64) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() < most, "{a} {b}");
    }
}

/// The log-probability of every item after each history, all of its codes written at once.
fn scores(tiger: &Tiger) -> Vec<f64> {
    let of = |history: &History<'_>| {
        let histories = [*history; ITEMS];
        let items: Vec<u32> = (0..ITEMS as u32).collect();
        let losses = tiger.losses(&histories, &items, None).unwrap();
        values(&losses.reshape((ITEMS, 3)).unwrap().sum(1).unwrap().neg().unwrap())
    };
    HISTORIES.iter().flat_map(of).collect()
}

#[test]
fn scores_and_gradients_are_those_of_hugging_face() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = path.join("tests/golden/sequential/tiger.safetensors");
    let mut tensors = safetensors::load(path, &Device::Cpu).unwrap();
    let mut take = |name: &str| tensors.remove(name).unwrap();
    for (name, back_alone) in [("encoder", false), ("decoder", true)] {
        let expected = take(&format!("buckets.{name}"));
        assert_eq!(
            buckets(151, back_alone).into_iter().map(f64::from).collect::<Vec<_>>(),
            values(&expected),
            "{name}"
        );
    }
    let [expected, logits, gradient] = ["scores", "logits", "gradient"].map(&mut take);
    let weights: BTreeMap<String, Tensor> =
        tensors.into_iter().map(|(name, t)| (name, t.to_dtype(DType::F64).unwrap())).collect();
    let tiger = tiger();
    assert!(weights.keys().map(String::as_str).eq(tiger.params().names()));
    tiger.params().restore(&weights).unwrap();

    assert_close(&scores(&tiger), &values(&expected), 1e-4);
    let pass = Pass::new(&tiger.config, None);
    let memory = tiger.encode(&HISTORIES, &pass).unwrap();
    let first = &tiger.codes.of_items[..2];
    let written = [0, 1, 2].map(|history| Written { history, codes: first });
    let states = tiger.decode(&memory, &written, &pass).unwrap();
    let own = states.matmul(&tiger.embeddings.t().unwrap()).unwrap();
    assert_close(&values(&own), &values(&logits), 1e-4);
    let loss = tiger.losses(&HISTORIES, &TARGETS, None).unwrap().mean_all().unwrap();
    let store = loss.backward().unwrap();
    assert_close(&values(store.get(&tiger.embeddings).unwrap()), &values(&gradient), 1e-4);
}

#[test]
fn gradients_equal_finite_differences() {
    let tiger = tiger();
    check_gradients("tiger", tiger.params(), || {
        tiger.losses(&HISTORIES, &TARGETS, Some(whole(11))).unwrap().sum_all().unwrap()
    });
}

#[test]
fn the_pass_by_hand_equals_the_graph() {
    let tiger = tiger_of(DType::F32);
    let by_graph = tiger.losses(&HISTORIES, &TARGETS, Some(whole(11))).unwrap().mean_all().unwrap();
    let store = by_graph.backward().unwrap();
    let mut workspace = TigerWorkspace::default();
    // The second step works in the workspace of the first.
    for _ in 0..2 {
        let (loss, gradients) =
            tiger.gradients(&HISTORIES, &TARGETS, whole(11), &mut workspace).unwrap();
        assert!((loss - values(&by_graph)[0]).abs() < 1e-5, "{loss} {by_graph}");
        for (name, weight) in tiger.params().tensors() {
            let found = values(&gradients.tensor(tiger.params(), name).unwrap());
            let expected = values(store.get(weight).unwrap());
            let largest = expected.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
            assert!(largest > 0.0, "{name}");
            for (a, b) in found.iter().zip(&expected) {
                assert!((a - b).abs() < 1e-5 * (1.0 + largest), "{name}: {a} {b}");
            }
        }
        workspace.take_back(gradients);
    }
    let other = tiger.gradients(&HISTORIES, &TARGETS, whole(12), &mut workspace).unwrap().0;
    assert!((other - values(&by_graph)[0]).abs() > 1e-3);
}

#[test]
fn parts_of_a_batch_together_are_the_batch() {
    for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F64, 1e-12)] {
        let (tiger, mut workspace) = (tiger_of(dtype), TigerWorkspace::default());
        let mut of = |own: std::ops::Range<usize>| {
            let before = HISTORIES[..own.start].iter();
            let tokens_before = before.map(|history| tiger.tokens_of(history)).sum();
            let part = TigerPart { tokens_before, targets_before: own.start, ..whole(11) };
            let (histories, targets) = (&HISTORIES[own.clone()], &TARGETS[own]);
            tiger.gradients(histories, targets, part, &mut workspace).unwrap()
        };
        let (loss, gradients) = of(0..3);
        let parts = [of(0..1), of(1..3)];
        let sum: f64 = parts.iter().map(|(loss, _)| loss).sum();
        assert!((loss - sum).abs() < tolerance, "{loss} {sum}");
        for name in tiger.params().names() {
            let of = |gradients: &Gradients| gradients.tensor(tiger.params(), name).unwrap();
            let sum = (of(&parts[0].1) + of(&parts[1].1)).unwrap();
            assert_close(&values(&of(&gradients)), &values(&sum), tolerance);
        }
    }
}

#[test]
fn elsewhere_gradients_are_those_of_the_graph() {
    let (tiger, mut workspace) = (tiger(), TigerWorkspace::default());
    let (loss, gradients) =
        tiger.gradients(&HISTORIES, &TARGETS, whole(11), &mut workspace).unwrap();
    let by_graph = tiger.losses(&HISTORIES, &TARGETS, Some(whole(11))).unwrap().mean_all().unwrap();
    assert_close(&[loss], &values(&by_graph), 1e-12);
    let store = by_graph.backward().unwrap();
    let found = gradients.tensor(tiger.params(), "shared.weight").unwrap();
    assert_close(&values(&found), &values(store.get(&tiger.embeddings).unwrap()), 1e-12);
}

#[test]
fn the_fused_operations_equal_the_composed_ones() {
    let tiger = tiger();
    let losses = || values(&tiger.losses(&HISTORIES, &TARGETS, Some(whole(11))).unwrap());
    let fused = losses();
    let _guard = ops::force_composed();
    assert_close(&fused, &losses(), 1e-10);
}

#[test]
fn what_is_written_code_by_code_is_as_likely_as_what_is_written_at_once() {
    let tiger = tiger();
    let memory = tiger.read(&HISTORIES).unwrap();
    let at_once = scores(&tiger);
    for (history, at_once) in at_once.chunks_exact(ITEMS).enumerate() {
        for (codes, at_once) in tiger.codes.of_items.chunks_exact(3).zip(at_once) {
            let of_level = |level: usize| {
                // Beside others, which do not change it.
                let others = (0..3).map(|history| Written { history, codes: &codes[..level] });
                let mut written: Vec<Written<'_>> = others.collect();
                written.push(Written { history, codes: &codes[..level] });
                let found = tiger.log_probabilities(&memory, &written).unwrap();
                assert_eq!(found.dims(), [4, tiger.codes.levels[level]]);
                values(&found.narrow(0, 3, 1).unwrap())[codes[level] as usize]
            };
            let by_code: f64 = (0..3).map(of_level).sum();
            assert!((by_code - at_once).abs() < 1e-10, "{by_code} {at_once}");
        }
    }
    let written = [&[0, 0][..], &[0]].map(|codes| Written { history: 0, codes });
    assert!(tiger.log_probabilities(&memory, &written).is_err());
}

#[test]
fn a_search_by_hand_equals_the_graph() {
    let tiger = tiger_of(DType::F32);
    let mut reading = tiger.reading(&HISTORIES).unwrap().unwrap();
    let memory = tiger.read(&HISTORIES).unwrap();
    // Hypotheses leave, come in another order and have several successors.
    let steps: [&[(usize, u32)]; 2] =
        [&[(2, 3), (0, 1), (0, 3), (1, 0)], &[(3, 2), (3, 0), (1, 1), (2, 0), (0, 2), (0, 1)]];
    let mut written: Vec<(usize, Vec<u32>)> = (0..3).map(|history| (history, Vec::new())).collect();
    for level in 0..3 {
        let rows: &[(usize, u32)] = if level == 0 { &[] } else { steps[level - 1] };
        if level > 0 {
            let longer = |&(parent, code): &(usize, u32)| {
                let (history, codes) = &written[parent];
                (*history, codes.iter().copied().chain([code]).collect())
            };
            written = rows.iter().map(longer).collect();
        }
        let found: Vec<f64> = reading.next(rows).unwrap().into_iter().map(f64::from).collect();
        let of = |(history, codes): &(usize, Vec<u32>)| {
            let written = [Written { history: *history, codes }];
            values(&tiger.log_probabilities(&memory, &written).unwrap())
        };
        let expected: Vec<f64> = written.iter().flat_map(of).collect();
        assert_eq!(found.len(), written.len() * tiger.codes.levels[level]);
        assert_close(&found, &expected, 1e-4);
    }
    assert!(reading.next(&[]).is_err());
    assert!(self::tiger().reading(&HISTORIES).unwrap().is_none());
}

#[test]
fn a_history_counts_from_its_last_items_and_whose_it_is() {
    let tiger = tiger();
    let losses = |history| values(&tiger.losses(&[history], &[4], None).unwrap());
    let of = |user, items| losses(History { user, items });
    let long: Vec<u32> = (0..15).map(|i| i * i % 9).collect();
    assert_eq!(of(None, &long), of(None, &long[3..]));
    assert_ne!(of(None, &long), of(None, &long[4..]));
    assert_ne!(of(None, &[1, 2]), of(None, &[2, 1]));
    // Five tokens for all users.
    assert_eq!(of(Some(1), &[1]), of(Some(6), &[1]));
    assert_ne!(of(Some(1), &[1]), of(Some(2), &[1]));
    assert_ne!(of(Some(1), &[1]), of(None, &[1]));
    for (items, target) in [(&[][..], 4), (&[9], 4), (&[1], 9)] {
        assert!(tiger.losses(&[History::of(items)], &[target], None).is_err());
    }
}

#[test]
fn dropout_is_decided_by_its_key() {
    let tiger = tiger();
    let losses = |key| values(&tiger.losses(&HISTORIES, &TARGETS, Some(whole(key))).unwrap());
    assert_eq!(losses(1), losses(1));
    assert_ne!(losses(1), losses(2));
}
