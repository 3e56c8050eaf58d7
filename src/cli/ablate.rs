//! `llmbs ablate`: variants of the configuration, trained with several seeds and compared.

use std::path::{Path, PathBuf};

use candle_core::Device;
use clap::Args as ClapArgs;

use super::progress::Bars;
use super::show::{self, out};
use crate::ablate::{Spec, ablate};
use crate::config::RunConfig;

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "--run is the folder above the run folders of all variants [default: runs/ablate/SPEC]"
)]
pub(super) struct AblateArgs {
    /// What to vary (docs/ablations.md)
    pub(super) spec: PathBuf,
    /// As JSON, every metric
    #[arg(long, group = "form")]
    json: bool,
    /// As CSV, every metric
    #[arg(long, group = "form")]
    csv: bool,
    /// As a table for LaTeX, with booktabs
    #[arg(long, group = "form")]
    latex: bool,
}

/// Run folders lie below `dir`, or below runs/ablate/, under the specification's name.
pub(super) fn run(
    asked: &AblateArgs,
    dir: Option<&Path>,
    configure: &dyn Fn(&[String]) -> crate::Result<RunConfig>,
    device: &Device,
    bars: &mut Bars,
) -> anyhow::Result<()> {
    let spec = Spec::load(&asked.spec)?;
    let name = asked.spec.file_stem().unwrap_or_default();
    let dir = dir.map_or_else(|| PathBuf::from("runs/ablate").join(name), Path::to_path_buf);
    let table = ablate(&spec, &dir, configure, device, bars)?;
    match asked {
        AblateArgs { json: true, .. } => show::json(&table),
        AblateArgs { csv: true, .. } => out(&table.csv()),
        AblateArgs { latex: true, .. } => out(&table.latex()),
        _ => out(&table.text()),
    }
}
