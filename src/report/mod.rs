//! `llmbs report`: runs and ablations on one page that needs nothing but itself. What a run lacks is said where it
//! would stand, with the command that makes it.

mod ablation;
mod curves;
mod duel;
mod examples;
pub(crate) mod html;
mod index;
mod metrics;
mod plot;
mod texts;
mod wins;

use std::path::{Path, PathBuf};

use candle_core::Device;

use crate::ablate::Table;
use crate::config::RunConfig;
use crate::run::{GIT_REVISION, MANIFEST, Ranker, Run, Stage, Status, StoredRanking, config_of};
use crate::{Result, invalid};
use duel::Duel;
use html::{escape, fill};

/// A run that is reported on.
struct Reported {
    /// What tells it from the others on the page.
    name: String,
    /// The folder as it was named.
    folder: String,
    run: Run,
    /// The rankings it keeps of the models that stand.
    rankings: Vec<StoredRanking>,
    /// The results it keeps of models that were replaced since.
    stale: Vec<StoredRanking>,
}

/// An ablation that is reported on.
struct Ablation {
    name: String,
    table: Table,
}

/// The page on these folders, each a run or an ablation.
///
/// # Errors
/// Names a folder that is neither, and a file in it that is cut off, altered or of another version.
pub fn page(folders: &[PathBuf]) -> Result<String> {
    let (mut runs, mut ablations) = (Vec::new(), Vec::new());
    for (i, folder) in folders.iter().enumerate() {
        if folders[..i].contains(folder) {
            invalid!("{}: is named twice", folder.display());
        }
        let name = name_of(folder, folders);
        if folder.join(MANIFEST).exists() {
            runs.push(open(name, folder)?);
        } else if let Some(table) = Table::kept(folder)? {
            ablations.push(Ablation { name, table });
        } else {
            invalid!(
                "{}: is neither a run of llmbs, which has a {MANIFEST}, nor the folder of an ablation that was \
                 carried through, which has a table.json (`llmbs ablate` writes it, and trains nothing again)",
                folder.display()
            );
        }
    }
    let duels: Vec<_> = runs.iter().map(|run| Duel::of(run, &runs)).collect::<Result<_>>()?;
    let mut sections = Vec::new();
    if !runs.is_empty() {
        sections.extend([
            ("runs", "Runs", overview(&runs)),
            ("metrics", "Metrics", metrics::section(&runs)?),
            ("wins", "Where the model wins and loses", wins::section(&runs, &duels)?),
        ]);
    }
    if !ablations.is_empty() {
        sections.push(("ablation", "Ablation", ablation::section(&ablations)?));
    }
    if let [first, ..] = &runs[..] {
        sections.extend([
            ("training", "Training", curves::section(&runs)?),
            ("texts", "Texts", texts::section(&runs)?),
            ("index", "Item index", index::section(&runs)?),
            ("examples", "Example users", examples::section(first, &duels[0], runs.len() > 1)?),
        ]);
    }
    let names: Vec<&str> = runs
        .iter()
        .map(|run| run.name.as_str())
        .chain(ablations.iter().map(|ablation| ablation.name.as_str()))
        .collect();
    let link = |(id, title, _): &(&str, &str, String)| format!("<a href=\"#{id}\">{title}</a>");
    let section = |(id, title, body): &(&str, &str, String)| {
        format!("<section id=\"{id}\"><h2>{title}</h2>{body}</section>\n")
    };
    let version = env!("CARGO_PKG_VERSION");
    Ok(fill(
        include_str!("page.html"),
        &[
            ("title", escape(&format!("Report on {}", names.join(", ")))),
            ("style", include_str!("page.css").trim_end().to_string()),
            ("summary", format!("Written by llmbs {version} ({}).", escape(GIT_REVISION))),
            ("links", sections.iter().map(link).collect()),
            ("sections", sections.iter().map(section).collect()),
        ],
    ))
}

/// The folder's own name, or all of its path where another folder is called alike.
fn name_of(folder: &Path, folders: &[PathBuf]) -> String {
    let alike = folders.iter().filter(|other| other.file_name() == folder.file_name());
    match folder.file_name() {
        Some(name) if alike.count() == 1 => name.to_string_lossy().into_owned(),
        _ => folder.display().to_string(),
    }
}

fn open(name: String, folder: &Path) -> Result<Reported> {
    let config = match config_of(folder)? {
        Some(path) => RunConfig::load(&path, &[])?,
        None => invalid!(
            "{}: has no config.toml yet, since no stage of it is through: `llmbs --run {} index` is the first",
            folder.display(),
            folder.display()
        ),
    };
    // Nothing is computed that a device would be good for.
    let run = Run::open_to_use(folder, config, Device::Cpu)?;
    let (rankings, stale): (Vec<_>, Vec<_>) =
        run.stored_rankings()?.into_iter().partition(|stored| stored.is_current);
    Ok(Reported { name, folder: folder.display().to_string(), run, rankings, stale })
}

impl Reported {
    /// The ranking that stands for the run: the first of its models.
    fn main(&self) -> Option<&StoredRanking> {
        let own =
            |stored: &&StoredRanking| matches!(stored.ranker, Ranker::Model { before: None, .. });
        self.rankings.iter().find(own)
    }
}

/// What ranked, in words.
fn ranker_name(stored: &StoredRanking) -> String {
    match &stored.ranker {
        Ranker::Baseline(baseline) => baseline.name().into(),
        Ranker::Model { adapter, beam, fused, before } => {
            let mut name = format!("adapter {}, beam {beam}", if *adapter { "on" } else { "off" });
            if let Some(before) = before {
                name = format!("the model of {before}, beam {beam}");
            }
            if !fused.is_empty() {
                name = format!("{name}, with {}", fused.join(", "));
            }
            name
        }
    }
}

/// A setting's value as it is spelt.
fn word(value: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().map_or_else(|| value.to_string(), String::from)
}

/// A line a run: its data, its seed, and what its stages came to.
fn overview(runs: &[Reported]) -> String {
    let headings =
        ["|run", "|dataset", "users", "items", "seed", "|index", "|initial", "|anneal", "|made by"];
    let mut table = html::Table::new(&headings);
    for reported in runs {
        let (run, manifest) = (&reported.run, reported.run.manifest());
        let dataset = run.dataset();
        let stage = |stage: Stage| match manifest.stages.get(&stage) {
            Some(record) if record.status == Status::Done => format!("{:.0} s", record.seconds),
            Some(_) => "stale: what it was made from was redone since".into(),
            None if manifest.unfinished.contains_key(&stage) => "not through".into(),
            None => "–".into(),
        };
        let by = manifest.stages.values().next().map_or("–", |record| record.program.as_str());
        let (name, folder) = (escape(&reported.name), escape(&reported.folder));
        let name = if name == folder { name } else { format!("{name}<small>{folder}</small>") };
        table.row_of(
            "",
            2,
            &[
                name,
                escape(&dataset.name),
                dataset.users.len().to_string(),
                dataset.num_items().to_string(),
                run.config().seed.to_string(),
                stage(Stage::Index),
                stage(Stage::Initial),
                stage(Stage::Anneal),
                escape(by),
            ],
        );
    }
    table.html() + &html::remark("Seconds are those of the process that finished a stage.")
}
