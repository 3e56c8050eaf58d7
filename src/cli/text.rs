//! `llmbs eval --task text`: how well the models of a run write texts.

use std::fmt::Write;

use anyhow::bail;
use serde_json::{Map, Value};

use super::eval::EvalArgs;
use super::progress::Bars;
use super::show::{self, out};
use super::switch::Switch;
use crate::run::{Run, Stage, TextModel, TextRequest};

pub(super) fn evaluate(run: &Run, args: &EvalArgs, bars: &mut Bars) -> anyhow::Result<()> {
    if !args.beam.is_empty() || args.split.is_some() || args.compare.is_some() {
        bail!(
            "--beam, --split and --compare are for --task recommend: texts are of the test targets"
        );
    }
    if args.limit == Some(0) {
        bail!("--limit must be at least 1");
    }
    let models = match args.adapter {
        Some(Switch::On) => vec![TextModel::On],
        Some(Switch::Off) => vec![TextModel::Off],
        None if run.is_done(Stage::Anneal) => {
            vec![TextModel::Backbone, TextModel::Off, TextModel::On]
        }
        None => vec![TextModel::Backbone, TextModel::Off],
    };
    let mut results = Vec::new();
    for model in models {
        let request = TextRequest { model, limit: args.limit };
        let result = run.evaluate_text(request, args.force, bars)?;
        let done = if result.was_done { "is there already" } else { "written" };
        tracing::info!("{} {done}", result.path.display());
        results.push((model, result.json));
    }
    if args.json {
        let named = results.into_iter().map(|(model, json)| (model.to_string(), json));
        show::json(&Value::Object(named.collect::<Map<_, _>>()))
    } else {
        out(&table(&results))
    }
}

/// The models side by side, the figures of each task below each other.
fn table(results: &[(TextModel, Value)]) -> String {
    let Some((_, first)) = results.first() else { return String::new() };
    let mut text = format!("{:<18}{:<12}", "task", "metric");
    for (model, _) in results {
        let name = match model {
            TextModel::Backbone => "backbone",
            TextModel::Off => "adapter off",
            TextModel::On => "adapter on",
        };
        let _ = write!(text, "{name:>14}");
    }
    text.push('\n');
    for (task, figures) in first["metrics"].as_object().into_iter().flatten() {
        let names = figures.as_object().into_iter().flat_map(Map::keys);
        for metric in names.filter(|name| !["samples", "tokens"].contains(&name.as_str())) {
            let _ = write!(text, "{task:<18}{metric:<12}");
            for (_, json) in results {
                let value = json["metrics"][task][metric].as_f64().unwrap_or(f64::NAN);
                let _ = write!(text, "{value:>14.4}");
            }
            text.push('\n');
        }
        let _ = writeln!(
            text,
            "{task:<18}of {} samples, {} tokens",
            figures["samples"], figures["tokens"]
        );
    }
    let settings = &first["settings"];
    let _ = writeln!(
        text,
        "{}, seed {}",
        settings["dataset"].as_str().unwrap_or_default(),
        settings["seed"]
    );
    text
}
