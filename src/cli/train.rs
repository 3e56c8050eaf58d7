//! `llmbs train`, `llmbs import-adapter`, and whatever else runs a stage.

use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, ValueEnum};

use super::progress::Bars;
use super::show::{self, out};
use crate::run::{Before, Run, Stage};

#[derive(Debug, ClapArgs)]
pub(super) struct TrainArgs {
    /// Which stage [default with --continue: initial]
    #[arg(long, required_unless_present = "before")]
    stage: Option<StageChoice>,
    /// Continue the model trained last in another run, whose index this run extends, on what is new since; with
    /// --stage anneal the model stays as it was and only an adapter is trained (docs/following.md)
    #[arg(long = "continue", value_name = "RUN")]
    before: Option<PathBuf>,
    /// Redo it, and mark the later stages stale
    #[arg(long)]
    force: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct ImportAdapterArgs {
    /// A PEFT folder: its configuration and its weights in safetensors
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Replace an adapter that is there, or one in training
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

impl TrainArgs {
    /// The run that is gone on from.
    pub(super) fn before(&self) -> Option<&Path> {
        self.before.as_deref()
    }
}

pub(super) fn run(run: &mut Run, args: &TrainArgs, bars: &mut Bars) -> anyhow::Result<()> {
    if let Some(before) = &args.before {
        let as_it_is = args.stage == Some(StageChoice::Anneal);
        follow(run, Stage::Initial, before, as_it_is, args.force, bars)?;
    }
    match (args.stage, &args.before) {
        (Some(StageChoice::Anneal), _) => stage(run, Stage::Anneal, args.force, bars),
        (Some(StageChoice::Initial), None) => stage(run, Stage::Initial, args.force, bars),
        _ => Ok(()),
    }
}

/// Takes an adapter in place of training one.
pub(super) fn import_adapter(run: &mut Run, args: &ImportAdapterArgs) -> anyhow::Result<()> {
    let report = run.import_adapter(&args.folder, args.force)?;
    out(&show::stage(run, &report))
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

/// Makes a stage of what is in the run in the folder `before`, and says what it did.
pub(super) fn follow(
    run: &mut Run,
    stage: Stage,
    before: &Path,
    as_it_is: bool,
    force: bool,
    bars: &mut Bars,
) -> anyhow::Result<()> {
    let before = run.open_before(before)?;
    let report = run.follow(stage, Before { run: &before, as_it_is }, force, bars)?;
    out(&show::stage(run, &report))
}
