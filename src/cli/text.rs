//! `llmbs eval --task text`: how well the models of a run write texts.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::bail;
use serde_json::{Map, json};

use super::eval::EvalArgs;
use super::progress::Bars;
use super::show::{self, out};
use super::switch::Switch;
use crate::run::{Run, TextDifference, TextModel, TextReport, TextRequest};

pub(super) fn evaluate(run: &Run, args: &EvalArgs, bars: &mut Bars) -> anyhow::Result<()> {
    let of_rankings = [
        !args.beam.is_empty(),
        args.split.is_some(),
        args.compare.is_some(),
        !args.fuse.is_empty(),
    ];
    if of_rankings.contains(&true) {
        bail!(
            "--beam, --split, --compare and --fuse are for --task recommend: texts are of the test \
             targets"
        );
    }
    if args.limit == Some(0) {
        bail!("--limit must be at least 1");
    }
    let models = match args.adapter {
        Some(Switch::On) => vec![TextModel::On],
        Some(Switch::Off) => vec![TextModel::Off],
        None if run.has_adapter() => {
            vec![TextModel::Backbone, TextModel::Off, TextModel::On]
        }
        None => vec![TextModel::Backbone, TextModel::Off],
    };
    let tasks = &run.config().train.tasks;
    if tasks.semantic + tasks.preference == 0.0 {
        tracing::info!(
            "no texts were learnt in stage initial (train.tasks.semantic and preference are 0): what is measured is what \
             is left of the backbone"
        );
    }
    let mut results = Vec::new();
    for model in models {
        let request = TextRequest { model, limit: args.limit };
        let result = run.evaluate_text(request, args.force, bars)?;
        let done = if result.was_done { "is there already" } else { "written" };
        tracing::info!("{} {done}", result.path.display());
        results.push((model, result));
    }
    let differences = match &results[..] {
        [.., (TextModel::Off, off), (TextModel::On, on)] => run.text_differences(on, off)?,
        _ => Differences::new(),
    };
    let results = results.into_iter().map(|(model, result)| (model, result.report));
    if args.json {
        let mut named = Map::new();
        for (model, report) in results {
            named.insert(model.to_string(), json!(report));
        }
        if !differences.is_empty() {
            named.insert("difference".into(), json!(differences));
        }
        show::json(&named)
    } else {
        out(&table(&results.collect::<Vec<_>>(), &differences))
    }
}

/// Of each task and figure, what it is with the adapter less what it is without.
type Differences = BTreeMap<String, BTreeMap<String, TextDifference>>;

/// The models side by side, the figures of each task below each other.
fn table(results: &[(TextModel, TextReport)], differences: &Differences) -> String {
    let Some((_, first)) = results.first() else { return String::new() };
    let mut text = format!("{:<18}{:<12}", "task", "metric");
    for (model, _) in results {
        let _ = write!(text, " {:>19}", model.label());
    }
    text.push_str(if differences.is_empty() { "\n" } else { "            on - off\n" });
    for (task, of_first) in &first.metrics {
        for (i, (metric, ..)) in of_first.figures().into_iter().enumerate() {
            let _ = write!(text, "{task:<18}{metric:<12}");
            for (_, report) in results {
                let cell = report.metrics.get(task).map(|found| {
                    let (_, value, half) = found.figures()[i];
                    let around = half.map(|half| format!(" ±{half:.4}"));
                    format!("{value:.4}{}", around.unwrap_or_default())
                });
                let _ = write!(text, " {:>19}", cell.unwrap_or_default());
            }
            if let Some(found) = differences.get(task).and_then(|of_task| of_task.get(metric)) {
                let [low, high] = found.interval;
                let cell = format!("{:+.4} ±{:.4}", found.difference, (high - low) / 2.0);
                let _ = write!(text, " {cell:>19}");
            }
            text.push('\n');
        }
        let (samples, tokens) = (of_first.samples, of_first.tokens);
        let _ = writeln!(text, "{task:<18}of {samples} samples, {tokens} tokens");
    }
    let settings = &first.settings;
    let _ = writeln!(text, "{}, seed {}", settings.dataset, settings.seed);
    if let Some(bootstrap) = &settings.bootstrap {
        let confidence = 100.0 * bootstrap.confidence;
        let _ = writeln!(text, "±: half the {confidence:.0} % bootstrap interval over samples");
    }
    text
}
