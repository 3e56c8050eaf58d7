//! The model at work: one thread owns it, takes the requests that wait, and answers them together.

use std::iter;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::Builder;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::oneshot;

use super::answer::{Answer, Outcome, answer};
use super::fields::Fields;
use super::metrics::Metrics;
use super::request::{Form, Request};
use super::search::search;
use crate::data::Lookup;
use crate::run::{NamedItem, RecommendOptions, Run, Service, ServiceOptions};
use crate::{Error, Result};

/// The most requests that go through the model together: more would gain nothing and make the first wait.
const BATCH: usize = 64;

/// The most requests that wait.
pub(super) const QUEUE: usize = 256;

/// How a request is answered that does not say.
const DEFAULTS: RecommendOptions = RecommendOptions {
    top: 10,
    only: None,
    exclude: Vec::new(),
    exclude_history: false,
    explain: false,
};

/// Opens the run.
pub type Open = Arc<dyn Fn() -> Result<Run> + Send + Sync>;

/// A question to the model, and where its answer goes.
pub(super) struct Job {
    pub(super) task: Task,
    /// Until when somebody waits for the answer.
    pub(super) deadline: Instant,
}

pub(super) enum Task {
    Recommend { fields: Fields, form: Form, reply: oneshot::Sender<Result<Answer>> },
    Search { words: String, top: usize, reply: oneshot::Sender<Vec<NamedItem>> },
}

impl Task {
    fn is_given_up(&self) -> bool {
        match self {
            Self::Recommend { reply, .. } => reply.is_closed(),
            Self::Search { reply, .. } => reply.is_closed(),
        }
    }
}

/// What is known of the model at work.
#[derive(Debug, Serialize)]
pub(super) struct About {
    status: &'static str,
    version: &'static str,
    revision: &'static str,
    run: String,
    dataset: String,
    items: usize,
    users: usize,
    /// SHA-256 of the weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    model_sha256: Option<String>,
    /// Seconds since 1970.
    loaded_at: u64,
}

/// A thread that answers for as long as somebody holds this.
#[derive(Debug)]
pub(super) struct Worker {
    jobs: SyncSender<Job>,
    metrics: Arc<Metrics>,
    pub(super) about: About,
}

/// Too many requests wait.
pub(super) struct Full;

impl Worker {
    /// Opens the run on a thread of its own; the worker comes through the channel when it is ready.
    pub(super) fn start(
        open: Open,
        options: ServiceOptions,
        metrics: Arc<Metrics>,
    ) -> oneshot::Receiver<Result<Self>> {
        let (ready, worker) = oneshot::channel();
        // Not a thread of the pool: one that waits there does no work. If no thread can be had, `ready` is
        // gone, which tells as much.
        let _ = Builder::new().name("model".into()).spawn(move || {
            let mut ready = Some(ready);
            if let Err(e) = work(&*open, &options, &metrics, &mut ready)
                && let Some(ready) = ready.take()
            {
                let _ = ready.send(Err(e));
            }
        });
        worker
    }

    /// Hands it a job.
    pub(super) fn give(&self, job: Job) -> std::result::Result<(), Full> {
        // Before it is taken, lest the count fall under zero.
        self.metrics.waiting.fetch_add(1, Ordering::Relaxed);
        self.jobs.try_send(job).map_err(|e| {
            self.metrics.waiting.fetch_sub(1, Ordering::Relaxed);
            match e {
                TrySendError::Full(_) | TrySendError::Disconnected(_) => Full,
            }
        })
    }
}

/// Loads a model, says that it is `ready`, and answers until nobody can ask any more.
fn work(
    open: &(dyn Fn() -> Result<Run> + Sync),
    options: &ServiceOptions,
    metrics: &Arc<Metrics>,
    ready: &mut Option<oneshot::Sender<Result<Worker>>>,
) -> Result<()> {
    let run = open()?;
    let catalogue = run.catalogue()?;
    let lookup = Lookup::new(catalogue.dataset());
    let service = run.service(&catalogue, options)?;
    let (jobs, taken) = sync_channel(QUEUE);
    let about = About {
        status: "ok",
        version: env!("CARGO_PKG_VERSION"),
        revision: crate::run::GIT_REVISION,
        run: run.dir().display().to_string(),
        dataset: catalogue.dataset().name.clone(),
        items: catalogue.dataset().catalogue().count(),
        users: catalogue.dataset().users.len(),
        model_sha256: run.model_digest().map(String::from),
        loaded_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs()),
    };
    let worker = Worker { jobs, metrics: metrics.clone(), about };
    if let Some(ready) = ready.take() {
        let _ = ready.send(Ok(worker));
    }
    serve(&service, &lookup, &taken, metrics);
    Ok(())
}

fn serve(service: &Service, lookup: &Lookup, taken: &Receiver<Job>, metrics: &Metrics) {
    while let Ok(first) = taken.recv() {
        let jobs: Vec<Job> = iter::once(first).chain(taken.try_iter()).take(BATCH).collect();
        metrics.waiting.fetch_sub(jobs.len(), Ordering::Relaxed);
        let work = || rayon::scope(|_| answer_all(service, lookup, jobs, metrics));
        // Whoever waits for an answer is told that there is none; the next ones get theirs.
        if panic::catch_unwind(AssertUnwindSafe(work)).is_err() {
            tracing::error!("a batch of requests ended in a panic, which is a fault of llmbs");
        }
    }
}

fn answer_all(service: &Service, lookup: &Lookup, jobs: Vec<Job>, metrics: &Metrics) {
    let (mut requests, mut replies) = (Vec::new(), Vec::new());
    for Job { task, deadline } in jobs {
        // Searches before it may have taken their time.
        if task.is_given_up() || deadline < Instant::now() {
            metrics.dropped.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        match task {
            Task::Recommend { fields, form, reply } => {
                requests.push(Request::new(fields, Ok(form), lookup, &DEFAULTS));
                replies.push(reply);
            }
            Task::Search { words, top, reply } => {
                let _ = reply.send(search(service, lookup, &words, top));
            }
        }
    }
    if requests.is_empty() {
        return;
    }
    metrics.batch(requests.len());
    match answer(service, requests) {
        Ok(answers) => {
            for (answer, reply) in answers.into_iter().zip(replies) {
                if matches!(answer.outcome, Outcome::Items { fallback: Some(_), .. }) {
                    metrics.fallbacks.fetch_add(1, Ordering::Relaxed);
                }
                let _ = reply.send(Ok(answer));
            }
        }
        Err(e) => {
            tracing::error!("the model failed: {e}");
            for reply in replies {
                let _ = reply.send(Err(Error::Invalid(format!("the model failed: {e}"))));
            }
        }
    }
}

/// A worker whose jobs nobody takes, and the jobs.
#[cfg(test)]
pub(super) fn idle(metrics: Arc<Metrics>) -> (Worker, Receiver<Job>) {
    let (jobs, taken) = sync_channel(QUEUE);
    let about = About {
        status: "ok",
        version: "",
        revision: "",
        run: String::new(),
        dataset: String::new(),
        items: 0,
        users: 0,
        model_sha256: None,
        loaded_at: 0,
    };
    (Worker { jobs, metrics, about }, taken)
}
