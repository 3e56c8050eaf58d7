//! Attention against its composed twin, finite differences and the rules of visibility.

use candle_core::{DType, Device, Var};

use super::*;
use crate::ops::check::{check, random, same_on_any_threads, untrained, values};

fn inputs(tokens: usize, keys: usize, [heads, kv_heads, head_dim]: [usize; 3]) -> [Tensor; 3] {
    [
        random((tokens, heads, head_dim), 1),
        random((keys, kv_heads, head_dim), 2),
        random((keys, kv_heads, head_dim), 3),
    ]
}

fn run(t: &[Tensor], rows: Rows) -> Tensor {
    attention(&t[0], &t[1], &t[2], &Arc::new(rows)).unwrap()
}

fn assert_close(a: &Tensor, b: &Tensor) {
    assert_eq!(a.dims(), b.dims());
    for (a, b) in values(a).iter().zip(values(b)) {
        assert!((a - b).abs() < 1e-12, "{a} {b}");
    }
}

#[test]
fn values_and_gradients() {
    for (lengths, heads) in [
        (vec![5], [1, 1, 3]),
        (vec![3, 1, 4], [4, 2, 5]),
        (vec![2, 0, 7], [3, 1, 8]),
        // Longer than a block of queries.
        (vec![67, 2], [2, 1, 2]),
        // Wider than half of what a GPU's kernels take.
        (vec![33, 2], [2, 1, 80]),
    ] {
        let tokens = lengths.iter().sum();
        let rows = Arc::new(Rows::packed(&lengths));
        check(&inputs(tokens, tokens, heads), |t| attention(&t[0], &t[1], &t[2], &rows));
    }
}

#[test]
fn values_and_gradients_with_private_keys() {
    let private = (0..9).map(|key| key % 3 == 1).collect();
    let rows = Arc::new(Rows::packed(&[5, 4]).with_private(private));
    check(&inputs(9, 9, [4, 2, 3]), |t| attention(&t[0], &t[1], &t[2], &rows));
}

#[test]
fn values_and_gradients_both_ways() {
    // One longer than a block of queries.
    for (lengths, heads) in [(vec![5, 1, 3], [4, 2, 3]), (vec![2, 67], [2, 1, 2])] {
        let tokens = lengths.iter().sum();
        let rows = Arc::new(Rows::packed(&lengths).both_ways());
        check(&inputs(tokens, tokens, heads), |t| attention(&t[0], &t[1], &t[2], &rows));
    }
}

#[test]
fn values_and_gradients_across() {
    // Fewer keys than queries, more, and more than a block of queries; a key that nobody sees.
    let rows = Arc::new(Rows::across([(0..4, 0..2), (4..5, 2..5), (5..75, 6..9)]).unwrap());
    check(&inputs(75, 9, [4, 2, 3]), |t| attention(&t[0], &t[1], &t[2], &rows));
    let error = Rows::across([(0..1, 0..1), (1..2, 1..1)]).unwrap_err().to_string();
    assert!(error.contains("row 1 has no key"), "{error}");
    assert!(Rows::across([(1..2, 0..1)]).is_err());
}

#[test]
fn queries_across_may_share_what_they_see() {
    // One row, and the same as two.
    let t = inputs(4, 3, [2, 1, 3]);
    let together = run(&t, Rows::across([(0..4, 0..3)]).unwrap());
    assert_close(&together, &run(&t, Rows::across([(0..1, 0..3), (1..4, 0..3)]).unwrap()));
    let bias = bias(4, 2);
    let rows = Arc::new(Rows::across([(0..4, 0..3)]).unwrap());
    assert!(biased_attention(&t[0], &t[1], &t[2], &bias, &rows).is_err());
}

#[test]
fn both_ways_the_order_of_a_row_is_all_the_same() {
    let t = inputs(7, 7, [4, 2, 5]);
    let order = Tensor::new(&[2u32, 0, 1, 6, 4, 3, 5], &Device::Cpu).unwrap();
    let moved = t.clone().map(|t| t.index_select(&order, 0).unwrap());
    let rows = || Rows::packed(&[3, 4]).both_ways();
    assert_close(&run(&t, rows()).index_select(&order, 0).unwrap(), &run(&moved, rows()));
}

#[test]
fn values_and_gradients_of_the_queries_that_are_needed() {
    let private = (0..76).map(|key| key % 3 == 1).collect();
    let all = Rows::packed(&[5, 4, 67]).with_private(private);
    // The last of the first row, none of the second, and all but the first two of the third.
    let (rows, stay) = all.starting_at_needed(&[70, 4, 11]);
    assert_eq!(stay, std::iter::once(4).chain(11..76).collect::<Vec<u32>>());
    let [q, k, v] = inputs(76, 76, [4, 2, 3]);
    let needed = Tensor::new(&stay[..], &Device::Cpu).unwrap();
    let some = q.index_select(&needed, 0).unwrap();
    let whole = run(&[q, k.clone(), v.clone()], all).index_select(&needed, 0).unwrap();
    assert_close(&whole, &run(&[some.clone(), k.clone(), v.clone()], rows.clone()));
    let rows = Arc::new(rows);
    check(&[some, k, v], |t| attention(&t[0], &t[1], &t[2], &rows));
}

/// A bias for rows of up to `most` keys.
fn bias(most: usize, heads: usize) -> Tensor {
    random((2 * most - 1, heads), 4)
}

#[test]
fn values_and_gradients_with_a_bias() {
    // Longer than what is there, and than a block of queries.
    for (lengths, most, heads) in
        [(vec![5, 1, 3], 5, [4, 2, 3]), (vec![2, 4], 9, [2, 2, 3]), (vec![67, 2], 67, [2, 1, 2])]
    {
        let tokens = lengths.iter().sum();
        let t = [&inputs(tokens, tokens, heads)[..], &[bias(most, heads[0])]].concat();
        for rows in [Rows::packed(&lengths), Rows::packed(&lengths).both_ways()] {
            let rows = Arc::new(rows);
            check(&t, |t| biased_attention(&t[0], &t[1], &t[2], &t[3], &rows));
        }
    }
}

#[test]
fn a_bias_goes_by_the_way_from_query_to_key() {
    // Of queries at the last two of three keys, the second sees what is right before it, the first what is two before.
    let t = inputs(2, 3, [1, 1, 3]);
    let row = Row { queries: 0..2, own: 0..3, context: Vec::new() };
    let rows = Arc::new(Rows::new(vec![row]).unwrap());
    let only = |offset: usize| {
        let mut bias = vec![-1e9; 5];
        bias[offset] = 0.0;
        let bias = Tensor::from_vec(bias, (5, 1), &Device::Cpu).unwrap();
        values(&biased_attention(&t[0], &t[1], &t[2], &bias, &rows).unwrap())
    };
    let value = |key: usize| values(&t[2])[3 * key..][..3].to_vec();
    assert_eq!(only(1), [value(0), value(1)].concat());
    assert_eq!(only(2), [value(1), value(2)].concat());
    assert_eq!(only(0)[3..], value(0));
}

#[test]
fn a_bias_needs_every_way_there_is() {
    let t = inputs(4, 4, [2, 1, 3]);
    let refused = |bias: &Tensor, rows: Rows| {
        biased_attention(&t[0], &t[1], &t[2], bias, &Arc::new(rows)).unwrap_err().to_string()
    };
    let error = refused(&bias(3, 2), Rows::packed(&[4]));
    assert!(error.contains("[5, 2]") && error.contains("4 keys"), "{error}");
    assert!(refused(&bias(4, 1), Rows::packed(&[4])).contains("[7, 1]"));
    let rows = [0..2, 2..4].map(|queries| Row { queries, own: 2..4, context: Vec::new() });
    assert!(refused(&bias(4, 2), Rows::new(rows.to_vec()).unwrap()).contains("keys of their own"));
}

#[test]
fn bits_do_not_depend_on_threads() {
    let lengths = [90, 20, 1, 45, 33];
    let rows = Arc::new(Rows::packed(&lengths));
    let t = [&inputs(189, 189, [6, 2, 16])[..], &[bias(90, 6)]].concat();
    same_on_any_threads(&t[..3], |t| attention(&t[0], &t[1], &t[2], &rows));
    same_on_any_threads(&t, |t| biased_attention(&t[0], &t[1], &t[2], &t[3], &rows));
}

/// Three rows in a cache of 12 keys: two share keys 0..4, one of them with key 1 private.
fn cached() -> Rows {
    Rows::new(vec![
        Row { queries: 0..1, own: 9..10, context: vec![0..4, 5..6] },
        Row { queries: 1..2, own: 10..11, context: vec![0..4, 7..8] },
        Row { queries: 2..4, own: 4..6, context: vec![] },
    ])
    .unwrap()
    .with_private((0..12).map(|key| key == 1).collect())
}

#[test]
fn cached_rows_equal_the_composed_path() {
    untrained(&inputs(4, 12, [4, 2, 5]), |t| Ok(run(t, cached())));
}

#[test]
fn rows_computed_together_equal_the_composed_path() {
    // Two users of three beams each, with two queries a beam, an ancestor of its own and a private key.
    let mut rows = Vec::new();
    for beam in 0..6 {
        let (prompt, first) = (beam / 3 * 10, 20 + beam * 3);
        let context = vec![prompt..prompt + 10, first..first + 1];
        rows.push(Row { queries: beam * 2..beam * 2 + 2, own: first + 1..first + 3, context });
    }
    let private = (0..38).map(|key| key % 5 == 3).collect();
    let rows = Rows::new(rows).unwrap().with_private(private);
    untrained(&inputs(12, 38, [4, 2, 5]), |t| Ok(run(t, rows.clone())));
}

#[test]
fn decoding_with_a_cache_equals_the_whole_sequence() {
    let t = inputs(6, 6, [4, 2, 5]);
    let whole = run(&t, Rows::packed(&[6])).narrow(0, 4, 2).unwrap();
    let last = [t[0].narrow(0, 4, 2).unwrap(), t[1].clone(), t[2].clone()];
    let row = Row { queries: 0..2, own: 4..6, context: vec![0..3, 3..4] };
    assert_close(&whole, &run(&last, Rows::new(vec![row]).unwrap()));
}

#[test]
fn a_private_key_is_seen_by_its_own_query_only() {
    let t = inputs(4, 4, [2, 1, 3]);
    let rows = || Rows::packed(&[4]).with_private(vec![false, true, false, false]);
    let before = values(&run(&t, rows()));
    let other = random((4, 1, 3), 8);
    let at_one = Tensor::new(&[[[0.0]], [[1.0]], [[0.0]], [[0.0]]], &Device::Cpu).unwrap();
    let changed = (&t[2] + other.broadcast_mul(&at_one).unwrap()).unwrap();
    let after = values(&run(&[t[0].clone(), t[1].clone(), changed], rows()));
    for (token, (a, b)) in before.chunks(6).zip(after.chunks(6)).enumerate() {
        assert_eq!(a != b, token == 1, "token {token}");
    }
}

#[test]
fn a_row_does_not_depend_on_its_batch() {
    let t = inputs(70, 70, [4, 2, 32]).map(|t| t.to_dtype(DType::F32).unwrap());
    let all = run(&t, Rows::packed(&[20, 33, 17])).narrow(0, 20, 33).unwrap();
    let alone = t.map(|t| t.narrow(0, 20, 33).unwrap());
    assert_eq!(values(&all), values(&run(&alone, Rows::packed(&[33]))));
}

#[test]
fn backward_refuses_shared_keys() {
    let [q, k, v] = inputs(4, 12, [4, 2, 5]);
    let q = Var::from_tensor(&q).unwrap();
    let out = attention(&q, &k, &v, &Arc::new(cached())).unwrap();
    let error = out.sum_all().unwrap().backward().unwrap_err().to_string();
    assert!(error.contains("share keys"), "{error}");
}

#[test]
fn rows_that_do_not_fit_are_named() {
    let t = inputs(4, 4, [2, 1, 3]);
    let error = |rows| attention(&t[0], &t[1], &t[2], &Arc::new(rows)).unwrap_err().to_string();
    assert!(error(Rows::packed(&[3])).contains("3 queries for 4 tokens"));
    assert!(error(Rows::packed(&[4]).with_private(vec![true])).contains("1 private flags"));
    let private = Rows::packed(&[4]).with_private(vec![true; 4]).both_ways();
    assert!(error(private).contains("both ways"));
    let beyond = Row { queries: 0..4, own: 0..4, context: vec![4..5, 5..6] };
    assert!(error(Rows::new(vec![beyond]).unwrap()).contains("keys 4..5 of 4"));
    let gap = Rows::new(vec![Row { queries: 1..4, own: 0..3, context: vec![] }]);
    assert!(gap.unwrap_err().to_string().contains("start at 0"));
    let overlap = Rows::new(vec![Row { queries: 0..4, own: 0..4, context: vec![3..5, 5..6] }]);
    assert!(overlap.unwrap_err().to_string().contains("among its own"));
    let few = Rows::new(vec![Row { queries: 0..4, own: 0..3, context: vec![] }]);
    assert!(few.unwrap_err().to_string().contains("queries 0..4 at its own keys 0..3"));
}
