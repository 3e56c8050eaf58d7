//! Embeddings in stage `index`: z^s, made once for all that is embedded alike, and matrices of a user's own.

use std::path::Path;
use std::time::Duration;

use super::{BACKBONE, company};
use crate::config::RunConfig;
use crate::data::{Dataset, Item, ItemId};
use crate::embed::{
    self, ItemTexts, Parts, TOKENS_PER_PASS, embedding_key, load_embeddings, load_kept,
    save_embeddings, semantic_embeddings,
};
use crate::index::Source;
use crate::model::{Backbone, Llama};
use crate::ranks::{Alone, Ranks};
use crate::run::artifacts::{backbone, load_backbone_at, precision};
use crate::run::needs::Needs;
use crate::run::stages::Made;
use crate::run::unfinished::forget;
use crate::run::work::Work;
use crate::run::{Monitor, Run, Stage};
use crate::{Result, files, invalid};
use ndarray::Array2;

/// How much work a run that is cut off loses.
const SAVE_EVERY: Duration = Duration::from_secs(30);

/// The file of z^s.
const FILE: &str = "semantic.safetensors";

/// The setting that names a matrix of the user's own, and the file it names.
type Import<'a> = (&'static str, &'a Path);

/// The imported embeddings that the index is made from.
fn imports(config: &RunConfig) -> impl Iterator<Item = Import<'_>> {
    let index = &config.index;
    let (source, semantic, behavior) = (index.source, &index.semantic, &index.behavior);
    let named = [
        (Source::Semantic, "index.semantic.embeddings", &semantic.embeddings),
        (Source::Behavior, "index.behavior.embeddings", &behavior.embeddings),
    ];
    named.into_iter().filter_map(move |(signal, key, path)| {
        let drawn_to = signal == Source::Behavior && index.aligns();
        let used = source == Source::Unit || source == signal || drawn_to;
        path.as_deref().filter(|_| used).map(|path| (key, path))
    })
}

/// Digests of the imported embeddings, by setting; of those that are there.
pub(in crate::run) fn digests(config: &RunConfig) -> Vec<(String, String)> {
    let digest = |(key, path): Import<'_>| {
        Some((format!("{key} ({})", path.display()), files::digest(path).ok()?))
    };
    imports(config).filter_map(digest).collect()
}

/// Refuses what stage `index` cannot work with, before anything is written.
pub(in crate::run) fn check(run: &Run) -> Result<()> {
    let (config, dataset) = (&run.config.index, &run.dataset);
    for (key, path) in imports(&run.config) {
        read(key, path, dataset.num_items())?;
    }
    let named = [&config.semantic.embeddings, &config.behavior.embeddings];
    if named.into_iter().flatten().count() > imports(&run.config).count() {
        tracing::warn!("index.source = \"{}\" does not use all imported embeddings", config.source);
    }
    let embeds = config.source.has_semantic() && config.semantic.embeddings.is_none();
    let has_text = |item: &Item| ItemTexts::has_any(&config.semantic.fields, item);
    if embeds && !dataset.items.iter().any(has_text) {
        invalid!(
            "{}: the dataset has no item texts (index.semantic.fields), which index.source = \"{}\" needs; add a \
             *.item.json, or set index.source = \"behavior\"{}",
            dataset.name,
            config.source,
            if config.shared { " and index.shared = false" } else { "" }
        );
    }
    Ok(())
}

/// The imported embeddings of `setting`, where it names a file.
pub(in crate::run) fn imported(
    run: &Run,
    setting: &str,
    path: Option<&Path>,
) -> Result<Option<Array2<f32>>> {
    path.map(|path| read(setting, path, run.dataset.num_items())).transpose()
}

fn read(setting: &str, path: &Path, items: usize) -> Result<Array2<f32>> {
    load_embeddings(path, items).map_err(|e| crate::Error::Invalid(format!("{setting}: {e}")))
}

/// Writes z^s to `new`, the index in the making, and gives it with what it took.
pub(in crate::run) fn make(
    run: &Run,
    backbone: &Backbone,
    new: &Path,
    monitor: &mut dyn Monitor,
) -> Result<(Array2<f32>, Made)> {
    let config = &run.config.index.semantic;
    let setting = "index.semantic.embeddings";
    if let Some(z) = imported(run, setting, config.embeddings.as_deref())? {
        save_embeddings(&new.join(FILE), &z, None)?;
        return Ok((z, Made::of([FILE])));
    }
    let texts = encode(run, backbone, &run.dataset)?;
    let counts = texts.counts;
    tracing::info!(
        "{} texts of {} items, {} of them different: {} tokens; {} texts are cut after {} tokens",
        counts.texts,
        texts.num_items(),
        texts.num_texts(),
        counts.text_tokens,
        counts.texts_cut,
        config.max_text_tokens
    );
    let mut made = Made::of([FILE]);
    made.tell("texts", counts.texts);
    made.tell("texts_cut", counts.texts_cut);
    made.tell("text_tokens", counts.text_tokens);
    let key = embedding_key(&backbone.config, &backbone.weights, precision(run), &texts);
    let z = if let Some(z) = standing(run, texts.num_items(), &key) {
        tracing::info!("the texts are embedded already: nothing that decides z^s has changed");
        z
    } else {
        run.together(Work::Embed, || {
            let parts = run.workshop(Stage::Index).join("parts");
            embed(run, backbone, &texts, (&key, &parts), run.ranks, monitor, &mut made)
        })?
    };
    let z = with_textless(&run.dataset, &texts, z);
    save_embeddings(&new.join(FILE), &z, Some(&key))?;
    Ok((z, made))
}

/// z^s with those of items without texts, which are likened to the items taken beside them.
fn with_textless(dataset: &Dataset, texts: &ItemTexts, mut z: Array2<f32>) -> Array2<f32> {
    let mut lacks = vec![false; dataset.num_items()];
    texts.textless().iter().for_each(|&item| lacks[item as usize] = true);
    let named: Vec<ItemId> = texts
        .textless()
        .iter()
        .copied()
        .filter(|&item| !dataset.items[item as usize].is_gap)
        .collect();
    if let [first, ..] = named[..] {
        tracing::warn!(
            "{} of {} items have no text in index.semantic.fields (first: {}): each gets the mean z^s of those taken \
             beside it",
            named.len(),
            dataset.catalogue().count(),
            dataset.items[first as usize].name(first)
        );
    }
    company::fill(dataset, &mut z, &lacks);
    z
}

/// z^s of the index that stands, if it is of `key` and the file that was written.
fn standing(run: &Run, items: usize, key: &str) -> Option<Array2<f32>> {
    let path = run.dir.join("index").join(FILE);
    let written = run.manifest.output(Stage::Index, FILE)?;
    load_kept(&path, items, key).filter(|_| files::digest(&path).is_ok_and(|d| d == written))
}

/// z^s of the items of `dataset`, which need not be the run's.
pub(in crate::run) fn embed_texts(
    run: &Run,
    backbone: &Backbone,
    dataset: &Dataset,
    monitor: &mut dyn Monitor,
) -> Result<Array2<f32>> {
    let texts = encode(run, backbone, dataset)?;
    let key = embedding_key(&backbone.config, &backbone.weights, precision(run), &texts);
    // Beside those of a stage that was cut off, which goes on from them.
    let parts = run.workshop(Stage::Index).join("texts");
    let z = embed(run, backbone, &texts, (&key, &parts), &Alone, monitor, &mut Made::default())?;
    forget(&parts)?;
    Ok(with_textless(dataset, &texts, z))
}

/// Takes part in the embedding that rank 0 has called for.
pub(in crate::run) fn help_embed(run: &Run) -> Result<()> {
    let backbone = match run.config.backbone.path {
        Some(_) => backbone(run)?,
        None => load_backbone_at(run, &run.result_of(Stage::Index).join(BACKBONE))?,
    };
    let texts = encode(run, &backbone, &run.dataset)?;
    embed::help_embed(&embedder(run, &backbone, &texts)?, &texts, run.ranks)
}

/// The texts of `dataset` as they are embedded.
fn encode(run: &Run, backbone: &Backbone, dataset: &Dataset) -> Result<ItemTexts> {
    let config = &run.config.index.semantic;
    ItemTexts::encode(&backbone.tokenizer, dataset, &config.fields, config.max_text_tokens)
}

/// The model that embeds `texts`, where there is room for its work.
fn embedder(run: &Run, backbone: &Backbone, texts: &ItemTexts) -> Result<Llama> {
    let model = Llama::new(&backbone.config, &backbone.weights)?.with_precision(precision(run));
    let rows = (texts.num_items().max(texts.num_texts()) * model.config().hidden_size * 4) as u64;
    let at_work = model.inference_bytes(TOKENS_PER_PASS, TOKENS_PER_PASS);
    let needs = Needs { memory: 2 * rows + at_work, disk: 2 * rows };
    run.afford("the embedding of item texts", needs, 0)?;
    Ok(model)
}

/// Embeds `texts`; what is done of it is kept in the folder `parts` while it runs, and is known by `key`.
fn embed(
    run: &Run,
    backbone: &Backbone,
    texts: &ItemTexts,
    (key, parts): (&str, &Path),
    ranks: &dyn Ranks,
    monitor: &mut dyn Monitor,
    made: &mut Made,
) -> Result<Array2<f32>> {
    let model = embedder(run, backbone, texts)?;
    let mut parts = Parts::open(parts, key, SAVE_EVERY)?;
    monitor.begin("embed item texts", texts.num_texts() as u64);
    let z = semantic_embeddings(&model, texts, &mut parts, ranks, &mut |progress| {
        let seconds = progress.seconds.max(1e-9);
        // Texts take more or less long, so items are counted as shares of all texts.
        let share = progress.embedded as f64 / progress.total as f64;
        let items = texts.num_items() as f64 * share / seconds;
        let tokens = progress.tokens as f64 / seconds;
        made.tell("embedded_tokens", progress.tokens);
        made.tell("embedding_seconds", progress.seconds);
        made.tell("items_per_s", items);
        made.tell("tokens_per_s", tokens);
        let note = format!("{items:.1} items/s  {tokens:.0} tokens/s");
        monitor.advance(progress.texts as u64, &note);
        Ok(())
    });
    monitor.end();
    z
}
