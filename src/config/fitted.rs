//! `llmbs init`: a configuration fitted to a dataset, with the reason beside each value.

use std::path::Path;

use crate::data::Stats;
use crate::train::StageConfig;

/// Samples of a step: a user has one an epoch.
const BATCH: usize = 64;
/// Steps that stage initial aims at: Amazon Beauty's best epochs lie before them (docs/log.md).
const STEPS: usize = 5_600;
/// Steps below which a model knows too little, however few the users are.
const MIN_STEPS: usize = 2_500;
/// Users that an epoch is judged by, at most.
const VALIDATION_USERS: usize = 4_000;
/// Interactions below which the teacher counts for more than the log: pairs are rare there. One teacher is enough then:
/// others take from Recall what they add to NDCG (docs/log.md, Amazon Scientific).
const FEW_INTERACTIONS: usize = 50_000;
/// Interactions above which one teacher is enough: others would train as long as the model.
const MANY_INTERACTIONS: usize = 1_000_000;
/// Targets of a sample, at most.
const HISTORY: usize = 20;
/// Width of the backbone.
const HIDDEN: usize = 192;
/// Tokens of the texts.
const VOCABULARY: usize = 2_000;
/// Bytes that a trained weight takes: itself, gradient, two moments and moving average.
const BYTES_A_WEIGHT: u64 = 20;
/// Bytes a step works on, and the program itself.
const WORKING_BYTES: u64 = 1_000_000_000;

/// What a configuration is fitted to.
#[derive(Debug, Clone, Copy)]
pub struct Fit<'a> {
    /// The dataset.
    pub stats: &'a Stats,
    /// Whether its items have attributes, which FDSA reads.
    pub has_attributes: bool,
    /// Its folder, as the configuration names it.
    pub path: &'a Path,
    /// Memory that is free, in bytes, where the system says it.
    pub memory: Option<u64>,
}

/// The configuration, as TOML with comments.
pub fn fitted(fit: &Fit<'_>) -> String {
    let stats = fit.stats;
    let (users, items) = (stats.users, stats.items);
    let has_text = reads_texts(stats);
    let path = toml::Value::String(fit.path.display().to_string());
    let texts = if has_text {
        format!("{} of {items} items have texts", items - stats.items_without_text)
    } else if stats.items_without_text < items {
        format!("{} of {items} items have no texts", stats.items_without_text)
    } else {
        "no item has texts".into()
    };
    let index = if has_text { both_sources(items) } else { BEHAVIOR_ALONE.into() };
    let warmup = if has_text { WARMUP } else { "" };
    let stages = stages(fit);
    let (weight, teacher) = if stats.interactions < FEW_INTERACTIONS {
        (0.75, "The fewer the interactions, the more the SASRec of the index has to teach.")
    } else {
        (
            0.5,
            "Half of what is learnt from is what the SASRec of the index expects next: rare pairs.",
        )
    };
    let beside = beside(fit);
    format!(
        r#"# {name}: {users} users, {items} items, {interactions} interactions; {texts}.
# Written by `llmbs init`: the recipe of docs/results.md, fitted to these data. `llmbs run` trains and evaluates,
# `llmbs config` prints every other setting that has a value.

[data]
# Relative to this file.
path = {path}

[data.split]
# Each user's last two items are held out, as in published figures. A model in use may learn most of them, by the
# rule "sampled-leave-one-out" (docs/evaluation.md).
rule = "leave-one-out"

[backbone]
# Products in bf16 where the CPU can (AVX512-BF16) and on a GPU, in f32 elsewhere.
precision = "bf16"

# A backbone from scratch, of about {millions:.1} M parameters: items do not need more, and a CPU trains it.
[backbone.scratch]
vocab-size = {VOCABULARY}
hidden-size = {HIDDEN}
intermediate-size = 512
num-hidden-layers = 4
num-attention-heads = 4
num-key-value-heads = 4
tie-word-embeddings = true

[index]
{index}
[index.behavior]
# The number of items, so that each has a code of its own: what it was bought with is remembered for it alone.
k = {items}
levels = 1
# Reads the order of items; it also teaches the model (train.distillation).
encoder = "sasrec"

[index.behavior.sasrec]
precision = "bf16"

[train]
# Codes compete with those of their level alone, as they are ranked in the end.
level-softmax = true
# How often users take an item again is told, not learnt: {repeats:.1} % of the items in training.
repeat-bias = true
{warmup}
[train.tasks]
# Tasks on texts cost more time than all else and brought nothing to the next item; 1.0 teaches
# `recommend` to understand descriptions.
semantic = 0.0
preference = 0.0
# With no other task, a "sentence" has nothing to tell apart; a "word" makes rows shorter.
instruction = "word"

[train.contrast]
semantic-weight = 0.0
behavior-weight = 0.0

[train.distillation]
# {teacher}
weight = {weight}
{beside}
{stages}"#,
        name = stats.name.replace(char::is_control, " "),
        repeats = 100.0 * stats.repeats,
        interactions = stats.interactions,
        millions = weights(items) as f64 / 1e6,
    )
}

/// What says which baselines teach with the SASRec.
fn beside(fit: &Fit<'_>) -> String {
    if !(FEW_INTERACTIONS..=MANY_INTERACTIONS).contains(&fit.stats.interactions) {
        return String::new();
    }
    let names = if fit.has_attributes { r#""fdsa", "hgn""# } else { r#""hgn""# };
    format!(
        "# Networks of other kinds know other things: these are trained first and teach with it.\nbeside = [{names}]\n"
    )
}

/// Whether clusters are made of texts: the few items that have none are likened to those taken beside them.
fn reads_texts(stats: &Stats) -> bool {
    2 * stats.items_without_text <= stats.items && stats.items_without_text < stats.items
}

/// `[train.validation]` and the stages.
fn stages(fit: &Fit<'_>) -> String {
    let users = fit.stats.users;
    let per_epoch = users.div_ceil(BATCH).max(1);
    let epochs = STEPS.div_ceil(per_epoch).clamp(3, 16);
    let initial = StageConfig {
        epochs: epochs as u64,
        min_steps: MIN_STEPS as u64,
        batch: BATCH,
        ..StageConfig::default()
    };
    let steps = (initial.passes(users) as usize * users).div_ceil(BATCH) * epochs;
    let validated = if users > VALIDATION_USERS { VALIDATION_USERS } else { 0 };
    let validation = if validated == 0 {
        format!("All {users} users are scored after an epoch.")
    } else {
        format!("{validated} of {users} users are enough to tell epochs apart.")
    };
    let memory = memory(fit);
    format!(
        r"[train.validation]
# {validation}
users = {validated}
# Stop once so many epochs in a row were no better.
patience = 4

[train.initial]
# {per_epoch} steps an epoch of one pass over {users} users: {steps} steps in all.
epochs = {epochs}
# With fewer an epoch passes over the users several times.
min-steps = {MIN_STEPS}
batch = {BATCH}
learning-rate = 1e-3
warmup-ratio = 0.03
dropout = 0.3
ema = 0.999
{memory}
[train.anneal]
epochs = 1
batch = {BATCH}
learning-rate = 3e-4
"
    )
}

/// The index of a dataset of whose items most have no texts.
const BEHAVIOR_ALONE: &str = r#"# There are too few texts to make clusters of: an item is one token.
source = "behavior"
method = "residual-kmeans"
"#;

/// The index of a dataset with texts.
fn both_sources(items: usize) -> String {
    format!(
        r#"# Two tokens an item: a cluster of texts, and the item itself.
method = "residual-kmeans"
shared = true

[index.semantic]
# Clusters of about as many items as there are clusters.
k = {}
levels = 1
"#,
        clusters(items)
    )
}

/// The power of two nearest to the root of the number of items, from 2 to 1024.
fn clusters(items: usize) -> usize {
    let exponent = ((items.max(1) as f64).log2() / 2.0).round() as u32;
    1 << exponent.clamp(1, 10)
}

const WARMUP: &str = r"
[train.warmup]
# The backbone reads the texts first: clusters are made of what it makes of them.
epochs = 3
batch = 128
learning-rate = 1.5e-3
";

/// Trained weights, about: four blocks, and a row for each token and item.
fn weights(items: usize) -> u64 {
    let block = 4 * HIDDEN * HIDDEN + 3 * HIDDEN * 512;
    (4 * block + (VOCABULARY + items + clusters(items)) * HIDDEN) as u64
}

/// What is said of memory, with settings where there is little.
fn memory(fit: &Fit<'_>) -> String {
    let Stats { users, items, interactions, .. } = *fit.stats;
    // Where an item is one token the teacher's share of each is held for every target of a step.
    let targets = BATCH * interactions.div_ceil(users.max(1)).min(HISTORY);
    let taught = if reads_texts(fit.stats) { 0 } else { 8 * targets * items };
    let needed = weights(items) * BYTES_A_WEIGHT + WORKING_BYTES + taught as u64;
    let gb = |bytes: u64| bytes as f64 / 1e9;
    match fit.memory {
        Some(free) if free < needed => format!(
            "# About {:.1} GB are needed, {:.1} are free: less is kept.\ncheckpointing = true\n\n[train.initial.adamw]\n\
             moments = \"bf16\"\n",
            gb(needed),
            gb(free)
        ),
        _ => format!("# About {:.1} GB of memory are needed.\n", gb(needed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RunConfig;
    use crate::data::SplitRule;
    use crate::index::Source;
    use crate::tasks::Instruction;

    fn stats(users: usize, items: usize, items_without_text: usize) -> Stats {
        Stats {
            name: "Sh\nop".into(),
            users,
            short_users: 0,
            items,
            interactions: users * 8,
            density: 0.0,
            mean_length: 8.0,
            median_length: 8.0,
            max_length: 20,
            repeats: 0.0642,
            items_not_in_training: 0,
            items_without_text,
            mean_title_chars: 20.0,
            split_rule: SplitRule::LeaveOneOut,
            targets: [users; 2],
            times: None,
            fingerprint: String::new(),
            interactions_fingerprint: String::new(),
            texts_fingerprint: String::new(),
        }
    }

    fn config(stats: &Stats, memory: Option<u64>) -> (RunConfig, String) {
        let path = Path::new("/data/My \"Shop\"");
        let has_attributes = stats.items_without_text < stats.items;
        let text = fitted(&Fit { stats, has_attributes, path, memory });
        let config = RunConfig::parse(&text, "fitted", &[]).unwrap();
        config.check().unwrap();
        (config, text)
    }

    #[test]
    fn a_small_shop_gets_steps_and_a_large_one_few_epochs() {
        let (small, text) = config(&stats(150, 50, 0), None);
        assert_eq!(small.data.path.as_deref(), Some(Path::new("/data/My \"Shop\"")));
        let initial = &small.train.initial;
        assert_eq!((initial.epochs, initial.min_steps, initial.batch), (16, 2_500, 64));
        assert_eq!((small.index.semantic.k, small.index.behavior.k), (8, 50));
        assert_eq!((small.train.validation.users, small.train.distillation.weight), (0, 0.75));
        assert!(text.contains("told, not learnt: 6.4 % of the items") && small.train.repeat_bias);
        assert_eq!(small.train.tasks.instruction, Instruction::Word);
        assert!(text.contains("3 steps an epoch of one pass over 150 users: 2528 steps"), "{text}");
        let (beauty, _) = config(&stats(22_363, 12_101, 0), None);
        assert_eq!((beauty.train.initial.epochs, beauty.index.semantic.k), (16, 128));
        assert_eq!(beauty.train.validation.users, 4_000);
        assert_eq!(beauty.train.distillation.weight, 0.5);
        let (large, _) = config(&stats(1_000_000, 300_000, 0), None);
        assert_eq!((large.train.initial.epochs, large.index.semantic.k), (3, 512));
    }

    #[test]
    fn networks_teach_that_the_data_allow_and_whose_training_is_short() {
        let teachers = |stats: &Stats| config(stats, None).0.train.distillation.beside;
        let names = |stats: &Stats| teachers(stats).iter().map(|c| c.name()).collect::<Vec<_>>();
        assert_eq!(names(&stats(22_363, 12_101, 0)), ["fdsa", "hgn"]);
        assert_eq!(names(&stats(22_363, 12_101, 12_101)), ["hgn"]);
        assert_eq!(names(&stats(1_000_000, 300_000, 0)), [""; 0]);
        assert_eq!(names(&stats(3_285, 3_686, 0)), [""; 0]);
    }

    #[test]
    fn without_texts_the_index_is_of_behavior() {
        let (config, text) = config(&stats(1_000, 300, 300), None);
        assert_eq!(config.index.source, Source::Behavior);
        assert!(text.contains("no item has texts") && !text.contains("[train.warmup]"), "{text}");
    }

    #[test]
    fn a_few_items_without_texts_are_no_reason_to_do_without() {
        let (few, _) = config(&stats(1_000, 300, 1), None);
        assert_eq!(few.index.source, Source::Unit);
        let (most, text) = config(&stats(1_000, 300, 151), None);
        assert_eq!(most.index.source, Source::Behavior);
        assert!(text.contains("151 of 300 items have no texts"), "{text}");
    }

    #[test]
    fn little_memory_is_used_sparingly() {
        // (4 * 442,368 + (2,000 + 1,000,000 + 1,024) * 192) weights of 20 bytes, and a gigabyte.
        let large = stats(1_000_000, 1_000_000, 0);
        let (ample, text) = config(&large, Some(6_000_000_000));
        assert!(text.contains("About 4.9 GB of memory are needed"), "{text}");
        assert!(!ample.train.initial.checkpointing);
        let (tight, text) = config(&large, Some(4_000_000_000));
        assert!(tight.train.initial.checkpointing, "{text}");
        assert!(tight.to_toml().unwrap().contains("moments = \"bf16\""));
        // Where an item is one token the teacher says of each, 8 bytes, what follows 8 items of 64 users.
        let (_, text) = config(&stats(1_000_000, 1_000_000, 1_000_000), None);
        assert!(text.contains("About 9.0 GB of memory are needed"), "{text}");
    }
}
