//! Where a backbone comes from: one string in the configuration, three kinds of place.

use std::fmt;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};

use super::{LlamaConfig, Weights, gguf, hub, load_folder};
use crate::text::Tokenizer;
use crate::{Result, invalid};

/// The place that `backbone.path` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackboneSource {
    /// A Hugging Face checkpoint folder.
    Folder(PathBuf),
    /// A GGUF file.
    Gguf(PathBuf),
    /// A repository on the Hugging Face hub, `owner/name`.
    Hub(String),
}

impl fmt::Display for BackboneSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) | Self::Gguf(path) => path.display().fmt(f),
            Self::Hub(id) => f.write_str(id),
        }
    }
}

impl BackboneSource {
    /// Finds out which kind `source` names: what reads like the id of a hub is one, wherever the program runs, and a
    /// configuration has the paths on disk absolute.
    pub fn resolve(source: &str) -> Result<Self> {
        let path = Path::new(source);
        if Self::may_be_hub(source) {
            return Ok(Self::Hub(source.into()));
        }
        if path.is_dir() {
            return Ok(Self::Folder(path.into()));
        }
        if is_gguf(path) && path.is_file() {
            return Ok(Self::Gguf(path.into()));
        }
        let found = if path.exists() { "is a file of another kind" } else { "does not exist" };
        invalid!(
            "backbone {source:?} {found}; it must be a Hugging Face checkpoint folder, a file ending \
             in .gguf, or a hub id (owner/name)"
        )
    }

    /// Whether `source` names a repository on the hub, if nothing on disk.
    pub fn may_be_hub(source: &str) -> bool {
        !is_gguf(Path::new(source)) && is_hub_id(source)
    }
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
}

/// What is read of a checkpoint folder beside its weights.
const FOLDER_FILES: [&str; 6] = [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// The files of the backbone `source` on this machine, by name; of one on the hub, none: they may be fetched only later.
pub fn backbone_files(source: &str) -> Vec<PathBuf> {
    match BackboneSource::resolve(source) {
        Ok(BackboneSource::Gguf(path)) => vec![path],
        Ok(BackboneSource::Folder(dir)) => {
            let is_read = |path: &PathBuf| {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                name.ends_with(".safetensors") || FOLDER_FILES.contains(&name)
            };
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            let mut files: Vec<PathBuf> = entries.map(|e| e.path()).filter(is_read).collect();
            files.sort();
            files
        }
        Ok(BackboneSource::Hub(_)) | Err(_) => Vec::new(),
    }
}

/// `owner/name` in the characters the hub allows.
fn is_hub_id(text: &str) -> bool {
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    text.split_once('/').is_some_and(|(owner, name)| part(owner) && part(name))
}

/// A backbone as it is read: nothing of it is resized or trained yet.
#[derive(Debug, Clone)]
pub struct Backbone {
    /// Its shape.
    pub config: LlamaConfig,
    /// Its weights.
    pub weights: Weights,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

/// Reads the backbone `source` names (see [`BackboneSource`]), its weights converted to `dtype` on
/// `device`.
pub fn load_backbone(source: &str, dtype: DType, device: &Device) -> Result<Backbone> {
    load_backbone_from(&BackboneSource::resolve(source)?, dtype, device)
}

/// As [`load_backbone`], from where one is known to be.
pub fn load_backbone_from(
    source: &BackboneSource,
    dtype: DType,
    device: &Device,
) -> Result<Backbone> {
    let from_folder = |dir: &Path| {
        // The tokenizer first: it is small, and an error in it should not wait for the weights.
        let tokenizer = Tokenizer::load_folder(dir)?;
        load_folder(dir, dtype, device).map(|(config, weights)| (config, weights, tokenizer))
    };
    let (config, weights, tokenizer) = match source {
        BackboneSource::Folder(dir) => from_folder(dir)?,
        BackboneSource::Gguf(path) => gguf::load(path, dtype, device)?,
        BackboneSource::Hub(id) => from_folder(&hub::fetch(id)?)?,
    };
    if tokenizer.vocab_size_of_text() > config.vocab_size {
        invalid!(
            "backbone {source}: its tokenizer has {} tokens, its embedding {} rows",
            tokenizer.vocab_size_of_text(),
            config.vocab_size
        );
    }
    Ok(Backbone { config, weights, tokenizer })
}
