//! The index of another run with the items that came since: no code moves, and the new items get places as
//! `llmbs index add` gives them, with new codes where items have codes of their own.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use ndarray::{Array2, s};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::behavior::{SasRecBefore, embed_behavior};
use super::{BACKBONE, company, data, semantic};
use crate::data::{Dataset, Item, ItemId};
use crate::embed::{ItemTexts, save_embeddings};
use crate::index::{ItemIndex, Level, Placer, store};
use crate::inference::ItemTokens;
use crate::model::Backbone;
use crate::run::artifacts::{backbone, load_backbone_at, load_index, load_matrix};
use crate::run::stages::{FOLDER, Made};
use crate::run::{Monitor, Run, Stage};
use crate::{Result, files, invalid};

/// What the new items of a grown index are like.
const GROWN: &str = "grown.json";

/// `grown.json`
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Grown {
    /// The items of the index before that are nearest to each new item.
    nearest: BTreeMap<ItemId, Vec<ItemId>>,
}

/// The nearest item of the index before to each new item of the run's, in the order of these.
pub(in crate::run) fn read_grown(run: &Run) -> Result<Vec<ItemId>> {
    let path = run.dir.join("index").join(GROWN);
    let Grown { nearest } = files::read_json(&path)?;
    let first = |(item, nearest): (ItemId, Vec<ItemId>)| match nearest.first() {
        Some(&first) => Ok(first),
        None => invalid!("{}: item {item} has no nearest", path.display()),
    };
    nearest.into_iter().map(first).collect()
}

pub(in crate::run) fn run(run: &Run, before: &Run, monitor: &mut dyn Monitor) -> Result<Made> {
    let old = load_index(before)?;
    let new = &run.result_of(Stage::Index).join("index");
    files::make_dir(new)?;
    let (backbone, wrote_backbone) = take_backbone(run, before)?;
    let first = old.num_items();
    let count = run.dataset.num_items() - first;

    let mut made = Made::of(["index.json", GROWN]);
    let z_behavior = load_matrix(before, "behavior")?;
    let z_behavior = z_behavior.map(|z| grown_behavior(run, before, &z)).transpose()?;
    let z_semantic = match load_matrix(before, "semantic")? {
        Some(z) => {
            let z = grown_semantic(run, before, &backbone, &z, monitor)?;
            save_embeddings(&new.join("semantic.safetensors"), &z, None)?;
            made.files.push("semantic.safetensors".into());
            Some(z)
        }
        None => None,
    };
    let likeness = match z_semantic.as_ref().or(z_behavior.as_ref()) {
        Some(z) => Cow::Borrowed(z),
        None if run.dataset.has_text() => {
            tracing::info!(
                "the index has no z^s and z^b of its items: their texts are embedded now"
            );
            Cow::Owned(semantic::embed_texts(run, &backbone, &run.dataset, monitor)?)
        }
        None if count == 0 => Cow::Owned(Array2::zeros((first, 1))),
        None => invalid!(
            "{}: its items have neither texts nor z^b, by which new ones could be likened to those of {}",
            run.dataset.name,
            before.dir.display()
        ),
    };

    let mut placer = Placer::new(&old, likeness.slice(s![..first, ..])).growing();
    let (mut codes, mut nearest) = (old.codes().to_vec(), BTreeMap::new());
    for (item, z) in (0..).zip(likeness.rows()).skip(first) {
        let place = placer.place(&z.to_vec())?;
        codes.extend(place.codes);
        nearest.insert(item, place.nearest);
    }
    let index = ItemIndex::new(grown_levels(&old, &codes), codes)?;
    ItemTokens::extend(backbone.tokenizer, &index)?.check(&index)?;
    store::write(&new.join("index.json"), &index)?;
    if let Some(z) = z_behavior {
        if let Some(sasrec) = SasRecBefore::load(before, &z)? {
            made.take(embed_behavior(run, Some(&sasrec), new, monitor)?.1);
        } else {
            save_embeddings(&new.join("behavior.safetensors"), &z, None)?;
            made.files.push("behavior.safetensors".into());
        }
    }
    files::write_json(&new.join(GROWN), &Grown { nearest })?;
    let sizes: Vec<usize> = index.levels().iter().map(|level| level.num_codes).collect();
    made.tell("items", index.num_items());
    made.tell("new_items", count);
    made.tell("levels", json!(sizes));
    made.tell("item_tokens", index.vocabulary().len());
    made.tell("new_item_tokens", index.vocabulary().len() - old.vocabulary().len());
    let mut all = made.within("index");
    all.files.extend(wrote_backbone);
    all.take(data::keep(run)?);
    Ok(all)
}

/// Levels that hold all codes.
fn grown_levels(old: &ItemIndex, codes: &[u32]) -> Vec<Level> {
    let width = old.num_levels();
    let most =
        |level: usize| codes.iter().skip(level).step_by(width).max().map_or(0, |&c| c as usize + 1);
    let grown =
        |(at, level): (usize, &Level)| Level { num_codes: level.num_codes.max(most(at)), ..*level };
    old.levels().iter().enumerate().map(grown).collect()
}

/// The backbone of `before`, which one from scratch is copied from.
fn take_backbone(run: &Run, before: &Run) -> Result<(Backbone, Vec<std::path::PathBuf>)> {
    if run.config.backbone.path.is_some() {
        return Ok((backbone(run)?, Vec::new()));
    }
    let to = run.result_of(Stage::Index).join(BACKBONE);
    for name in FOLDER {
        files::copy(&before.dir.join(BACKBONE).join(name), &to.join(name))?;
    }
    let wrote = FOLDER.map(|name| Path::new(BACKBONE).join(name));
    Ok((load_backbone_at(run, &to)?, wrote.into()))
}

/// z^s of the items of `before`, which are `known`, and behind them of those that came since: of a matrix of the
/// user's own, else of their texts, else of their company.
fn grown_semantic(
    run: &Run,
    before: &Run,
    backbone: &Backbone,
    known: &Array2<f32>,
    monitor: &mut dyn Monitor,
) -> Result<Array2<f32>> {
    let config = &run.config.index.semantic;
    let old = before.config.index.semantic.embeddings.as_deref();
    if let Some(all) = grown_matrix(run, "semantic", (old, config.embeddings.as_deref()), known)? {
        return Ok(all);
    }
    if old.is_some() && run.dataset.num_items() > known.nrows() {
        invalid!(
            "index.semantic.embeddings: has no row of the items that came since; name a file with those of all {} items",
            run.dataset.num_items()
        );
    }
    let (mut z, mut lacks) = with_room(&run.dataset, known);
    let items = run.dataset.items.iter().enumerate().skip(known.nrows());
    let (ids, items): (Vec<usize>, Vec<Item>) = items
        .filter(|(_, item)| ItemTexts::has_any(&config.fields, item))
        .map(|(id, item)| (id, item.clone()))
        .unzip();
    if !items.is_empty() {
        let items = Dataset::of_items(run.dataset.name.clone(), items);
        let embedded = semantic::embed_texts(run, backbone, &items, monitor)?;
        for (id, own) in ids.into_iter().zip(embedded.rows()) {
            z.row_mut(id).assign(&own);
            lacks[id] = false;
        }
    }
    company::fill(&run.dataset, &mut z, &lacks);
    Ok(z)
}

/// z^b likewise: of a matrix of the user's own, else of their company.
fn grown_behavior(run: &Run, before: &Run, known: &Array2<f32>) -> Result<Array2<f32>> {
    let paths = [before, run].map(|run| run.config.index.behavior.embeddings.as_deref());
    if let Some(all) = grown_matrix(run, "behavior", paths.into(), known)? {
        return Ok(all);
    }
    let (mut z, lacks) = with_room(&run.dataset, known);
    company::fill(&run.dataset, &mut z, &lacks);
    Ok(z)
}

/// The matrix of all items in the new file of two, old and new, if there is one; it begins with the rows `known`.
fn grown_matrix(
    run: &Run,
    signal: &str,
    (old, new): (Option<&Path>, Option<&Path>),
    known: &Array2<f32>,
) -> Result<Option<Array2<f32>>> {
    let setting = format!("index.{signal}.embeddings");
    let Some(all) = semantic::imported(run, &setting, new.filter(|_| new != old))? else {
        return Ok(None);
    };
    if let Some(item) = (0..known.nrows()).find(|&row| all.row(row) != known.row(row)) {
        invalid!(
            "{setting}: the embedding of item {item} is another than in the run before, whose index is to grow; keep the \
             rows of its items as they are"
        );
    }
    Ok(Some(all))
}

/// Embeddings of the items before, room for those that came since behind them, and which items lack one.
fn with_room(dataset: &Dataset, before: &Array2<f32>) -> (Array2<f32>, Vec<bool>) {
    let (known, dim) = before.dim();
    let mut z = Array2::zeros((dataset.num_items(), dim));
    z.slice_mut(s![..known, ..]).assign(before);
    (z, (0..dataset.num_items()).map(|item| item >= known).collect())
}
