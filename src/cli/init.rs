//! `llmbs init`: writes a configuration that fits a dataset.

use std::path::{Path, PathBuf, absolute};

use anyhow::{Context, bail};
use clap::Args as ClapArgs;

use super::show::out;
use crate::config::{Fit, RunConfig, fitted};
use crate::data::{Dataset, Stats, attributes};
use crate::files;
use crate::run::free_memory_bytes;

#[derive(Debug, ClapArgs)]
pub(super) struct InitArgs {
    /// The dataset's folder
    dataset: PathBuf,
    /// The file; `llmbs` takes ./llmbs.toml without being told
    #[arg(long, value_name = "FILE", default_value = "llmbs.toml")]
    out: PathBuf,
    /// Replace the file
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &InitArgs) -> anyhow::Result<()> {
    let file = &args.out;
    if file.exists() && !args.force {
        bail!("{}: is there already; --force replaces it, --out names another", file.display());
    }
    if args.dataset.to_str().is_none() {
        bail!(
            "{}: a configuration is UTF-8, and this path is not; rename the folder",
            args.dataset.display()
        );
    }
    let dataset = Dataset::load(&args.dataset)?;
    if dataset.times.is_none() {
        dataset.check_trainable()?;
    }
    let (stats, has_attributes) = (Stats::of(&dataset), attributes(&dataset.items).is_some());
    let (path, memory) = (seen_from(&args.dataset, file)?, free_memory_bytes());
    let text = fitted(&Fit { stats: &stats, has_attributes, path: &path, memory });
    // What is written is what will be read.
    RunConfig::parse(&text, &file.display().to_string(), &[])?.check()?;
    files::write(file, text.as_bytes())?;
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    let with = if file.as_path() == Path::new("llmbs.toml") {
        String::new()
    } else {
        format!(" --config {}", files::shell(file))
    };
    out(&format!(
        "{}: {} users, {} items\nwrote {}; `llmbs{with} run` trains and evaluates in runs/{name}\n",
        stats.name,
        stats.users,
        stats.items,
        file.display(),
    ))
}

/// `dataset` as a configuration in `file` names it: from the file's folder, or absolute where it is elsewhere.
fn seen_from(dataset: &Path, file: &Path) -> anyhow::Result<PathBuf> {
    let absolute = |path: &Path| absolute(path).with_context(|| path.display().to_string());
    let (dataset, file) = (absolute(dataset)?, absolute(file)?);
    let inside = file.parent().and_then(|folder| dataset.strip_prefix(folder).ok());
    Ok(match inside {
        Some(inside) if inside.as_os_str().is_empty() => PathBuf::from("."),
        Some(inside) => inside.to_path_buf(),
        None => dataset,
    })
}
