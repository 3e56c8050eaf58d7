//! Tests of the module above.

use ndarray::{Array2, Axis};

use super::*;
use crate::ranks::{Alone, Threads};

const GROUPS: usize = 16;
const GROUP_SIZE: usize = 15;

/// Sequences that stay within a hidden group of items nine times out of ten; the group of an item is `item % GROUPS`.
fn planted(users: usize, seed: u64) -> Vec<Vec<u32>> {
    let mut rng = rng::stream(seed, "planted", &[]);
    let mut below = |n: usize| (rng::uniform(&mut rng) * n as f64) as usize;
    let mut sequence = || {
        let group = below(GROUPS);
        (0..6 + below(6))
            .map(|_| {
                let group = if below(10) == 0 { below(GROUPS) } else { group };
                (below(GROUP_SIZE) * GROUPS + group) as u32
            })
            .collect()
    };
    (0..users).map(|_| sequence()).collect()
}

fn train(sequences: &[Vec<u32>], num_items: usize, config: &DinConfig) -> BehaviorEmbedding {
    let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    let mut around = Around { ranks: &Alone, settings: "", state: None, progress: &mut |_| () };
    super::train(&sequences, num_items, config, 7, &mut around).unwrap()
}

fn small() -> DinConfig {
    DinConfig { dim: 16, attention: vec![8], mlp: vec![16], epochs: 2, ..DinConfig::default() }
}

fn unit_rows(rows: &Array2<f32>) -> Array2<f32> {
    let mut rows = rows.clone();
    for mut row in rows.outer_iter_mut() {
        let norm = row.dot(&row).sqrt();
        row /= norm;
    }
    rows
}

/// Lloyd's iterations from greedily spread-out rows; the cluster of every row.
fn cluster(rows: &Array2<f32>, k: usize) -> Vec<usize> {
    let distance = |a: ndarray::ArrayView1<'_, f32>, b: ndarray::ArrayView1<'_, f32>| {
        (&a - &b).mapv(|d| d * d).sum()
    };
    let mut chosen = vec![0];
    while chosen.len() < k {
        let gap = |i: usize| {
            let to = |&c: &usize| distance(rows.row(i), rows.row(c));
            chosen.iter().map(to).fold(f32::INFINITY, f32::min)
        };
        let next = (0..rows.nrows()).max_by(|&a, &b| gap(a).total_cmp(&gap(b))).unwrap();
        chosen.push(next);
    }
    let mut centers = rows.select(Axis(0), &chosen);
    let mut of = vec![0; rows.nrows()];
    for _ in 0..20 {
        for (i, of) in of.iter_mut().enumerate() {
            let to = |c: usize| distance(rows.row(i), centers.row(c));
            *of = (0..k).min_by(|&a, &b| to(a).total_cmp(&to(b))).unwrap();
        }
        for c in 0..k {
            let members: Vec<usize> = (0..of.len()).filter(|&i| of[i] == c).collect();
            if let Some(mean) = rows.select(Axis(0), &members).mean_axis(Axis(0)) {
                centers.row_mut(c).assign(&mean);
            }
        }
    }
    of
}

#[test]
fn embeddings_recover_planted_groups() {
    let sequences = planted(1500, 1);
    let out = train(&sequences, GROUPS * GROUP_SIZE, &DinConfig::default());
    let n = GROUPS * GROUP_SIZE;
    let rows = unit_rows(&out.embeddings);
    let cosine = rows.dot(&rows.t());
    let same = |i: usize, j: usize| i % GROUPS == j % GROUPS;
    let (mut within, mut between) = ((0.0, 0), (0.0, 0));
    for i in 0..n {
        for j in (0..n).filter(|&j| j != i) {
            let sum = if same(i, j) { &mut within } else { &mut between };
            *sum = (sum.0 + f64::from(cosine[[i, j]]), sum.1 + 1);
        }
    }
    let (within, between) = (within.0 / f64::from(within.1), between.0 / f64::from(between.1));
    let pure = (0..n).filter(|&i| {
        let others = (0..n).filter(|&j| j != i);
        same(i, others.max_by(|&a, &b| cosine[[i, a]].total_cmp(&cosine[[i, b]])).unwrap())
    });
    let purity = pure.count() as f64 / n as f64;
    let clusters = cluster(&rows, GROUPS);
    let majority: usize = (0..GROUPS)
        .map(|c| {
            let of_group = |g| (0..n).filter(|&i| clusters[i] == c && i % GROUPS == g).count();
            (0..GROUPS).map(of_group).max().unwrap()
        })
        .sum();
    let recovered = majority as f64 / n as f64;
    assert!(out.measured.unwrap() > 0.8, "AUC {:?}", out.measured);
    assert!(within > 0.25 && between < 0.1, "cosine within {within}, between {between}");
    assert!(purity > 0.9 && recovered > 0.8, "neighbours {purity}, clusters {recovered}");
}

#[test]
fn two_threads_give_what_one_gives() {
    let sequences = planted(150, 2);
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| train(&sequences, GROUPS * GROUP_SIZE, &small()))
    };
    let (one, two) = (on(1), on(2));
    assert_eq!(one.embeddings, two.embeddings);
    assert_eq!(one.measured, two.measured);
    for (name, weight) in &one.weights {
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(weight), values(&two.weights[name]), "{name}");
    }
}

#[test]
fn ranks_that_share_a_training_do_what_one_does_alone() {
    let sequences = planted(40, 2);
    let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    let items = GROUPS * GROUP_SIZE;
    let targets = TrainingData::new(&sequences, items, &small(), 7).unwrap().targets.len();
    // The last batch has one target, whose two samples are fewer than three ranks.
    let config = DinConfig { batch_size: targets - 1, negatives: 1, ..small() };
    let of = |size: usize, epochs: usize, state: Option<&std::path::Path>| {
        Threads::run(size, |ranks| {
            let mut around = Around { ranks, settings: "", state, progress: &mut |_| () };
            let config = DinConfig { epochs, ..config.clone() };
            let out = super::train(&sequences, items, &config, 7, &mut around).unwrap();
            let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let losses: Vec<f64> = out.reports.iter().map(|report| report.loss).collect();
            (out.weights.values().map(values).collect::<Vec<_>>(), losses)
        })
    };
    let alone = of(1, 3, None).remove(0);
    let assert_close = |(weights, losses): &(Vec<Vec<f32>>, Vec<f64>)| {
        let pairs = weights.iter().flatten().zip(alone.0.iter().flatten());
        let far = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 1e-4, "{far}");
        assert!(losses.iter().zip(&alone.1).all(|(a, b)| (a - b).abs() < 1e-5), "{losses:?}");
    };
    for size in [2, 3] {
        let found = of(size, 3, None);
        assert_close(&found[0]);
        assert!(found.iter().all(|of_rank| *of_rank == found[0]));
    }
    // What three ranks have begun, two go on with.
    let dir = tempfile::tempdir().unwrap();
    of(3, 1, Some(dir.path()));
    assert_close(&of(2, 3, Some(dir.path()))[0]);
}

#[test]
fn items_without_a_sample_get_the_mean_embedding() {
    // Item 3 is a whole sequence of its own, which has no target; 4 and 5 occur nowhere.
    let sequences = [vec![0, 1, 2], vec![3], vec![1, 2, 0, 1], vec![]];
    let out = train(&sequences, 6, &DinConfig { negatives: 2, ..small() });
    assert_eq!(out.num_seen, 3);
    for j in 0..16 {
        let column = out.embeddings.column(j);
        let mean = (column[0] + column[1] + column[2]) / 3.0;
        for item in 3..6 {
            assert!((column[item] - mean).abs() < 1e-6, "item {item}: {} {mean}", column[item]);
        }
    }
    assert_ne!(out.embeddings.row(0), out.embeddings.row(3));
}

#[test]
fn only_the_last_target_of_held_out_users_is_kept_from_training() {
    let sequences = planted(400, 3);
    let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    let config = DinConfig { holdout: 0.3, ..small() };
    let data = TrainingData::new(&sequences, GROUPS * GROUP_SIZE, &config, 1).unwrap();
    assert_eq!(data.holdout.len(), 120);
    for target in &data.holdout {
        assert_eq!(target.position + 1, sequences[target.user].len());
        assert!(!data.targets.contains(target));
    }
    let all: usize = sequences.iter().map(|s| s.len() - 1).sum();
    assert_eq!(data.targets.len() + data.holdout.len(), all);
    let seen = data.seen_items();
    let targeted = |item: usize| sequences.iter().any(|s| s[1..].contains(&(item as u32)));
    assert!((0..seen.len()).all(|i| seen[i] || !targeted(i)), "an item lost its only sample");
}

#[test]
fn negatives_are_never_the_users_own_and_follow_popularity() {
    let sequences: [&[u32]; 3] = [&[0, 1], &[2, 3, 2, 3, 2, 3, 2, 3], &[0, 4]];
    let config = DinConfig { popularity_exponent: 0.5, holdout: 0.0, ..small() };
    let data = TrainingData::new(&sequences, 6, &config, 1).unwrap();
    let mut rng = rng::stream(1, "test", &[]);
    let mut count = [0u32; 6];
    for _ in 0..20_000 {
        count[data.negative(0, &mut rng).unwrap() as usize] += 1;
    }
    assert_eq!([count[0], count[1], count[5]], [0, 0, 0]);
    // Items 2 and 3 occur four times, item 4 once: sqrt(4) to 1.
    let ratio = f64::from(count[2]) / f64::from(count[4]);
    assert!((1.8..2.2).contains(&ratio), "{count:?}");
    // A user with every item has no negative.
    let everything: [&[u32]; 1] = [&[0, 1, 2]];
    let data = TrainingData::new(&everything, 3, &config, 1).unwrap();
    assert_eq!(data.negative(0, &mut rng), None);
}

#[test]
fn histories_end_before_their_target_and_keep_the_last_items() {
    let sequences: [&[u32]; 1] = [&[5, 1, 2, 3, 4]];
    let config = DinConfig { history: 3, holdout: 0.0, ..small() };
    let data = TrainingData::new(&sequences, 6, &config, 1).unwrap();
    let samples: Vec<_> = data.targets.iter().map(|&t| data.positive(t)).collect();
    let expected: [(&[u32], u32); 4] = [(&[5], 1), (&[5, 1], 2), (&[5, 1, 2], 3), (&[1, 2, 3], 4)];
    assert_eq!(samples.iter().map(|s| (s.history, s.query)).collect::<Vec<_>>(), expected);
}

#[test]
fn area_under_the_curve_equals_the_share_of_pairs() {
    let mut rng = rng::stream(4, "auc", &[]);
    let scores: Vec<f32> =
        (0..200).map(|_| (rng::uniform(&mut rng) * 12.0).floor() as f32).collect();
    let positive: Vec<bool> =
        scores.iter().map(|s| rng::uniform(&mut rng) * 15.0 < f64::from(*s)).collect();
    let (mut wins, mut pairs) = (0.0, 0.0);
    for (a, _) in scores.iter().zip(&positive).filter(|(_, p)| **p) {
        for (b, _) in scores.iter().zip(&positive).filter(|(_, p)| !**p) {
            pairs += 1.0;
            wins += if a > b { 1.0 } else { f64::from(a == b) / 2.0 };
        }
    }
    assert!((area_under_curve(&scores, &positive).unwrap() - wins / pairs).abs() < 1e-12);
    assert_eq!(area_under_curve(&[1.0, 2.0], &[true, true]), None);
}

#[test]
fn training_stops_when_the_holdout_no_longer_improves_and_keeps_the_best() {
    let sequences = planted(300, 5);
    let config = DinConfig { epochs: 30, patience: 1, learning_rate: 0.02, ..small() };
    let out = train(&sequences, GROUPS * GROUP_SIZE, &config);
    assert!(out.reports.len() < 30, "{:?}", out.reports);
    assert_eq!(out.reports.len(), out.best_epoch + 1);
    assert!(out.reports.iter().all(|r| r.measured <= out.measured));
    let saved = out.weights["embeddings"].flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(out.embeddings.row(0).to_vec(), saved[..16]);
}

#[test]
fn without_a_holdout_all_epochs_run() {
    let out = train(&planted(60, 6), GROUPS * GROUP_SIZE, &DinConfig { holdout: 0.0, ..small() });
    assert_eq!((out.measured, out.best_epoch, out.reports.len()), (None, 2, 2));
    assert!(out.reports[1].loss < out.reports[0].loss, "{:?}", out.reports);
}

#[test]
fn unusable_input_is_explained() {
    let explain = |sequences: &[&[u32]], config: &DinConfig| {
        let mut around = Around { ranks: &Alone, settings: "", state: None, progress: &mut |_| () };
        super::train(sequences, 3, config, 1, &mut around).unwrap_err().to_string()
    };
    let error = explain(&[&[0], &[], &[2]], &small());
    assert!(error.contains("at least 4 items"), "{error}");
    let error = explain(&[&[0, 1], &[1, 3]], &small());
    assert!(error.contains("user 1") && error.contains("item 3"), "{error}");
    let error = explain(&[&[0, 1]], &DinConfig { batch_size: 0, ..small() });
    assert!(error.contains("batch-size"), "{error}");
    assert!(toml::from_str::<DinConfig>("batch_size = 3").is_err());
}
