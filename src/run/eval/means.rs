//! What a baseline comes to over several seeds.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::baselines::{Baseline, folder};
use super::result::{BaselineSettings, EvalResult, OverSeeds, Ranking};
use crate::data::Split;
use crate::eval::{Metrics, Report};
use crate::run::Run;
use crate::{Result, files, invalid};

impl Run {
    /// The results of a baseline with several seeds as one: means and sample standard deviations, kept as
    /// `baseline/NAME/SPLIT.json` where there are several.
    pub fn baseline_over_seeds(
        &self,
        baseline: Baseline,
        split: Split,
        results: &[EvalResult<Ranking<BaselineSettings>>],
    ) -> Result<(OverSeeds, PathBuf)> {
        let Some(first) = results.first().map(|result| &result.report) else {
            invalid!("there is no seed to tell of");
        };
        let reports: Vec<&Report> = results.iter().map(|result| &result.report.report).collect();
        let by_seed: Vec<Metrics> = reports.iter().map(|report| report.metrics).collect();
        let excluded: Vec<Metrics> =
            reports.iter().map(|report| report.metrics_history_excluded).collect();
        let ([metrics, deviations], [others, other_deviations]) =
            (Metrics::over_seeds(&by_seed), Metrics::over_seeds(&excluded));
        let seeds = OverSeeds {
            metrics,
            standard_deviations: deviations,
            metrics_history_excluded: others,
            standard_deviations_history_excluded: other_deviations,
            popularity: first.popularity,
            popularity_history_excluded: first.popularity_history_excluded,
            seeds: results.iter().map(|result| result.report.settings.seed).collect(),
            by_seed,
            by_seed_history_excluded: excluded,
            settings: first.settings.clone(),
        };
        let path = over_seeds(&self.dir, baseline, split);
        // One seed says no more than its own result, and may stand beside what several have said.
        if results.len() > 1 {
            files::write_json(&path, &seeds)?;
        }
        Ok((seeds, path))
    }
}

/// Where the means over several seeds stand in the run folder `dir`.
fn over_seeds(dir: &Path, baseline: Baseline, split: Split) -> PathBuf {
    folder(dir, baseline).join(format!("{split}.json"))
}

/// Removes the means over seeds of which `seed`, which is made anew, is one.
pub(super) fn forget_means(dir: &Path, baseline: Baseline, seed: u64) -> Result<()> {
    for split in [Split::Valid, Split::Test] {
        let path = over_seeds(dir, baseline, split);
        // What cannot be read tells of no seed.
        let told: Value = files::read_json(&path).unwrap_or_default();
        let seeds = told["seeds"].as_array();
        if seeds.is_some_and(|seeds| seeds.contains(&seed.into())) {
            files::remove(&path)?;
        }
    }
    Ok(())
}
