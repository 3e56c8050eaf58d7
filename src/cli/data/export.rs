//! `llmbs data export`: what can be typed, and what is printed.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use crate::cli::show;
use crate::config::RunConfig;
use crate::data::Dataset;
use crate::export::{self, Exported, Target};
use crate::run::load_dataset;

/// Write the dataset in another program's format
///
/// `llmbs data import --all-items --keep-duplicates --raw-texts` reads each of them back as the same
/// dataset; S3-Rec has no texts, they stand in X.items.jsonl for --items. Users with fewer than three
/// interactions are left out.
#[derive(Debug, Args)]
pub(in crate::cli) struct ExportArgs {
    /// A dataset folder [default: data.path of the configuration]
    #[arg(value_name = "DATASET")]
    dataset: Option<PathBuf>,
    /// lcrec, recbole, s3rec or user-sequence
    #[arg(long)]
    format: Target,
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace what was exported to the folder before
    #[arg(long)]
    force: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

impl ExportArgs {
    /// Whether a configuration says which dataset it is.
    pub(super) fn needs_configuration(&self) -> bool {
        self.dataset.is_none()
    }
}

/// Exports the dataset that is named, or else that of `config`, and says what was written.
pub(in crate::cli) fn run(args: &ExportArgs, config: Option<&RunConfig>) -> anyhow::Result<()> {
    let dataset = match (&args.dataset, config) {
        (Some(dir), _) => Dataset::load(dir)?,
        (None, Some(config)) => load_dataset(config)?,
        (None, None) => bail!("name the folder of a dataset"),
    };
    let source = args.dataset.as_ref().or(config.and_then(|config| config.data.path.as_ref()));
    let place = |dir: &PathBuf| dir.canonicalize().ok();
    if source.is_some_and(|dir| place(dir).is_some() && place(dir) == place(&args.out)) {
        bail!("--out {}: is the dataset that is exported; name another folder", args.out.display());
    }
    let exported = export::export(&dataset, args.format, &args.out, args.force)?;
    if args.json {
        return show::json(&exported);
    }
    show::out(&text(&exported, args))
}

fn text(exported: &Exported, args: &ExportArgs) -> String {
    let Exported { users, short_users, items, interactions, changed_texts, .. } = exported;
    let mut text = String::new();
    let _ = writeln!(text, "{users} users, {items} items, {interactions} interactions");
    if *short_users > 0 {
        let _ = writeln!(text, "{short_users} users with fewer than 3 interactions were left out");
    }
    if *changed_texts > 0 {
        let _ = writeln!(
            text,
            "{changed_texts} texts changed: {} cannot hold tabs and line breaks, or what looks like a field",
            args.format
        );
    }
    for file in &exported.files {
        let _ = writeln!(text, "wrote {}", args.out.join(file).display());
    }
    text
}
