//! `llmbs index`: the stage itself, a foreign index in its place, new items in it, and a look at it.

mod chart;
mod page;
mod text;

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::{Args as ClapArgs, Subcommand, ValueEnum};

use super::progress::Bars;
use super::show::{self, out};
use super::train;
use crate::files;
use crate::run::{ImportRequest, IndexFormat, OnCollision, Run, Source, Stage};

#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct IndexArgs {
    /// Redo it, and mark the later stages stale
    #[arg(long)]
    force: bool,
    /// Take the index of another run as it is and add the items that are new since (docs/following.md)
    #[arg(long, value_name = "RUN")]
    extend: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<IndexCommand>,
}

#[derive(Debug, Subcommand)]
enum IndexCommand {
    /// Place new items in the index as it is, so that they can be recommended without training anew
    Add(AddArgs),
    /// Write the index in the form of another program
    Export(ExportArgs),
    /// Take an index made elsewhere in place of building one
    Import(ImportArgs),
    /// Figures of the index, and what its tokens stand for
    Report(ReportArgs),
}

#[derive(Debug, ClapArgs)]
struct AddArgs {
    /// The items as in X.item.json: by the next free ids, or by the shop's own
    #[arg(value_name = "ITEMS.json")]
    items: PathBuf,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, ClapArgs)]
struct ExportArgs {
    /// Whose form
    #[arg(long)]
    format: FormatChoice,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
}

#[derive(Debug, ClapArgs)]
struct ImportArgs {
    /// The index: X.index.json of LC-Rec, info/X.txt of MiniOneRec, or a tensor of codes (.pt, .npy,
    /// .safetensors) as in GRID
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Whose form it has [default: as the file shows]
    #[arg(long)]
    format: Option<FormatChoice>,
    /// What becomes of items that share an index
    #[arg(long, default_value = "reject")]
    on_collision: CollisionChoice,
    /// Where the codes come from, for all levels or one a level: semantic, behavior or random
    #[arg(long, value_name = "SOURCE,…", value_delimiter = ',', default_value = "semantic")]
    sources: Vec<Source>,
    /// Replace an index that is there, and mark the later stages stale
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CollisionChoice {
    /// Refuse the file
    Reject,
    /// Add a level that tells them apart
    Extend,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatChoice {
    /// LC-Rec, LETTER: a JSON object, item → item tokens
    #[value(name = "lcrec")]
    LcRec,
    /// MiniOneRec: lines of item tokens, title and item, with tabs between them
    #[value(name = "minionerec")]
    MiniOneRec,
    /// GRID: a tensor of codes, (levels, items)
    Grid,
}

impl From<FormatChoice> for IndexFormat {
    fn from(choice: FormatChoice) -> Self {
        match choice {
            FormatChoice::LcRec => Self::LcRec,
            FormatChoice::MiniOneRec => Self::MiniOneRec,
            FormatChoice::Grid => Self::Grid,
        }
    }
}

#[derive(Debug, ClapArgs)]
struct ReportArgs {
    /// One token alone, by letter and code
    #[arg(long, value_name = "a_17", conflicts_with = "html")]
    token: Option<String>,
    /// As JSON: every figure and every token
    #[arg(long)]
    json: bool,
    /// Write a page with plots, the tree of codes and a search to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl IndexArgs {
    /// The run whose index is extended.
    pub(super) fn before(&self) -> Option<&Path> {
        self.extend.as_deref()
    }

    /// Whether the index is used and not made.
    pub(super) fn uses(&self) -> bool {
        matches!(
            self.command,
            Some(IndexCommand::Add(_) | IndexCommand::Export(_) | IndexCommand::Report(_))
        )
    }
}

pub(super) fn run(run: &mut Run, args: &IndexArgs, bars: &mut Bars) -> anyhow::Result<()> {
    match &args.command {
        None => match &args.extend {
            Some(before) => train::follow(run, Stage::Index, before, false, args.force, bars),
            None => train::stage(run, Stage::Index, args.force, bars),
        },
        Some(IndexCommand::Export(args)) => export(run, args),
        Some(IndexCommand::Import(args)) => import(run, args, bars),
        Some(IndexCommand::Add(args)) => add(run, args, bars),
        Some(IndexCommand::Report(args)) => report(run, args),
    }
}

fn export(run: &Run, args: &ExportArgs) -> anyhow::Result<()> {
    run.write_index(args.format.into(), &args.out, args.force)?;
    out(&format!("{}: the index of {} items\n", args.out.display(), run.dataset().num_items()))
}

fn import(run: &mut Run, args: &ImportArgs, bars: &mut Bars) -> anyhow::Result<()> {
    let request = ImportRequest {
        file: args.file.clone(),
        format: args.format.map(IndexFormat::from),
        on_collision: match args.on_collision {
            CollisionChoice::Reject => OnCollision::Reject,
            CollisionChoice::Extend => OnCollision::Extend,
        },
        sources: args.sources.clone(),
        force: args.force,
    };
    let report = run.import(&request, bars)?;
    out(&show::stage(run, &report))
}

fn add(run: &Run, args: &AddArgs, bars: &mut Bars) -> anyhow::Result<()> {
    let added = run.add(&args.items, bars)?;
    if args.json { show::json(&added) } else { out(&text::added(run, &added)) }
}

fn report(run: &Run, args: &ReportArgs) -> anyhow::Result<()> {
    let inspection = run.inspect()?;
    let report = &inspection.report;
    if let Some(name) = &args.token {
        let bare = name.trim_start_matches('<').trim_end_matches('>');
        let spelled = format!("<{bare}>");
        let Some(token) = report.tokens.iter().find(|t| t.meaning.token == spelled) else {
            bail!(
                "no item has the token {spelled}; `llmbs index report --json` lists all there are"
            );
        };
        return if args.json { show::json(token) } else { out(&text::token(token)) };
    }
    if let Some(path) = &args.html {
        files::write(path, page::render(&inspection)?.as_bytes())?;
        tracing::info!("wrote {}", path.display());
    }
    if args.json { show::json(report) } else { out(&text::report(report)) }
}
