//! A run: a folder in which every stage reads what the one before wrote.
//!
//! A stage writes its result beside its place and renames it into it, so a folder holds whole results
//! or none; `manifest.json` says which, from what, and with which settings.

mod artifacts;
mod digests;
mod eval;
mod export;
mod follow;
mod help;
mod lifecycle;
mod lock;
mod log;
mod manifest;
mod monitor;
mod needs;
mod samples;
mod serve;
mod stage;
mod stages;
mod tensorboard;
mod unfinished;
mod work;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use candle_core::Device;

use crate::config::RunConfig;
use crate::data::Dataset;
use crate::data::synth::Shop;
use crate::ranks::{self, Ranks};
use crate::{Error, Result, files, invalid};

pub use crate::decode::Sampling;
pub use crate::eval::{Bucket, Metrics, PerMetric, Readings, Report, SharedCodes, metric_names};
pub use crate::index::{Likeness, OnCollision, Similarity, Source, Spread};
pub use crate::inference::TokenOrder;
pub use crate::model::GgufType;
pub use eval::{
    Baseline, BaselineRequest, BaselineSettings, Comparison, EvalRequest, EvalResult, EvalSettings,
    FusedModel, FusionSettings, OverSeeds, Performance, Published, Ranker, Ranking, StoredRanking,
    Targets, TaskMetrics, TextDifference, TextModel, TextReport, TextRequest, TextSettings,
    TrainingSummary,
};
pub use export::ExportRequest;
pub use follow::Before;
pub use help::{help, let_go};
pub use lifecycle::StageReport;
use lock::{LOCK, Lock};
pub use manifest::{
    Follows, GIT_REVISION, Import, ImportedAdapter, Lowered, Manifest, Record, Status,
};
pub use monitor::{Monitor, Silent};
pub use needs::{free_memory_bytes, peak_memory_bytes};
pub use samples::TrainingSample;
pub use serve::{
    AddedItem, Catalogue, Explainer, Explanation, GenerateRequest, Generated, IndexReport,
    Inspection, NamedItem, Query, RecommendOptions, Recommendation, Service, ServiceOptions,
    SharedPrefix, SourceTree, Stop, TokenMeaning, TokenReport, Wanted, check_beam,
};
pub use stage::Stage;
pub use stages::index::{ImportRequest, IndexFormat, read_index};
pub use unfinished::config_of;

/// What makes a folder a run.
pub const MANIFEST: &str = "manifest.json";

/// The resolved configuration of a run.
pub const CONFIG: &str = "config.toml";

/// The run's own copy of its dataset: the files of the folder that it was made from.
const DATA: &str = "data";

/// A run folder with its configuration and data.
#[derive(Debug)]
pub struct Run {
    dir: PathBuf,
    config: RunConfig,
    dataset: Dataset,
    device: Device,
    manifest: Manifest,
    lock: Lock,
    ranks: &'static dyn Ranks,
}

impl Run {
    /// Opens the run folder `dir`, which need not exist yet, and reads the data.
    ///
    /// # Errors
    /// Names what is wrong with the configuration or the data, and a folder that holds the files of
    /// something else.
    pub fn open(dir: &Path, config: RunConfig, device: Device) -> Result<Self> {
        Self::open_with(dir, config, device, &|config| load_dataset(config))
    }

    /// [`Run::open`] to use what stands there, with the copy of the data that it was made from, whatever has become of
    /// the dataset since; where there is no copy, with the dataset.
    ///
    /// # Errors
    /// As those of [`Run::open`].
    pub fn open_to_use(dir: &Path, config: RunConfig, device: Device) -> Result<Self> {
        Self::open_with(dir, config, device, &|config| {
            let found = Manifest::of(dir)?;
            let record = found.as_ref().and_then(|manifest| manifest.stages.get(&Stage::Index));
            match record.filter(|record| stages::index::has_copy(dir, record)) {
                Some(record) => {
                    digests::check(dir, Stage::Index, record)?;
                    let dataset = Dataset::load_to_serve(&dir.join(DATA))?;
                    Ok(dataset.divided(config.data.split)?)
                }
                None => load_dataset(config),
            }
        })
    }

    fn open_with(
        dir: &Path,
        config: RunConfig,
        device: Device,
        load: &dyn Fn(&RunConfig) -> Result<Dataset>,
    ) -> Result<Self> {
        config.check()?;
        refuse_folders_of_others(dir)?;
        let ranks = ranks::world();
        if ranks.is_first() {
            unfinished::settle(dir)?;
        }
        let dataset = load(&config)?;
        let manifest = Manifest::open(&dir.join(MANIFEST), &config, &dataset)?;
        Ok(Self {
            dir: dir.to_path_buf(),
            config,
            dataset,
            device,
            manifest,
            lock: Lock::default(),
            ranks,
        })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The configuration.
    pub fn config(&self) -> &RunConfig {
        &self.config
    }

    /// The data.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// What is known of the stages.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The folder that the data come from, which are those that stages were made from; none of the synthetic shop.
    fn data_folder(&self) -> Option<PathBuf> {
        let own = self.dir.join(DATA);
        let record = self.manifest.stages.get(&Stage::Index);
        let has_copy = record.is_some_and(|record| stages::index::has_copy(&self.dir, record));
        if has_copy { Some(own) } else { self.config.data.path.clone() }
    }

    fn machine(&self) -> String {
        let mut text = String::from(if self.device.is_cpu() { "cpu" } else { "cuda" });
        if !self.ranks.is_alone() {
            let _ = write!(text, ", {} ranks", self.ranks.size());
        }
        let _ = write!(text, ", {} threads", rayon::current_num_threads());
        text
    }
}

/// Stages replace whole folders, which must not be those of somebody else.
fn refuse_folders_of_others(dir: &Path) -> Result<()> {
    if !dir.exists() || dir.join(MANIFEST).exists() {
        return Ok(());
    }
    // The first thing ever written is the manifest, under a lock: nothing else may be there without it.
    let entries = std::fs::read_dir(dir).map_err(Error::io(dir))?;
    for entry in entries {
        let name = entry.map_err(Error::io(dir))?.file_name();
        let is_begun = name
            .to_str()
            .is_some_and(|name| name.starts_with(MANIFEST) && name.ends_with(files::TEMPORARY));
        if !is_begun && name != LOCK {
            invalid!(
                "{}: holds {}, but no {MANIFEST}: it is not a run of llmbs; name another folder \
                 with --run, one that is empty or does not exist yet",
                dir.display(),
                name.display()
            );
        }
    }
    Ok(())
}

/// The dataset a configuration names.
pub fn load_dataset(config: &RunConfig) -> Result<Dataset> {
    let dataset = match &config.data.path {
        Some(path) => Dataset::load(path)?,
        None => Shop::generate(&config.data.synthetic)?.dataset,
    };
    Ok(dataset.divided(config.data.split)?)
}
