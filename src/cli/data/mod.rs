//! `llmbs data`: figures of a dataset, imports and exports, and the synthetic shop as files.

mod export;
mod import;

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::progress::Bars;
use super::show::{self, out};
use crate::config::RunConfig;
use crate::data::synth::Shop;
use crate::data::{self, Stats};
use crate::run::load_dataset;

#[derive(Debug, Subcommand)]
pub(super) enum DataCommand {
    /// Print statistics of the dataset
    Stats {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    Import(Box<import::ImportArgs>),
    Export(export::ExportArgs),
    /// Write the synthetic shop as a dataset folder
    Synth {
        /// The folder
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

/// Runs an import; false if the command is another.
pub(super) fn imported(command: &DataCommand, quiet: bool) -> anyhow::Result<bool> {
    let DataCommand::Import(args) = command else { return Ok(false) };
    import::run(args, &mut Bars::new(quiet))?;
    Ok(true)
}

/// Runs the command on what `config` names.
pub(super) fn run(command: &DataCommand, config: &RunConfig) -> anyhow::Result<()> {
    match command {
        DataCommand::Stats { json } => {
            let stats = Stats::of(&load_dataset(config)?);
            if *json { show::json(&stats) } else { out(&stats.to_string()) }
        }
        // Has no use for a configuration: `import` runs without.
        DataCommand::Import(_) => Ok(()),
        DataCommand::Export(args) => export::run(args, config),
        DataCommand::Synth { out } => synthesize(config, out),
    }
}

fn synthesize(config: &RunConfig, out: &Path) -> anyhow::Result<()> {
    let mut shop = Shop::generate(&config.data.synthetic)?;
    if let Some(name) = out.file_name() {
        shop.dataset.name = name.to_string_lossy().into_owned();
    }
    data::write(out, &shop.dataset)?;
    let recall = shop.oracle_recall(10);
    show::out(&format!(
        "wrote {}\nRecall@10 of an oracle that knows the process: {recall:.4}\n",
        out.display()
    ))
}
