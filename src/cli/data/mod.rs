//! `llmbs data`: figures of a dataset, imports and exports, and the synthetic shop as files.

mod export;
mod import;
mod samples;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Subcommand;

use super::progress::Bars;
use super::show::{self, out};
use crate::config::RunConfig;
use crate::data::synth::Shop;
use crate::data::{self, Stats};
use crate::files::Place;
use crate::run::{Run, load_dataset};

#[derive(Debug, Subcommand)]
pub(super) enum DataCommand {
    /// Print statistics of the dataset
    Stats {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Find every problem of a dataset folder at once; exit code 1 where there is any
    Validate {
        /// The folder
        dir: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    Import(Box<import::ImportArgs>),
    Export(export::ExportArgs),
    Samples(samples::SamplesArgs),
    /// Write the synthetic shop as a dataset folder
    Synth {
        /// The folder
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Replace the dataset in the folder
        #[arg(long)]
        force: bool,
    },
}

impl DataCommand {
    /// Whether the command goes by a configuration.
    pub(super) fn needs_configuration(&self) -> bool {
        match self {
            Self::Import(_) | Self::Validate { .. } => false,
            Self::Export(args) => args.needs_configuration(),
            Self::Stats { .. } | Self::Samples(_) | Self::Synth { .. } => true,
        }
    }

    /// Whether the command is about a run.
    pub(super) fn needs_run(&self) -> bool {
        matches!(self, Self::Samples(_))
    }
}

/// Runs a command that needs no configuration.
pub(super) fn without_configuration(command: &DataCommand, quiet: bool) -> anyhow::Result<()> {
    match command {
        DataCommand::Import(args) => import::run(args, &mut Bars::new(quiet)),
        DataCommand::Validate { dir, json } => validate(dir, *json),
        DataCommand::Export(args) => export::run(args, None),
        // They need one.
        DataCommand::Stats { .. } | DataCommand::Samples(_) | DataCommand::Synth { .. } => Ok(()),
    }
}

/// Runs the command on what `config` names.
pub(super) fn run(command: &DataCommand, config: &RunConfig) -> anyhow::Result<()> {
    match command {
        DataCommand::Stats { json } => {
            let stats = Stats::of(&load_dataset(config)?);
            if *json { show::json(&stats) } else { out(&format!("{stats}\n")) }
        }
        // They run without a configuration, or in a run.
        DataCommand::Import(_) | DataCommand::Validate { .. } | DataCommand::Samples(_) => Ok(()),
        DataCommand::Export(args) => export::run(args, Some(config)),
        DataCommand::Synth { out, force } => synthesize(config, out, *force),
    }
}

/// Runs the command on `run`, if it is about one.
pub(super) fn of_run(run: &Run, command: &DataCommand) -> anyhow::Result<()> {
    match command {
        DataCommand::Samples(args) => samples::run(run, args),
        _ => Ok(()),
    }
}

/// Problems of one kind that are listed; --json has them all.
const LISTED: usize = 20;

fn validate(dir: &Path, as_json: bool) -> anyhow::Result<()> {
    let problems = data::validate(dir)?;
    if as_json {
        show::json(&problems)?;
    } else {
        let mut text = String::new();
        for of_kind in problems.chunk_by(|a, b| (a.kind, &a.path) == (b.kind, &b.path)) {
            for problem in of_kind.iter().take(LISTED) {
                let _ = writeln!(text, "{problem}");
            }
            if of_kind.len() > LISTED {
                let more = of_kind.len() - LISTED;
                let _ = writeln!(text, "and {more} more: {}", of_kind[0].kind);
            }
        }
        out(&text)?;
    }
    match problems.len() {
        0 => {
            tracing::info!("{}: no problems", dir.display());
            Ok(())
        }
        1 => bail!("{}: 1 problem", dir.display()),
        n => bail!("{}: {n} problems", dir.display()),
    }
}

fn synthesize(config: &RunConfig, out: &Path, force: bool) -> anyhow::Result<()> {
    let place = Place::claim(out, force, data::is_dataset_file)?;
    let Some(name) = out.file_name().and_then(|name| name.to_str()) else {
        bail!("{}: give a folder a name of its own", out.display());
    };
    let shop = Shop::generate(&config.data.synthetic)?;
    place.build(|dir| Ok(data::write(dir, name, &shop.dataset)?))?;
    let recall = shop.oracle_recall(10);
    show::out(&format!(
        "wrote {}\nRecall@10 of an oracle that knows the process: {recall:.4}\n",
        out.display()
    ))
}
