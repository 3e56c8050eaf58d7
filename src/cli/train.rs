//! `llmbs train`, and whatever else runs a stage.

use clap::{Args as ClapArgs, ValueEnum};

use super::progress::Bars;
use super::show::{self, out};
use crate::run::{Run, Stage};

#[derive(Debug, ClapArgs)]
pub(super) struct TrainArgs {
    /// Which stage
    #[arg(long)]
    stage: StageChoice,
    /// Redo it, and mark the later stages stale
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StageChoice {
    /// All tasks, with the contrastive loss
    Initial,
    /// The annealing adapter
    Anneal,
}

pub(super) fn run(run: &mut Run, args: &TrainArgs, bars: &mut Bars) -> anyhow::Result<()> {
    let which = match args.stage {
        StageChoice::Initial => Stage::Initial,
        StageChoice::Anneal => Stage::Anneal,
    };
    stage(run, which, args.force, bars)
}

/// Runs a stage and says what it did.
pub(super) fn stage(
    run: &mut Run,
    stage: Stage,
    force: bool,
    bars: &mut Bars,
) -> anyhow::Result<()> {
    let report = run.stage(stage, force, bars)?;
    out(&show::stage(run, &report))
}
