//! An item index made elsewhere becomes the result of stage `index`.

use std::path::PathBuf;
use std::time::Instant;

use super::forms::{IndexFormat, read_index};
use crate::index::{OnCollision, Source, store};
use crate::inference::ItemTokens;
use crate::run::digests;
use crate::run::manifest::{self, Import, Origin};
use crate::run::stages::Made;
use crate::run::{Monitor, Run, Stage, StageReport};
use crate::{Result, files, invalid};

/// What to import, and how.
#[derive(Debug, Clone)]
pub struct ImportRequest {
    /// The index.
    pub file: PathBuf,
    /// Its form; by default the one that the file shows.
    pub format: Option<IndexFormat>,
    /// What becomes of items that share an index.
    pub on_collision: OnCollision,
    /// The source of each level of the file, or one for all.
    pub sources: Vec<Source>,
    /// Whether an index that is there gives way, and later stages become stale.
    pub force: bool,
}

impl Run {
    /// Makes the index in a file that of the run, as if stage `index` had made it.
    ///
    /// # Errors
    /// If the file is no index of this dataset, if items share an index and are refused, or if there is
    /// another index already. Nothing is changed then.
    pub fn import(
        &mut self,
        request: &ImportRequest,
        monitor: &mut dyn Monitor,
    ) -> Result<StageReport> {
        let foreign = read_index(&request.file, request.format, &self.dataset)?;
        let sharing = foreign.describe_sharing();
        let items_sharing = foreign.sharing().iter().map(Vec::len).sum();
        let groups_sharing = foreign.sharing().len();
        let index = foreign.into_index(&request.sources, request.on_collision)?;
        let import = Import {
            file: request.file.display().to_string(),
            sha256: files::digest(&request.file)?,
            on_collision: request.on_collision,
            sources: index.levels().iter().map(|level| level.source).collect(),
            items_sharing,
        };
        let settings = manifest::settings_of_import(&self.config)?;
        let inputs = self.inputs(Stage::Index);
        if let Some(record) = self.manifest.done(Stage::Index).filter(|_| !request.force) {
            if !record.origin.imported.as_ref().is_some_and(|then| then.gives_the_same(&import)) {
                invalid!(
                    "{}: there is another item index already, {}; choose another folder with --run, \
                     or replace it with `llmbs index import {} --force`",
                    self.dir.display(),
                    record
                        .origin
                        .imported
                        .as_ref()
                        .map_or("made here".into(), |i| format!("imported from {}", i.file)),
                    import.file
                );
            }
            manifest::compare(&self.dir, Stage::Index, record, &settings, &inputs)?;
            digests::check_all(&self.dir, Stage::Index, record)?;
            let report = StageReport::was_done(Stage::Index, record);
            return self.stands(report);
        }
        if let Some(text) = sharing {
            tracing::warn!("{}: {text}; one more level tells them apart", import.file);
        } else {
            tracing::info!("{}: every item has an index of its own", import.file);
        }
        tracing::info!(
            "an imported index comes without z^s and z^b: the contrastive loss of stage initial is off"
        );
        if self.config.train.distillation.weight > 0.0 {
            tracing::info!(
                "nor does it bring a SASRec, by which to teach: train with --set train.distillation.weight=0"
            );
        }

        super::check_backbone(self)?;
        let start = Instant::now();
        let origin = Origin { imported: Some(import), ..Origin::default() };
        self.begin(Stage::Index, settings, inputs, None, origin)?;
        let (backbone, wrote_backbone) = super::prepare_backbone(self, monitor)?;
        ItemTokens::extend(backbone.tokenizer, &index)?.check(&index)?;
        let dir = self.result_of(Stage::Index).join("index");
        files::make_dir(&dir)?;
        store::write(&dir.join("index.json"), &index)?;
        let mut made = Made::of(["index/index.json"]);
        made.files.extend(wrote_backbone);
        made.take(super::data::keep(self)?);
        let codes: Vec<usize> = index.levels().iter().map(|level| level.num_codes).collect();
        made.tell("items", index.num_items());
        made.tell("items_sharing", items_sharing);
        made.tell("groups_sharing", groups_sharing);
        made.tell("levels", codes);
        made.tell("item_tokens", index.vocabulary().len());
        self.finish(Stage::Index, made, start.elapsed().as_secs_f64())
    }
}

impl Import {
    /// Whether both leave the same index, wherever the file lies.
    fn gives_the_same(&self, other: &Self) -> bool {
        (&self.sha256, self.on_collision, &self.sources)
            == (&other.sha256, other.on_collision, &other.sources)
    }
}
