//! The teacher of stage `initial`: the SASRec of z^b, and baselines beside it.

use candle_core::Device;

use super::SASREC;
use crate::data::Split;
use crate::inference::ItemTokens;
use crate::model::load_safetensors;
use crate::model::sequential::Sequential;
use crate::run::{Baseline, BaselineRequest, Monitor, Run, Stage};
use crate::tasks::{Layout, Sample};
use crate::train::{Colleague, StageConfig, Teacher};
use crate::{Result, invalid};

/// Refuses an index that has no teacher where the configuration, which [`RunConfig::check`] has seen, wants one:
/// one that was imported.
///
/// [`RunConfig::check`]: crate::config::RunConfig::check
pub(super) fn check(run: &Run) -> Result<()> {
    let weight = run.config.train.distillation.weight;
    if weight > 0.0 && run.manifest.output(Stage::Index, SASREC).is_none() {
        invalid!(
            "train.distillation.weight = {weight} needs a teacher, which is the SASRec of z^b, and the index \
             has none: set the weight to 0"
        );
    }
    run.check_teachers()
}

impl Run {
    /// Refuses baselines that are to teach and cannot, by the data or the settings.
    ///
    /// # Errors
    /// Names the baseline and what it lacks.
    pub fn check_teachers(&self) -> Result<()> {
        for baseline in beside(self) {
            let (reads, holds) = (self.reads(baseline)?, self.config.data.history);
            // As of the SASRec: a sample of one target needs no state but that of its last items.
            if reads < holds && self.config.train.tasks.layout == Layout::Sequence {
                invalid!(
                    "baseline {} reads {reads} items: what teaches (train.distillation.beside) must read the {holds} \
                     of data.history",
                    baseline.name()
                );
            }
        }
        Ok(())
    }
}

/// The baselines that teach beside the SASRec.
fn beside(run: &Run) -> impl Iterator<Item = Baseline> {
    run.config.train.distillation.colleagues().map(|colleague| match colleague {
        Colleague::Fdsa => Baseline::Fdsa,
        Colleague::Hgn => Baseline::Hgn,
    })
}

/// Trains the baselines that teach, where they do not stand in the run folder.
pub(super) fn train(run: &Run, monitor: &mut dyn Monitor) -> Result<()> {
    // An index that a run goes on from may have no SASRec, and then nothing teaches.
    let teaches = run.manifest.output(Stage::Index, SASREC).is_some();
    for baseline in beside(run).filter(|_| teaches) {
        let request = BaselineRequest { baseline, split: Split::Valid, seed: run.config.seed };
        run.baseline(request, false, monitor)?;
    }
    Ok(())
}

/// The teacher of `stage`, where the configuration asks for one; `samples` are those of an epoch.
pub(super) fn teacher(
    run: &Run,
    tokens: &ItemTokens,
    stage: &StageConfig,
    samples: &dyn Fn(u64) -> Result<Vec<Sample>>,
    monitor: &mut dyn Monitor,
) -> Result<Option<Teacher>> {
    let config = run.config.train.distillation.clone();
    if config.weight == 0.0 {
        return Ok(None);
    }
    if run.manifest.output(Stage::Index, SASREC).is_none() {
        tracing::info!("the index that this run goes on from has no SASRec: nothing is distilled");
        return Ok(None);
    }
    let sasrec = &run.config.index.behavior.sasrec;
    let network = sasrec.network(run.dataset.num_items(), run.config.seed)?;
    network.set_weights(&load_safetensors(run.dir.join("index").join(SASREC), &Device::Cpu)?)?;
    let mut networks: Vec<Box<dyn Sequential>> = vec![Box::new(network)];
    for baseline in beside(run) {
        networks.push(run.network_of(baseline)?);
    }
    let mut teacher = Teacher::new(networks, config, &tokens.items);
    // Each of several ranks would ask all of what they divide otherwise.
    if run.ranks.is_alone() {
        ask_once(&mut teacher, stage, &samples(0)?, monitor)?;
    }
    Ok(Some(teacher))
}

/// Asks what `samples` of an epoch ask, for all epochs of `stage`, where there is more than one.
fn ask_once(
    teacher: &mut Teacher,
    stage: &StageConfig,
    samples: &[Sample],
    monitor: &mut dyn Monitor,
) -> Result<()> {
    let epoch = samples.len().div_ceil(stage.batch) as u64;
    let all = epoch * stage.passes(samples.len()) * stage.epochs;
    if stage.max_steps.map_or(all, |max| max.min(all)) <= epoch || !teacher.has_room(samples) {
        return Ok(());
    }
    monitor.begin("ask the teacher", samples.len() as u64);
    let asked = teacher.keep(samples, |done| monitor.advance(done as u64, ""));
    monitor.end();
    asked
}
