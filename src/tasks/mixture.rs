//! Which samples an epoch holds, and in which order.

use rand::seq::SliceRandom;
use rayon::prelude::*;

use super::config::{Layout, SrtSelection, TasksConfig};
use super::prompts::{Prompts, Sample};
use super::template::Direction;
use crate::data::{Dataset, ItemId, UserTexts};
use crate::{Result, rng};

/// What a model that is trained on has learnt from before.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// The first so many training items of each user.
    pub of_users: Vec<usize>,
    /// The first so many items.
    pub items: usize,
    /// Samples of all that an epoch repeats, as a share of those that hold something new.
    pub replay: f64,
}

impl Seen {
    /// Keeps what is new of the jobs of sequence recommendation, and behind it as many of all as are repeated.
    fn select(&self, jobs: &mut Vec<Job>, order: &mut rng::Rng) {
        let new: Vec<Job> = jobs.iter().filter_map(|job| self.new_of(job)).collect();
        jobs.shuffle(order);
        jobs.truncate((self.replay * new.len() as f64).round() as usize);
        jobs.splice(..0, new);
    }

    /// The job with the targets alone that are new, if there are any.
    fn new_of(&self, job: &Job) -> Option<Job> {
        match *job {
            _ if self.knows(job) => None,
            Job::Sequence { user, start, end, first_target } => {
                let new = self.of_users[user].saturating_sub(start);
                Some(Job::Sequence { user, start, end, first_target: first_target.max(new) })
            }
            job => Some(job),
        }
    }

    /// Keeps this share of the jobs, what is new before the rest: as many in every epoch, whatever it draws.
    fn keep(&self, jobs: &mut Vec<Job>, share: f64, order: &mut rng::Rng) {
        let kept = (share * jobs.len() as f64).round() as usize;
        jobs.shuffle(order);
        // Stable: either part stays in the order that was drawn.
        jobs.sort_by_key(|job| self.knows(job));
        jobs.truncate(kept);
    }

    fn knows(&self, job: &Job) -> bool {
        match *job {
            Job::Sequence { user, end, .. } => end <= self.of_users[user],
            // After all that they have taken: known where nothing came behind it.
            Job::OfUser { direction: Direction::HistoryToPreference, user, target } => {
                target <= self.of_users[user]
            }
            Job::Next { user, target, .. } | Job::OfUser { user, target, .. } => {
                target < self.of_users[user]
            }
            Job::Item { item, .. } => (item as usize) < self.items,
        }
    }
}

/// A sample to be built.
#[derive(Debug, Clone, Copy)]
enum Job {
    /// Items `start..end` of a user, a loss from `first_target` on.
    Sequence { user: usize, start: usize, end: usize, first_target: usize },
    /// A template for the item at `target` of a user's training items.
    Next { direction: Direction, user: usize, target: usize },
    /// A template for an item alone.
    Item { direction: Direction, item: ItemId },
    /// A template with a text about a user, for the item at `target` of their training items, or after all of them.
    OfUser { direction: Direction, user: usize, target: usize },
}

/// Items in a chunk of the `sequence` layout beyond the longest history: the last target.
const CHUNK_EXTRA: usize = 1;

/// The chunks of a user with `n` training items as (start, end, first target), relative to the user's
/// items: each target from `first` on exactly once, after at most `history` items.
fn chunks(n: usize, first: usize, history: usize) -> Vec<(usize, usize, usize)> {
    let (length, stride) = (history + CHUNK_EXTRA, (history / 2).max(1));
    let mut chunks = Vec::new();
    let mut next = first.max(1);
    let mut start = next.saturating_sub(history);
    while next < n {
        let end = (start + length).min(n);
        if next < end {
            chunks.push((start, end, next - start));
            next = end;
        }
        start += stride;
    }
    chunks
}

/// What the samples of all epochs are made of.
#[derive(Debug, Clone, Copy)]
pub struct Mixture<'a> {
    /// How many samples of each task, and how they are worded.
    pub tasks: &'a TasksConfig,
    /// The users and items.
    pub dataset: &'a Dataset,
    /// The templates, filled.
    pub prompts: &'a Prompts,
    /// Which SRT targets are trained.
    pub selection: SrtSelection,
    /// The most items before a target.
    pub history: usize,
    /// Whether `<con>` follows SRT targets.
    pub contrast: bool,
    /// Seed of all draws.
    pub seed: u64,
    /// What was learnt before, a part of which is left out.
    pub seen: Option<&'a Seen>,
}

impl<'a> Mixture<'a> {
    /// All targets, without `<con>`, of what nothing is learnt from before.
    pub fn new(
        tasks: &'a TasksConfig,
        dataset: &'a Dataset,
        prompts: &'a Prompts,
        history: usize,
        seed: u64,
    ) -> Self {
        let selection = SrtSelection::default();
        Self { tasks, dataset, prompts, selection, history, contrast: false, seed, seen: None }
    }

    /// The samples of `epoch` in training order; the same count every epoch.
    pub fn epoch(&self, epoch: u64) -> Result<Vec<Sample>> {
        let Self { dataset, prompts, history, seed, seen, .. } = *self;
        let mut order = rng::stream(seed, "epoch order", &[epoch]);
        let mut jobs = self.sequence_jobs();
        let all = jobs.len();
        if let Some(seen) = seen {
            seen.select(&mut jobs, &mut order);
        }
        let share = jobs.len() as f64 / all.max(1) as f64;
        if let Some(max) = self.selection.max_samples.filter(|&max| max < jobs.len()) {
            jobs.shuffle(&mut order);
            jobs.truncate(max);
        }
        let held_out = || self.tasks.items_held_out(dataset.num_items(), seed);
        let mut about_texts = Vec::new();
        if prompts.has_texts() {
            let held_out = held_out();
            about_texts.push(self.semantic_jobs(&held_out, &mut order));
            about_texts.push(self.preference_jobs(&held_out, &mut order));
        }
        if let Some(texts) = &dataset.user_texts {
            about_texts.push(self.user_jobs(texts, &held_out(), &mut order));
        }
        for mut more in about_texts {
            if let Some(seen) = seen {
                seen.keep(&mut more, share, &mut order);
            }
            jobs.extend(more);
        }
        jobs.shuffle(&mut order);
        let build = |(i, job): (usize, &Job)| {
            let mut stream = rng::stream(seed, "template", &[epoch, i as u64]);
            match *job {
                Job::Sequence { user, start, end, first_target } => {
                    let items = &dataset.train(user)[start..end];
                    Ok(Some(prompts.sequence(items, first_target, self.contrast)))
                }
                Job::Next { direction, user, target } => {
                    let items = dataset.train(user);
                    let before = &items[target.saturating_sub(history)..target];
                    let contrast = self.contrast && direction == Direction::Sequence;
                    prompts.sample(direction, before, items[target], contrast, &mut stream)
                }
                Job::Item { direction, item } => {
                    prompts.sample(direction, &[], item, false, &mut stream)
                }
                Job::OfUser { direction, user, target } => {
                    let items = dataset.train(user);
                    let before = &items[target.saturating_sub(history)..target];
                    let about = dataset.user_texts.as_ref().map(|texts| &texts[user]);
                    let texts = about.map_or(&[][..], |about| texts_for(direction, about));
                    let text = &texts[(rng::uniform(&mut stream) * texts.len() as f64) as usize];
                    // What is answered with a text is about no item.
                    let item = items.get(target).copied().unwrap_or(items[0]);
                    prompts.user_sample(direction, before, item, text, &mut stream)
                }
            }
        };
        // Every job has a template: what none fits was not drawn, and all epochs are equally long.
        jobs.par_iter().enumerate().filter_map(|job| build(job).transpose()).collect()
    }

    fn user_jobs(&self, texts: &[UserTexts], held_out: &[bool], order: &mut rng::Rng) -> Vec<Job> {
        let dataset = self.dataset;
        let mut jobs = Vec::new();
        for direction in
            [Direction::HistoryToPreference, Direction::PreferenceToIndex, Direction::QueryToIndex]
        {
            let targets_of = |user: usize| -> Vec<usize> {
                let items = dataset.train(user);
                if texts_for(direction, &texts[user]).is_empty() || items.is_empty() {
                    return Vec::new();
                }
                match direction {
                    Direction::HistoryToPreference => vec![items.len()],
                    Direction::PreferenceToIndex => (1..items.len()).collect(),
                    // A search that ended with what is held out is none to learn from.
                    _ => {
                        let wished = texts[user].wish.as_ref().map(|wish| wish.item);
                        let at = items.iter().position(|&item| Some(item) == wished);
                        at.filter(|&at| !held_out[items[at] as usize]).into_iter().collect()
                    }
                }
            };
            let drawn = self.draw_targets(targets_of, order);
            jobs.extend(drawn.map(|(user, target)| Job::OfUser { direction, user, target }));
        }
        jobs
    }

    fn sequence_jobs(&self) -> Vec<Job> {
        let Self { selection, history, .. } = *self;
        let mut jobs = Vec::new();
        for (user, items) in self.dataset.train_sequences().enumerate() {
            let n = items.len();
            let first = selection.targets_per_user.map_or(1, |last| n.saturating_sub(last).max(1));
            match self.tasks.layout {
                Layout::Sequence => {
                    jobs.extend(chunks(n, first, history).into_iter().map(
                        |(start, end, target)| Job::Sequence {
                            user,
                            start,
                            end,
                            first_target: target,
                        },
                    ));
                }
                Layout::Prefix => jobs.extend((first..n).map(|target| Job::Next {
                    direction: Direction::Sequence,
                    user,
                    target,
                })),
            }
        }
        jobs
    }

    fn semantic_jobs(&self, held_out: &[bool], order: &mut rng::Rng) -> Vec<Job> {
        let Self { dataset, prompts, .. } = *self;
        let mut jobs = Vec::new();
        for direction in [Direction::TextToIndex, Direction::IndexToText] {
            let with_text = (0..dataset.num_items() as ItemId)
                .filter(|&item| prompts.has_template(direction, item))
                .filter(|&item| !held_out[item as usize]);
            let picked = draw(&with_text.collect::<Vec<_>>(), self.tasks.semantic, order);
            jobs.extend(picked.into_iter().map(|item| Job::Item { direction, item }));
        }
        jobs
    }

    fn preference_jobs(&self, held_out: &[bool], order: &mut rng::Rng) -> Vec<Job> {
        let Self { dataset, prompts, history, .. } = *self;
        let mut jobs = Vec::new();
        for direction in [Direction::HistoryToText, Direction::TitlesToIndex] {
            let targets_of = |user: usize| -> Vec<usize> {
                let items = dataset.train(user);
                let asked = |&at: &usize| {
                    let before = &items[at.saturating_sub(history)..at];
                    prompts.has_template(direction, items[at])
                        && match direction {
                            Direction::TitlesToIndex => prompts.has_titles(before),
                            _ => !held_out[items[at] as usize],
                        }
                };
                (1..items.len()).filter(asked).collect()
            };
            let drawn = self.draw_targets(targets_of, order);
            jobs.extend(drawn.map(|(user, target)| Job::Next { direction, user, target }));
        }
        jobs
    }

    /// For each of as many users as preference reconstruction asks for, one of the targets they have.
    fn draw_targets(
        &self,
        targets_of: impl Fn(usize) -> Vec<usize>,
        order: &mut rng::Rng,
    ) -> impl Iterator<Item = (usize, usize)> {
        let users: Vec<usize> =
            (0..self.dataset.users.len()).filter(|&user| !targets_of(user).is_empty()).collect();
        draw(&users, self.tasks.preference, order).into_iter().map(move |user| {
            let targets = targets_of(user);
            (user, targets[(rng::uniform(order) * targets.len() as f64) as usize])
        })
    }
}

/// What is said about a user that a direction asks or answers with.
fn texts_for(direction: Direction, texts: &UserTexts) -> &[String] {
    match (direction, &texts.wish) {
        (Direction::QueryToIndex, Some(wish)) => &wish.queries,
        (Direction::QueryToIndex, None) => &[],
        _ => &texts.preferences,
    }
}

/// `rate` draws an element on average: all of them floor(rate) times, and a random part once more.
fn draw<T: Copy>(from: &[T], rate: f64, order: &mut rng::Rng) -> Vec<T> {
    let mut picked = Vec::new();
    for _ in 0..rate as usize {
        picked.extend_from_slice(from);
    }
    let part = (rate.fract() * from.len() as f64).round() as usize;
    picked.extend(from.choose_multiple(order, part));
    picked
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn chunks_target_every_item_once_after_10_to_20_items() {
        for n in 0..90 {
            let mut targets = Vec::new();
            for (start, end, first) in chunks(n, 1, 20) {
                assert!(end - start <= 21 && end <= n);
                targets.extend((start + first..end).inspect(|t| {
                    assert!(*t < 21 || t - start > 10, "target {t} in chunk from {start}");
                }));
            }
            assert_eq!(targets, (1..n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn all_that_is_new_is_trained_and_as_much_of_the_rest_as_is_repeated() {
        let next = |user, target| Job::Next { direction: Direction::Sequence, user, target };
        // User 0 took nothing since, 1 two items, and 2 is new.
        let seen = Seen { of_users: vec![40, 4, 0], items: 7, replay: 0.5 };
        let jobs: Vec<Job> = [(0, 40), (1, 6), (2, 3)]
            .iter()
            .flat_map(|&(user, items)| (1..items).map(move |target| next(user, target)))
            .collect();
        let of = |jobs: &[Job], epoch| {
            let (mut jobs, mut order) = (jobs.to_vec(), rng::stream(1, "order", &[epoch]));
            seen.select(&mut jobs, &mut order);
            jobs.into_iter().map(|job| format!("{job:?}")).collect::<Vec<_>>()
        };
        let new = [next(1, 4), next(1, 5), next(2, 1), next(2, 2)].map(|job| format!("{job:?}"));
        let epochs = [0, 1].map(|epoch| of(&jobs, epoch));
        assert!(epochs.iter().all(|jobs| jobs.len() == 6 && jobs.starts_with(&new)));
        assert_ne!(epochs[0], epochs[1], "what is repeated is drawn anew");
        // All are drawn from: over the epochs what was known comes again, and so does what is new.
        let again: BTreeSet<String> =
            (0..500).flat_map(|epoch| of(&jobs, epoch).split_off(4)).collect();
        assert_eq!(again.len(), jobs.len());
        // A row is new where its end is; an item, where it came since.
        let row = |user, end| Job::Sequence { user, start: 0, end, first_target: 1 };
        let item = |item| Job::Item { direction: Direction::TextToIndex, item };
        let knows =
            [row(0, 21), row(1, 4), row(1, 6), item(6), item(7)].map(|job| seen.knows(&job));
        assert_eq!(knows, [true, true, false, true, false]);
        // Of a row the targets count that are new, whichever part of a user's items it has.
        let part = |start, end, first_target| Job::Sequence { user: 1, start, end, first_target };
        let new = |job| seen.new_of(&job).map(|job| format!("{job:?}"));
        let expected = |job| Some(format!("{job:?}"));
        assert_eq!(new(part(0, 4, 1)), None);
        assert_eq!(new(part(0, 6, 1)), expected(part(0, 6, 4)));
        assert_eq!(new(part(2, 6, 1)), expected(part(2, 6, 2)));
        assert_eq!(new(part(2, 6, 3)), expected(part(2, 6, 3)));
        assert_eq!(new(part(5, 9, 1)), expected(part(5, 9, 1)));
        let mut texts = (0..9).map(item).collect::<Vec<_>>();
        seen.keep(&mut texts, 0.4, &mut rng::stream(1, "order", &[0]));
        assert_eq!(
            texts.iter().map(|job| seen.knows(job)).collect::<Vec<_>>(),
            [false, false, true, true]
        );
    }

    #[test]
    fn the_last_targets_alone_can_be_chosen() {
        let targets: Vec<_> = chunks(40, 38, 20).iter().flat_map(|(s, e, f)| s + f..*e).collect();
        assert_eq!(targets, [38, 39]);
        // The first of them after as many items as there may be.
        assert_eq!(chunks(32, 31, 20), [(11, 32, 20)]);
        assert_eq!(chunks(32, 3, 20)[0], (0, 21, 3));
    }
}
