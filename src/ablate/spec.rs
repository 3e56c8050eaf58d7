//! What an ablation asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::{BASELINES, TABLE};
use crate::config::key_of;
use crate::data::Split;
use crate::error::plain_toml;
use crate::run::{Baseline, MANIFEST, metric_names};
use crate::{Error, Result, invalid};

/// The most variants, those of the grid among them, that are trained: every one has a folder and rows of its own.
const MOST: usize = 1000;

/// The most bytes that the name of a folder has on common file systems.
const FOLDER: usize = 255;

/// The file behind `llmbs ablate` (docs/ablations.md).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Spec {
    /// The seeds every variant is trained with.
    pub seeds: Vec<u64>,
    /// The split of all users that is ranked.
    pub split: Split,
    /// Whether the annealing adapter is trained as well and has a row of its own.
    pub anneal: bool,
    /// Baselines, trained with the same seeds, that have rows of their own.
    pub baselines: Vec<Baseline>,
    /// Whether every model is also ranked together with each baseline, in a row of its own.
    pub fuse: bool,
    /// The metrics of the table.
    pub metrics: Vec<String>,
    /// The row that the others are tested against; absent, the first variant.
    pub reference: Option<String>,
    /// Settings of all variants and of the baselines, as `--set` takes them; those of a variant go over them.
    pub set: Vec<String>,
    /// What differs; absent, the configuration as it is, under the name `base`.
    pub variant: Vec<Variant>,
    /// Values of a setting: every variant is run with each, of several settings with each combination.
    #[serde(deserialize_with = "grid")]
    pub grid: BTreeMap<String, Vec<toml::Value>>,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            seeds: vec![1, 2, 3],
            split: Split::Valid,
            anneal: false,
            baselines: Vec::new(),
            fuse: false,
            metrics: vec!["recall@10".into(), "ndcg@10".into()],
            reference: None,
            set: Vec::new(),
            variant: Vec::new(),
            grid: BTreeMap::new(),
        }
    }
}

/// A name for some settings.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// The name, as in the table.
    pub name: String,
    /// Settings as `--set` takes them, `key=value`.
    #[serde(default)]
    pub set: Vec<String>,
    /// Whether the annealing adapter is trained, where it is not as the specification says of all.
    #[serde(default)]
    pub anneal: Option<bool>,
    /// A baseline that is trained on the variant's index, in place of the language model.
    #[serde(default)]
    pub baseline: Option<Baseline>,
}

impl Variant {
    /// The name as that of a folder.
    pub(super) fn folder(&self) -> String {
        let plain = |c: char| c.is_alphanumeric() || "._=-".contains(c);
        let name: String = self.name.chars().map(|c| if plain(c) { c } else { '-' }).collect();
        name.trim_start_matches('.').to_string()
    }
}

impl Spec {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Names the file and what is wrong.
    pub fn load(path: &Path) -> Result<Self> {
        let text = crate::files::read_text(path)?;
        let fault = |e: &dyn std::fmt::Display| Error::Invalid(format!("{}: {e}", path.display()));
        let spec: Self = toml::from_str(&text).map_err(|e| fault(&plain_toml(&e)))?;
        spec.check().map_err(|e| fault(&e))?;
        Ok(spec)
    }

    /// Refuses what cannot be run or told apart.
    pub(super) fn check(&self) -> Result<()> {
        let seeds: BTreeSet<u64> = self.seeds.iter().copied().collect();
        if seeds.is_empty() || seeds.len() < self.seeds.len() {
            invalid!("seeds = {:?}: name at least one, each once", self.seeds);
        }
        for metric in &self.metrics {
            if !metric_names().any(|name| name == metric) {
                let known: Vec<&str> = metric_names().collect();
                invalid!("metrics: {metric:?} is none of {}", known.join(", "));
            }
        }
        if self.metrics.is_empty() {
            invalid!("metrics = []: name at least one");
        }
        if self.fuse && self.baselines.is_empty() {
            invalid!("fuse = true needs baselines, for example baselines = [\"sasrec\"]");
        }
        if let Some(baseline) = self.baselines.iter().find(|baseline| baseline.reads_index()) {
            let text = baseline.name();
            invalid!(
                "baselines: {text:?} reads an index, which is a variant's: give a [[variant]] baseline = {text:?}"
            );
        }
        if let Some((key, _)) = self.grid.iter().find(|(_, values)| values.is_empty()) {
            invalid!("grid: {key} = []: give it at least one value");
        }
        let named = self.variant.len().max(1);
        let count = self.grid.values().fold(named, |n, values| n.saturating_mul(values.len()));
        if count > MOST {
            invalid!(
                "the grid makes {count} variants; {MOST} are the most: vary fewer settings at once"
            );
        }
        let varied = |set: &[String]| {
            let mut keys = set.iter().map(|setting| key_of(setting));
            keys.find(|key| self.grid.contains_key(*key)).map(String::from)
        };
        if let Some(key) = varied(&self.set) {
            invalid!("set: sets {key}, which the grid varies");
        }
        for Variant { name, set, anneal, baseline } in &self.variant {
            if let Some(key) = varied(set) {
                invalid!("variant {name:?}: sets {key}, which the grid varies");
            }
            let Some(baseline) = baseline else { continue };
            if !baseline.reads_index() {
                let text = baseline.name();
                invalid!(
                    "variant {name:?}: baseline = {text:?} does not read the index; name it in baselines = [{text:?}]"
                );
            }
            if *anneal == Some(true) {
                invalid!(
                    "variant {name:?}: anneal = true is of the language model, which it does without"
                );
            }
        }
        let mut folders = BTreeSet::new();
        for variant in self.variants() {
            let folder = variant.folder();
            let name = &variant.name;
            if folder.is_empty()
                || folder.len() > FOLDER
                || [BASELINES, TABLE, MANIFEST].contains(&&*folder)
            {
                invalid!(
                    "variant {name:?}: its folder would be {folder:?}; give it a name that a folder can have, \
                     of at most {FOLDER} bytes and other than {BASELINES:?}, {TABLE:?} and {MANIFEST:?}"
                );
            }
            if !folders.insert(folder.clone()) {
                invalid!(
                    "variant {name:?}: its folder, {folder:?}, is another's; name it otherwise"
                );
            }
            if let Some(setting) = variant.set.iter().find(|setting| key_of(setting) == "seed") {
                invalid!("variant {name:?}: {setting}: `seeds` says what to train with");
            }
        }
        let rows = self.rows();
        let mut names = BTreeSet::new();
        if let Some(twice) = rows.iter().find(|name| !names.insert(name.as_str())) {
            invalid!("two rows would be called {twice:?}: the rows are {}", rows.join("; "));
        }
        if let Some(reference) = self.reference.as_ref().filter(|name| !rows.contains(name)) {
            invalid!("reference = {reference:?} is no row: the rows are {}", rows.join("; "));
        }
        Ok(())
    }

    /// The names of all rows, in the order of the table.
    pub(super) fn rows(&self) -> Vec<String> {
        let mut rows: Vec<String> = self.baselines.iter().map(|b| b.name().to_string()).collect();
        for variant in self.variants() {
            if variant.baseline.is_some() {
                rows.push(variant.name);
                continue;
            }
            let anneal = self.anneals(&variant);
            for adapter in [false, true].into_iter().filter(|adapter| anneal || !adapter) {
                rows.push(row(&variant.name, adapter, &[]));
                rows.extend(self.fusions().map(|with| row(&variant.name, adapter, with)));
            }
        }
        rows
    }

    /// What each model ranks together with, for a row of its own: every baseline, and where there are several all.
    pub(super) fn fusions(&self) -> impl Iterator<Item = &[Baseline]> {
        let all = (self.baselines.len() > 1).then_some(&self.baselines[..]);
        self.baselines.chunks(1).chain(all).filter(|_| self.fuse)
    }

    /// The row that the others are tested against.
    pub(super) fn reference(&self) -> String {
        let first = || row(&self.variants()[0].name, false, &[]);
        self.reference.clone().unwrap_or_else(first)
    }

    /// Whether the annealing adapter of a variant is trained.
    pub(super) fn anneals(&self, variant: &Variant) -> bool {
        variant.baseline.is_none() && variant.anneal.unwrap_or(self.anneal)
    }

    /// The variants with every combination of the grid, each with all its settings.
    pub(super) fn variants(&self) -> Vec<Variant> {
        let base = Variant { name: "base".into(), set: Vec::new(), anneal: None, baseline: None };
        let mut variants = if self.variant.is_empty() { vec![base] } else { self.variant.clone() };
        for variant in &mut variants {
            variant.set.splice(..0, self.set.iter().cloned());
        }
        for (key, values) in &self.grid {
            let with = |variant: &Variant, value: &toml::Value| {
                let setting = format!("{key}={value}");
                let name = format!("{}, {setting}", variant.name);
                let set = [variant.set.clone(), vec![setting]].concat();
                Variant { name, set, ..*variant }
            };
            let with_each = |v: &Variant| values.iter().map(|value| with(v, value)).collect();
            variants = variants.iter().flat_map::<Vec<_>, _>(with_each).collect();
        }
        variants
    }
}

/// Reads `[grid]`: a dotted key that is not quoted is a table in a table.
fn grid<'de, D: Deserializer<'de>>(
    from: D,
) -> std::result::Result<BTreeMap<String, Vec<toml::Value>>, D::Error> {
    let mut tables = vec![(String::new(), toml::Table::deserialize(from)?)];
    let mut grid = BTreeMap::new();
    while let Some((prefix, table)) = tables.pop() {
        for (key, value) in table {
            let key = format!("{prefix}{key}");
            match value {
                toml::Value::Table(table) => tables.push((format!("{key}."), table)),
                toml::Value::Array(values) => {
                    if grid.insert(key.clone(), values).is_some() {
                        return Err(D::Error::custom(format!("{key}: twice")));
                    }
                }
                value => {
                    let list = format!("{key} = {value}: give a list of values, [{value}, …]");
                    return Err(D::Error::custom(list));
                }
            }
        }
    }
    Ok(grid)
}

/// The name of the row of a variant: of its model, with or without the annealing adapter, alone or ranked
/// together with baselines.
pub(super) fn row(variant: &str, adapter: bool, with: &[Baseline]) -> String {
    let annealed = if adapter { ", annealed" } else { "" };
    let names: Vec<&str> = with.iter().map(|baseline| baseline.name()).collect();
    let with = if with.is_empty() { "" } else { ", with " };
    format!("{variant}{annealed}{with}{}", names.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Result<Spec> {
        let spec: Spec = toml::from_str(text).map_err(|e| Error::Invalid(e.to_string()))?;
        spec.check().map(|()| spec)
    }

    #[test]
    fn a_grid_is_crossed_with_the_variants() {
        let text = r#"
            [[variant]]
            name = "plain"
            [[variant]]
            name = "taught"
            set = ["train.distillation.weight=0.5"]
            [grid]
            "train.initial.dropout" = [0.1, 0.3]
            train.tuning = ["full"]
        "#;
        let variants = spec(text).unwrap().variants();
        let names: Vec<&str> = variants.iter().map(|v| v.name.as_str()).collect();
        let expected = [
            r#"plain, train.initial.dropout=0.1, train.tuning="full""#,
            r#"plain, train.initial.dropout=0.3, train.tuning="full""#,
            r#"taught, train.initial.dropout=0.1, train.tuning="full""#,
            r#"taught, train.initial.dropout=0.3, train.tuning="full""#,
        ];
        assert_eq!(names, expected);
        assert_eq!(
            variants[2].set,
            ["train.distillation.weight=0.5", "train.initial.dropout=0.1", "train.tuning=\"full\""]
        );
        assert_eq!(variants[0].folder(), "plain--train.initial.dropout=0.1--train.tuning=-full-");
        assert_eq!(spec("").unwrap().variants()[0].name, "base");
    }

    #[test]
    fn what_holds_for_all_variants_comes_before_their_own() {
        let text = r#"
            anneal = true
            set = ["train.tuning=full", "eval.beam=3"]
            variant = [{ name = "a", set = ["eval.beam=5"], anneal = false }, { name = "b" }]
        "#;
        let spec = spec(text).unwrap();
        let variants = spec.variants();
        assert_eq!(variants[0].set, ["train.tuning=full", "eval.beam=3", "eval.beam=5"]);
        assert_eq!(variants[1].set, spec.set);
        assert_eq!(spec.rows(), ["a", "b", "b, annealed"]);
    }

    #[test]
    fn baselines_come_first_and_what_is_fused_after_the_model() {
        let text =
            "anneal = true\nbaselines = [\"sasrec\"]\nfuse = true\nreference = \"base, annealed\"";
        let spec = spec(text).unwrap();
        let expected = [
            "sasrec",
            "base",
            "base, with sasrec",
            "base, annealed",
            "base, annealed, with sasrec",
        ];
        assert_eq!(spec.rows(), expected);
        assert_eq!(spec.reference(), "base, annealed");
        let two = text.replace("\"sasrec\"", "\"sasrec\", \"hgn\"").replace("anneal = true", "");
        let rows = self::spec(&two.replace(", annealed", "")).unwrap().rows();
        let fused = ["base, with sasrec", "base, with hgn", "base, with sasrec and hgn"];
        assert_eq!(rows[3..], fused);
    }

    #[test]
    fn a_variant_of_a_baseline_has_one_row() {
        let text = "anneal = true\nfuse = true\nbaselines = [\"sasrec\"]
            variant = [{ name = \"ids\", baseline = \"tiger\" }, { name = \"b\", anneal = false }]";
        let spec = spec(text).unwrap();
        assert_eq!(spec.rows(), ["sasrec", "ids", "b", "b, with sasrec"]);
        assert_eq!(spec.reference(), "ids");
    }

    /// Eleven settings of ten values each, which nobody's memory would hold.
    const ELEVEN: &str = "[grid]
        a.a = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
        a.b = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
        a.c = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
        a.d = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
        a.e = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
        a.f = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
        a.g = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
        a.h = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
        a.i = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
        a.j = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
        a.k = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]";

    #[test]
    fn what_cannot_be_run_is_refused() {
        for (text, word) in [
            ("seeds = []", "seeds"),
            ("seeds = [1, 1]", "each once"),
            ("metrics = [\"recall@11\"]", "recall@11"),
            ("fuse = true", "baselines"),
            ("baselines = [\"bert\"]", "bert"),
            ("[grid]\nseed = []", "seed = []"),
            (ELEVEN, "100000000000 variants; 1000 are the most"),
            ("[grid]\ntrain.tuning = \"full\"", "[\"full\", …]"),
            ("[[variant]]\nname = \"a b\"\n[[variant]]\nname = \"a-b\"", "a-b"),
            ("[[variant]]\nname = \"..\"", "a folder can have"),
            ("[[variant]]\nname = \"baselines\"", "other than \"baselines\""),
            ("[[variant]]\nname = \"table.json\"", "\"table.json\" and"),
            ("[[variant]]\nname = \"manifest.json\"", "and \"manifest.json\""),
            ("[grid]\ntrain.tuning = [1]\n\"train.tuning\" = [2]", "train.tuning: twice"),
            (
                "variant = [{ name = \"a\", set = [\"train.tuning =1\"] }]\n[grid]\ntrain.tuning = [1]",
                "the grid varies",
            ),
            ("set = [\"a.b=1\"]\n[grid]\na.b = [1]", "set: sets a.b"),
            ("set = [\"seed=3\"]", "seed=3"),
            ("variant = [{ name = \"a\", baseline = \"sasrec\" }]", "baselines = [\"sasrec\"]"),
            ("variant = [{ name = \"a\", baseline = \"tiger\", anneal = true }]", "language model"),
            ("baselines = [\"tiger\"]", "[[variant]] baseline = \"tiger\""),
            ("variants = 3", "variants"),
            ("[[variant]]\nname = \"a\"\nset = [\"seed=3\"]", "seed=3"),
            ("[grid]\nseed = [1, 2]", "seed=1"),
            ("baselines = [\"sasrec\", \"sasrec\"]", "called \"sasrec\""),
            ("baselines = [\"sasrec\"]\n[[variant]]\nname = \"sasrec\"", "called \"sasrec\""),
            ("anneal = true\nvariant = [{ name = \"a\" }, { name = \"a, annealed\" }]", "annealed"),
            ("reference = \"bass\"", "bass\" is no row: the rows are base"),
        ] {
            let error = spec(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
