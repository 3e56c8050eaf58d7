//! The range of every number of the configuration.

use toml::Value;

use super::RunConfig;
use crate::{Error, Result};

/// A range of numbers.
#[derive(Debug, Clone, Copy)]
enum Range {
    /// Whatever fits the type.
    Any,
    /// From the first to the second, both included.
    Between(f64, f64),
    /// Above the first, up to the second.
    Above(f64, f64),
    /// From 0 to below 1: a probability of dropping, a share.
    BelowOne,
}

use Range::{Above, Any, BelowOne, Between};

/// A number of things of which there must be one.
const COUNT: Range = Between(1.0, 1e9);
/// A number of things that may be missing.
const COUNT_OR_NONE: Range = Between(0.0, 1e9);
/// The width of a layer.
const WIDTH: Range = Between(1.0, 65_536.0);
/// A number of layers or heads.
const DEPTH: Range = Between(1.0, 1024.0);
/// The tokens or items of one row.
const LENGTH: Range = Between(1.0, 65_536.0);
const LEARNING_RATE: Range = Above(0.0, 10.0);
const WEIGHT: Range = Between(0.0, 1e6);

/// The settings of a recommender over item ids: each has some of them.
const SEQUENTIAL: [(&str, Range); 22] = [
    ("dim", WIDTH),
    ("blocks", DEPTH),
    ("heads", DEPTH),
    ("head-dim", WIDTH),
    ("feed-forward", WIDTH),
    ("layers", DEPTH),
    ("hidden", WIDTH),
    ("horizontal", WIDTH),
    ("vertical", WIDTH),
    ("history", LENGTH),
    ("user-tokens", COUNT_OR_NONE),
    ("beam", COUNT),
    ("embedding-dropout", BelowOne),
    ("dropout", BelowOne),
    ("hidden-share", BelowOne),
    ("pretraining-epochs", COUNT_OR_NONE),
    ("negatives", COUNT),
    ("epochs", COUNT),
    ("patience", COUNT),
    ("batch-size", COUNT),
    ("learning-rate", LEARNING_RATE),
    ("weight-decay", WEIGHT),
];

/// The settings of an adapter.
const LORA: [(&str, Range); 3] =
    [("rank", WIDTH), ("alpha", Above(0.0, 1e6)), ("dropout", BelowOne)];

/// The settings of a training run.
const STAGE: [(&str, Range); 17] = [
    ("epochs", COUNT_OR_NONE),
    ("min-steps", COUNT_OR_NONE),
    ("max-steps", COUNT),
    ("batch", COUNT),
    ("micro-batch", COUNT),
    ("learning-rate", LEARNING_RATE),
    ("warmup-ratio", Between(0.0, 1.0)),
    ("clip-norm", Above(0.0, 1e9)),
    ("dropout", BelowOne),
    ("ema", BelowOne),
    ("log-every", COUNT),
    ("save-every", COUNT),
    ("save-minutes", Above(0.0, 1e6)),
    ("adamw.beta1", BelowOne),
    ("adamw.beta2", BelowOne),
    ("adamw.eps", Between(1e-30, 1.0)),
    ("adamw.weight-decay", WEIGHT),
];

/// What stands in one table alone.
const SINGLE: [(&str, Range); 77] = [
    ("seed", Any),
    ("data.history", LENGTH),
    ("train.continue.epochs", COUNT_OR_NONE),
    ("train.continue.learning-rate-share", Above(0.0, 10.0)),
    ("train.continue.replay", WEIGHT),
    ("data.split.valid-users", Above(0.0, 1.0)),
    ("data.split.test-users", Above(0.0, 1.0)),
    ("data.split.valid-from", BelowOne),
    ("data.split.test-from", BelowOne),
    ("data.synthetic.seed", Any),
    ("data.synthetic.users", COUNT),
    ("data.synthetic.items", COUNT),
    ("data.synthetic.groups", COUNT),
    ("data.synthetic.min-length", Between(3.0, 1e6)),
    ("data.synthetic.max-length", Between(3.0, 1e6)),
    ("data.synthetic.zipf-exponent", Between(0.0, 4.0)),
    ("data.synthetic.behavior", WEIGHT),
    ("data.synthetic.text", WEIGHT),
    ("data.synthetic.both", WEIGHT),
    ("data.synthetic.noise", Above(0.0, 1e6)),
    // All bytes, and the tokens that begin and end a text.
    ("backbone.scratch.vocab-size", Between(300.0, 1e7)),
    ("backbone.scratch.hidden-size", WIDTH),
    ("backbone.scratch.intermediate-size", Between(1.0, 1_048_576.0)),
    ("backbone.scratch.num-hidden-layers", DEPTH),
    ("backbone.scratch.num-attention-heads", DEPTH),
    ("backbone.scratch.num-key-value-heads", DEPTH),
    ("index.semantic.k", Between(2.0, 1e7)),
    ("index.semantic.levels", Between(1.0, 64.0)),
    ("index.semantic.max-text-tokens", LENGTH),
    ("index.behavior.k", Between(2.0, 1e7)),
    ("index.behavior.levels", Between(1.0, 64.0)),
    ("index.behavior.din.dim", WIDTH),
    ("index.behavior.din.attention", WIDTH),
    ("index.behavior.din.mlp", WIDTH),
    ("index.behavior.din.history", LENGTH),
    ("index.behavior.din.epochs", COUNT),
    ("index.behavior.din.patience", COUNT),
    ("index.behavior.din.batch-size", COUNT),
    ("index.behavior.din.negatives", Between(1.0, 1e6)),
    ("index.behavior.din.popularity-exponent", Between(0.0, 10.0)),
    ("index.behavior.din.learning-rate", LEARNING_RATE),
    ("index.behavior.din.weight-decay", WEIGHT),
    ("index.behavior.din.holdout", Between(0.0, 0.5)),
    ("index.behavior.spectral.dim", WIDTH),
    ("index.rq-vae.hidden", WIDTH),
    ("index.rq-vae.latent", WIDTH),
    ("index.rq-vae.steps", COUNT),
    ("index.rq-vae.batch-size", COUNT),
    ("index.rq-vae.learning-rate", LEARNING_RATE),
    ("index.rq-vae.commitment", WEIGHT),
    ("index.rq-vae.alignment", WEIGHT),
    ("index.rq-vae.diversity", WEIGHT),
    ("index.rq-vae.diversity-clusters", COUNT),
    ("train.tasks.semantic", Between(0.0, 1e3)),
    ("train.tasks.preference", Between(0.0, 1e3)),
    ("train.tasks.held-out", BelowOne),
    ("train.tasks.max-text-tokens", LENGTH),
    ("train.tasks.max-titles", LENGTH),
    ("train.contrast.semantic-weight", WEIGHT),
    ("train.contrast.behavior-weight", WEIGHT),
    ("train.contrast.temperature", Between(1e-4, 1e3)),
    ("train.contrast.negatives", COUNT),
    ("train.distillation.weight", Between(0.0, 1.0)),
    ("train.distillation.temperature", Between(1e-4, 100.0)),
    ("train.selection.targets-per-user", COUNT),
    ("train.selection.max-samples", COUNT),
    ("train.validation.users", COUNT_OR_NONE),
    ("train.validation.beam", COUNT),
    ("train.validation.patience", COUNT_OR_NONE),
    ("baseline.item-knn.neighbours", COUNT),
    ("baseline.item-knn.distance", Between(0.0, 1.0)),
    ("baseline.item-knn.backward", Between(0.0, 1.0)),
    ("baseline.item-knn.asymmetry", Between(0.0, 1.0)),
    ("baseline.item-knn.shrink", WEIGHT),
    ("baseline.item-knn.decay", Between(0.0, 1.0)),
    ("eval.beam", COUNT),
    ("eval.batch", COUNT),
];

/// The tables that settings of one kind stand in.
const GROUPS: [(&str, &[(&str, Range)]); 15] = [
    ("", &SINGLE),
    ("index.behavior.sasrec.", &SEQUENTIAL),
    ("baseline.gru4rec.", &SEQUENTIAL),
    ("baseline.caser.", &SEQUENTIAL),
    ("baseline.hgn.", &SEQUENTIAL),
    ("baseline.sasrec.", &SEQUENTIAL),
    ("baseline.bert4rec.", &SEQUENTIAL),
    ("baseline.fdsa.", &SEQUENTIAL),
    ("baseline.s3rec.", &SEQUENTIAL),
    ("baseline.tiger.", &SEQUENTIAL),
    ("train.lora.", &LORA),
    ("train.adapter.", &LORA),
    ("train.warmup.", &STAGE),
    ("train.initial.", &STAGE),
    ("train.anneal.", &STAGE),
];

/// What is wrong with the numbers of `config`, each with its key, its value and its range.
pub(super) fn violations(config: &RunConfig) -> Result<Vec<String>> {
    let value =
        Value::try_from(config).map_err(|e| Error::Invalid(format!("configuration: {e}")))?;
    let mut wrong = Vec::new();
    visit("", &value, &mut |key, number| {
        let must = match range(key) {
            Some(range) if holds(range, number) => return,
            Some(range) => words(range),
            None => "has no range".into(),
        };
        wrong.push(format!("{key} = {number}: {must}"));
    });
    Ok(wrong)
}

/// The range of the number, or of each number of the list, with this dotted key.
fn range(key: &str) -> Option<Range> {
    GROUPS.iter().find_map(|(prefix, group)| {
        let name = key.strip_prefix(prefix)?;
        group.iter().find(|(known, _)| *known == name).map(|(_, range)| *range)
    })
}

fn holds(range: Range, number: f64) -> bool {
    match range {
        Any => true,
        Between(least, most) => (least..=most).contains(&number),
        Above(bound, most) => number > bound && number <= most,
        BelowOne => (0.0..1.0).contains(&number),
    }
}

fn words(range: Range) -> String {
    match range {
        Any => "may be anything".into(),
        Between(least, most) => format!("must be from {least} to {most}"),
        Above(bound, most) => format!("must be above {bound}, at most {most}"),
        BelowOne => "must be at least 0 and below 1".into(),
    }
}

/// Calls `on_number` with the dotted key of every number.
fn visit(key: &str, value: &Value, on_number: &mut dyn FnMut(&str, f64)) {
    match value {
        Value::Integer(number) => on_number(key, *number as f64),
        Value::Float(number) => on_number(key, *number),
        Value::Array(values) => values.iter().for_each(|value| visit(key, value, on_number)),
        Value::Table(table) => {
            for (name, value) in table {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                visit(&key, value, on_number);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DEMO;

    /// The demo's configuration with every optional number set.
    fn full() -> RunConfig {
        let set = [
            "train.initial.max-steps=5",
            "train.initial.micro-batch=5",
            "train.selection.targets-per-user=3",
            "train.selection.max-samples=3",
        ];
        RunConfig::parse(DEMO, "demo.toml", &set.map(String::from)).unwrap()
    }

    #[test]
    fn every_number_has_a_range() {
        let mut keys = Vec::new();
        visit("", &Value::try_from(full()).unwrap(), &mut |key, _| keys.push(key.to_string()));
        assert!(keys.len() > 120, "the configuration was not walked: {keys:?}");
        for key in keys {
            assert!(range(&key).is_some(), "{key} has no range");
        }
        full().check().unwrap();
    }

    #[test]
    fn no_number_may_be_absurd() {
        let table = toml::Table::try_from(full()).unwrap();
        let mut numbers = Vec::new();
        visit("", &Value::Table(table), &mut |key, number| {
            numbers.push((key.to_string(), number));
        });
        numbers.dedup_by(|a, b| a.0 == b.0);
        for (key, number) in numbers {
            if matches!(range(&key), Some(Any)) {
                continue;
            }
            let tried = |value: &str| {
                let value = if key.ends_with("attention")
                    || key.ends_with(".hidden")
                    || key.ends_with("mlp")
                {
                    format!("[{value}]")
                } else {
                    value.to_string()
                };
                let set = format!("{key}={value}");
                RunConfig::parse(DEMO, "demo.toml", &[set]).and_then(|config| config.check())
            };
            for value in ["nan", "inf", "-inf", "-1", "1e300", "9223372036854775807"] {
                let error = tried(value).expect_err(&format!("{key} = {value}")).to_string();
                let named = error.contains(&key) || error.starts_with("--set");
                assert!(named, "{key} = {value}: {error}");
            }
            let zero = tried(if number.fract() == 0.0 { "0" } else { "0.0" });
            let may_be_zero = match range(&key) {
                Some(Between(least, _)) => least == 0.0,
                Some(BelowOne) => true,
                _ => false,
            };
            assert!(zero.is_err() || may_be_zero, "{key} = 0");
        }
    }
}
