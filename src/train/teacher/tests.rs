use candle_core::{DType, Device};

use super::*;
use crate::model::sequential::{Hgn, HgnConfig, SasRec, SasRecConfig, TransformerConfig};

fn sasrec() -> Box<dyn Sequential> {
    let transformer = TransformerConfig {
        dim: 8,
        blocks: 1,
        heads: 1,
        feed_forward: 8,
        history: 6,
        ..TransformerConfig::default()
    };
    let config = SasRecConfig { transformer, ..SasRecConfig::default() };
    Box::new(SasRec::new(&config, 4, 3, DType::F32, &Device::Cpu).unwrap())
}

/// One with a bias for every item, that reads fewer of them.
fn hgn() -> Box<dyn Sequential> {
    let config = HgnConfig { dim: 8, history: 2, ..HgnConfig::default() };
    let network = Hgn::new(&config, 4, &[true; 2], 3, DType::F32, &Device::Cpu).unwrap();
    let mut stream = crate::rng::stream(1, "hgn", &[]);
    for (name, value) in network.weights().unwrap() {
        let draws = crate::rng::normal(&mut stream, value.elem_count(), 1.0);
        let draws = Tensor::from_vec(draws, value.shape(), &Device::Cpu).unwrap();
        network.params().set(&name, &draws).unwrap();
    }
    Box::new(network)
}

fn teacher() -> Teacher {
    teacher_of(vec![sasrec()])
}

fn teacher_of(networks: Vec<Box<dyn Sequential>>) -> Teacher {
    // Two codes at the first level, two at the second.
    let items = [[10, 12], [10, 13], [11, 12], [11, 13]].map(|tokens| tokens.to_vec());
    Teacher::new(networks, DistillationConfig::default(), &items)
}

fn sample(items: &[ItemId], first_target: usize) -> Sample {
    let labels = vec![(0, 0); (items.len() - first_target) * 2];
    Sample { items: items.to_vec(), first_target, labels, recommends: true, ..Sample::default() }
}

fn dense(rows: &[Vec<(u32, f32)>]) -> Vec<[f32; 4]> {
    let line = |row: &Vec<(u32, f32)>| {
        let mut line = [0.0; 4];
        for &(id, share) in row {
            line[id as usize - 10] = share;
        }
        line
    };
    rows.iter().map(line).collect()
}

#[test]
fn the_distribution_over_items_is_summed_along_the_paths() {
    let teacher = teacher();
    let other = Sample { recommends: false, ..Sample::default() };
    let samples = [sample(&[0, 3, 1], 1), other, sample(&[2, 2], 1)];
    let lines = dense(&teacher.distributions(&samples).unwrap());
    assert_eq!(lines.len(), 6);

    // The target item 1 after 0 and 3: scored on its own.
    let scores = teacher.networks[0].scores(&[History::of(&[0, 3])]).unwrap();
    let p: Vec<f32> =
        ops::log_softmax_rows(&scores).unwrap().exp().unwrap().to_vec2().unwrap().remove(0);
    let close = |a: &[f32], b: [f32; 4]| {
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6), "{a:?} {b:?}");
    };
    close(&lines[2], [p[0] + p[1], p[2] + p[3], 0.0, 0.0]);
    let below = p[0] + p[1];
    close(&lines[3], [0.0, 0.0, p[0] / below, p[1] / below]);
    for line in lines {
        assert!((line.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{line:?}");
    }
}

#[test]
fn several_networks_teach_by_the_geometric_mean_of_what_they_expect() {
    let networks = [sasrec(), hgn()];
    // The target item 1 after 0 and 3.
    let history = [History::of(&[0, 3])];
    let of = |network: &dyn Sequential| -> Vec<f32> {
        let scores = network.scores(&history).unwrap();
        ops::log_softmax_rows(&scores).unwrap().exp().unwrap().to_vec2().unwrap().remove(0)
    };
    let [one, other] = [of(&*networks[0]), of(&*networks[1])];
    let products: Vec<f32> = one.iter().zip(&other).map(|(a, b)| (a * b).sqrt()).collect();
    let all: f32 = products.iter().sum();
    let p: Vec<f32> = products.iter().map(|product| product / all).collect();
    assert!(one.iter().zip(&other).any(|(a, b)| (a - b).abs() > 1e-2), "they expect the same");

    let teacher = teacher_of(networks.into());
    let lines = dense(&teacher.distributions(&[sample(&[0, 3, 1], 1)]).unwrap());
    let below = p[0] + p[1];
    let right = [[below, p[2] + p[3], 0.0, 0.0], [0.0, 0.0, p[0] / below, p[1] / below]];
    for (line, right) in lines[2..].iter().zip(right) {
        assert!(line.iter().zip(right).all(|(a, b)| (a - b).abs() < 1e-6), "{line:?} {right:?}");
    }
}

#[test]
fn targets_are_scored_in_blocks_as_at_once() {
    let teacher = teacher_of(vec![sasrec(), hgn()]);
    let samples = [sample(&[0, 3, 1, 2], 1), sample(&[2, 2], 1)];
    let at_once = dense(&teacher.distributions(&samples).unwrap());
    for block in 1..4 {
        let found = teacher.shares_of(&[&samples[0], &samples[1]], block).unwrap();
        // Two codes at either level.
        let at_once = at_once.iter().zip([0, 2].iter().cycle());
        let at_once = at_once.flat_map(|(line, &first)| &line[first..first + 2]);
        assert_eq!(found.len(), at_once.clone().count());
        for (a, b) in found.iter().zip(at_once) {
            assert!((a - b).abs() < 1e-6, "blocks of {block}: {a} {b}");
        }
    }
    // Scores of four items as tensor, as values and as what the first network said; two codes at the first level.
    assert_eq!(teacher.bytes(5), 3 * 5 * 4 * 4 + 5 * 2 * 8);
}

#[test]
fn more_than_is_computed_together_is_kept() {
    let samples: Vec<Sample> = (0..600u32)
        .map(|i| sample(&[i % 4, i / 4 % 4, i / 16 % 4, i / 64 % 4, i / 256], 1))
        .collect();
    let mut teacher = teacher();
    assert!(samples.len() > 2 * super::TOGETHER && teacher.has_room(&samples));
    let computed = dense(&teacher.distributions(&samples).unwrap());
    let mut told = Vec::new();
    teacher.keep(&samples, |done| told.push(done)).unwrap();
    assert_eq!(told, [256, 512, 600]);
    let found = dense(&teacher.distributions(&samples).unwrap());
    for (a, b) in found.iter().flatten().zip(computed.iter().flatten()) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
}

#[test]
fn what_is_kept_is_what_would_be_computed_again() {
    let other = Sample { recommends: false, ..Sample::default() };
    let known = [sample(&[0, 3, 1, 2], 1), other, sample(&[2, 2], 1)];
    let new = sample(&[0, 3, 1, 2], 2);
    let asked = [known[2].clone(), new, known[0].clone(), known[1].clone()];
    let mut teacher = teacher_of(vec![sasrec(), hgn()]);
    let computed = dense(&teacher.distributions(&asked).unwrap());
    let mut told = Vec::new();
    teacher.keep(&known, |done| told.push(done)).unwrap();
    assert_eq!((told, teacher.kept.len()), (vec![3], 3));
    // Of four targets two shares at either level.
    assert_eq!(teacher.shares.len(), 4 * 2 * 2);
    let found = dense(&teacher.distributions(&asked).unwrap());
    assert_eq!(found.len(), computed.len());
    for (a, b) in found.iter().flatten().zip(computed.iter().flatten()) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
    // It is kept as it was, whatever the networks have become, and nothing else is.
    let before = teacher.distributions(&asked).unwrap();
    teacher.networks = vec![hgn()];
    let after = teacher.distributions(&asked).unwrap();
    let new = 2..2 + 2 * 2;
    assert!(before[..new.start] == after[..new.start] && before[new.end..] == after[new.end..]);
    assert_ne!(before[new.clone()], after[new]);
}

#[test]
fn later_targets_do_not_change_earlier_distributions() {
    // States see what is before them alone, but positions count from the end.
    let teacher = teacher();
    let found = teacher.distributions(&[sample(&[0, 3, 1], 1)]).unwrap();
    let changed = teacher.distributions(&[sample(&[0, 3, 2], 1)]).unwrap();
    assert_eq!(found[..3], changed[..3]);
    assert_ne!(found[3], changed[3]);
}

#[test]
fn a_sample_that_tells_no_items_is_refused() {
    let sample = Sample { labels: vec![(0, 0)], recommends: true, ..Sample::default() };
    teacher().distributions(&[sample]).unwrap_err();
}
