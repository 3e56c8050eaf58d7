//! What is asked of the models of a run, and where the answer stands.

use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};

use super::kept::Kept;
use crate::data::Split;
use crate::files;
use crate::run::work::Work;

/// Bytes of the names of what ranks together, from which on a digest stands for them.
const LONGEST_NAMES: usize = 150;

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
        let mut fused = String::new();
        for (at, dir) in self.fuse.iter().enumerate() {
            fused += if at == 0 { "-fused-" } else { "+" };
            fused += &name_of(dir);
        }
        // File systems end names at 255 bytes.
        if fused.len() > LONGEST_NAMES {
            fused = format!("-fused-{}", &files::digest_of(fused.as_bytes())[..16]);
        }
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

/// What a folder that is fused with is called: by its name, and `NAME/seed-N`, a baseline or a cell of an ablation, as
/// `NAME-N`.
fn name_of(dir: &Path) -> String {
    let place = dir.canonicalize();
    let mut names = place.as_deref().unwrap_or(dir).iter().rev().map(|name| name.to_string_lossy());
    let (name, kind) = (names.next(), names.next());
    match (name.as_deref().and_then(|name| name.strip_prefix("seed-")), kind) {
        (Some(seed), Some(kind)) => format!("{kind}-{seed}"),
        _ => name.unwrap_or_default().into_owned(),
    }
}

/// A folder as it is told of, however its name was spelt: `a/b` for `./a//b/`.
pub(super) fn told(dir: &Path) -> String {
    let parts = dir.components().filter(|part| *part != Component::CurDir);
    let plain: PathBuf = parts.collect();
    if plain == PathBuf::new() { ".".into() } else { plain.display().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fused_is_called_by_its_name_and_cells_by_their_variant() {
        for (dir, name) in [
            ("runs/one", "one"),
            ("runs/one/baseline/sasrec/seed-3", "sasrec-3"),
            ("ablate/plain/seed-1/", "plain-1"),
            ("seed-1", "seed-1"),
        ] {
            assert_eq!(name_of(Path::new(dir)), name, "{dir}");
        }
        for (dir, plain) in [("./a//b/", "a/b"), ("a/./b", "a/b"), ("../a", "../a"), (".", ".")] {
            assert_eq!(told(Path::new(dir)), plain, "{dir}");
        }
    }
}
