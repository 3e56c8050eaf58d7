//! Ablations: variants of a configuration, each trained with several seeds and compared user by user.
//!
//! Every cell, a variant with a seed, is a run folder of its own. A stage that another cell has made from the same
//! settings and inputs is taken over from it. What is finished is not done again, what was cut off goes on.

mod latex;
mod spec;
mod table;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use candle_core::Device;

use crate::config::{DataConfig, RunConfig};
use crate::run::{
    Baseline, BaselineRequest, EvalRequest, EvalResult, MANIFEST, Manifest, Monitor, Ranking, Run,
    Stage,
};
use crate::{Error, Result, invalid};
use spec::row;
use table::Outcome;

pub use spec::{Spec, Variant};
pub use table::{Cell, Row, Rule, Table};

/// The folder of the baselines, beside those of the variants.
const BASELINES: &str = "baselines";

/// The table, beside them.
const TABLE: &str = "table.json";

/// Trains and evaluates every variant with every seed, in folders below `dir`, and keeps the table there.
///
/// `configure` resolves the configuration with some settings more, as `--set` takes them.
///
/// # Errors
/// Names the variant and what is wrong with it, before anything is trained: with its settings, with what they
/// ask of the data, or with what stands in its folder.
pub fn ablate(
    spec: &Spec,
    dir: &Path,
    configure: &dyn Fn(&[String]) -> Result<RunConfig>,
    device: &Device,
    monitor: &mut dyn Monitor,
) -> Result<Table> {
    spec.check()?;
    if dir.join(MANIFEST).exists() {
        invalid!("{}: is a run; name another folder with --run", dir.display());
    }
    let variants = spec.variants();
    let seed_dir = |name: &str, seed: u64| dir.join(name).join(format!("seed-{seed}"));
    let mut cells = Vec::new();
    for &seed in &spec.seeds {
        let own = configure(&[&spec.set[..], &[format!("seed={seed}")]].concat());
        let own = own.map_err(|e| match &spec.set[..] {
            [] => e,
            _ => Error::Invalid(format!("set of the specification: {e}")),
        })?;
        if !spec.baselines.is_empty() {
            let run = Run::open(&seed_dir(BASELINES, seed), own.clone(), device.clone())?;
            for &baseline in &spec.baselines {
                run.check_baseline(baseline)?;
                run.check_standing_baseline(BaselineRequest { baseline, split: spec.split, seed })?;
            }
        }
        let of_variant = |variant: &Variant| {
            let settings = [&variant.set[..], &[format!("seed={seed}")]].concat();
            let checked = configure(&settings).and_then(|config| {
                check_shared(spec, variant, &own, &config)?;
                let folder = seed_dir(&variant.folder(), seed);
                let run = Run::open(&folder, config.clone(), device.clone())?;
                run.check_stages()?;
                match variant.baseline {
                    None => run.check_teachers()?,
                    // One that stands where the index does not is refused when the index is made.
                    Some(baseline) if run.manifest().stages.contains_key(&Stage::Index) => {
                        let request = BaselineRequest { baseline, split: spec.split, seed };
                        run.check_standing_baseline(request)?;
                    }
                    Some(_) => {}
                }
                Ok(config)
            });
            checked.map_err(|e| Error::Invalid(format!("variant {:?}: {e}", variant.name)))
        };
        let configs: Vec<RunConfig> = variants.iter().map(of_variant).collect::<Result<_>>()?;
        cells.push((seed, own, configs));
    }
    let mut rows = Rows(spec.rows().into_iter().map(|name| (name, Vec::new())).collect());
    for (seed, own, configs) in cells {
        let baselines = if spec.baselines.is_empty() {
            Vec::new()
        } else {
            let run = Run::open(&seed_dir(BASELINES, seed), own, device.clone())?;
            rows.take_baselines(spec, &run, seed, monitor)?
        };
        let mut made: Vec<(PathBuf, Manifest)> = Vec::new();
        for (variant, config) in variants.iter().zip(configs) {
            let mut run = Run::open(&seed_dir(&variant.folder(), seed), config, device.clone())?;
            for (other, manifest) in &made {
                run.take_over(other, manifest, stages(spec, variant))?;
            }
            for stage in stages(spec, variant) {
                run.stage(stage, false, monitor)?;
            }
            if let Some(baseline) = variant.baseline {
                let request = BaselineRequest { baseline, split: spec.split, seed };
                rows.take_baseline_of(variant, &run, request, monitor)?;
            } else {
                rows.take_variant(spec, variant, &run, &baselines, monitor)?;
            }
            made.push((run.dir().to_path_buf(), run.manifest().clone()));
        }
    }
    let table = Table::new(spec, &rows.0)?;
    table.keep(dir)?;
    Ok(table)
}

/// Refuses a variant whose users are not those of the others, or that a shared baseline cannot rank with.
fn check_shared(spec: &Spec, variant: &Variant, own: &RunConfig, config: &RunConfig) -> Result<()> {
    let compared_by = |config: &RunConfig| {
        let DataConfig { path, split, synthetic, history: _ } = config.data.clone();
        (path, split, synthetic)
    };
    if compared_by(own) != compared_by(config) {
        invalid!(
            "data.path, data.split, data.synthetic: variants are compared target by target, so no variant sets \
             these"
        );
    }
    let fused = spec.fuse && variant.baseline.is_none();
    if fused && (own.data.history, &own.baseline) != (config.data.history, &config.baseline) {
        invalid!(
            "data.history, baseline: with fuse = true all variants rank with the same baselines, so no variant \
             sets these"
        );
    }
    Ok(())
}

/// The stages of a variant.
fn stages(spec: &Spec, variant: &Variant) -> impl Iterator<Item = Stage> + use<> {
    let initial = variant.baseline.is_none().then_some(Stage::Initial);
    let anneal = spec.anneals(variant).then_some(Stage::Anneal);
    [Some(Stage::Index), initial, anneal].into_iter().flatten()
}

/// Of a baseline's training.
fn seconds<S>(result: &EvalResult<Ranking<S>>) -> f64 {
    result.report.training.as_ref().map_or(0.0, |training| training.seconds)
}

/// The outcomes of every row, by seed, in the order of the table.
#[derive(Debug)]
struct Rows(Vec<(String, Vec<Outcome>)>);

impl Rows {
    /// Trains and evaluates the baselines; gives their folders and the seconds of their training.
    fn take_baselines(
        &mut self,
        spec: &Spec,
        run: &Run,
        seed: u64,
        monitor: &mut dyn Monitor,
    ) -> Result<Vec<(Baseline, PathBuf, f64)>> {
        let mut folders = Vec::new();
        for &baseline in &spec.baselines {
            let request = BaselineRequest { baseline, split: spec.split, seed };
            let result = run.baseline(request, false, monitor)?;
            let seconds = seconds(&result);
            self.add(baseline.name(), &result, seconds)?;
            folders.push((baseline, request.folder(run.dir()), seconds));
        }
        Ok(folders)
    }

    /// Trains and evaluates the baseline that takes the place of a variant's model.
    fn take_baseline_of(
        &mut self,
        variant: &Variant,
        run: &Run,
        request: BaselineRequest,
        monitor: &mut dyn Monitor,
    ) -> Result<()> {
        let result = run.baseline(request, false, monitor)?;
        // A folder that once was one of a language model may hold its stages, too.
        let of_index = run.manifest().stages.get(&Stage::Index).map_or(0.0, |made| made.seconds);
        self.add(&variant.name, &result, of_index + seconds(&result))
    }

    /// Evaluates the models of a variant, alone and, where that is asked for, together with baselines.
    fn take_variant(
        &mut self,
        spec: &Spec,
        variant: &Variant,
        run: &Run,
        baselines: &[(Baseline, PathBuf, f64)],
        monitor: &mut dyn Monitor,
    ) -> Result<()> {
        let name = &variant.name;
        for stage in stages(spec, variant).filter(|stage| *stage != Stage::Index) {
            let adapter = stage == Stage::Anneal;
            let until = run.manifest().stages.iter().filter(|(made, _)| **made <= stage);
            let seconds = until.map(|(_, record)| record.seconds).sum();
            let beam = run.config().eval.beam;
            let (split, limit) = (spec.split, None);
            let alone = EvalRequest { split, adapter, beam, limit, fuse: &[], before: None };
            self.add(&row(name, adapter, &[]), &run.evaluate(alone, false, monitor)?, seconds)?;
            for with in spec.fusions() {
                let ranked = baselines.iter().filter(|(baseline, ..)| with.contains(baseline));
                let folders: Vec<PathBuf> = ranked.clone().map(|(_, at, _)| at.clone()).collect();
                let seconds = seconds + ranked.map(|(.., seconds)| seconds).sum::<f64>();
                let fused = EvalRequest { fuse: &folders, ..alone };
                let result = run.evaluate(fused, false, monitor)?;
                self.add(&row(name, adapter, with), &result, seconds)?;
            }
        }
        Ok(())
    }

    fn add<S>(&mut self, name: &str, result: &EvalResult<Ranking<S>>, seconds: f64) -> Result<()> {
        let report = &result.report.report;
        let metrics = [report.metrics, report.metrics_history_excluded];
        let mut predictions = result.predictions()?;
        for prediction in &mut predictions {
            // A table compares ranks; the rest of many rows would fill the memory.
            let until_target = prediction.rank().unwrap_or(0);
            prediction.items = prediction.items[..until_target].to_vec();
            prediction.scores = Vec::new();
            (prediction.target_raw_id, prediction.raw_ids) = (None, None);
        }
        let outcome = Outcome { metrics, predictions, seconds };
        let Some((_, outcomes)) = self.0.iter_mut().find(|(row, _)| row == name) else {
            invalid!("{name:?} is no row of the table");
        };
        outcomes.push(outcome);
        Ok(())
    }
}
