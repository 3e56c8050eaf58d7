//! PEFT's `adapter_config.json`: which layers an adapter changes and how strongly, read as PEFT reads it.
//! What would change the model in another way than `W + scale * B A` is a problem.

use std::path::Path;

use fancy_regex::Regex;
use serde_json::{Map, Value};

use crate::Result;

/// Keys that do not bear on what a trained adapter computes.
const HARMLESS: [&str; 15] = [
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
];

/// Ways to draw the first A and B that leave the base model as it is. The others (`pissa`, `olora`,
/// `corda`, `loftq`) take something out of the base weights, which the adapter alone does not know.
const HARMLESS_INIT: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// What PEFT targets in a Llama where the configuration does not say.
const DEFAULT_TARGETS: [&str; 2] = ["q_proj", "v_proj"];

/// Which modules a setting names.
#[derive(Debug)]
enum Modules {
    /// Every linear layer but the head.
    AllLinear,
    /// Those whose whole name matches.
    Pattern(Regex),
    /// Those with one of these names, or one that ends with it after a dot.
    Names(Vec<String>),
}

/// The part of an adapter's configuration that decides what its tensors mean.
#[derive(Debug)]
pub(super) struct PeftConfig {
    rank: usize,
    alpha: f64,
    rank_stabilized: bool,
    targets: Modules,
    excluded: Modules,
    /// The blocks that are changed, where not all are.
    layers: Option<Vec<u64>>,
    rank_pattern: Vec<(Regex, usize)>,
    alpha_pattern: Vec<(Regex, f64)>,
}

impl PeftConfig {
    /// Reads a file; what is wrong with it goes to `problems`.
    pub(super) fn read(path: &Path, problems: &mut Vec<String>) -> Result<Self> {
        let json: Map<String, Value> = crate::files::read_json(path)?;
        let mut file = File { json, problems };
        let config = Self {
            rank: file.positive("r").map_or(1, |rank| rank as usize),
            alpha: file.number("lora_alpha").unwrap_or(1.0),
            rank_stabilized: file.take("use_rslora") == Value::Bool(true),
            targets: file.modules("target_modules", &DEFAULT_TARGETS),
            excluded: file.modules("exclude_modules", &[]),
            layers: file.layers(),
            rank_pattern: file.pattern("rank_pattern", |rank| {
                rank.as_u64().filter(|rank| *rank > 0).map(|rank| rank as usize)
            }),
            alpha_pattern: file.pattern("alpha_pattern", Value::as_f64),
        };
        file.refuse_the_rest();
        Ok(config)
    }

    /// Whether the adapter changes the linear layer `name`, `model.layers.0.self_attn.q_proj`.
    pub(super) fn targets(&self, name: &str) -> bool {
        if self.excluded.hold(name) || !self.targets.hold(name) {
            return false;
        }
        // `layers_to_transform` does not bear on names given in full.
        let in_full =
            matches!(&self.targets, Modules::Names(names) if names.iter().any(|n| n == name));
        let layer = name.split('.').nth(2).and_then(|number| number.parse().ok());
        in_full || self.layers.as_ref().is_none_or(|all| layer.is_some_and(|n| all.contains(&n)))
    }

    /// The rank of the layer's update.
    pub(super) fn rank(&self, name: &str) -> usize {
        first_match(&self.rank_pattern, name).unwrap_or(self.rank)
    }

    /// What the layer's `B A` is multiplied by.
    pub(super) fn scale(&self, name: &str) -> f64 {
        let alpha = first_match(&self.alpha_pattern, name).unwrap_or(self.alpha);
        let rank = self.rank(name) as f64;
        alpha / if self.rank_stabilized { rank.sqrt() } else { rank }
    }
}

/// The value of the first pattern, in the file's order, that matches `name` or its end after a dot.
fn first_match<T: Copy>(patterns: &[(Regex, T)], name: &str) -> Option<T> {
    patterns.iter().find(|(pattern, _)| matches(pattern, name)).map(|(_, value)| *value)
}

/// A pattern that a search of its own length gives up on matches nothing.
fn matches(pattern: &Regex, name: &str) -> bool {
    pattern.is_match(name).unwrap_or(false)
}

impl Modules {
    fn hold(&self, name: &str) -> bool {
        match self {
            Self::AllLinear => true,
            Self::Pattern(pattern) => matches(pattern, name),
            Self::Names(names) => names.iter().any(|suffix| {
                name.strip_suffix(suffix.as_str())
                    .is_some_and(|before| before.is_empty() || before.ends_with('.'))
            }),
        }
    }
}

/// The keys of a file that were not looked at yet.
struct File<'a> {
    json: Map<String, Value>,
    problems: &'a mut Vec<String>,
}

impl File<'_> {
    /// The value of a key; null where it is absent.
    fn take(&mut self, key: &str) -> Value {
        self.json.shift_remove(key).unwrap_or_default()
    }

    fn wrong<T>(&mut self, key: &str, value: &Value, wanted: &str) -> Option<T> {
        self.problems.push(format!("{key} is {value}, not {wanted}"));
        None
    }

    fn positive(&mut self, key: &str) -> Option<u64> {
        let value = self.take(key);
        let number = value.as_u64().filter(|number| *number > 0);
        number.or_else(|| self.wrong(key, &value, "a whole number above 0"))
    }

    fn number(&mut self, key: &str) -> Option<f64> {
        let value = self.take(key);
        value.as_f64().or_else(|| self.wrong(key, &value, "a number"))
    }

    fn modules(&mut self, key: &str, default: &[&str]) -> Modules {
        let found = match self.take(key) {
            Value::Null => Some(Modules::Names(default.iter().map(|s| (*s).into()).collect())),
            Value::String(text) if text == "all-linear" => Some(Modules::AllLinear),
            Value::String(text) => self.regex(key, "", &text).map(Modules::Pattern),
            value => match serde_json::from_value(value.clone()) {
                Ok(names) => Some(Modules::Names(names)),
                Err(_) => self.wrong(key, &value, "a list of names or a pattern"),
            },
        };
        // A problem of its own: no tensor is to blame for it.
        let nothing =
            || if default.is_empty() { Modules::Names(Vec::new()) } else { Modules::AllLinear };
        found.unwrap_or_else(nothing)
    }

    fn layers(&mut self) -> Option<Vec<u64>> {
        let pattern = self.take("layers_pattern");
        let names_ours = |name: &Value| name == "layers";
        if is_set(&pattern)
            && !names_ours(&pattern)
            && !pattern.as_array().is_some_and(|names| names.iter().any(names_ours))
        {
            self.wrong::<()>("layers_pattern", &pattern, "\"layers\", a Llama's blocks");
        }
        match self.take("layers_to_transform") {
            Value::Null => None,
            Value::Array(layers) if layers.is_empty() => None,
            value => {
                let layers = match &value {
                    Value::Array(layers) => layers.iter().map(Value::as_u64).collect(),
                    one => one.as_u64().map(|layer| vec![layer]),
                };
                layers.or_else(|| self.wrong("layers_to_transform", &value, "a list of numbers"))
            }
        }
    }

    fn pattern<T>(&mut self, key: &str, read: fn(&Value) -> Option<T>) -> Vec<(Regex, T)> {
        let found = match self.take(key) {
            Value::Object(found) => found,
            Value::Null => return Vec::new(),
            value => {
                self.wrong::<()>(key, &value, "an object");
                return Vec::new();
            }
        };
        let mut patterns = Vec::new();
        for (name, value) in found {
            let regex = self.regex(key, r"(?:.*\.)?", &name);
            let number =
                read(&value).or_else(|| self.wrong(&format!("{key}.{name}"), &value, "a number"));
            patterns.extend(regex.zip(number));
        }
        patterns
    }

    /// `text` as a pattern of whole names, after what matches `before`.
    fn regex(&mut self, key: &str, before: &str, text: &str) -> Option<Regex> {
        match Regex::new(&format!(r"\A{before}(?:{text})\z")) {
            Ok(regex) => Some(regex),
            Err(e) => {
                self.problems.push(format!("{key} has the pattern {text:?}: {e}"));
                None
            }
        }
    }

    /// Refuses what is set and is neither known nor harmless.
    fn refuse_the_rest(&mut self) {
        for (key, harmless) in [("peft_type", "LORA"), ("bias", "none")] {
            let value = self.take(key);
            if value != harmless && (is_set(&value) || key == "peft_type") {
                self.wrong::<()>(key, &value, &format!("{harmless:?}"));
            }
        }
        let init = self.take("init_lora_weights");
        if !init.is_null() && !init.is_boolean() && !HARMLESS_INIT.iter().any(|way| init == *way) {
            self.problems.push(format!(
                "init_lora_weights is {init}, which changes the base weights too; convert the adapter \
                 with PEFT's save_pretrained(path_initial_model_for_weight_conversion)"
            ));
        }
        let rest = std::mem::take(&mut self.json);
        let unknown = rest
            .into_iter()
            .filter(|(key, value)| is_set(value) && !HARMLESS.contains(&key.as_str()));
        self.problems
            .extend(unknown.map(|(key, value)| format!("{key} is {value}: not supported")));
    }
}

/// Whether a value is more than a default that says nothing.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Bool(true) | Value::Number(_) => true,
    }
}
