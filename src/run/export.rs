//! A trained model handed on: a run folder with what recommending takes, and nothing that points out of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use candle_core::DType;

use super::artifacts::{Trained, backbone, dtype, load_index};
use super::lock::Lock;
use super::manifest::{Import, Origin};
use super::serve::ADDED;
use super::stages::{FOLDER, index::BACKBONE};
use super::{CONFIG, DATA, GIT_REVISION, LOCK, Manifest, Ranker, Record, Run, Stage, Targets};
use crate::config::RunConfig;
use crate::data::{self, Dataset};
use crate::files::{self, Place};
use crate::index::{ItemIndex, OnCollision};
use crate::inference::TokenOrder;
use crate::model::{GgufType, LlamaConfig, Weights, adapter, save_folder, save_gguf};
use crate::{Result, invalid};

/// The model as one file, for llama.cpp.
const GGUF: &str = "model.gguf";

/// What the folder says of itself.
const CARD: &str = "README.md";

/// What an exported folder holds at its top.
const PARTS: [&str; 11] = [
    CARD,
    GGUF,
    CONFIG,
    super::MANIFEST,
    DATA,
    "index",
    BACKBONE,
    "initial",
    "anneal",
    ADDED,
    super::digests::CACHE,
];

/// What to hand on, and how.
#[derive(Debug, Clone)]
pub struct ExportRequest {
    /// The folder to write.
    pub out: PathBuf,
    /// Add the annealing adapter to the model's weights.
    pub merged: bool,
    /// What the model's weights are rounded to.
    pub dtype: Option<DType>,
    /// The order of the item tokens in the vocabulary of the model.
    pub token_order: TokenOrder,
    /// Write the model as a GGUF file, too, its matrices rounded to this.
    pub gguf: Option<GgufType>,
    /// The users and all that they took, too.
    pub users: bool,
    /// Replace what was exported to the folder before.
    pub force: bool,
}

/// Whether an export stands in `dir`: a run that was trained has no card.
fn is_export(dir: &Path) -> bool {
    [super::MANIFEST, CARD].iter().all(|name| dir.join(name).exists())
}

impl Run {
    /// Writes the trained model with all that [`Run::service`] and [`Run::add`] take as a run folder of its own; gives
    /// its files.
    ///
    /// # Errors
    /// Names the stage that has to run first, or a folder that holds something else.
    pub fn export(&self, request: &ExportRequest) -> Result<Vec<PathBuf>> {
        self.require_model(self.has_adapter())?;
        if request.merged && !self.has_adapter() {
            invalid!(
                "{}: there is no annealing adapter to merge: run `llmbs {}` first, or leave --merged out",
                self.dir.display(),
                Stage::Anneal.command()
            );
        }
        let place = Place::claim(&request.out, request.force, |out| {
            let is_export = is_export(out);
            move |name: &str| is_export && (PARTS.contains(&name) || name == LOCK)
        })?;
        let added_to = Lock::default();
        if is_export(&request.out) {
            // Until it is replaced nobody adds items to what is there.
            added_to.take(&request.out)?;
        }
        self.check_added_to(&request.out)?;
        place.build(|new| self.export_to(new, request))
    }

    fn export_to(&self, new: &Path, request: &ExportRequest) -> Result<Vec<PathBuf>> {
        let mut config = self.config.clone();
        config.data.path = Some(DATA.into());
        // What the index was made from stays behind; the backbone comes along.
        config.backbone.path = None;
        config.index.semantic.embeddings = None;
        config.index.behavior.embeddings = None;

        let mut wrote = self.export_data(new, request.users)?;
        wrote.extend(self.export_index(new)?);
        wrote.extend(self.export_model(new, request)?);
        if !request.merged && self.has_adapter() {
            wrote.extend(self.export_files(Stage::Anneal, new, &|_| true)?);
        }
        files::write(&new.join(CONFIG), config.to_toml()?.as_bytes())?;
        let index = load_index(self)?;
        let card = self.card(&index, &config, request)?;
        files::write(&new.join(CARD), card.as_bytes())?;
        let manifest = self.manifest_of_export(&index, new, config, &wrote)?;
        manifest.write(new)?;
        let others = [CONFIG, super::MANIFEST, CARD, ADDED];
        wrote.extend(others.map(PathBuf::from).into_iter().filter(|name| new.join(name).exists()));
        // What another process made meanwhile may be among the copies.
        self.require_same_model(self.has_adapter())?;
        Ok(wrote)
    }

    fn export_data(&self, new: &Path, users: bool) -> Result<Vec<PathBuf>> {
        let to = new.join(DATA);
        let names = if !users {
            data::write_catalogue(&to, &self.dataset)?
        } else if let Some(from) = self.data_folder() {
            let names = Dataset::files(&from)?;
            names.iter().try_for_each(|name| files::copy(&from.join(name), &to.join(name)))?;
            names
        } else {
            data::write(&to, &self.dataset.name, &self.dataset)?;
            Dataset::files(&to)?
        };
        Ok(names.iter().map(|name| Path::new(DATA).join(name)).collect())
    }

    /// The index, what its items are likened by, and the backbone that embeds new ones.
    fn export_index(&self, new: &Path) -> Result<Vec<PathBuf>> {
        let own_space = self.config.index.semantic.embeddings.is_none();
        let is_kept = |name: &str| match name {
            "index/index.json" | "index/tree.safetensors" => true,
            // Imported z^s are no likeness to what the backbone makes of new items.
            "index/semantic.safetensors" => own_space,
            _ => false,
        };
        let mut wrote = self.export_files(Stage::Index, new, &is_kept)?;
        let added = self.dir.join(ADDED);
        if added.exists() {
            files::copy(&added, &new.join(ADDED))?;
        }
        if self.dataset.has_text() {
            let backbone = backbone(self)?;
            let dir = new.join(BACKBONE);
            save_folder(&dir, &backbone.config, &backbone.weights)?;
            backbone.tokenizer.save(&dir)?;
            wrote.extend(FOLDER.map(|name| Path::new(BACKBONE).join(name)));
        }
        Ok(wrote)
    }

    fn export_model(&self, new: &Path, request: &ExportRequest) -> Result<Vec<PathBuf>> {
        let as_it_is =
            !request.merged && request.dtype.is_none() && request.token_order == TokenOrder::Code;
        let mut wrote = Vec::new();
        if as_it_is {
            let is_kept = |name: &str| FOLDER.iter().any(|file| name == format!("initial/{file}"));
            wrote = self.export_files(Stage::Initial, new, &is_kept)?;
            if request.gguf.is_none() {
                return Ok(wrote);
            }
        }
        let trained = Trained::load(self)?;
        let mut weights = trained.weights;
        if request.merged {
            let adapters = adapter::load(&self.dir.join("anneal"), &trained.config, &self.device)?;
            weights = adapter::merge(&weights, &adapters)?;
        }
        let tokenizer =
            request.token_order.apply(trained.tokens.tokenizer, &mut weights, &trained.index)?;
        if let Some(kind) = request.gguf {
            let name = format!("llmbs {}", self.dataset.name);
            let path = new.join(GGUF);
            let others = save_gguf(&path, &name, &trained.config, &weights, &tokenizer, kind)?;
            if let Some(first) = others.first() {
                tracing::info!(
                    "{GGUF}: {} matrices, such as {first}, are in f16: their rows are no multiple of 32",
                    others.len()
                );
            }
            wrote.push(GGUF.into());
        }
        if as_it_is {
            return Ok(wrote);
        }
        let rounded = request.dtype.unwrap_or(dtype(self.config.backbone.dtype));
        let weights: Weights = weights
            .into_iter()
            .map(|(name, weight)| Ok((name, weight.to_dtype(rounded)?)))
            .collect::<Result<_>>()?;
        let dir = new.join("initial");
        save_folder(&dir, &trained.config, &weights)?;
        tokenizer.save(&dir)?;
        wrote.extend(FOLDER.map(|name| Path::new("initial").join(name)));
        Ok(wrote)
    }

    /// Copies files that `stage` wrote.
    fn export_files(
        &self,
        stage: Stage,
        new: &Path,
        is_kept: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<PathBuf>> {
        let outputs = self.manifest.stages.get(&stage).map(|record| &record.outputs);
        let names: Vec<&String> = outputs.into_iter().flat_map(|outputs| outputs.keys()).collect();
        let kept = names.into_iter().filter(|name| is_kept(name));
        let kept: Vec<PathBuf> =
            kept.map(PathBuf::from).filter(|name| self.dir.join(name).exists()).collect();
        kept.iter().try_for_each(|name| files::copy(&self.dir.join(name), &new.join(name)))?;
        Ok(kept)
    }

    /// What the folder `new` says of itself: the stages whose files it has, as if they had been made of its own data.
    fn manifest_of_export(
        &self,
        index: &ItemIndex,
        new: &Path,
        config: RunConfig,
        wrote: &[PathBuf],
    ) -> Result<Manifest> {
        let import = self.imported().cloned().unwrap_or_else(|| Import {
            file: "index/index.json of the run it was exported from".into(),
            sha256: String::new(),
            on_collision: OnCollision::Reject,
            sources: index.levels().iter().map(|level| level.source).collect(),
            items_sharing: 0,
        });
        let import = Import { sha256: files::digest(&new.join("index/index.json"))?, ..import };
        let dataset = Dataset::load_to_serve(&new.join(DATA))?.divided(config.data.split)?;
        let manifest = Manifest::begun(&config, &dataset);
        let mut exported = Self {
            dir: new.to_path_buf(),
            config,
            dataset,
            device: self.device.clone(),
            manifest,
            lock: Lock::default(),
            ranks: self.ranks,
        };
        for stage in Stage::ALL {
            let own = |path: &&PathBuf| match stage {
                Stage::Index => [DATA, "index", BACKBONE].iter().any(|dir| path.starts_with(dir)),
                _ => path.starts_with(stage.folder()),
            };
            let mut outputs = BTreeMap::new();
            for path in wrote.iter().filter(own) {
                outputs.insert(path.display().to_string(), files::digest(&new.join(path))?);
            }
            let Some(record) = self.manifest.stages.get(&stage).filter(|_| !outputs.is_empty())
            else {
                continue;
            };
            let imported = (stage == Stage::Index).then(|| import.clone());
            let origin = Origin { imported, ..record.origin.clone() };
            let inputs = exported.inputs(stage);
            let record = Record { origin, inputs, outputs, ..record.clone() };
            exported.manifest.stages.insert(stage, record);
            let settings = exported.settings(stage)?;
            if let Some(record) = exported.manifest.stages.get_mut(&stage) {
                record.settings = settings;
            }
        }
        exported.manifest.config_sha256 = Some(files::digest(&new.join(CONFIG))?);
        Ok(exported.manifest)
    }

    /// The card: what the folder holds, how to use it, and what was measured.
    fn card(
        &self,
        index: &ItemIndex,
        config: &RunConfig,
        request: &ExportRequest,
    ) -> Result<String> {
        let mut text = String::from(
            "---\nlibrary_name: llmbs\npipeline_tag: text-generation\ntags:\n- recommendation\n\
             - generative-retrieval\n---\n\n",
        );
        let name = &self.dataset.name;
        let shape = LlamaConfig::load(self.dir.join("initial/config.json"))?;
        let levels: Vec<String> =
            index.levels().iter().map(|l| format!("{} {}", l.num_codes, l.source)).collect();
        let _ = write!(
            text,
            "# A generative recommender for {name}\n\n\
             A Llama of {} layers and hidden size {} that writes the next item as {} item tokens, made by llmbs {} \
             ({GIT_REVISION}), seed {}.\n\n\
             - {} items; codes a level: {}\n\
             - {}\n\
             - {}\n\n",
            shape.num_hidden_layers,
            shape.hidden_size,
            index.num_levels(),
            env!("CARGO_PKG_VERSION"),
            config.seed,
            self.dataset.catalogue().count(),
            levels.join(", "),
            match (request.merged, self.has_adapter()) {
                (true, _) =>
                    "`initial/`: the model with the annealing adapter added to its weights",
                (_, true) => "`initial/`: the model; `anneal/`: the annealing adapter (PEFT)",
                _ => "`initial/`: the model; there is no annealing adapter",
            },
            if request.users {
                "`data/`: items, users and what they took"
            } else {
                "`data/`: items and how often each was taken; no users"
            },
        );
        if request.gguf.is_some() {
            let without =
                if self.has_adapter() && !request.merged { ", without the adapter" } else { "" };
            let _ = write!(text, "`{GGUF}` is the model{without}, for llama.cpp.\n\n");
        }
        text += "```sh\nllmbs recommend --run THIS_FOLDER --history ID,ID,ID\n\
                 llmbs index add NEW_ITEMS.json --run THIS_FOLDER\n```\n";
        let results = self.results()?;
        if !results.is_empty() {
            text += "\n## Measured\n\nOver all items, those of the history ranked too.\n\n\
                     | split | adapter | beam | users | Recall@10 | NDCG@10 |\n|---|---|---|---|---|---|\n";
            text += &results.concat();
        }
        Ok(text)
    }

    /// A row for each evaluation of all users by the models that stand, without the help of others.
    fn results(&self) -> Result<Vec<String>> {
        let mut rows = Vec::new();
        for stored in self.stored_rankings()?.into_iter().filter(|stored| stored.is_current) {
            let Ranker::Model { adapter, beam, fused, before: None } = stored.ranker else {
                continue;
            };
            let Targets { split, count, .. } = stored.targets;
            if fused.is_empty() && count == self.dataset.targets(split).len() {
                let figure = |name| stored.report.metrics.get(name).copied().unwrap_or_default();
                rows.push(format!(
                    "| {split} | {} | {beam} | {count} | {:.4} | {:.4} |\n",
                    if adapter { "on" } else { "off" },
                    figure("recall@10"),
                    figure("ndcg@10")
                ));
            }
        }
        Ok(rows)
    }
}
