//! A PEFT adapter trained elsewhere becomes the result of stage `anneal`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use super::Made;
use crate::model::{LlamaConfig, adapter};
use crate::run::manifest::{ImportedAdapter, Origin};
use crate::run::{Run, Stage, StageReport};
use crate::{Result, files, invalid};

impl Run {
    /// Makes the LoRA in a PEFT folder the annealing adapter of the run, as if stage `anneal` had made it. Whether it
    /// was trained on the model of this run and not on another of its shape, its files do not tell.
    ///
    /// # Errors
    /// If the adapter is none for a model of this shape, or is applied in another way than `W + scale * B A`; if there
    /// is another adapter already, or a training of one under way, and no `force`. Nothing is changed then.
    pub fn import_adapter(&mut self, folder: &Path, force: bool) -> Result<StageReport> {
        const STAGE: Stage = Stage::Anneal;
        self.require_before(STAGE)?;
        let config = LlamaConfig::load(self.dir.join("initial/config.json"))?;
        let adapters = adapter::load(folder, &config, &self.device)?;
        let mut digests = BTreeMap::new();
        for name in adapter::FILES {
            digests.insert(name.to_string(), files::digest(&folder.join(name))?);
        }
        let import = ImportedAdapter { folder: folder.display().to_string(), files: digests };
        let again = format!("`llmbs import-adapter {} --force`", import.folder);
        if let Some(record) = self.manifest.done(STAGE).filter(|_| !force) {
            let before = record.origin.imported_adapter.as_ref();
            if before.is_none_or(|before| before.files != import.files) {
                invalid!(
                    "{}: there is another annealing adapter already, {}; choose another folder with --run, or \
                     replace it with {again}",
                    self.dir.display(),
                    before.map_or("trained here".into(), |i| format!("imported from {}", i.folder)),
                );
            }
            self.require(STAGE)?;
            let report = StageReport::was_done(STAGE, record);
            return self.stands(report);
        }
        let is_begun = self.manifest.unfinished.contains_key(&STAGE);
        if !force && is_begun && self.state_of(STAGE).exists() {
            invalid!(
                "{}: the training of an annealing adapter was begun and would be lost; go on with `llmbs {}`, or \
                 drop it with {again}",
                self.dir.display(),
                STAGE.command()
            );
        }

        let start = Instant::now();
        let origin = Origin { imported_adapter: Some(import), ..Origin::default() };
        self.begin(STAGE, BTreeMap::new(), self.inputs(STAGE), None, origin)?;
        adapter::copy(folder, &self.result_of(STAGE).join("anneal"), "../initial")?;
        let mut made = Made::of(adapter::FILES).within("anneal");
        made.tell("layers", adapters.len());
        let weights = adapters.values().map(|lora| lora.a.elem_count() + lora.b.elem_count());
        made.tell("weights", weights.sum::<usize>());
        self.finish(STAGE, made, start.elapsed().as_secs_f64())
    }
}
