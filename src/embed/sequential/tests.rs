//! Tests of the module above.

use super::*;
use crate::model::sequential::{
    Attributes, Bert4Rec, Bert4RecConfig, Fdsa, FdsaConfig, Gru4Rec, Gru4RecConfig, Hgn, HgnConfig,
    S3Rec, S3RecConfig, SasRec, SasRecConfig, TransformerConfig,
};
use crate::ranks::{Alone, Threads};
use candle_core::{DType, Device};

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

fn small() -> TrainingConfig {
    TrainingConfig {
        epochs: 3,
        batch_size: 32,
        learning_rate: 1e-2,
        weight_decay: 0.01,
        ..TrainingConfig::default()
    }
}

fn transformer() -> TransformerConfig {
    TransformerConfig {
        dim: 16,
        blocks: 1,
        feed_forward: 32,
        history: 6,
        embedding_dropout: 0.1,
        ..TransformerConfig::default()
    }
}

fn sasrec(num_items: usize) -> SasRec {
    let config = SasRecConfig { transformer: transformer(), ..SasRecConfig::default() };
    config.network(num_items, 7).unwrap()
}

fn try_train(
    network: &dyn Sequential,
    sequences: &[&[u32]],
    config: &TrainingConfig,
    measure: &mut dyn FnMut(&dyn Sequential) -> Result<Option<f64>>,
) -> Result<SequentialReport> {
    let mut around = Around { ranks: &Alone, settings: "", state: None, progress: &mut |_| () };
    Course { name: "sasrec", network, config, sequences, seed: 7 }.train(measure, &mut around)
}

fn train(
    network: &dyn Sequential,
    sequences: &[Vec<u32>],
    config: &TrainingConfig,
    measure: &mut dyn FnMut(&dyn Sequential) -> Result<Option<f64>>,
) -> SequentialReport {
    let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    try_train(network, &sequences, config, measure).unwrap()
}

fn values(network: &dyn Sequential) -> Vec<Vec<f32>> {
    let weights = network.weights().unwrap();
    weights.values().map(|w| w.flatten_all().unwrap().to_vec1().unwrap()).collect()
}

/// Of all items those whose successor has one of the `most` highest scores.
fn hits(network: &dyn Sequential, most: usize) -> usize {
    let finds = |item: &u32| {
        let scores = network.scores(&[History::of(&[*item])]).unwrap();
        let scores = scores.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let own = scores[(*item as usize + 1) % ITEMS];
        scores.iter().filter(|&&score| score > own).count() < most
    };
    (0..ITEMS as u32).filter(finds).count()
}

#[test]
fn all_losses_learn_what_comes_next() {
    // A target is never told from what its user took, which lies near it on the ring, where one other item is drawn.
    for (loss, most) in [(Loss::Softmax, 1), (Loss::Sampled, 1), (Loss::Bce, 6)] {
        let config = TrainingConfig { loss, negatives: 8, epochs: 15, ..small() };
        let network = sasrec(ITEMS);
        let trained = train(&network, &ring(400, 1), &config, &mut |_| Ok(None));
        let hits = hits(&network, most);
        assert!(hits * 10 >= ITEMS * 9, "{loss:?}: {hits} of {ITEMS}");
        let losses: Vec<f64> = trained.reports.iter().map(|r| r.loss).collect();
        assert!(losses[14] < losses[0] / 2.0, "{losses:?}");
    }
}

#[test]
fn recurrent_networks_and_those_that_look_for_hidden_items_learn_it_too() {
    let gru4rec = Gru4RecConfig { dim: 16, hidden: 24, dropout: 0.1, ..Gru4RecConfig::default() };
    let gru4rec = Gru4Rec::new(&gru4rec, ITEMS, 7, DType::F32, &Device::Cpu).unwrap();
    let bert4rec = Bert4RecConfig {
        dim: 16,
        blocks: 1,
        feed_forward: 32,
        history: 8,
        dropout: 0.1,
        ..Bert4RecConfig::default()
    };
    let bert4rec = Bert4Rec::new(&bert4rec, ITEMS, 7, DType::F32, &Device::Cpu).unwrap();
    let networks: [&dyn Sequential; 2] = [&gru4rec, &bert4rec];
    for network in networks {
        let config = TrainingConfig { loss: Loss::Softmax, epochs: 25, ..small() };
        train(network, &ring(400, 1), &config, &mut |_| Ok(None));
        let hits = hits(network, 1);
        assert!(hits * 10 >= ITEMS * 8, "{network:?}: {hits} of {ITEMS}");
    }
}

/// Each item has an attribute that it shares with nine others.
fn s3rec(pretraining_epochs: usize) -> S3Rec {
    s3rec_of(pretraining_epochs, (0..ITEMS as u32).map(|item| vec![item % 3]).collect())
}

fn s3rec_of(pretraining_epochs: usize, of_items: Vec<Vec<u32>>) -> S3Rec {
    let config =
        S3RecConfig { transformer: transformer(), pretraining_epochs, ..S3RecConfig::default() };
    S3Rec::new(&config, Attributes { of_items, count: 3 }, 7, DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn a_batch_may_have_no_item_with_attributes() {
    let mut of_items = vec![Vec::new(); ITEMS];
    of_items[0] = vec![1];
    let config = TrainingConfig { epochs: 1, batch_size: 1, ..small() };
    let trained = train(&s3rec_of(1, of_items), &ring(20, 4), &config, &mut |_| Ok(None));
    assert!(trained.reports[0].loss.is_finite());
}

#[test]
fn pre_training_comes_first_and_leaves_the_rest_to_training() {
    let own = |name: &str| name.starts_with(PRETRAINING);
    let (fresh, network) = (s3rec(4), s3rec(4));
    let mut before = None;
    let mut measure = |network: &dyn Sequential| {
        before.get_or_insert(network.weights()?);
        Ok(None)
    };
    // Decay moves what has no gradient.
    let config = TrainingConfig { weight_decay: 0.0, ..small() };
    let trained = train(&network, &ring(200, 4), &config, &mut measure);
    assert_eq!(trained.reports.len(), 3);
    let (fresh, before, after) =
        (fresh.weights().unwrap(), before.unwrap(), network.weights().unwrap());
    let same = |a: &Weights, b: &Weights, name: &str| {
        let values = |w: &Weights| w[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values(a) == values(b)
    };
    for name in after.keys() {
        assert!(!same(&fresh, &before, name), "{name} is not trained");
        assert_eq!(same(&before, &after, name), own(name), "{name}");
    }
}

#[test]
fn a_training_that_is_cut_off_after_its_pre_training_ends_the_same() {
    let sequences = ring(200, 4);
    let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    let dir = tempfile::tempdir().unwrap();
    let go = |state: Option<&std::path::Path>, most: usize| {
        let network = s3rec(2);
        let mut epochs = 0;
        let mut measure = |_: &dyn Sequential| {
            epochs += 1;
            if epochs > most {
                invalid!("killed");
            }
            Ok(None)
        };
        let mut around = Around { ranks: &Alone, settings: "", state, progress: &mut |_| () };
        let config = &small();
        let course =
            Course { name: "s3rec", network: &network, config, sequences: &sequences, seed: 7 };
        course.train(&mut measure, &mut around).map(|_| values(&network))
    };
    let whole = go(None, 9).unwrap();
    assert!(go(Some(dir.path()), 1).is_err());
    assert!(go(Some(dir.path()), 9).unwrap() == whole);
}

#[test]
fn a_sampled_loss_aims_at_the_full_softmax() {
    // The step's own targets are candidates more often the more popular they are; without a correction
    // popular items would be pushed below their share.
    let sequences: Vec<Vec<u32>> =
        (0..300).map(|u| vec![0, if u % 3 == 0 { 2 } else { 1 }]).collect();
    let config = TrainingConfig { loss: Loss::Sampled, negatives: 3, epochs: 40, ..small() };
    let network = sasrec(ITEMS);
    train(&network, &sequences, &config, &mut |_| Ok(None));
    let scores = network.scores(&[History::of(&[0])]).unwrap().flatten_all().unwrap();
    let scores = scores.to_vec1::<f32>().unwrap();
    let odds = f64::from(scores[1] - scores[2]).exp();
    assert!((1.5..2.7).contains(&odds), "item 1 is twice as likely as item 2, not {odds} times");
}

#[test]
fn two_threads_give_what_one_gives() {
    for loss in [Loss::Softmax, Loss::Sampled, Loss::Bce] {
        let config = TrainingConfig { loss, negatives: 8, ..small() };
        let sequences = ring(200, 2);
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let network = sasrec(ITEMS);
                train(&network, &sequences, &config, &mut |_| Ok(None));
                values(&network)
            })
        };
        assert!(on(1) == on(2), "{loss:?}");
    }
}

#[test]
fn training_stops_after_patience_and_keeps_the_best_weights() {
    let figures = [1.0, 3.0, 2.0, 3.0, 9.0];
    let mut seen = Vec::new();
    let config = TrainingConfig { epochs: 5, patience: 2, ..small() };
    let network = sasrec(ITEMS);
    let trained = train(&network, &ring(60, 3), &config, &mut |network| {
        seen.push(values(network));
        Ok(Some(figures[seen.len() - 1]))
    });
    assert_eq!((trained.best_epoch, trained.reports.len()), (2, 4));
    assert_eq!(trained.measured(), Some(3.0));
    assert!(values(&network) == seen[1]);
    assert!(seen[1] != seen[3]);
}

#[test]
fn without_a_figure_all_epochs_run() {
    let trained = train(&sasrec(ITEMS), &ring(60, 3), &small(), &mut |_| Ok(None));
    assert_eq!((trained.best_epoch, trained.reports.len()), (3, 3));
}

#[test]
fn unusable_input_is_explained() {
    let explain = |sequences: &[&[u32]], config: &TrainingConfig| {
        try_train(&sasrec(3), sequences, config, &mut |_| Ok(None)).unwrap_err().to_string()
    };
    let error = explain(&[&[0], &[], &[2]], &small());
    assert!(error.contains("at least 4 items"), "{error}");
    let error = explain(&[&[0, 1], &[1, 3]], &small());
    assert!(error.contains("user 1") && error.contains("item 3"), "{error}");
    for (config, key) in [
        (TrainingConfig { batch_size: 0, ..small() }, "batch-size"),
        (TrainingConfig { epochs: 0, ..small() }, "epochs"),
        (TrainingConfig { learning_rate: f64::NAN, ..small() }, "learning-rate"),
    ] {
        let error = explain(&[&[0, 1]], &config);
        assert!(error.contains(key), "{error}");
    }
}

/// Makes the network that each rank trains.
type Make<'a> = &'a (dyn Fn() -> Box<dyn Sequential> + Sync);

/// What is left of the weights, and the figures, of a training that so many ranks share.
fn shared(
    make: Make<'_>,
    config: &TrainingConfig,
    size: usize,
    state: Option<&std::path::Path>,
) -> Vec<(Vec<Vec<f32>>, Vec<f64>)> {
    // 83 users in batches of 27: two are left for the last, fewer than ranks.
    let sequences = ring(83, 6);
    let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    Threads::run(size, |ranks| {
        let network = &*make();
        let mut around = Around { ranks, settings: "", state, progress: &mut |_| () };
        let mut epochs = 0.0;
        let course = Course { name: "sasrec", network, config, sequences: &sequences, seed: 7 };
        let mut measure = |_: &dyn Sequential| {
            epochs += 1.0;
            Ok(Some(epochs))
        };
        let trained = course.train(&mut measure, &mut around).unwrap();
        (values(network), trained.reports.iter().map(|report| report.loss).collect())
    })
}

fn assert_close(found: &[Vec<f32>], expected: &[Vec<f32>], what: &str) {
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let far = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // Where a gradient is hardly more than rounding, AdamW takes steps by that: this is a fifth of one.
        assert!(far < 2e-3, "{what}, tensor {i}: {far}");
    }
}

#[test]
fn ranks_that_share_a_training_do_what_one_does_alone() {
    let fdsa = FdsaConfig { transformer: transformer(), ..FdsaConfig::default() };
    let attributes = Attributes { of_items: vec![vec![0]; ITEMS], count: 1 };
    let hgn = HgnConfig { dim: 8, history: 3, ..HgnConfig::default() };
    let bert4rec = Bert4RecConfig {
        dim: 8,
        blocks: 1,
        feed_forward: 16,
        history: 8,
        ..Bert4RecConfig::default()
    };
    // It draws its masks in another order.
    let gru4rec = Gru4RecConfig { dim: 8, hidden: 12, dropout: 0.0, ..Gru4RecConfig::default() };
    let (dtype, device) = (DType::F32, &Device::Cpu);
    let makes: [(&str, Make<'_>, Loss); 8] = [
        ("sasrec", &|| Box::new(sasrec(ITEMS)), Loss::Softmax),
        ("sasrec", &|| Box::new(sasrec(ITEMS)), Loss::Sampled),
        ("sasrec", &|| Box::new(sasrec(ITEMS)), Loss::Bce),
        ("s3rec", &|| Box::new(s3rec(1)), Loss::Softmax),
        (
            "fdsa",
            &|| Box::new(Fdsa::new(&fdsa, attributes.clone(), 7, dtype, device).unwrap()),
            Loss::Softmax,
        ),
        (
            "hgn",
            &|| Box::new(Hgn::new(&hgn, ITEMS, &[true; 83], 7, dtype, device).unwrap()),
            Loss::Softmax,
        ),
        (
            "bert4rec",
            &|| Box::new(Bert4Rec::new(&bert4rec, ITEMS, 7, dtype, device).unwrap()),
            Loss::Softmax,
        ),
        (
            "gru4rec",
            &|| Box::new(Gru4Rec::new(&gru4rec, ITEMS, 7, dtype, device).unwrap()),
            Loss::Softmax,
        ),
    ];
    for (name, make, loss) in makes {
        let config = TrainingConfig { loss, negatives: 8, epochs: 2, batch_size: 27, ..small() };
        let alone = shared(make, &config, 1, None).remove(0);
        for size in [2, 3] {
            let found = shared(make, &config, size, None);
            for (weights, losses) in &found {
                let what = format!("{name}, {loss:?}, {size} ranks");
                assert_close(weights, &alone.0, &what);
                let far = losses.iter().zip(&alone.1).map(|(a, b)| (a - b).abs());
                assert!(far.fold(0.0, f64::max) < 1e-4, "{what}: {losses:?} {:?}", alone.1);
                // To the last bit the same on all.
                assert!(*weights == found[0].0, "{what}");
            }
        }
    }
}

#[test]
fn a_training_that_ranks_left_is_gone_on_with_by_other_ranks() {
    let make = || -> Box<dyn Sequential> { Box::new(sasrec(ITEMS)) };
    let of = |epochs| TrainingConfig { loss: Loss::Softmax, epochs, batch_size: 27, ..small() };
    let whole = shared(&make, &of(4), 1, None).remove(0);
    for (first, then) in [(2, 1), (1, 3)] {
        let dir = tempfile::tempdir().unwrap();
        shared(&make, &of(2), first, Some(dir.path()));
        let found = shared(&make, &of(4), then, Some(dir.path())).remove(0);
        assert_close(&found.0, &whole.0, &format!("{first} ranks, then {then}"));
    }
}
