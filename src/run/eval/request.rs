//! What is asked of the models of a run, and where the answer stands.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::kept::Kept;
use crate::data::Split;
use crate::run::work::Work;

/// What to evaluate.
#[derive(Debug, Clone, Copy)]
pub struct EvalRequest<'a> {
    /// The split.
    pub split: Split,
    /// Whether the annealing adapter is on.
    pub adapter: bool,
    /// Beam width.
    pub beam: usize,
    /// Only the first this many targets.
    pub limit: Option<usize>,
    /// Folders of other runs and of trained baselines that rank with the model; none for the model alone.
    pub fuse: &'a [PathBuf],
    /// In place of the run's own model that of the run in this folder, which it goes on from.
    pub before: Option<&'a Path>,
}

impl EvalRequest<'_> {
    /// The name of the result, without extension.
    pub(in crate::run) fn name(&self) -> String {
        let limit = self.limit.map_or(String::new(), |n| format!("-lim{n}"));
        let fused = if self.fuse.is_empty() { "" } else { "-fused" };
        let before = if self.before.is_some() { "-before" } else { "" };
        format!("{}-{}-b{}{limit}{fused}{before}", self.split, self.adapter_switch(), self.beam)
    }

    /// As what ranks share.
    pub(super) fn as_work(&self) -> Work {
        let Self { split, adapter, beam, limit, fuse, before } = *self;
        let (fuse, before) = (fuse.to_vec(), before.map(Path::to_path_buf));
        Work::Evaluate { split, adapter, beam, limit, fuse, before }
    }

    /// Where the result stands in the run folder `dir`.
    pub(super) fn kept(&self, dir: &Path) -> Kept {
        Kept::new(&dir.join("eval"), &self.name())
    }

    /// The words that ask for it, after `llmbs`.
    pub(in crate::run) fn command(&self) -> String {
        let (split, adapter, beam) = (self.split, self.adapter_switch(), self.beam);
        let mut command = format!("eval --split {split} --adapter {adapter} --beam {beam}");
        if let Some(limit) = self.limit {
            let _ = write!(command, " --limit {limit}");
        }
        for dir in self.fuse {
            let _ = write!(command, " --fuse {}", dir.display());
        }
        command
    }

    pub(super) fn adapter_switch(&self) -> &'static str {
        if self.adapter { "on" } else { "off" }
    }
}
