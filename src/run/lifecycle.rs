//! When a stage is run, resumed, refused or stale: what it builds on and what decides it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use super::digests;
use super::manifest::{self, Import, Manifest, Record, Status};
use super::stage::Stage;
use super::stages::{Made, anneal, index, initial};
use super::{GIT_REVISION, MANIFEST, Monitor, Run, peak_memory_bytes};
use crate::{Error, Result, files, interrupt, invalid};

/// What a stage did.
#[derive(Debug, Clone, PartialEq)]
pub struct StageReport {
    /// The stage.
    pub stage: Stage,
    /// It was done already, and nothing was changed.
    pub was_done: bool,
    /// Files written, relative to the run folder.
    pub wrote: Vec<PathBuf>,
    /// Figures of the result.
    pub figures: Value,
    /// Wall-clock seconds.
    pub seconds: f64,
}

impl StageReport {
    /// Nothing: the stage of `record` was done already.
    pub(super) fn was_done(stage: Stage, record: &Record) -> Self {
        Self {
            stage,
            was_done: true,
            wrote: record.outputs.keys().map(PathBuf::from).collect(),
            figures: record.figures.clone(),
            seconds: record.seconds,
        }
    }
}

impl Run {
    /// Whether a stage's result stands, whole and not stale; of which settings, is not asked here.
    pub fn is_done(&self, stage: Stage) -> bool {
        self.manifest.stages.get(&stage).is_some_and(|r| r.status == Status::Done)
    }

    /// Takes over the stages that the run in `other` has made from the settings and inputs of this one and
    /// that are not begun here: their files are copied, where all are still there.
    pub fn take_over(&mut self, other: &Path, manifest: &Manifest) -> Result<()> {
        for stage in Stage::ALL {
            let found = manifest.stages.get(&stage).filter(|record| record.status == Status::Done);
            let Some(record) = found.filter(|_| !self.manifest.stages.contains_key(&stage)) else {
                continue;
            };
            if self.require_before(stage).is_err()
                || record.settings != manifest::settings(stage, &self.config)?
                || record.inputs != self.inputs(stage)
            {
                return Ok(());
            }
            if !record.outputs.keys().all(|name| other.join(name).exists()) {
                return Ok(());
            }
            digests::check(other, stage, record)?;
            self.claim()?;
            for name in record.outputs.keys() {
                files::copy(&other.join(name), &self.dir.join(name))?;
            }
            self.manifest.stages.insert(stage, record.clone());
            self.save_manifest()?;
            files::write(&self.dir.join("config.toml"), self.config.to_toml()?.as_bytes())?;
            tracing::info!(
                "{}: {} is taken over from {}",
                self.dir.display(),
                stage.what(),
                other.display()
            );
        }
        Ok(())
    }

    /// Refuses what [`Self::stage`] would: stages that stand here and were made with other settings, or settings
    /// that cannot become an index of these data.
    ///
    /// # Errors
    /// Names what differs from the run that made what is there, or what cannot be.
    pub fn check_stages(&self) -> Result<()> {
        if !self.is_done(Stage::Index) {
            return index::check(self);
        }
        for (&stage, record) in
            self.manifest.stages.iter().filter(|(stage, _)| self.is_done(**stage))
        {
            let settings = self.settings(stage)?;
            manifest::compare(&self.dir, stage, record, &settings, &self.inputs(stage))?;
        }
        Ok(())
    }

    /// Runs a stage, unless it is done; `force` redoes it.
    ///
    /// # Errors
    /// Names the stage that has to run first, or what differs from the run that made what is there.
    pub fn stage(
        &mut self,
        stage: Stage,
        force: bool,
        monitor: &mut dyn Monitor,
    ) -> Result<StageReport> {
        self.require_before(stage)?;
        let settings =
            if force { manifest::settings(stage, &self.config)? } else { self.settings(stage)? };
        let inputs = self.inputs(stage);
        let state = self.dir.join(stage.folder()).join("state");
        let found = self.manifest.stages.get(&stage).filter(|r| match r.status {
            Status::Done => true,
            // Without a saved state there is nothing to mix the new settings into.
            Status::Running => state.exists(),
            Status::Stale => false,
        });
        let mut resumes = false;
        if let Some(record) = found.filter(|_| !force) {
            manifest::compare(&self.dir, stage, record, &settings, &inputs)?;
            resumes = record.status == Status::Running;
            if record.status == Status::Done {
                // Left by a process that was killed between its record and this.
                if state.exists() {
                    self.claim()?;
                    files::remove_dir(&state)?;
                }
                return Ok(StageReport::was_done(stage, record));
            }
        }
        // What cannot work is refused before anything says that the stage is under way.
        match stage {
            Stage::Index => index::check(self)?,
            Stage::Initial => initial::check(self)?,
            Stage::Anneal => {}
        }
        let start = Instant::now();
        self.begin(stage, settings, inputs, resumes, None)?;
        let made = match stage {
            Stage::Index => index::run(self, monitor),
            Stage::Initial => initial::run(self, monitor),
            Stage::Anneal => anneal::run(self, monitor),
        };
        let made = made.map_err(|e| match e {
            // To force it again would begin again.
            Error::Interrupted { done, .. } if force => {
                Error::Interrupted { done, command: "the same command without --force" }
            }
            other => other,
        })?;
        let report = self.finish(stage, made, start.elapsed().as_secs_f64())?;
        // Not before the record: a process killed in between finds all it needs to make it.
        files::remove_dir(&state)?;
        // It may have come while there were no more steps to stop after.
        if interrupt::signal().is_some() {
            let done = stage.what().to_string();
            return Err(Error::Interrupted { done, command: "the same command" });
        }
        Ok(report)
    }

    /// Refuses where a stage that `stage` builds on is missing, stale or of other settings.
    pub(super) fn require_before(&self, stage: Stage) -> Result<()> {
        for earlier in Stage::ALL.into_iter().take_while(|s| *s != stage) {
            self.require(earlier)?;
        }
        Ok(())
    }

    /// Refuses where the result of `stage` is missing, stale, altered or of other settings.
    pub(super) fn require(&self, stage: Stage) -> Result<()> {
        let Some(record) = self.manifest.stages.get(&stage).filter(|r| r.status == Status::Done)
        else {
            invalid!(
                "{}: {} is not there yet: run `llmbs {}` first",
                self.dir.display(),
                stage.what(),
                stage.command()
            );
        };
        manifest::compare(&self.dir, stage, record, &self.settings(stage)?, &self.inputs(stage))?;
        digests::check(&self.dir, stage, record)
    }

    /// The settings that decide the result of `stage`.
    pub(super) fn settings(&self, stage: Stage) -> Result<BTreeMap<String, Value>> {
        if stage == Stage::Index && self.imported().is_some() {
            manifest::settings_of_import(&self.config)
        } else {
            manifest::settings(stage, &self.config)
        }
    }

    /// Where the item index was imported from, if it was and stands.
    pub(super) fn imported(&self) -> Option<&Import> {
        self.manifest.imported().filter(|_| self.is_done(Stage::Index))
    }

    /// Digests of what a stage reads: the data, and what the stages before wrote.
    pub(super) fn inputs(&self, stage: Stage) -> BTreeMap<String, String> {
        let mut inputs = BTreeMap::new();
        inputs.insert("the dataset".to_string(), self.dataset.fingerprint.clone());
        if stage == Stage::Index {
            inputs.extend(index::digests(&self.config));
        }
        for earlier in Stage::ALL.into_iter().take_while(|s| *s != stage) {
            if let Some(record) = self.manifest.stages.get(&earlier) {
                inputs.extend(record.outputs.clone());
            }
        }
        inputs
    }

    pub(super) fn begin(
        &mut self,
        stage: Stage,
        settings: BTreeMap<String, Value>,
        inputs: BTreeMap<String, String>,
        resumes: bool,
        imported: Option<Import>,
    ) -> Result<()> {
        self.claim()?;
        if !resumes {
            files::remove_dir(&self.dir.join(stage.folder()).join("state"))?;
        }
        for later in Stage::ALL.into_iter().filter(|s| *s > stage) {
            if let Some(record) = self.manifest.stages.get_mut(&later) {
                record.status = Status::Stale;
            }
        }
        let record = Record {
            status: Status::Running,
            imported,
            settings,
            inputs,
            outputs: BTreeMap::new(),
            program: format!("llmbs {} ({GIT_REVISION})", env!("CARGO_PKG_VERSION")),
            machine: self.machine(),
            seconds: 0.0,
            peak_memory_bytes: 0,
            figures: Value::Null,
        };
        self.manifest.stages.insert(stage, record);
        self.save_manifest()?;
        files::write(&self.dir.join("config.toml"), self.config.to_toml()?.as_bytes())
    }

    pub(super) fn finish(&mut self, stage: Stage, made: Made, seconds: f64) -> Result<StageReport> {
        let Made { files: wrote, figures } = made;
        let figures = Value::Object(figures);
        let mut outputs = BTreeMap::new();
        for path in &wrote {
            outputs.insert(path.display().to_string(), files::digest(&self.dir.join(path))?);
        }
        if let Some(record) = self.manifest.stages.get_mut(&stage) {
            record.status = Status::Done;
            record.outputs = outputs;
            record.seconds = seconds;
            record.peak_memory_bytes = peak_memory_bytes();
            record.figures = figures.clone();
        }
        self.save_manifest()?;
        Ok(StageReport { stage, was_done: false, wrote, figures, seconds })
    }

    /// Makes the folder a run, if it is none yet, before anything else is written to it, and keeps other writers
    /// out.
    pub(super) fn claim(&self) -> Result<()> {
        let path = self.dir.join(MANIFEST);
        if self.lock.take(&self.dir)? && path.exists() {
            let found: Manifest = files::read_json(&path)?;
            if found.stages != self.manifest.stages {
                invalid!(
                    "{}: another process has changed this run since it was opened; give the command again",
                    self.dir.display()
                );
            }
        }
        if self.dir.join(MANIFEST).exists() { Ok(()) } else { self.save_manifest() }
    }

    fn save_manifest(&self) -> Result<()> {
        files::write_json(&self.dir.join(MANIFEST), &self.manifest)
    }
}
