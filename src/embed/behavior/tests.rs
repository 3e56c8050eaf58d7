//! Tests of what holds for every encoder.

use super::*;
use crate::data::Dataset;
use crate::data::synth::{Shop, SynthConfig};
use crate::model::sequential::{TrainingConfig, TransformerConfig};
use crate::ranks::Alone;

fn din() -> DinConfig {
    DinConfig { dim: 16, attention: vec![8], mlp: vec![16], epochs: 2, ..DinConfig::default() }
}

fn sasrec() -> SasRecConfig {
    let training = TrainingConfig { epochs: 2, ..TrainingConfig::default() };
    let transformer =
        TransformerConfig { dim: 16, feed_forward: 32, ..TransformerConfig::default() };
    SasRecConfig { transformer, training }
}

fn train(sequences: &[&[u32]], num_items: usize, encoder: EncoderConfig<'_>) -> BehaviorEmbedding {
    let settings = encoder.encoder().settings();
    let mut around = Around { ranks: &Alone, settings, state: None, progress: &mut |_| () };
    train_behavior_embedding(sequences, num_items, encoder, 7, &mut around).unwrap()
}

fn shop() -> Dataset {
    let shop = SynthConfig { users: 60, items: 48, groups: 6, ..SynthConfig::default() };
    Shop::generate(&shop).unwrap().dataset
}

#[test]
fn validation_and_test_items_leave_the_embedding_as_it_is() {
    let dataset = shop();
    let other = dataset.with_other_targets();
    assert_ne!(dataset.fingerprint, other.fingerprint);
    for encoder in [EncoderConfig::Din(&din()), EncoderConfig::SasRec(&sasrec())] {
        let embed = |dataset: &Dataset| {
            let sequences: Vec<&[u32]> = dataset.train_sequences().collect();
            let out = train(&sequences, dataset.num_items(), encoder);
            assert!(out.measured.is_some());
            (out.embeddings, out.measured)
        };
        assert_eq!(embed(&dataset), embed(&other), "{}", encoder.encoder().name());
        // Training items do change it.
        let sequences: Vec<Vec<u32>> = dataset
            .train_sequences()
            .map(|items| items.iter().map(|&item| (item + 1) % 48).collect())
            .collect();
        let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
        let moved = train(&sequences, dataset.num_items(), encoder);
        assert_ne!(embed(&dataset).0, moved.embeddings, "{}", encoder.encoder().name());
    }
}

#[test]
fn items_without_a_sample_get_the_mean_embedding() {
    // Item 3 is a whole sequence of its own, which has no target; 4 and 5 occur nowhere.
    let sequences: [&[u32]; 4] = [&[0, 1, 2], &[3], &[1, 2, 0, 1], &[]];
    for encoder in [EncoderConfig::Din(&din()), EncoderConfig::SasRec(&sasrec())] {
        let out = train(&sequences, 6, encoder);
        assert_eq!(out.num_seen, 3, "{}", encoder.encoder().name());
        for j in 0..16 {
            let column = out.embeddings.column(j);
            let mean = (column[0] + column[1] + column[2]) / 3.0;
            for item in 3..6 {
                assert!(
                    (column[item] - mean).abs() < 1e-6,
                    "{} item {item}",
                    encoder.encoder().name()
                );
            }
        }
        assert_ne!(out.embeddings.row(0), out.embeddings.row(3));
    }
}

#[test]
fn a_sasrec_is_stopped_by_held_out_training_items_and_keeps_the_best() {
    let dataset = shop();
    let sequences: Vec<&[u32]> = dataset.train_sequences().collect();
    let training = TrainingConfig {
        epochs: 60,
        patience: 1,
        learning_rate: 0.02,
        ..TrainingConfig::default()
    };
    let config = SasRecConfig { training, ..sasrec() };
    let out = train(&sequences, dataset.num_items(), EncoderConfig::SasRec(&config));
    assert!(out.reports.len() < 60, "{:?}", out.reports);
    assert_eq!(out.reports.len(), out.best_epoch + 1);
    assert!(out.reports.iter().all(|r| r.measured <= out.measured));
    assert!((0.0..=1.0).contains(&out.measured.unwrap()), "an NDCG");
    let saved = out.weights["items"].flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(out.embeddings.row(0).to_vec(), saved[..16]);
    // The last items of a fifth of the users, of those with another target, are not trained on.
    let all: usize = sequences.iter().map(|s| s.len().saturating_sub(1)).sum();
    let users = sequences.iter().filter(|s| s.len() > 2).count();
    assert_eq!(out.num_targets, all - users / 5);
}
