//! Work that ranks share: rank 0 calls the others to it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Run;
use crate::data::Split;
use crate::ranks::Ranks;
use crate::{Error, Result};

/// Work that ranks share.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Work {
    /// The warm-up of a backbone from scratch, whose state is kept in this folder.
    WarmUp { state: PathBuf },
    /// The embedding of the item texts.
    Embed,
    /// The training of the encoder behind z^b, whose state is kept in this folder.
    Behavior { state: PathBuf },
    /// The training of a baseline, whose state is kept in this folder.
    Baseline { name: String, seed: u64, state: PathBuf },
    /// The training of stage initial, from the model of the run in this folder where there is one.
    Initial { before: Option<PathBuf> },
    /// The training of stage anneal.
    Anneal,
    /// An evaluation: what [`super::EvalRequest`] asks for.
    Evaluate {
        split: Split,
        adapter: bool,
        beam: usize,
        limit: Option<usize>,
        fuse: Vec<PathBuf>,
        before: Option<PathBuf>,
    },
}

/// Work for a run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Call {
    /// The folder of the run.
    pub(super) dir: PathBuf,
    /// Its configuration, as TOML.
    pub(super) config: String,
    /// What to do.
    pub(super) work: Work,
}

/// Waits until all ranks have done their share, since the next thing rank 0 does may move or remove what they still
/// read. A rank that failed waits for nobody: it ends all.
pub(super) fn wait_for_all<T>(ranks: &dyn Ranks, outcome: &Result<T>) {
    if matches!(outcome, Ok(_) | Err(Error::Interrupted { .. })) {
        ranks.any(false);
    }
}

impl Run {
    /// Does this rank's share of `work` by `own`: rank 0 calls the others to it before, and waits for them after.
    pub(super) fn together<T>(&self, work: Work, own: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.ranks.is_alone() || !self.ranks.is_first() {
            return own();
        }
        let call = Call { dir: self.dir.clone(), config: self.config.to_toml()?, work };
        self.ranks.broadcast_value(Some(call))?;
        let outcome = own();
        wait_for_all(self.ranks, &outcome);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::ranks::Threads;

    #[test]
    fn the_first_to_be_through_waits_for_the_others_unless_it_failed() {
        for interrupted in [false, true] {
            let stop =
                || Error::Interrupted { done: "step 1".into(), command: "the same", saved: true };
            let outcome = || if interrupted { Err(stop()) } else { Ok(()) };
            let through = AtomicUsize::new(0);
            Threads::run(3, |ranks| {
                through.fetch_add(1, Ordering::SeqCst);
                wait_for_all(ranks, &outcome());
                assert_eq!(through.load(Ordering::SeqCst), 3);
            });
        }
        Threads::run(2, |ranks| {
            if ranks.is_first() {
                wait_for_all(ranks, &Err::<(), _>(Error::Invalid("no file".into())));
            }
        });
    }
}
