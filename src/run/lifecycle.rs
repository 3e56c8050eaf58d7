//! When a stage is run, resumed, refused or stale: what it builds on and what decides it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use super::digests;
use super::follow::Before;
use super::manifest::{self, Follows, Import, Lowered, Manifest, Origin, Record, Status};
use super::stage::Stage;
use super::stages::{self, Made, anneal, index, initial};
use super::{CONFIG, GIT_REVISION, MANIFEST, Monitor, Run, peak_memory_bytes, unfinished};
use crate::model::{Snapshots, backbone_files};
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
    /// That of a stage which was done already, as `record` has it.
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

/// What the digest of the data is called among what a stage is made of.
const DATASET: &str = "the dataset";

impl Run {
    /// Whether a stage's result stands, whole and not stale; of which settings, is not asked here.
    pub fn is_done(&self, stage: Stage) -> bool {
        self.manifest.done(stage).is_some()
    }

    /// Takes over those of `stages` that the run in `other` has made from the settings and inputs of this one and
    /// that are not begun here: their files are copied, where all are still there.
    pub fn take_over(
        &mut self,
        other: &Path,
        manifest: &Manifest,
        stages: impl Iterator<Item = Stage>,
    ) -> Result<()> {
        for stage in stages {
            let begun = |stages: &BTreeMap<Stage, Record>| stages.contains_key(&stage);
            if begun(&self.manifest.stages) || begun(&self.manifest.unfinished) {
                continue;
            }
            let Some(record) = manifest.done(stage) else { continue };
            if self.require_before(stage).is_err()
                || record.settings != manifest::settings(stage, &self.config)?
                || record.inputs != self.inputs(stage)
            {
                return Ok(());
            }
            digests::check_all(other, stage, record)?;
            self.claim()?;
            for name in record.outputs.keys() {
                files::copy(&other.join(name), &self.dir.join(name))?;
            }
            self.manifest.stages.insert(stage, record.clone());
            self.renew_config()?;
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
        self.make(stage, None, Origin::default(), force, monitor)
    }

    /// Makes the index or the first model of this run from those of the run before, whose users and items are among
    /// this run's, unless that is done; `force` redoes it.
    ///
    /// # Errors
    /// As those of [`Self::stage`]; and if this run's data, settings or index do not go on from those of `before`.
    pub fn follow(
        &mut self,
        stage: Stage,
        before: Before<'_>,
        force: bool,
        monitor: &mut dyn Monitor,
    ) -> Result<StageReport> {
        self.check_follows(before.run)?;
        if stage != Stage::Index {
            before.run.require_model(before.run.has_adapter())?;
            self.require_before(stage)?;
            self.require_extended(before.run)?;
        }
        let origin = before.origin(stage)?;
        let standing = self.manifest.done(stage);
        if standing.is_some_and(|r| !force && !r.origin.is_made_as(&origin)) {
            invalid!(
                "{}: there is {} already, which was not made of {} in this way; choose another folder with --run, or \
                 replace it with --force",
                self.dir.display(),
                stage.what(),
                before.run.dir.display()
            );
        }
        self.make(stage, Some(before), origin, force, monitor)
    }

    fn make(
        &mut self,
        stage: Stage,
        before: Option<Before<'_>>,
        origin: Origin,
        force: bool,
        monitor: &mut dyn Monitor,
    ) -> Result<StageReport> {
        self.require_before(stage)?;
        let settings = self.settings_of(stage, &origin)?;
        let mut inputs = self.inputs(stage);
        for (name, digest) in origin.follows.iter().flat_map(|follows| &follows.files) {
            inputs.insert(format!("{name} of the run before"), digest.clone());
        }
        let mut goes_on = None;
        if !force {
            let compare = |record, settings: &BTreeMap<String, Value>| {
                manifest::compare(&self.dir, stage, record, settings, &inputs)
            };
            let begun = self.manifest.unfinished.get(&stage);
            let otherwise = begun.filter(|record| !record.origin.is_made_as(&origin));
            if otherwise.is_some() && self.state_of(stage).exists() {
                invalid!(
                    "{}: {} was begun in another way than this command's; go on with that one, or begin again with \
                     --force",
                    self.dir.display(),
                    stage.what()
                );
            }
            goes_on = begun
                .filter(|_| otherwise.is_none())
                .and_then(|record| self.goes_on(stage, record, &settings, &inputs));
            if let Some(record) = self.manifest.done(stage).filter(|_| goes_on.is_none()) {
                compare(record, &self.settings(stage)?)?;
                digests::check_all(&self.dir, stage, record)?;
                let report = StageReport::was_done(stage, record);
                return self.stands(report);
            }
            // Without a saved state there is nothing to mix the new settings into.
            if let Some(record) = begun
                && goes_on.is_none()
                && self.state_of(stage).exists()
            {
                compare(record, &settings)?;
            }
        }
        // What cannot work is refused before anything says that the stage is under way.
        match (stage, before) {
            (Stage::Index, None) => index::check(self)?,
            (Stage::Initial, None) => initial::check(self)?,
            (Stage::Initial, Some(Before { run, as_it_is: true })) => self.check_words(run)?,
            _ => {}
        }
        let start = Instant::now();
        self.begin(stage, settings, inputs, goes_on, origin)?;
        let made = match (stage, before) {
            (Stage::Index, Some(before)) => index::extend(self, before.run, monitor),
            (Stage::Index, None) => index::run(self, monitor),
            (Stage::Initial, Some(Before { run, as_it_is: true })) => initial::take_over(self, run),
            (Stage::Initial, _) => initial::run(self, before.map(|before| before.run), monitor),
            (Stage::Anneal, _) => anneal::run(self, monitor),
        };
        let made = made.map_err(|e| match e {
            // To force it again would begin again.
            Error::Interrupted { done, saved: true, .. } if force => {
                let command = "the same command without --force";
                Error::Interrupted { done, command, saved: true }
            }
            other => stages::with_remedy(stage.folder(), other),
        })?;
        let report = self.finish(stage, made, start.elapsed().as_secs_f64())?;
        // It may have come while there were no more steps to stop after.
        if interrupt::signal().is_some() {
            let done = stage.what().to_string();
            return Err(Error::Interrupted { done, command: "the same command", saved: true });
        }
        Ok(report)
    }

    /// How the learning rate has been lowered, this time included, where `stage` goes on from what was made of it
    /// under `record`.
    fn goes_on(
        &self,
        stage: Stage,
        record: &Record,
        settings: &BTreeMap<String, Value>,
        inputs: &BTreeMap<String, String>,
    ) -> Option<Vec<Lowered>> {
        let mut lowered = record.lowered.clone();
        if manifest::compare(&self.dir, stage, record, settings, inputs).is_err() {
            let (key, from, to) = manifest::lowered(stage, record, settings, inputs)?;
            let saved: Vec<Value> = Snapshots::new(&self.state_of(stage)).progress();
            let after_step = saved.first()?["step"].as_u64()?;
            tracing::info!("{key} is {to} after step {after_step}, was {from}");
            lowered.push(Lowered { key, from, to, after_step });
        }
        Some(lowered)
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
        let Some(record) = self.manifest.done(stage) else {
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

    /// Refuses, once results of `stages` were read, where another process has made one anew meanwhile: what was read may
    /// be of both.
    pub(super) fn require_same(&self, stages: &[Stage]) -> Result<()> {
        let now = Manifest::read(&self.dir.join(MANIFEST))?;
        let is_same = |stage| now.stages.get(stage) == self.manifest.stages.get(stage);
        if !stages.iter().all(is_same) {
            return self.has_changed();
        }
        stages.iter().try_for_each(|&stage| self.require(stage))
    }

    fn has_changed<T>(&self) -> Result<T> {
        invalid!(
            "{}: another process has changed this run since it was opened; give the command again",
            self.dir.display()
        )
    }

    /// The settings that decide the result of `stage`.
    pub(super) fn settings(&self, stage: Stage) -> Result<BTreeMap<String, Value>> {
        let standing = self.manifest.done(stage);
        let begun_here = Origin::default();
        self.settings_of(stage, standing.map_or(&begun_here, |record| &record.origin))
    }

    /// The settings that decide the result of `stage`, where it is made of `origin`.
    pub(super) fn settings_of(
        &self,
        stage: Stage,
        origin: &Origin,
    ) -> Result<BTreeMap<String, Value>> {
        match (stage, origin) {
            (Stage::Index, Origin { imported: Some(_), .. }) => {
                manifest::settings_of_import(&self.config)
            }
            // What is taken as it is follows none, but for the words in which it is asked.
            (Stage::Anneal, Origin { imported_adapter: Some(_), .. }) => Ok(BTreeMap::new()),
            (Stage::Initial, Origin { follows: Some(Follows { as_it_is: true, .. }), .. }) => {
                manifest::settings_of_words(&self.config)
            }
            (Stage::Initial, Origin { follows: Some(_), .. }) => {
                manifest::settings_of_continued(&self.config)
            }
            _ => manifest::settings(stage, &self.config),
        }
    }

    /// Where the item index was imported from, if it was and stands.
    pub(super) fn imported(&self) -> Option<&Import> {
        self.manifest.imported().filter(|_| self.is_done(Stage::Index))
    }

    /// Digests of what a stage reads: the data, and what the stages before wrote.
    pub(super) fn inputs(&self, stage: Stage) -> BTreeMap<String, String> {
        let mut inputs = BTreeMap::new();
        inputs.insert(DATASET.to_string(), self.dataset.fingerprint.clone());
        if stage == Stage::Index {
            inputs.extend(index::digests(&self.config));
            inputs.extend(self.backbone_digest().map(|digest| ("the backbone".into(), digest)));
        }
        for earlier in Stage::ALL.into_iter().take_while(|s| *s != stage) {
            if let Some(record) = self.manifest.stages.get(&earlier) {
                // More may have been decided there than what it wrote: the backbone, and how that computes.
                let decided = record.decided_by(|input| !inputs.contains_key(input));
                inputs.extend(record.outputs.clone());
                inputs.insert(format!("what decided {}", earlier.what()), decided);
            }
        }
        inputs
    }

    /// Says so where the data are no longer those of the models that stand.
    pub fn warn_of_other_data(&self) {
        let made = self.manifest.done(Stage::Index).and_then(|record| record.inputs.get(DATASET));
        if made.is_some_and(|made| *made != self.dataset.fingerprint) {
            tracing::warn!(
                "{}: the dataset has changed since the index was made of it: what is trained now cannot be compared with \
                 the models here; another folder (--run) is for the new data",
                self.dir.display()
            );
        }
    }

    /// The digest of a backbone that was made elsewhere; none where it is not at hand.
    fn backbone_digest(&self) -> Option<String> {
        let files = backbone_files(self.config.backbone.path.as_deref()?);
        (!files.is_empty()).then(|| digests::of_others(&self.dir, &files).ok()).flatten()
    }

    pub(super) fn begin(
        &mut self,
        stage: Stage,
        settings: BTreeMap<String, Value>,
        inputs: BTreeMap<String, String>,
        goes_on: Option<Vec<Lowered>>,
        origin: Origin,
    ) -> Result<()> {
        self.claim()?;
        for done in Stage::ALL.into_iter().filter(|s| !self.manifest.unfinished.contains_key(s)) {
            unfinished::forget(&self.workshop(done))?;
        }
        if goes_on.is_none() {
            files::remove_dir(&self.state_of(stage))?;
        }
        files::remove_dir(&self.result_of(stage))?;
        let record = Record {
            status: Status::Running,
            lowered: goes_on.unwrap_or_default(),
            origin,
            settings,
            inputs,
            outputs: BTreeMap::new(),
            program: format!("llmbs {} ({GIT_REVISION})", env!("CARGO_PKG_VERSION")),
            machine: self.machine(),
            seconds: 0.0,
            peak_memory_bytes: 0,
            figures: Value::Null,
        };
        self.manifest.unfinished.insert(stage, record);
        // Where a result stands, its configuration does until there is another.
        if self.is_done(stage) {
            return self.save_manifest();
        }
        self.renew_config()
    }

    pub(super) fn finish(&mut self, stage: Stage, made: Made, seconds: f64) -> Result<StageReport> {
        let Made { files: wrote, figures } = made;
        let figures = Value::Object(figures);
        let result = self.result_of(stage);
        self.save_config(&result)?;
        let mut outputs = BTreeMap::new();
        for path in &wrote {
            outputs.insert(path.display().to_string(), files::digest(&result.join(path))?);
        }
        if let Some(record) = self.manifest.unfinished.get_mut(&stage) {
            record.status = Status::Done;
            record.outputs = outputs;
            record.seconds = seconds;
            record.peak_memory_bytes = peak_memory_bytes();
            record.figures = figures.clone();
        }
        // From here on nothing is lost: whoever opens the run next does what is left, if this process does not.
        self.save_manifest()?;
        unfinished::put_in_place(&self.dir, &mut self.manifest, stage)?;
        Ok(StageReport { stage, was_done: false, wrote, figures, seconds })
    }

    /// Makes the folder a run, if it is none yet, before anything else is written to it, and keeps other writers
    /// out.
    pub(super) fn claim(&self) -> Result<()> {
        let path = self.dir.join(MANIFEST);
        if self.lock.take(&self.dir)? && path.exists() {
            let found = Manifest::read(&path)?;
            let own = &self.manifest;
            if (&found.stages, &found.unfinished, &found.config_sha256)
                != (&own.stages, &own.unfinished, &own.config_sha256)
            {
                return self.has_changed();
            }
        }
        if self.dir.join(MANIFEST).exists() { Ok(()) } else { self.save_manifest() }
    }

    /// Says what stands of a stage that was done already, as `report` has it; a process that made it and was killed when
    /// all was in its place may have left something.
    pub(super) fn stands(&mut self, report: StageReport) -> Result<StageReport> {
        if !self.manifest.unfinished.contains_key(&report.stage) {
            let workshop = self.workshop(report.stage);
            if workshop.exists() {
                self.claim()?;
            }
            unfinished::forget(&workshop)?;
        }
        // Of a run whose own configuration was asked for, it was found whole.
        let found = files::digest(&self.dir.join(CONFIG)).ok();
        if found.is_none() || found != self.manifest.config_sha256 {
            self.claim()?;
            tracing::warn!(
                "{}: was gone, or not the one that the run wrote; it is the one named now",
                self.dir.join(CONFIG).display()
            );
            self.renew_config()?;
        }
        Ok(report)
    }

    /// Writes manifest and configuration. They are two files: between them the one says nothing of the other, so that a
    /// process that is killed there leaves two that agree.
    fn renew_config(&mut self) -> Result<()> {
        self.manifest.config_sha256 = None;
        self.save_manifest()?;
        self.save_config(&self.dir)?;
        self.manifest.config_sha256 = Some(files::digest(&self.dir.join(CONFIG))?);
        self.save_manifest()
    }

    /// Writes the configuration where no stage has written one: a folder says what it is of, whatever is made there.
    pub(super) fn ensure_config(&self) -> Result<()> {
        let is_said = self.manifest.config_sha256.is_some() || self.dir.join(CONFIG).exists();
        if is_said { Ok(()) } else { self.save_config(&self.dir) }
    }

    fn save_config(&self, dir: &Path) -> Result<()> {
        files::write(&dir.join(CONFIG), self.config.to_toml()?.as_bytes())
    }

    fn save_manifest(&self) -> Result<()> {
        self.manifest.write(&self.dir)
    }
}
