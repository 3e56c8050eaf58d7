//! Tests of the module above.

use super::*;

const ITEMS: usize = 30;

/// Walks on a ring: each item is followed by its successor, nine times out of ten.
fn ring(users: usize, seed: u64) -> Vec<Vec<u32>> {
    let mut stream = rng::stream(seed, "ring", &[]);
    let mut below = |n: usize| (rng::uniform(&mut stream) * n as f64) as usize;
    let mut walk = || {
        let mut item = below(ITEMS);
        (0..4 + below(8))
            .map(|_| {
                item = if below(10) == 0 { below(ITEMS) } else { (item + 1) % ITEMS };
                item as u32
            })
            .collect()
    };
    (0..users).map(|_| walk()).collect()
}

fn small() -> SasRecConfig {
    SasRecConfig {
        dim: 16,
        blocks: 1,
        feed_forward: 32,
        history: 6,
        embedding_dropout: 0.1,
        epochs: 3,
        batch_size: 32,
        learning_rate: 1e-2,
        weight_decay: 0.01,
        ..SasRecConfig::default()
    }
}

fn train(
    sequences: &[Vec<u32>],
    config: &SasRecConfig,
    measure: &mut dyn FnMut(&SasRec) -> Result<Option<f64>>,
) -> TrainedSasRec {
    let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    let mut around = Around { settings: "", state: None, progress: &mut |_| () };
    let network = config.network(ITEMS, 7).unwrap();
    train_sasrec(network, &sequences, config, 7, measure, &mut around).unwrap()
}

fn values(network: &SasRec) -> Vec<Vec<f32>> {
    let weights = network.weights().unwrap();
    weights.values().map(|w| w.flatten_all().unwrap().to_vec1().unwrap()).collect()
}

#[test]
fn windows_have_every_target_once_and_enough_before_it() {
    let sequences: Vec<Vec<u32>> =
        [0, 1, 2, 6, 7, 8, 10, 23].iter().map(|&n| (0..n).collect()).collect();
    let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    let windows = Window::over(&sequences, 6);
    for (user, items) in sequences.iter().enumerate() {
        let of_user: Vec<&Window> = windows.iter().filter(|w| w.user == user).collect();
        let targets: Vec<usize> = of_user.iter().flat_map(|w| w.targets.clone()).collect();
        assert_eq!(targets, (1..items.len()).collect::<Vec<_>>());
        for window in of_user {
            assert!(window.inputs(&sequences).len() <= 6);
            assert_eq!(window.items.end, window.targets.end);
            assert!(window.items.start == 0 || window.targets.start - window.items.start >= 3);
        }
    }
    // 7 items are one window of 6 inputs; one more begins a second.
    assert_eq!(windows.iter().filter(|w| w.user == 4).count(), 1);
    assert_eq!(windows.iter().filter(|w| w.user == 5).count(), 2);
}

#[test]
fn both_losses_learn_what_comes_next() {
    for loss in [SasRecLoss::Softmax, SasRecLoss::Sampled] {
        let config = SasRecConfig { loss, negatives: 8, epochs: 15, ..small() };
        let trained = train(&ring(400, 1), &config, &mut |_| Ok(None));
        let hits = (0..ITEMS as u32).filter(|&item| {
            let scores = trained.network.scores(&[&[item]]).unwrap();
            let scores = scores.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let best = (0..ITEMS).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap();
            best == (item as usize + 1) % ITEMS
        });
        let hits = hits.count();
        assert!(hits * 10 >= ITEMS * 9, "{loss:?}: {hits} of {ITEMS}");
        let losses: Vec<f64> = trained.reports.iter().map(|r| r.loss).collect();
        assert!(losses[14] < losses[0] / 2.0, "{losses:?}");
    }
}

#[test]
fn a_sampled_loss_aims_at_the_full_softmax() {
    // The step's own targets are candidates more often the more popular they are; without a correction
    // popular items would be pushed below their share.
    let sequences: Vec<Vec<u32>> =
        (0..300).map(|u| vec![0, if u % 3 == 0 { 2 } else { 1 }]).collect();
    let config = SasRecConfig { loss: SasRecLoss::Sampled, negatives: 3, epochs: 40, ..small() };
    let trained = train(&sequences, &config, &mut |_| Ok(None));
    let scores = trained.network.scores(&[&[0]]).unwrap().flatten_all().unwrap();
    let scores = scores.to_vec1::<f32>().unwrap();
    let odds = f64::from(scores[1] - scores[2]).exp();
    assert!((1.5..2.7).contains(&odds), "item 1 is twice as likely as item 2, not {odds} times");
}

#[test]
fn the_probability_of_being_a_candidate_counts_both_ways_to_become_one() {
    let sequences: [&[u32]; 2] = [&[0, 1, 1, 1], &[0, 2]];
    let windows = Window::over(&sequences, 6);
    let draw = |negatives| {
        let sampler = Sampler::new(&windows, &sequences, 10, negatives);
        sampler.draw(&[1, 2], &mut rng::stream(1, "test", &[]))
    };
    let all = draw(10);
    assert_eq!(all.items, (0..10).collect::<Vec<_>>());
    assert!(all.log_probabilities.iter().all(|&p| p == 0.0));
    let some = draw(3);
    assert!(some.items.is_sorted() && (3..=5).contains(&some.items.len()), "{some:?}");
    let of = |item: u32| some.log_probabilities[some.items.binary_search(&item).unwrap()].exp();
    // Three in four targets are item 1, one is item 2; two targets a step; 3 of 10 items are drawn.
    assert!((of(1) - (1.0 - 0.25 * 0.25 * 0.7)).abs() < 1e-6);
    assert!((of(2) - (1.0 - 0.75 * 0.75 * 0.7)).abs() < 1e-6);
}

#[test]
fn two_threads_give_what_one_gives() {
    for loss in [SasRecLoss::Softmax, SasRecLoss::Sampled] {
        let config = SasRecConfig { loss, negatives: 8, ..small() };
        let sequences = ring(200, 2);
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| values(&train(&sequences, &config, &mut |_| Ok(None)).network))
        };
        assert!(on(1) == on(2), "{loss:?}");
    }
}

#[test]
fn training_stops_after_patience_and_keeps_the_best_weights() {
    let figures = [1.0, 3.0, 2.0, 3.0, 9.0];
    let mut seen = Vec::new();
    let config = SasRecConfig { epochs: 5, patience: 2, ..small() };
    let trained = train(&ring(60, 3), &config, &mut |network| {
        seen.push(values(network));
        Ok(Some(figures[seen.len() - 1]))
    });
    assert_eq!((trained.best_epoch, trained.reports.len()), (2, 4));
    assert_eq!(trained.measured(), Some(3.0));
    assert!(values(&trained.network) == seen[1]);
    assert!(seen[1] != seen[3]);
}

#[test]
fn without_a_figure_all_epochs_run() {
    let trained = train(&ring(60, 3), &small(), &mut |_| Ok(None));
    assert_eq!((trained.best_epoch, trained.reports.len()), (3, 3));
}

#[test]
fn unusable_input_is_explained() {
    let explain = |sequences: &[&[u32]], config: &SasRecConfig| {
        let mut around = Around { settings: "", state: None, progress: &mut |_| () };
        let train =
            |network| train_sasrec(network, sequences, config, 1, &mut |_| Ok(None), &mut around);
        config.network(3, 1).and_then(train).unwrap_err().to_string()
    };
    let error = explain(&[&[0], &[], &[2]], &small());
    assert!(error.contains("at least 4 items"), "{error}");
    let error = explain(&[&[0, 1], &[1, 3]], &small());
    assert!(error.contains("user 1") && error.contains("item 3"), "{error}");
    for (config, key) in [
        (SasRecConfig { heads: 3, ..small() }, "heads = 3"),
        (SasRecConfig { batch_size: 0, ..small() }, "batch-size"),
        (SasRecConfig { dropout: 1.0, ..small() }, "dropout = 1"),
        (SasRecConfig { learning_rate: f64::NAN, ..small() }, "learning-rate"),
    ] {
        let error = explain(&[&[0, 1]], &config);
        assert!(error.contains(key), "{error}");
    }
}
