//! What a shell and `man` know of the command line.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use super::args::Args;
use super::show::out;
use crate::{Error, files};

/// Prints the completions of `shell`.
pub(super) fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "llmbs", &mut text);
    out(&String::from_utf8(text)?)
}

/// Writes the manual pages into `folder`: llmbs.1, and one for each command.
pub(super) fn pages(folder: &Path) -> anyhow::Result<()> {
    files::make_dir(folder)?;
    clap_mangen::generate_to(Args::command(), folder).map_err(Error::io(folder))?;
    out(&format!("wrote {}\n", folder.join("llmbs.1").display()))
}
