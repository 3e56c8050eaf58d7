//! Training of a network that writes the codes of the next item.

use std::time::Instant;

use rand::RngCore;
use rand::seq::SliceRandom;

use super::epochs::{
    Around, EpochReport, Epochs, Progress, Trained, TrainingBytes, early_stopping, largest_batch,
    occurrences,
};
use super::sequential::SequentialReport;
use crate::model::Weights;
use crate::model::sequential::{History, Tiger, TigerPart, TigerWorkspace};
use crate::nn::{AdamW, AdamWConfig, Gradients};
use crate::ranks::Ranks;
use crate::{Result, invalid, rng};

/// A TIGER to be trained.
#[derive(Debug, Clone, Copy)]
pub struct TigerCourse<'a> {
    /// The network, which ends as it was after the best epoch; how it is trained is among its settings.
    pub network: &'a Tiger,
    /// Each user's training items, oldest first.
    pub sequences: &'a [&'a [u32]],
    /// Decides all that is drawn.
    pub seed: u64,
}

/// A target: whose it is, and its place among the items of that user.
#[derive(Debug, Clone, Copy)]
struct Lesson {
    user: usize,
    at: usize,
}

impl TigerCourse<'_> {
    /// Every item but each user's first.
    fn lessons(&self) -> Vec<Lesson> {
        let of_user = |(user, items): (usize, &&[u32])| {
            (1..items.len()).map(move |at| Lesson { user, at }).collect::<Vec<_>>()
        };
        self.sequences.iter().enumerate().flat_map(of_user).collect()
    }

    /// What training takes, where an epoch is measured by beam search.
    pub fn bytes(&self) -> TrainingBytes {
        let config = self.network.config();
        let values =
            |lesson: &Lesson| self.network.values_per_target(lesson.at.min(config.history));
        let lessons = self.lessons();
        let step = largest_batch(lessons.iter().map(values), config.batch_size);
        // Logits, log-probabilities, and those of the level.
        let searched = 3 * Tiger::HYPOTHESES_AT_ONCE * self.network.vocab_size();
        let measuring = rayon::current_num_threads() * searched;
        TrainingBytes::new(self.network.params().num_trained(), step, measuring)
    }

    /// Trains; `measure` gives a figure of the network after each epoch, the higher the better, and training stops when
    /// it has not risen for `patience` epochs.
    ///
    /// # Errors
    /// An item that the network does not know, sequences without a target.
    pub fn train(
        self,
        measure: &mut dyn FnMut() -> Result<Option<f64>>,
        around: &mut Around<'_>,
    ) -> Result<SequentialReport> {
        let Self { network, sequences, .. } = self;
        let config = network.config();
        occurrences(sequences, network.num_items())?;
        let lessons = self.lessons();
        if lessons.is_empty() {
            invalid!(
                "no user has two training items or more, so there is nothing to learn from: each user's \
                 last two items are kept for validation and test; give users at least 4 items"
            );
        }
        let num_targets = lessons.len();
        let Around { ranks, settings, state, .. } = *around;
        let adam = AdamWConfig { weight_decay: config.weight_decay, ..AdamWConfig::default() };
        let adam = AdamW::divided(network.params(), adam, ranks)?;
        let progress = &mut *around.progress;
        let workspace = TigerWorkspace::default();
        let mut training =
            Training { course: self, ranks, adam, lessons, workspace, measure, progress };
        let Trained { weights, reports, best_epoch } = early_stopping(
            config.epochs,
            config.patience,
            settings,
            (state, ranks),
            &mut training,
        )?;
        network.params().restore(&weights)?;
        Ok(SequentialReport { reports, best_epoch, num_targets })
    }
}

struct Training<'a> {
    course: TigerCourse<'a>,
    ranks: &'a dyn Ranks,
    adam: AdamW,
    /// In the order of the epoch under way.
    lessons: Vec<Lesson>,
    workspace: TigerWorkspace,
    measure: &'a mut dyn FnMut() -> Result<Option<f64>>,
    progress: &'a mut dyn FnMut(&Progress),
}

impl Epochs for Training<'_> {
    fn train(&mut self, epoch: usize) -> Result<EpochReport> {
        let start = Instant::now();
        self.pass_over(epoch);
        let (total, batch_size) = (self.steps_an_epoch(), self.course.network.config().batch_size);
        let lessons = std::mem::take(&mut self.lessons);
        let mut loss_sum = 0.0;
        for (step, batch) in lessons.chunks(batch_size).enumerate() {
            loss_sum += self.step(batch, [epoch as u64, step as u64])? * batch.len() as f64;
            (self.progress)(&Progress::Step { epoch, done: step + 1, total });
        }
        let count = lessons.len() as f64;
        self.lessons = lessons;
        let samples_per_s = count / start.elapsed().as_secs_f64();
        let measured = (self.measure)()?;
        let loss = self.ranks.sums(&[loss_sum])[0] / count;
        let report = EpochReport { epoch, loss, measured, samples_per_s };
        (self.progress)(&Progress::Epoch(report));
        Ok(report)
    }

    fn pass_over(&mut self, epoch: usize) {
        let mut order = self.stream("order", &[epoch as u64]);
        self.lessons.shuffle(&mut order);
    }

    fn weights(&self) -> Result<Weights> {
        Ok(self.course.network.params().snapshot()?)
    }

    fn moments(&self) -> Result<Weights> {
        Ok(self.adam.state(self.course.network.params(), self.ranks)?)
    }

    fn restore(&mut self, epochs: usize, weights: &Weights, moments: &Weights) -> Result<()> {
        self.course.network.params().restore(weights)?;
        let steps = (epochs * self.steps_an_epoch()) as u64;
        Ok(self.adam.restore(self.course.network.params(), steps, moments)?)
    }
}

impl Training<'_> {
    fn steps_an_epoch(&self) -> usize {
        self.lessons.len().div_ceil(self.course.network.config().batch_size)
    }

    fn stream(&self, purpose: &str, position: &[u64]) -> rng::Rng {
        rng::stream(self.course.seed, &format!("tiger-{purpose}"), position)
    }

    /// One step of the optimiser; returns this rank's share of the mean loss of the batch's codes.
    fn step(&mut self, batch: &[Lesson], position: [u64; 2]) -> Result<f64> {
        let TigerCourse { network, sequences, .. } = self.course;
        let history = |&Lesson { user, at }: &Lesson| {
            let history = History { user: Some(user as u32), items: &sequences[user][..at] };
            history.last(network.config().history)
        };
        let histories: Vec<History<'_>> = batch.iter().map(history).collect();
        let tokens: Vec<usize> = histories.iter().map(|h| network.tokens_of(h)).collect();
        let own = self.ranks.part_of(tokens.iter().copied());
        let part = TigerPart {
            dropout: self.stream("dropout", &position).next_u64(),
            tokens_before: tokens[..own.start].iter().sum(),
            targets_before: own.start,
            targets: batch.len(),
        };
        let targets: Vec<u32> =
            batch[own.clone()].iter().map(|lesson| sequences[lesson.user][lesson.at]).collect();
        let (loss, mut gradients) = match &histories[own] {
            [] => (0.0, Gradients::zeros(network.params())?),
            own => network.gradients(own, &targets, part, &mut self.workspace)?,
        };
        let rate = network.config().learning_rate;
        self.adam.step_over(self.ranks, network.params(), &mut gradients, rate)?;
        self.workspace.take_back(gradients);
        Ok(loss)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::{DType, Device};

    use super::*;
    use crate::model::sequential::{Codes, TigerConfig, Written};
    use crate::ranks::{Alone, Threads};

    const ITEMS: u32 = 12;
    const ALONE: (Option<&Path>, &dyn Ranks) = (None, &Alone);

    /// Codes of 3 and 4, so that neither level names an item by itself.
    fn tiger(config: &TigerConfig) -> Tiger {
        let of_items = (0..ITEMS).flat_map(|item| [item / 4, item % 4]).collect();
        let codes = Codes { of_items, levels: vec![3, 4] };
        Tiger::new(config, codes, 7, DType::F32, &Device::Cpu).unwrap()
    }

    fn small() -> TigerConfig {
        TigerConfig {
            dim: 16,
            blocks: 1,
            heads: 2,
            head_dim: 8,
            feed_forward: 32,
            history: 4,
            epochs: 3,
            batch_size: 32,
            learning_rate: 1e-2,
            ..TigerConfig::default()
        }
    }

    /// Each item is followed by its successor, on a ring.
    fn ring(users: u32) -> Vec<Vec<u32>> {
        let walk = |user: u32| (0..3 + user % 5).map(|i| (user * 7 + i) % ITEMS).collect();
        (0..users).map(walk).collect()
    }

    fn try_train(
        network: &Tiger,
        sequences: &[Vec<u32>],
        (state, ranks): (Option<&Path>, &dyn Ranks),
        measure: &mut dyn FnMut() -> Result<Option<f64>>,
    ) -> Result<SequentialReport> {
        let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
        let mut around = Around { ranks, settings: "baseline.tiger", state, progress: &mut |_| () };
        TigerCourse { network, sequences: &sequences, seed: 7 }.train(measure, &mut around)
    }

    fn values(network: &Tiger) -> Vec<Vec<f32>> {
        let weights = network.params().snapshot().unwrap();
        weights.values().map(|w| w.flatten_all().unwrap().to_vec1().unwrap()).collect()
    }

    #[test]
    fn it_learns_what_comes_next() {
        let network = tiger(&TigerConfig { epochs: 20, ..small() });
        let trained = try_train(&network, &ring(120), ALONE, &mut || Ok(None)).unwrap();
        let targets: usize = ring(120).iter().map(|items| items.len() - 1).sum();
        assert_eq!(trained.num_targets, targets);
        for item in 0..ITEMS {
            let memory = network.read(&[History::of(&[(item + 11) % ITEMS, item])]).unwrap();
            let mut codes = Vec::new();
            for _ in 0..2 {
                let written = Written { history: 0, codes: &codes };
                let next = network.log_probabilities(&memory, &[written]).unwrap();
                let next: Vec<f32> = next.flatten_all().unwrap().to_vec1().unwrap();
                let best = (0..next.len()).max_by(|&a, &b| next[a].total_cmp(&next[b])).unwrap();
                assert!(next[best].exp() > 0.8, "{item}: {next:?}");
                codes.push(best as u32);
            }
            assert_eq!(codes[0] * 4 + codes[1], (item + 1) % ITEMS);
        }
    }

    #[test]
    fn a_training_that_is_cut_off_ends_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let go = |state: Option<&Path>, most: usize| {
            let network = tiger(&small());
            let mut epochs = 0;
            let mut measure = || {
                epochs += 1;
                if epochs > most {
                    invalid!("killed");
                }
                Ok(None)
            };
            try_train(&network, &ring(60), (state, &Alone), &mut measure).map(|_| values(&network))
        };
        let whole = go(None, 9).unwrap();
        assert!(go(Some(dir.path()), 2).is_err());
        assert!(go(Some(dir.path()), 9).unwrap() == whole);
    }

    #[test]
    fn two_threads_give_what_one_gives() {
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let network = tiger(&small());
                try_train(&network, &ring(60), ALONE, &mut || Ok(None)).unwrap();
                values(&network)
            })
        };
        assert!(on(1) == on(2));
    }

    #[test]
    fn ranks_that_share_a_training_do_what_one_does_alone() {
        let config = TigerConfig { user_tokens: 5, ..small() };
        // The last batch has two targets, fewer than ranks.
        let sequences = ring(60);
        let targets: usize = sequences.iter().map(|items| items.len() - 1).sum();
        let config = TigerConfig { batch_size: targets - 2, ..config };
        let go = |size: usize, epochs: usize, state: Option<&Path>| {
            Threads::run(size, |ranks| {
                let network = tiger(&TigerConfig { epochs, ..config.clone() });
                let trained =
                    try_train(&network, &sequences, (state, ranks), &mut || Ok(None)).unwrap();
                let loss: Vec<f64> = trained.reports.iter().map(|report| report.loss).collect();
                (values(&network), loss)
            })
        };
        let alone = go(1, 3, None).remove(0);
        let assert_close = |(weights, losses): &(Vec<Vec<f32>>, Vec<f64>)| {
            let pairs = weights.iter().flatten().zip(alone.0.iter().flatten());
            let far = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far < 1e-4, "{far}");
            let losses = losses.iter().zip(&alone.1);
            assert!(losses.clone().all(|(a, b)| (a - b).abs() < 1e-5), "{losses:?}");
        };
        for size in [2, 3] {
            let found = go(size, 3, None);
            assert_close(&found[0]);
            assert!(found.iter().all(|of_rank| *of_rank == found[0]));
        }
        // What three ranks have begun, two go on with.
        let dir = tempfile::tempdir().unwrap();
        go(3, 1, Some(dir.path()));
        assert_close(&go(2, 3, Some(dir.path()))[0]);
    }

    #[test]
    fn the_best_epoch_is_kept() {
        let network = tiger(&small());
        let (figures, mut seen) = ([1.0, 3.0, 2.0], Vec::new());
        let mut measure = || {
            seen.push(values(&network));
            Ok(Some(figures[seen.len() - 1]))
        };
        let trained = try_train(&network, &ring(60), ALONE, &mut measure).unwrap();
        assert_eq!((trained.best_epoch, trained.measured()), (2, Some(3.0)));
        assert!(values(&network) == seen[1]);
    }

    #[test]
    fn unusable_input_is_explained() {
        let explain = |sequences: &[Vec<u32>]| {
            let network = tiger(&small());
            try_train(&network, sequences, ALONE, &mut || Ok(None)).unwrap_err().to_string()
        };
        let error = explain(&[vec![0], vec![]]);
        assert!(error.contains("at least 4 items"), "{error}");
        let error = explain(&[vec![0, 1], vec![1, ITEMS]]);
        assert!(error.contains("user 1") && error.contains("item 12"), "{error}");
    }
}
