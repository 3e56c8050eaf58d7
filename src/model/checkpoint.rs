//! Hugging Face checkpoint folders: `config.json` and weights in safetensors, whole or in shards.
//!
//! Every file is checked on the way in and on the way out: a checkpoint that loads here has exactly
//! the tensors its configuration asks for, and one that was saved has been opened again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::safetensors::{Load, MmapedSafetensors};
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::Metadata;
use safetensors::{SafeTensorError, View};
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::LlamaConfig;
use super::weights::{EMBEDDING, HEAD, Weights};
use crate::error::{plain, without_calls};
use crate::files::{self, temporary};
use crate::{Error, Result, invalid};

const SINGLE: &str = "model.safetensors";
const GENERATION: &str = "generation_config.json";
const INDEX: &str = "model.safetensors.index.json";

/// Reads a checkpoint folder, converting every weight to `dtype` on `device`.
///
/// # Errors
/// Names the file and the tensor where one is missing, has another shape than `config.json` says,
/// is not part of a Llama or is not finite everywhere, and a file that is not in the folder.
pub fn load_folder(
    dir: impl AsRef<Path>,
    dtype: DType,
    device: &Device,
) -> Result<(LlamaConfig, Weights)> {
    let dir = dir.as_ref();
    let path = dir.join("config.json");
    files::check_inside(dir, &path)?;
    let config = LlamaConfig { generation: generation(dir)?, ..LlamaConfig::load(path)? };
    let shapes = config.tensor_shapes();
    let (listing, files) = weight_files(dir)?;
    let mut weights = Weights::new();
    // The copy of a tied embedding that some checkpoints carry.
    let mut copy = None;
    for file in files {
        files::check_inside(dir, &file)?;
        let tensors = open(&file)?;
        for (name, view) in tensors.tensors() {
            match shapes.get(&name) {
                Some(shape) if shape == view.shape() => {
                    let tensor = view.load(device).and_then(|t| t.to_dtype(dtype));
                    let tensor = tensor.map_err(unreadable(&file))?;
                    if !is_finite(&tensor)? {
                        invalid!("{}: {name} has values that are not finite", file.display());
                    }
                    weights.insert(name, tensor);
                }
                Some(shape) => invalid!(
                    "{}: {name} is {:?}, config.json makes it {shape:?}",
                    file.display(),
                    view.shape()
                ),
                None if config.tie_word_embeddings && name == HEAD => {
                    let tensor = view.load(device).and_then(|t| t.to_dtype(dtype));
                    copy = Some((file.clone(), tensor.map_err(unreadable(&file))?));
                }
                // A buffer of old transformers versions.
                None if name.ends_with("rotary_emb.inv_freq") => {
                    tracing::debug!("{}: {name} is not needed", file.display());
                }
                None => invalid!(
                    "{}: {name} is no part of the model in config.json, which has no such weight",
                    file.display()
                ),
            }
        }
    }
    if let Some(name) = shapes.keys().find(|name| !weights.contains_key(*name)) {
        invalid!("{}: {name} is missing, config.json asks for it", listing.display());
    }
    if let Some((file, head)) = copy
        && !are_equal(&head, &weights[EMBEDDING])?
    {
        invalid!(
            "{}: {HEAD} is not {EMBEDDING}, though config.json says tie_word_embeddings; set that to \
             false where the model has a head of its own",
            file.display()
        );
    }
    Ok((config, weights))
}

/// What `generation_config.json` says of its own: nothing where it was made from `config.json`.
fn generation(dir: &Path) -> Result<Map<String, Value>> {
    let path = dir.join(GENERATION);
    files::check_inside(dir, &path)?;
    if !path.exists() {
        return Ok(Map::new());
    }
    let found: Map<String, Value> = files::read_json(&path)?;
    let derived = found.get("_from_model_config") == Some(&Value::Bool(true));
    Ok(if derived { Map::new() } else { found })
}

/// Whether no value is infinite or NaN.
pub(super) fn is_finite(tensor: &Tensor) -> Result<bool> {
    // What is finite becomes 0, all else NaN.
    let sum = (tensor * 0.0)?.flatten_all()?.to_dtype(DType::F32)?.sum_all()?;
    Ok(sum.to_scalar::<f32>()? == 0.0)
}

fn are_equal(a: &Tensor, b: &Tensor) -> Result<bool> {
    Ok(a.dims() == b.dims() && a.ne(b)?.flatten_all()?.max(0)?.to_scalar::<u8>()? == 0)
}

/// Writes a checkpoint folder that Hugging Face loads: `model.safetensors`, `config.json` and
/// `generation_config.json`. The tokenizer saves itself beside them.
///
/// # Errors
/// Where the weights are not those the configuration asks for: nothing is written then.
pub fn save_folder(dir: impl AsRef<Path>, config: &LlamaConfig, weights: &Weights) -> Result<()> {
    let dir = dir.as_ref();
    let shapes = config.tensor_shapes();
    for (name, shape) in &shapes {
        match weights.get(name) {
            Some(tensor) if tensor.dims() == shape => {}
            Some(tensor) => invalid!(
                "{}: {name} is {:?}, the configuration makes it {shape:?}",
                dir.display(),
                tensor.dims()
            ),
            None => invalid!("{}: {name} is missing from the weights to save", dir.display()),
        }
    }
    if let Some(name) = weights.keys().find(|name| !shapes.contains_key(*name)) {
        invalid!("{}: {name} is no part of the model to save", dir.display());
    }
    files::make_dir(dir)?;
    save_safetensors(dir.join(SINGLE), weights)?;
    let generation = format!("{:#}\n", config.generation_json());
    files::write(&dir.join(GENERATION), generation.as_bytes())?;
    let dtype = weights.values().next().map(|t| match t.dtype() {
        DType::BF16 => "bfloat16".to_string(),
        DType::F16 => "float16".to_string(),
        _ => "float32".to_string(),
    });
    // Last: a folder with `config.json` is a complete one.
    LlamaConfig { torch_dtype: dtype, ..config.clone() }.save(dir.join("config.json"))
}

/// Reads all tensors of one safetensors file as they are.
pub fn load_safetensors(path: impl AsRef<Path>, device: &Device) -> Result<Weights> {
    let path = path.as_ref();
    let tensors = open(path)?;
    let load = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        Ok((name, view.load(device).map_err(unreadable(path))?))
    };
    tensors.tensors().into_iter().map(load).collect()
}

/// Writes one safetensors file with `format = pt` in its header.
///
/// Same tensors, same bytes. The file gets its name only after it was opened again and found complete.
pub fn save_safetensors(path: impl AsRef<Path>, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    save_safetensors_with(path, tensors, ("format", "pt"))
}

/// As [`save_safetensors`], with another entry, (key, value), in its header (see [`safetensors_metadata`]).
/// A header of several would be written in no fixed order.
pub fn save_safetensors_with(
    path: impl AsRef<Path>,
    tensors: &BTreeMap<String, Tensor>,
    entry: (&str, &str),
) -> Result<()> {
    let path = path.as_ref();
    let partial = temporary(path);
    let written =
        write_safetensors(&partial, tensors, entry).and_then(|()| verify(&partial, tensors));
    if let Err(e) = written {
        // The first error is the one to report.
        let _ = std::fs::remove_file(&partial);
        return Err(e);
    }
    std::fs::rename(&partial, path).map_err(Error::io(path))
}

fn write_safetensors(
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
    (key, value): (&str, &str),
) -> Result<()> {
    let metadata = HashMap::from([(key.to_string(), value.to_string())]);
    // Made as any other file is: safetensors replaces it by one that is kept from everybody but the owner.
    let made = File::create(path).and_then(|file| file.metadata()).map_err(Error::io(path))?;
    safetensors::serialize_to_file(tensors, Some(metadata), path).map_err(|e| match e {
        SafeTensorError::IoError(e) => Error::io(path)(e),
        other => Error::Invalid(format!("{}: not written: {other}", path.display())),
    })?;
    let opened = std::fs::set_permissions(path, made.permissions()).and_then(|()| File::open(path));
    opened.and_then(|file| file.sync_all()).map_err(Error::io(path))
}

/// What the header of a safetensors file says besides its tensors.
pub fn safetensors_metadata(path: impl AsRef<Path>) -> Result<HashMap<String, String>> {
    let path = path.as_ref();
    // The header is a small part of the file, behind its length.
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut length = [0; size_of::<u64>()];
    file.read_exact(&mut length).map_err(Error::io(path))?;
    let mut header = Vec::new();
    let header_only = &mut file.take(u64::from_le_bytes(length));
    header_only.read_to_end(&mut header).map_err(Error::io(path))?;
    let parsed: Metadata = serde_json::from_slice(&header).map_err(|e| {
        Error::Invalid(format!("{}: not a readable safetensors file: {}", path.display(), plain(e)))
    })?;
    Ok(parsed.metadata().clone().unwrap_or_default())
}

/// A digest of names, shapes, types and values.
pub fn digest_weights(weights: &Weights) -> String {
    let mut hash = Sha256::new();
    for (name, tensor) in weights {
        hash.update(format!("{name} {:?} {:?} ", tensor.dims(), tensor.dtype()));
        hash.update(View::data(&tensor));
    }
    format!("{:x}", hash.finalize())
}

/// Opens `path` again and compares names, shapes and types.
fn verify(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    let found = open(path)?;
    let found: BTreeMap<_, _> = found.tensors().into_iter().collect();
    let same = found.len() == tensors.len()
        && tensors.iter().all(|(name, tensor)| {
            found.get(name).is_some_and(|view| {
                view.shape() == tensor.dims() && view.dtype() == tensor.dtype().into()
            })
        });
    if !same {
        invalid!("{}: the tensors read back are not those that were written", path.display());
    }
    Ok(())
}

/// The files that hold a folder's weights, and the file that says so.
fn weight_files(dir: &Path) -> Result<(PathBuf, BTreeSet<PathBuf>)> {
    let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
    if single.is_file() {
        return Ok((single.clone(), BTreeSet::from([single])));
    }
    if !index.is_file() {
        invalid!(
            "{}: has neither {SINGLE} nor {INDEX}; weights in other formats (pytorch_model.bin) \
             are not read",
            dir.display()
        );
    }
    let files = shard_names(&index)?.into_iter().map(|name| dir.join(name)).collect();
    Ok((index, files))
}

/// The shards that a `model.safetensors.index.json` lists: names of files beside it.
pub(super) fn shard_names(index: &Path) -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct ShardIndex {
        weight_map: BTreeMap<String, String>,
    }
    let parsed: ShardIndex = files::read_json(index)?;
    let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
    if let Some(name) = names.iter().find(|name| !files::is_plain_name(name)) {
        invalid!(
            "{}: the shard {name:?} is no plain file name; all shards must lie beside this file",
            index.display()
        );
    }
    Ok(names)
}

fn open(path: &Path) -> Result<MmapedSafetensors> {
    if !path.is_file() {
        invalid!("{}: not found", path.display());
    }
    #[expect(unsafe_code, reason = "a shard of a large model should not be copied to be read")]
    // SAFETY: the map is read-only and dropped before the function that opened it returns. As with
    // every memory map, another process that truncates the file meanwhile would break it; files
    // that we write never change in place, they are replaced by a rename.
    let tensors = unsafe { MmapedSafetensors::new(path) };
    tensors.map_err(unreadable(path))
}

fn unreadable(path: &Path) -> impl FnOnce(candle_core::Error) -> Error {
    move |e| {
        let cause = match without_calls(e) {
            candle_core::Error::WithPath { inner, .. } => *inner,
            other => other,
        };
        Error::Invalid(format!(
            "{}: not a readable safetensors file: {}",
            path.display(),
            plain(cause)
        ))
    }
}
