//! What holds for every network over item ids.

use std::path::Path;

use candle_core::{DType, Device, safetensors};

use super::*;
use crate::nn::Gradients;
use crate::rng;

const ITEMS: usize = 9;
const USERS: usize = 3;

const HISTORIES: [History<'_>; 3] = [
    History { user: Some(2), items: &[1, 2, 3, 4, 1] },
    History { user: Some(0), items: &[6] },
    History { user: None, items: &[8, 0, 8] },
];
/// What follows each of the items above.
const TARGETS: [u32; 9] = [2, 3, 4, 1, 7, 0, 0, 8, 5];

/// Every network, tiny, in f64, and far enough from its start that every part of it shows.
fn all() -> Vec<(&'static str, Box<dyn Sequential>)> {
    all_with(3)
}

fn all_with(seed: u64) -> Vec<(&'static str, Box<dyn Sequential>)> {
    let (t, d) = (DType::F64, &Device::Cpu);
    let gru4rec = Gru4RecConfig {
        dim: 4,
        hidden: 6,
        layers: 2,
        history: 5,
        dropout: 0.3,
        ..Gru4RecConfig::default()
    };
    let caser = CaserConfig {
        dim: 4,
        history: 3,
        horizontal: 2,
        vertical: 2,
        dropout: 0.3,
        ..CaserConfig::default()
    };
    let hgn = HgnConfig { dim: 4, history: 3, dropout: 0.3, ..HgnConfig::default() };
    let transformer = TransformerConfig {
        dim: 6,
        feed_forward: 10,
        history: 5,
        embedding_dropout: 0.3,
        dropout: 0.2,
        ..TransformerConfig::default()
    };
    let sasrec = SasRecConfig { transformer, ..SasRecConfig::default() };
    let bert4rec = Bert4RecConfig {
        dim: 6,
        feed_forward: 10,
        history: 6,
        dropout: 0.2,
        ..Bert4RecConfig::default()
    };
    let one_block = TransformerConfig { blocks: 1, ..transformer };
    let fdsa = FdsaConfig { transformer: one_block, ..FdsaConfig::default() };
    let s3rec = S3RecConfig { transformer, ..S3RecConfig::default() };
    let of_items = [&[0, 1][..], &[], &[2], &[1], &[0], &[2, 0, 1], &[1], &[1, 2], &[0]];
    let attributes = Attributes { of_items: of_items.map(<[u32]>::to_vec).to_vec(), count: 3 };
    let networks: Vec<(_, Box<dyn Sequential>)> = vec![
        ("gru4rec", Box::new(Gru4Rec::new(&gru4rec, ITEMS, seed, t, d).unwrap())),
        ("caser", Box::new(Caser::new(&caser, ITEMS, &[true; USERS], seed, t, d).unwrap())),
        ("hgn", Box::new(Hgn::new(&hgn, ITEMS, &[true; USERS], seed, t, d).unwrap())),
        ("sasrec", Box::new(SasRec::new(&sasrec, ITEMS, seed, t, d).unwrap())),
        ("bert4rec", Box::new(Bert4Rec::new(&bert4rec, ITEMS, seed, t, d).unwrap())),
        ("fdsa", Box::new(Fdsa::new(&fdsa, attributes.clone(), seed, t, d).unwrap())),
        ("s3rec", Box::new(S3Rec::new(&s3rec, attributes, seed, t, d).unwrap())),
    ];
    for (_, network) in &networks {
        add_noise(network.params(), 0.5);
    }
    networks
}

/// Moves every parameter of a network by draws of this standard deviation.
pub(super) fn add_noise(params: &Params, std: f64) {
    for (name, value) in params.snapshot().unwrap() {
        let noise = rng::normal(&mut rng::stream(5, &name, &[]), value.elem_count(), std);
        let noise = Tensor::from_vec(noise, value.shape(), &Device::Cpu).unwrap();
        let noise = noise.to_dtype(value.dtype()).unwrap();
        params.set(&name, &(value + noise).unwrap()).unwrap();
    }
}

pub(super) fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[track_caller]
fn assert_close(name: &str, a: &Tensor, b: &Tensor) {
    assert_eq!(a.dims(), b.dims(), "{name}");
    for (a, b) in values(a).iter().zip(values(b)) {
        assert!((a - b).abs() < 1e-10, "{name}: {a} {b}");
    }
}

fn candidates() -> Candidates {
    let items = vec![0, 1, 2, 3, 4, 5, 7, 8];
    let log_probabilities = items.iter().map(|&i| -0.1 * i as f32).collect();
    Candidates { items, log_probabilities }
}

/// Two sequences, the longer of three items of which the first and the last are hidden.
fn puzzle() -> Puzzle {
    Puzzle {
        before: 0,
        rows: vec![vec![9, 2, 9], vec![9, 3]],
        places: vec![0, 2, 3],
        hidden: vec![1, 4, 7],
        others: vec![0, 5, 6],
        seen: vec![2, 3],
        without_segments: vec![vec![1, 9, 9], vec![9, 3]],
        segments: vec![vec![9, 2, 4], vec![7, 9]],
        other_segments: vec![vec![9, 8, 0], vec![5, 9]],
    }
}

/// All losses, one after the other.
fn losses(network: &dyn Sequential) -> Tensor {
    let states = network.states(&HISTORIES, Some(Masks::whole(11))).unwrap();
    let full = network.losses(&states, &TARGETS).unwrap();
    let sampled = network.sampled_losses(&states, &TARGETS, &candidates()).unwrap();
    let binary = network.binary_losses(&states, &TARGETS, &[5, 5, 0, 8, 2, 6, 1, 1, 3]).unwrap();
    let mut all = vec![full, sampled, binary];
    if let Some(pretraining) = network.pretraining() {
        all.push(pretraining.loss(&puzzle(), Some(12)).unwrap().unsqueeze(0).unwrap());
    }
    Tensor::cat(&all, 0).unwrap()
}

/// Holds the gradients of `total` to finite differences, at some elements of every parameter of a network in f64.
#[track_caller]
pub(super) fn check_gradients(network: &str, params: &Params, total: impl Fn() -> Tensor) {
    const H: f64 = 1e-5;
    let gradients = Gradients::collect(params, &total().backward().unwrap()).unwrap();
    for (name, start) in params.snapshot().unwrap() {
        let gradient = values(&gradients.tensor(params, &name).unwrap());
        let elements = values(&start);
        for e in (0..elements.len()).step_by(elements.len().div_ceil(7)) {
            let at = |shift: f64| {
                let mut moved = elements.clone();
                moved[e] += shift;
                let moved = Tensor::from_vec(moved, start.shape(), &Device::Cpu).unwrap();
                params.set(&name, &moved).unwrap();
                total().to_scalar::<f64>().unwrap()
            };
            let slope = (at(H) - at(-H)) / (2.0 * H);
            let close = (slope - gradient[e]).abs() <= 2e-5 * slope.abs().max(0.1);
            assert!(close, "{network} {name} {e}: {} {slope}", gradient[e]);
        }
        params.set(&name, &start).unwrap();
    }
}

#[test]
fn gradients_equal_finite_differences() {
    for (name, network) in all() {
        check_gradients(name, network.params(), || losses(&*network).sum_all().unwrap());
    }
}

#[test]
fn the_fused_operations_equal_the_composed_ones() {
    for (name, network) in all() {
        let fused = (losses(&*network), network.scores(&HISTORIES).unwrap());
        let _guard = ops::force_composed();
        assert_close(name, &fused.0, &losses(&*network));
        assert_close(name, &fused.1, &network.scores(&HISTORIES).unwrap());
    }
}

#[test]
fn a_later_item_does_not_change_an_earlier_state() {
    for (name, network) in all().into_iter().filter(|(_, network)| network.hidden().is_none()) {
        let states = |items| network.states(&[History::of(items)], None).unwrap();
        let (one, other) = (states(&[1, 2, 3, 4]), states(&[1, 2, 3, 7]));
        let part = |t: &Tensor, from, count| values(&t.narrow(0, from, count).unwrap());
        assert_eq!(part(&one, 0, 3), part(&other, 0, 3), "{name}");
        assert_ne!(part(&one, 3, 1), part(&other, 3, 1), "{name}");
        let earlier = states(&[1, 5, 3, 4]);
        assert_ne!(part(&one, 3, 1), part(&earlier, 3, 1), "{name}: earlier items are seen");
    }
}

#[test]
fn where_items_are_hidden_each_sees_both_sides_and_the_next_is_the_hidden_one_behind_all() {
    let (_, network) = all().into_iter().find(|(name, _)| *name == "bert4rec").unwrap();
    let states = |items| network.states(&[History::of(items)], None).unwrap();
    let first = |items| values(&states(items).narrow(0, 0, 1).unwrap());
    assert_ne!(first(&[1, 2, 3]), first(&[1, 2, 4]));
    let hidden = states(&[1, 2, 3, ITEMS as u32]).narrow(0, 3, 1).unwrap();
    assert_close("bert4rec", &network.last_states(&[History::of(&[1, 2, 3])]).unwrap(), &hidden);
}

#[test]
fn a_batch_gives_what_its_histories_give_alone() {
    for (name, network) in all() {
        let together = network.scores(&HISTORIES).unwrap();
        for (i, history) in HISTORIES.iter().enumerate() {
            let alone = network.scores(&[*history]).unwrap();
            assert_close(name, &together.narrow(0, i, 1).unwrap(), &alone);
        }
    }
}

#[test]
fn scores_are_those_of_the_last_items_that_are_read() {
    for (name, network) in all() {
        let most = network.history();
        let long: Vec<u32> = (0..most as u32 + 3).map(|i| (i * i) % ITEMS as u32).collect();
        let reads = network.reads();
        assert_eq!(reads, if network.hidden().is_some() { most - 1 } else { most });
        let few = ["caser", "hgn"].contains(&name);
        assert_eq!(network.looks_back(), if few { 3 } else { reads }, "{name}");
        let scores = |items| network.scores(&[History::of(items)]).unwrap();
        let read = &long[long.len() - reads..];
        assert_close(name, &scores(&long), &scores(read));
        if network.hidden().is_none() {
            let states = network.states(&[History::of(read)], None).unwrap();
            let last = network.last_states(&[History::of(&long)]).unwrap();
            assert_close(name, &last, &states.narrow(0, reads - 1, 1).unwrap());
        }
        let error = network.states(&[History::of(&long)], None).unwrap_err().to_string();
        assert!(error.contains(&format!("expected 1 to {most}")), "{name}: {error}");
        assert!(network.states(&[History::of(&[])], None).is_err());
    }
}

#[test]
fn positions_are_counted_from_the_end() {
    // The last of several items alike, and one alone, differ by what is attended to only: none does here.
    let (_, network) = all().into_iter().find(|(name, _)| *name == "sasrec").unwrap();
    for i in 0..2 {
        let name = format!("blocks.{i}.attention.output.weight");
        let zeros = network.weights().unwrap()[&name].zeros_like().unwrap();
        network.params().set(&name, &zeros).unwrap();
    }
    let states = network.states(&[History::of(&[2]), History::of(&[2, 2, 2])], None).unwrap();
    let states = values(&states);
    assert_eq!(states[..6], states[3 * 6..]);
    assert_ne!(states[..6], states[6..2 * 6]);
}

#[test]
fn a_user_who_was_not_there_is_like_all_on_average() {
    for (name, network) in all() {
        let scores = |user| values(&network.scores(&[History { user, items: &[1, 2] }]).unwrap());
        let of_users = [scores(Some(0)), scores(Some(1)), scores(Some(2))];
        if !["caser", "hgn"].contains(&name) {
            assert!(of_users.iter().all(|of_user| *of_user == scores(None)), "{name}");
        } else if name == "caser" {
            // There the user's share of a score is linear in the user.
            assert_ne!(of_users[0], of_users[1]);
            for (i, score) in scores(None).into_iter().enumerate() {
                let mean = of_users.iter().map(|of_user| of_user[i]).sum::<f64>() / 3.0;
                assert!((score - mean).abs() < 1e-10);
            }
        }
    }
}

#[test]
fn a_sample_of_all_items_is_the_full_softmax() {
    for (name, network) in all() {
        let states = network.states(&HISTORIES, None).unwrap();
        let all =
            Candidates { items: (0..ITEMS as u32).collect(), log_probabilities: vec![0.0; ITEMS] };
        let sampled = network.sampled_losses(&states, &TARGETS, &all).unwrap();
        let full = network.losses(&states, &TARGETS).unwrap();
        assert_close(name, &sampled, &full);
        // Both are the likelihood under the scores, of which these states are those of the last items.
        if network.hidden().is_none() {
            let scores = network.scores(&HISTORIES).unwrap();
            let likely = ops::log_softmax_rows(&scores).unwrap();
            for (row, (token, target)) in [(4, 7), (5, 0), (8, 5)].into_iter().enumerate() {
                let expected = -values(&likely.narrow(0, row, 1).unwrap())[target as usize];
                let own = network.losses(&states.narrow(0, token, 1).unwrap(), &[target]).unwrap();
                assert!((values(&own)[0] - expected).abs() < 1e-10, "{name}");
            }
        }
        let few = Candidates { items: vec![1, 2], log_probabilities: vec![0.0; 2] };
        let error = network.sampled_losses(&states, &TARGETS, &few).unwrap_err().to_string();
        assert!(error.contains("target 3"), "{error}");
    }
}

#[test]
fn a_binary_loss_is_the_likelihood_of_one_against_another() {
    let (_, network) = all().into_iter().find(|(name, _)| *name == "hgn").unwrap();
    let states = network.last_states(&HISTORIES).unwrap();
    let scores: Vec<Vec<f64>> = network.scores(&HISTORIES).unwrap().to_vec2().unwrap();
    let losses = values(&network.binary_losses(&states, &[1, 2, 3], &[4, 5, 6]).unwrap());
    for (i, (own, other)) in [(1, 4), (2, 5), (3, 6)].into_iter().enumerate() {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let expected = -sigmoid(scores[i][own]).ln() - (1.0 - sigmoid(scores[i][other])).ln();
        assert!((losses[i] - expected).abs() < 1e-10);
    }
}

#[test]
fn dropout_is_decided_by_its_key() {
    for (name, network) in all() {
        let states = |key| values(&network.states(&HISTORIES, Some(Masks::whole(key))).unwrap());
        assert_eq!(states(1), states(1), "{name}");
        assert_ne!(states(1), states(2), "{name}");
    }
}

#[test]
fn weights_go_into_another_network_of_the_same_sizes() {
    for ((name, network), (_, other)) in all().into_iter().zip(all_with(9)) {
        let mut weights = network.weights().unwrap();
        other.set_weights(&weights).unwrap();
        let scores = |network: &dyn Sequential| network.scores(&HISTORIES).unwrap();
        assert_close(name, &scores(&*other), &scores(&*network));
        let (gone, _) = weights.pop_first().unwrap();
        let error = other.set_weights(&weights).unwrap_err().to_string();
        assert!(error.contains(&gone), "{error}");
    }
    let transformer = TransformerConfig { dim: 6, heads: 4, ..TransformerConfig::default() };
    let odd = SasRecConfig { transformer, ..SasRecConfig::default() };
    assert!(odd.network(ITEMS, 1).is_err());
}

#[test]
fn scores_are_those_of_pytorch() {
    // Made by scripts/peers/sequential_golden.py, whose third history is of user 1.
    let histories = [HISTORIES[0], HISTORIES[1], History { user: Some(1), ..HISTORIES[2] }];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sequential");
    for (name, network) in all() {
        let path = folder.join(format!("{name}.safetensors"));
        let mut tensors: BTreeMap<String, Tensor> = safetensors::load(path, &Device::Cpu)
            .unwrap()
            .into_iter()
            .map(|(name, t)| (name, t.to_dtype(DType::F64).unwrap()))
            .collect();
        let expected = tensors.remove("scores").unwrap();
        let loss = tensors.remove("loss");
        assert!(tensors.keys().map(String::as_str).eq(network.params().names()), "{name}");
        network.set_weights(&tensors).unwrap();
        let scores = values(&network.scores(&histories).unwrap());
        for (score, expected) in scores.iter().zip(values(&expected)) {
            assert!((score - expected).abs() < 1e-5, "{name}: {score} {expected}");
        }
        assert_eq!(loss.is_some(), network.pretraining().is_some());
        if let (Some(expected), Some(pretraining)) = (loss, network.pretraining()) {
            let puzzle = puzzle();
            let loss = values(&pretraining.loss(&puzzle, None).unwrap())[0];
            let expected = values(&expected)[0] * puzzle.rows.len() as f64;
            assert!((loss - expected).abs() < 1e-5 * expected, "{loss} {expected}");
        }
    }
}
