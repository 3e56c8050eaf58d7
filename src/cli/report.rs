//! `llmbs report`: runs and ablations on one page.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args as ClapArgs;

use crate::files;
use crate::report::page;

#[derive(Debug, ClapArgs)]
pub(super) struct ReportArgs {
    /// Run folders, the first of which the others are compared with, and folders of ablations
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The page to write; one that is there is replaced
    #[arg(long, value_name = "FILE")]
    html: PathBuf,
}

pub(super) fn run(asked: &ReportArgs) -> anyhow::Result<()> {
    check_place(&asked.html)?;
    let page = page(&asked.runs)?;
    files::write(&asked.html, page.as_bytes())?;
    tracing::info!("wrote {}", asked.html.display());
    Ok(())
}

/// Refuses a place where no page can be written, before anything is read.
fn check_place(path: &Path) -> anyhow::Result<()> {
    if path.is_dir() {
        bail!("{}: is a folder; give the name of a file", path.display());
    }
    if path.exists() {
        // It would be replaced, whatever its permissions say.
        let found = fs::metadata(path).with_context(|| path.display().to_string())?;
        if found.permissions().readonly() {
            bail!("{}: is write-protected; give another name", path.display());
        }
    }
    Ok(())
}
