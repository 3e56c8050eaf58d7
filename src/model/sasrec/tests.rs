//! Tests of the module above.

use super::*;
use crate::nn::Gradients;
use crate::rng;

const ITEMS: usize = 9;

fn sizes() -> SasRecSizes {
    SasRecSizes { num_items: ITEMS, dim: 6, blocks: 2, heads: 2, feed_forward: 10, history: 5 }
}

/// A tiny f64 network far enough from its start that every part of it shows.
fn tiny() -> SasRec {
    let network = SasRec::new(&sizes(), 3, DType::F64, &Device::Cpu).unwrap();
    for (name, value) in network.weights().unwrap() {
        let noise = rng::normal(&mut rng::stream(5, &name, &[]), value.elem_count(), 0.5);
        let noise = Tensor::from_vec(noise, value.shape(), &Device::Cpu).unwrap();
        let value = (value + noise.to_dtype(DType::F64).unwrap()).unwrap();
        network.params().set(&name, &value).unwrap();
    }
    network
}

const HISTORIES: [&[u32]; 3] = [&[1, 2, 3, 4, 1], &[6], &[8, 0, 8]];
/// What follows each of the items above.
const TARGETS: [u32; 9] = [2, 3, 4, 1, 7, 0, 0, 8, 5];

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_close(a: &Tensor, b: &Tensor) {
    assert_eq!(a.dims(), b.dims());
    for (a, b) in values(a).iter().zip(values(b)) {
        assert!((a - b).abs() < 1e-10, "{a} {b}");
    }
}

fn candidates() -> Candidates {
    let items = vec![0, 1, 2, 3, 4, 5, 7, 8];
    let log_probabilities = items.iter().map(|&i| -0.1 * i as f32).collect();
    Candidates { items, log_probabilities }
}

fn dropout() -> SasRecDropout {
    SasRecDropout { embedding: 0.3, branch: 0.2, key: 11 }
}

/// Losses by both softmaxes, one after the other.
fn losses(network: &SasRec) -> Tensor {
    let states = network.states(&HISTORIES, Some(dropout())).unwrap();
    let full = network.losses(&states, &TARGETS).unwrap();
    let sampled = network.sampled_losses(&states, &TARGETS, &candidates()).unwrap();
    Tensor::cat(&[&full, &sampled], 0).unwrap()
}

#[test]
fn gradients_equal_finite_differences() {
    const H: f64 = 1e-5;
    let network = tiny();
    let total = || losses(&network).sum_all().unwrap();
    let store = total().backward().unwrap();
    let gradients = Gradients::collect(network.params(), &store).unwrap();
    for (name, start) in network.weights().unwrap() {
        let gradient = values(&gradients.tensor(network.params(), &name).unwrap());
        let elements = values(&start);
        for e in (0..elements.len()).step_by(elements.len().div_ceil(7)) {
            let at = |shift: f64| {
                let mut moved = elements.clone();
                moved[e] += shift;
                let moved = Tensor::from_vec(moved, start.shape(), &Device::Cpu).unwrap();
                network.params().set(&name, &moved).unwrap();
                total().to_scalar::<f64>().unwrap()
            };
            let slope = (at(H) - at(-H)) / (2.0 * H);
            let gap = (slope - gradient[e]).abs();
            assert!(gap <= 1e-5 * slope.abs().max(0.1), "{name} {e}: {} {slope}", gradient[e]);
        }
        network.params().set(&name, &start).unwrap();
    }
}

#[test]
fn the_fused_operations_equal_the_composed_ones() {
    let network = tiny();
    let fused = (losses(&network), network.scores(&HISTORIES).unwrap());
    let _guard = ops::force_composed();
    assert_close(&fused.0, &losses(&network));
    assert_close(&fused.1, &network.scores(&HISTORIES).unwrap());
}

#[test]
fn a_later_item_does_not_change_an_earlier_state() {
    let network = tiny();
    let states = |last: u32| values(&network.states(&[&[1, 2, 3, last]], None).unwrap());
    let (one, other) = (states(4), states(7));
    assert_eq!(one[..3 * 6], other[..3 * 6]);
    assert_ne!(one[3 * 6..], other[3 * 6..]);
    let earlier = values(&network.states(&[&[5, 2, 3, 4]], None).unwrap());
    assert_ne!(one[3 * 6..], earlier[3 * 6..], "an earlier item must reach a later state");
}

#[test]
fn a_batch_gives_what_its_histories_give_alone() {
    let network = tiny();
    let together = network.scores(&HISTORIES).unwrap();
    for (i, history) in HISTORIES.iter().enumerate() {
        assert_close(&together.narrow(0, i, 1).unwrap(), &network.scores(&[history]).unwrap());
    }
}

#[test]
fn scores_are_those_of_the_last_items_there_are_positions_for() {
    let network = tiny();
    let long = network.scores(&[&[7, 7, 1, 2, 3, 4, 1]]).unwrap();
    assert_close(&long, &network.scores(&[&[1, 2, 3, 4, 1]]).unwrap());
    let error = network.states(&[&[7, 7, 1, 2, 3, 4]], None).unwrap_err().to_string();
    assert!(error.contains("6 items, expected 1 to 5"), "{error}");
    assert!(network.scores(&[&[]]).is_err());
}

#[test]
fn positions_are_counted_from_the_end() {
    // One item alone stands where the last of several does: with all items alike and no attention to
    // others, both get one state.
    let network = tiny();
    let zeros = network.blocks[0].output.zeros_like().unwrap();
    for i in 0..2 {
        network.params().set(&format!("blocks.{i}.attention.output.weight"), &zeros).unwrap();
    }
    let states = values(&network.states(&[&[2], &[2, 2, 2]], None).unwrap());
    assert_eq!(states[..6], states[3 * 6..]);
    assert_ne!(states[..6], states[6..2 * 6]);
}

#[test]
fn a_sample_of_all_items_is_the_full_softmax() {
    let network = tiny();
    let states = network.states(&HISTORIES, None).unwrap();
    let all =
        Candidates { items: (0..ITEMS as u32).collect(), log_probabilities: vec![0.0; ITEMS] };
    let sampled = network.sampled_losses(&states, &TARGETS, &all).unwrap();
    assert_close(&sampled, &network.losses(&states, &TARGETS).unwrap());
    let few = Candidates { items: vec![1, 2], log_probabilities: vec![0.0; 2] };
    let error = network.sampled_losses(&states, &TARGETS, &few).unwrap_err().to_string();
    assert!(error.contains("target 3"), "{error}");
}

#[test]
fn dropout_is_decided_by_its_key() {
    let network = tiny();
    let states = |key| {
        values(&network.states(&HISTORIES, Some(SasRecDropout { key, ..dropout() })).unwrap())
    };
    assert_eq!(states(1), states(1));
    assert_ne!(states(1), states(2));
}

#[test]
fn weights_go_into_another_network_of_the_same_sizes() {
    let (network, other) = (tiny(), SasRec::new(&sizes(), 9, DType::F64, &Device::Cpu).unwrap());
    let mut weights = network.weights().unwrap();
    other.set_weights(&weights).unwrap();
    assert_close(&other.scores(&HISTORIES).unwrap(), &network.scores(&HISTORIES).unwrap());
    weights.remove("norm.bias");
    let error = other.set_weights(&weights).unwrap_err().to_string();
    assert!(error.contains("norm.bias"), "{error}");
    let odd = SasRecSizes { heads: 4, ..sizes() };
    assert!(SasRec::new(&odd, 1, DType::F64, &Device::Cpu).is_err());
}
