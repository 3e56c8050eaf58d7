use candle_core::Var;

use super::*;
use crate::ops::check::{check, fused_equals_composed, random, same_on_any_threads, values};

#[test]
fn values_and_gradients() {
    check(&[random((5, 7), 1), random((11, 7), 2)], |t| {
        cross_entropy(&t[0], &t[1], &[0, 10, 3, 3, 5], Precision::Full)
    });
}

#[test]
fn a_bias_is_added_to_the_logits() {
    let biased = |targets: &'static [u32]| {
        |t: &[Tensor]| biased_cross_entropy(&t[0], &t[1], &t[2], targets, Precision::Full)
    };
    let inputs = [random((5, 7), 1), random((11, 7), 2), random(11, 3)];
    check(&inputs, biased(&[0, 10, 3, 3, 5]));
    same_on_any_threads(&inputs, biased(&[0, 10, 3, 3, 5]));
    let error = biased(&[0; 4])(&inputs).unwrap_err().to_string();
    assert!(error.contains("4 targets"), "{error}");
    let short =
        biased_cross_entropy(&inputs[0], &inputs[1], &random(10, 3), &[0; 5], Precision::Full);
    assert!(short.unwrap_err().to_string().contains("bias [10]"));
}

#[test]
fn several_chunks_add_up() {
    let (n, vocab) = (70, 40_000);
    assert!(n > chunk_rows::<f32>(vocab));
    let targets: Vec<u32> = (0..n as u32).map(|i| i * 37 % vocab as u32).collect();
    fused_equals_composed(&[random((n, 3), 1), random((vocab, 3), 2)], |t| {
        cross_entropy(&t[0], &t[1], &targets, Precision::Full)
    });
    fused_equals_composed(&[random((n, 3), 1), random((vocab, 3), 2), random(vocab, 3)], |t| {
        biased_cross_entropy(&t[0], &t[1], &t[2], &targets, Precision::Full)
    });
}

#[test]
fn a_second_backward_computes_again_what_the_first_was_left() {
    let states = Var::from_tensor(&random((5, 7), 1)).unwrap();
    let losses =
        cross_entropy(&states, &random((11, 7), 2), &[0, 10, 3, 3, 5], Precision::Full).unwrap();
    let gradient = || {
        let store = losses.sum_all().unwrap().backward().unwrap();
        values(store.get(&states).unwrap())
    };
    for (kept, again) in gradient().into_iter().zip(gradient()) {
        assert!((kept - again).abs() < 1e-12);
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let targets: Vec<u32> = (0..90).map(|i| i * 37 % 40_000).collect();
    same_on_any_threads(&[random((90, 16), 1), random((40_000, 16), 2)], |t| {
        cross_entropy(&t[0], &t[1], &targets, Precision::Full)
    });
}

#[test]
fn equal_logits_cost_the_logarithm_of_the_vocabulary() {
    let losses = cross_entropy(
        &random((2, 3), 1),
        &(random((8, 3), 2) * 0.0).unwrap(),
        &[1, 7],
        Precision::Full,
    );
    for loss in values(&losses.unwrap()) {
        assert!((loss - 8f64.ln()).abs() < 1e-12);
    }
}

#[test]
fn any_choice_of_the_vocabulary() {
    let chosen = [vec![0, 10], vec![], vec![3], vec![4, 3, 9], vec![5]];
    check(&[random((5, 7), 1), random((11, 7), 2)], |t| {
        binary_cross_entropy(&t[0], &t[1], chosen.to_vec(), Precision::Full)
    });
    let (n, vocab) = (70, 40_000);
    let mut chosen: Vec<Vec<u32>> = (0..n as u32).map(|i| vec![i, 39_999 - i * 37]).collect();
    let inputs = [random((n, 3), 1), random((vocab, 3), 2)];
    let losses = |t: &[Tensor]| binary_cross_entropy(&t[0], &t[1], chosen.clone(), Precision::Full);
    fused_equals_composed(&inputs, losses);
    same_on_any_threads(&inputs, losses);
    let refused = |chosen: &[Vec<u32>]| {
        let losses = binary_cross_entropy(&inputs[0], &inputs[1], chosen.to_vec(), Precision::Full);
        losses.unwrap_err().to_string()
    };
    assert!(refused(&chosen[1..]).contains("69 sets of ids"));
    chosen[3] = vec![vocab as u32];
    assert!(refused(&chosen).contains("id 40000"));
    let of_nothing = [random((2, 3), 1), random((0, 3), 2)];
    fused_equals_composed(&of_nothing, |t| {
        binary_cross_entropy(&t[0], &t[1], vec![vec![]; 2], Precision::Full)
    });
}

#[test]
fn a_target_beyond_the_vocabulary_is_named() {
    let error =
        cross_entropy(&random((1, 3), 1), &random((8, 3), 2), &[8], Precision::Full).unwrap_err();
    assert!(error.to_string().contains("id 8"), "{error}");
}
