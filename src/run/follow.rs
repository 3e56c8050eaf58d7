//! A run that goes on from another: the same users and items and more of them, the same index and more codes, the
//! model that was trained last.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::Tensor;
use serde_json::Value;

use super::artifacts::{Trained, backbone, load_index};
use super::manifest::{self, Follows, Manifest, Origin};
use super::stages::index::read_grown;
use super::{Run, Stage, config_of};
use crate::config::RunConfig;
use crate::data::{Item, ItemId};
use crate::index::ItemIndex;
use crate::inference::ItemTokens;
use crate::model::adapter;
use crate::model::llama::{EMBEDDING, HEAD};
use crate::model::{LlamaConfig, Weights};
use crate::tasks::Seen;
use crate::{Error, Result, invalid};

/// The settings that name a matrix of one's own.
const MATRICES: [&str; 2] = ["index.semantic.embeddings", "index.behavior.embeddings"];

/// A run to go on from.
#[derive(Debug, Clone, Copy)]
pub struct Before<'a> {
    /// The run.
    pub run: &'a Run,
    /// Whether its model is taken over as it is, without learning what came since.
    pub as_it_is: bool,
}

impl Before<'_> {
    /// What `stage` is made from.
    pub(super) fn origin(self, stage: Stage) -> Result<Origin> {
        let Self { run, as_it_is } = self;
        let (stages, levels) = match stage {
            Stage::Index => (&Stage::ALL[..1], load_index(run)?.levels().to_vec()),
            _ => (&Stage::ALL[..], Vec::new()),
        };
        let files = Run::read_of(&run.manifest, stages);
        let sources = levels.iter().map(|level| level.source).collect();
        let follows = Follows { run: run.dir.display().to_string(), files, sources, as_it_is };
        // An index that was imported and extended is an imported one still.
        let imported = run.imported().filter(|_| stage == Stage::Index).cloned();
        Ok(Origin { imported, follows: Some(follows), ..Origin::default() })
    }
}

impl Run {
    /// The run in the folder `dir`, to go on from.
    ///
    /// # Errors
    /// If there is none, or it is this run.
    pub fn open_before(&self, dir: &Path) -> Result<Self> {
        let Some(config) = config_of(dir)? else {
            invalid!("{}: there is no run to go on from", dir.display());
        };
        let place = |dir: &Path| dir.canonicalize().map_err(Error::io(dir));
        if self.dir.exists() && place(&self.dir)? == place(dir)? {
            invalid!(
                "{}: a run cannot go on from itself; name a new folder with --run",
                dir.display()
            );
        }
        Self::open_to_use(dir, RunConfig::load(&config, &[])?, self.device.clone())
    }

    /// Refuses a run that this one cannot go on from.
    ///
    /// # Errors
    /// Names what is missing there, the first user or item that is another here, or the settings that differ.
    pub(super) fn check_follows(&self, before: &Self) -> Result<()> {
        before.require_before(Stage::Initial)?;
        let (old, new) = (&before.dataset, &self.dataset);
        let another = |what: String| -> Result<()> {
            invalid!(
                "{}: {what}, compared with {}, whose data this run must begin with; append new days with \
                 `llmbs data import --append`",
                new.name,
                before.dir.display()
            )
        };
        let name = |(id, item): (ItemId, &Item)| item.name(id);
        let mut names = (0..).zip(&new.items).map(name);
        for item in (0..).zip(&old.items).map(name) {
            match names.next() {
                Some(found) if found == item => {}
                Some(found) => another(format!("item {found:?} stands where {item:?} did"))?,
                None => another(format!("item {item:?} is gone"))?,
            }
        }
        let users: HashMap<&str, &[ItemId]> =
            new.users.iter().map(|user| (user.id.as_str(), user.items.as_slice())).collect();
        for user in &old.users {
            let found = users.get(user.id.as_str());
            if !found.is_some_and(|items| items.starts_with(&user.items)) {
                let id = &user.id;
                another(format!("user {id:?} has not taken first what they had taken before"))?;
            }
        }
        let made = &before.manifest.stages[&Stage::Index];
        let (mut then, mut now) =
            (made.settings.clone(), self.settings_of(Stage::Index, &made.origin)?);
        for key in MATRICES {
            // One that has the new items, too, is another file; its rows are compared when it is read.
            if [&then, &now].iter().all(|settings| settings.get(key).is_some_and(Value::is_string))
            {
                then.remove(key);
                now.remove(key);
            }
        }
        let differences = manifest::differences(&then, &now);
        if !differences.is_empty() {
            invalid!(
                "{}: the index of {} was made with other settings than this run has, and goes on with its own: {}",
                self.dir.display(),
                before.dir.display(),
                differences.join("; ")
            );
        }
        Ok(())
    }

    /// Refuses to take over the model of `before` as it is, where this run would ask it in words that it does not know.
    pub(super) fn check_words(&self, before: &Self) -> Result<()> {
        let words = |run: &Self| manifest::settings_of_words(&run.config);
        let differences = manifest::differences(&words(before)?, &words(self)?);
        if !differences.is_empty() {
            invalid!(
                "{}: its model is taken over as it is, and this run would ask it in other words: {}",
                before.dir.display(),
                differences.join("; ")
            );
        }
        Ok(())
    }

    /// What the model of `before` has learnt from of what this run has.
    pub(super) fn seen(&self, before: &Self) -> Seen {
        let old = &before.dataset;
        let users: HashMap<&str, usize> =
            (old.users.iter().map(|user| user.id.as_str())).zip(0..).collect();
        let of_user = |id: &str| users.get(id).map_or(0, |&user| old.train(user).len());
        Seen {
            of_users: self.dataset.users.iter().map(|user| of_user(&user.id)).collect(),
            items: old.num_items(),
            replay: self.config.train.continued.replay,
        }
    }

    /// The model that was trained last in `before`, its adapter merged in, with rows for the items of this run's
    /// `index`. A code that is new begins as that of the nearest item does.
    pub(super) fn carried(
        &self,
        before: &Self,
        index: &ItemIndex,
    ) -> Result<(LlamaConfig, Weights, ItemTokens)> {
        before.require_model(before.has_adapter())?;
        let Trained { mut config, mut weights, tokens: old, index: old_index } =
            Trained::load(before)?;
        if before.has_adapter() {
            let adapters = adapter::load(&before.dir.join("anneal"), &config, &self.device)?;
            weights = adapter::merge(&weights, &adapters)?;
        }
        before.require_same_model(before.has_adapter())?;
        let tokens = ItemTokens::extend(backbone(self)?.tokenizer, index)?;
        if tokens.vocabulary.first != old.vocabulary.first {
            invalid!(
                "{}: its backbone has another vocabulary than that of {}: their models cannot go on from one another",
                self.dir.display(),
                before.dir.display()
            );
        }
        let first = tokens.vocabulary.first;
        let rows = self.rows_before(&old, &old_index, index)?;
        let names =
            if config.tie_word_embeddings { vec![EMBEDDING] } else { vec![EMBEDDING, HEAD] };
        for name in names {
            let table = &weights[name];
            let behind = old.con + 1..table.dim(0)? as u32;
            let rows: Vec<u32> = (0..first).chain(rows.iter().copied()).chain(behind).collect();
            let rows = Tensor::new(rows, table.device())?;
            weights.insert(name.into(), table.index_select(&rows, 0)?);
        }
        config.vocab_size = weights[EMBEDDING].dim(0)?;
        Ok((config, weights, tokens))
    }

    /// The row of the model before that each item token and `<con>` begins as.
    fn rows_before(
        &self,
        old: &ItemTokens,
        old_index: &ItemIndex,
        index: &ItemIndex,
    ) -> Result<Vec<u32>> {
        let known = old.item_tokens(old_index);
        let mut begins_as: HashMap<String, u32> = HashMap::new();
        for (item, nearest) in (old_index.num_items() as ItemId..).zip(read_grown(self)?) {
            let Some(rows) = old.items.get(nearest as usize) else {
                invalid!(
                    "{}: item {item} is like item {nearest}, which came later",
                    self.dir.display()
                );
            };
            for (token, &row) in index.tokens(item).into_iter().zip(rows) {
                begins_as.entry(token).or_insert(row);
            }
        }
        let row = |token: String| match known.get(&token).or_else(|| begins_as.get(&token)) {
            Some(&row) => Ok(row),
            None => invalid!("{}: item token {token} has no beginning", self.dir.display()),
        };
        let rows = index.vocabulary().into_iter().map(row);
        rows.chain([Ok(old.con)]).collect()
    }

    /// Refuses where the index of this run does not go on from that of `before`.
    pub(super) fn require_extended(&self, before: &Self) -> Result<()> {
        let expected = Self::read_of(&before.manifest, &[Stage::Index]);
        if self.manifest.follows(Stage::Index).is_some_and(|follows| follows.files == expected) {
            return Ok(());
        }
        let (dir, before) = (self.dir.display(), before.dir.display());
        invalid!(
            "{dir}: its index does not go on from that of {before}: run `llmbs index --extend {before}` first"
        );
    }

    /// Whether the model of this run goes on from that of the run in the folder `other`.
    pub(super) fn goes_on_from(&self, other: &Path) -> Result<bool> {
        let Some(follows) = self.manifest.follows(Stage::Initial) else { return Ok(false) };
        let manifest = Manifest::of(other)?;
        Ok(manifest.is_some_and(|run| Self::read_of(&run, &Stage::ALL) == follows.files))
    }

    /// The digests of the index and the models among the files of `stages`.
    fn read_of(manifest: &Manifest, stages: &[Stage]) -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        for record in stages.iter().filter_map(|stage| manifest.stages.get(stage)) {
            let is_read = |name: &&String| {
                [
                    "index/index.json",
                    "index/sasrec/model.safetensors",
                    "initial/model.safetensors",
                    "anneal/adapter_model.safetensors",
                ]
                .contains(&name.as_str())
            };
            let read = record.outputs.keys().filter(is_read);
            files.extend(read.map(|name| (name.clone(), record.outputs[name].clone())));
        }
        files
    }
}
