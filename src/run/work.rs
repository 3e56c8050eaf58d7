//! Work that ranks share: rank 0 calls the others to it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Run;
use crate::Result;
use crate::data::Split;

/// Work that ranks share.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Work {
    /// The embedding of the item texts.
    Embed,
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

impl Run {
    /// Calls the other ranks to `work`, which this one does next.
    pub(super) fn call(&self, work: Work) -> Result<()> {
        if self.ranks.is_alone() || !self.ranks.is_first() {
            return Ok(());
        }
        let call = Call { dir: self.dir.clone(), config: self.config.to_toml()?, work };
        self.ranks.broadcast_value(Some(call)).map(drop)
    }
}
