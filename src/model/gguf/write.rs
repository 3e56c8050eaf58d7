//! A model written as one GGUF file: weights in llama.cpp's layout and types, with the tokenizer inside.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Seek};
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Content, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};

use super::{FIXED, PARTS, header};
use crate::error::plain;
use crate::model::checkpoint::is_finite;
use crate::model::{LlamaConfig, RopeScaling, Weights};
use crate::text::{GgufVocabulary, Tokenizer};
use crate::{Error, Result, files, invalid};

/// What the matrices of a GGUF file are rounded to; norms stay f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufType {
    /// Halves.
    F16,
    /// Eight bits a weight, with a scale for each 32 of a row.
    Q8_0,
}

impl GgufType {
    /// Its number in `general.file_type`.
    fn file_type(self) -> u32 {
        match self {
            Self::F16 => 1,
            Self::Q8_0 => 7,
        }
    }

    /// What a tensor of this shape is stored as.
    fn of(self, shape: &[usize]) -> GgmlDType {
        match (self, shape) {
            (_, [_] | []) => GgmlDType::F32,
            (Self::Q8_0, [.., columns]) if columns % GgmlDType::Q8_0.block_size() == 0 => {
                GgmlDType::Q8_0
            }
            _ => GgmlDType::F16,
        }
    }
}

/// The version of the quantised types, which llama.cpp asks for.
const QUANTIZATION_VERSION: u32 = 2;

/// Writes a model called `name` with its tokenizer as a GGUF file of architecture `llama`. Gives the names of the
/// matrices that are in f16 in place of `kind`, since their rows are no multiple of 32.
///
/// # Errors
/// Where the tokenizer is of a kind that llama.cpp has no name for, and for weights beyond what f16 holds.
pub fn save_gguf(
    path: &Path,
    name: &str,
    config: &LlamaConfig,
    weights: &Weights,
    tokenizer: &Tokenizer,
    kind: GgufType,
) -> Result<Vec<String>> {
    let named = |e: Error| Error::Invalid(format!("{}: {}", path.display(), plain(e)));
    let vocabulary = tokenizer.to_gguf(config.vocab_size).map_err(named)?;
    let metadata = metadata(name, config, vocabulary, kind);
    let mut rounded_less = Vec::new();
    let mut tensors = BTreeMap::new();
    for (hf, weight) in weights {
        let Some(own) = own_name(hf) else {
            invalid!("{}: {hf} is no part of the model to save", path.display());
        };
        let stored = kind.of(weight.dims());
        if kind == GgufType::Q8_0 && stored == GgmlDType::F16 {
            rounded_less.push(own.clone());
        }
        tensors.insert(own, quantized(hf, weight, config, stored).map_err(named)?);
    }
    if let Some(RopeScaling::Llama3 { .. }) = config.rope_scaling {
        tensors.insert(ROPE_FACTORS.into(), rope_factors(config)?);
    }
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let written: Vec<(&str, &QTensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    files::write_with(path, |file| {
        gguf_file::write(file, &metadata, &written).map_err(io::Error::other)
    })?;
    verify(path, &tensors).map_err(named)?;
    Ok(rounded_less)
}

/// Divisors of the rotary frequencies, where the keys have no name for how they are stretched.
const ROPE_FACTORS: &str = "rope_freqs.weight";

fn rope_factors(config: &LlamaConfig) -> Result<QTensor> {
    let plain = LlamaConfig { rope_scaling: None, ..config.clone() };
    let pairs = plain.inverse_frequencies().into_iter().zip(config.inverse_frequencies());
    let factors: Vec<f32> = pairs.map(|(plain, stretched)| (plain / stretched) as f32).collect();
    let factors = Tensor::new(factors, &Device::Cpu)?;
    Ok(QTensor::quantize(&factors, GgmlDType::F32)?)
}

/// A weight in llama.cpp's layout, as `stored`.
fn quantized(
    name: &str,
    weight: &Tensor,
    config: &LlamaConfig,
    stored: GgmlDType,
) -> Result<QTensor> {
    let weight = weight.to_device(&Device::Cpu)?;
    let weight = if name.ends_with("q_proj.weight") {
        permute(&weight, config.num_attention_heads)?
    } else if name.ends_with("k_proj.weight") {
        permute(&weight, config.num_key_value_heads)?
    } else {
        weight
    };
    // A block of eight-bit weights has its scale in f16.
    if stored != GgmlDType::F32 && !is_finite(&weight.to_dtype(DType::F16)?)? {
        invalid!("{name} has values beyond 65504, the largest that f16 holds");
    }
    Ok(QTensor::quantize(&weight, stored)?)
}

/// The row order of llama.cpp's query and key projections: (rows, in) to (rows, in).
///
/// llama.cpp rotates neighboring features, Hugging Face a feature and the one half a head away.
pub(super) fn permute(weight: &Tensor, heads: usize) -> Result<Tensor> {
    let (rows, columns) = weight.dims2()?;
    let halves = weight.reshape((heads, 2, rows / heads / 2, columns))?;
    Ok(halves.transpose(1, 2)?.reshape((rows, columns))?.contiguous()?)
}

/// The GGUF name of a Hugging Face tensor.
pub(super) fn own_name(name: &str) -> Option<String> {
    let name = name.strip_suffix(".weight")?;
    if let Some((own, _)) = FIXED.iter().find(|(_, fixed)| *fixed == name) {
        return Some(format!("{own}.weight"));
    }
    let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (own, _) = PARTS.iter().find(|(_, hf)| *hf == part)?;
    Some(format!("blk.{layer}.{own}.weight"))
}

fn metadata(
    name: &str,
    config: &LlamaConfig,
    vocabulary: GgufVocabulary,
    kind: GgufType,
) -> Vec<(&'static str, Value)> {
    let size = |size: usize| Value::U32(size as u32);
    let text = |text: &str| Value::String(text.into());
    let texts = |texts: Vec<String>| Value::Array(texts.into_iter().map(Value::String).collect());
    let types = vocabulary.token_type.into_iter().map(Value::I32).collect();
    let mut metadata = vec![
        ("general.architecture", text("llama")),
        ("general.type", text("model")),
        ("general.name", text(name)),
        ("general.file_type", Value::U32(kind.file_type())),
        ("general.quantization_version", Value::U32(QUANTIZATION_VERSION)),
        ("llama.vocab_size", size(config.vocab_size)),
        ("llama.context_length", size(config.max_position_embeddings)),
        ("llama.embedding_length", size(config.hidden_size)),
        ("llama.block_count", size(config.num_hidden_layers)),
        ("llama.feed_forward_length", size(config.intermediate_size)),
        ("llama.attention.head_count", size(config.num_attention_heads)),
        ("llama.attention.head_count_kv", size(config.num_key_value_heads)),
        ("llama.attention.key_length", size(config.head_dim)),
        ("llama.attention.value_length", size(config.head_dim)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(config.rms_norm_eps as f32)),
        ("llama.rope.dimension_count", size(config.head_dim)),
        ("llama.rope.freq_base", Value::F32(config.rope_theta as f32)),
        ("tokenizer.ggml.model", text(&vocabulary.model)),
        ("tokenizer.ggml.pre", text(&vocabulary.pre)),
        ("tokenizer.ggml.tokens", texts(vocabulary.tokens)),
        ("tokenizer.ggml.token_type", Value::Array(types)),
        ("tokenizer.ggml.merges", texts(vocabulary.merges)),
    ];
    if let Some(RopeScaling::Linear { factor }) = config.rope_scaling {
        metadata.push(("llama.rope.scaling.type", text("linear")));
        metadata.push(("llama.rope.scaling.factor", Value::F32(factor as f32)));
    }
    let ids = [
        ("tokenizer.ggml.bos_token_id", vocabulary.bos_token_id),
        ("tokenizer.ggml.eos_token_id", vocabulary.eos_token_id),
        ("tokenizer.ggml.unknown_token_id", vocabulary.unknown_token_id),
        ("tokenizer.ggml.padding_token_id", vocabulary.padding_token_id),
    ];
    metadata.extend(ids.into_iter().filter_map(|(key, id)| Some((key, Value::U32(id?)))));
    // llama.cpp has defaults of its own, by the pre-tokenizer.
    let add_bos = vocabulary.add_bos_token.unwrap_or(false);
    metadata.push(("tokenizer.ggml.add_bos_token", Value::Bool(add_bos)));
    metadata.push(("tokenizer.ggml.add_eos_token", Value::Bool(false)));
    let template = vocabulary.chat_template.map(Value::String);
    metadata.extend(template.map(|template| ("tokenizer.chat_template", template)));
    metadata
}

/// Opens `path` again and compares names, shapes and types.
fn verify(path: &Path, tensors: &BTreeMap<String, QTensor>) -> Result<()> {
    let mut file = BufReader::new(File::open(path).map_err(Error::io(path))?);
    header::check(&mut file)?;
    file.rewind().map_err(Error::io(path))?;
    let found = Content::read(&mut file)?.tensor_infos;
    let same = found.len() == tensors.len()
        && tensors.iter().all(|(name, tensor)| {
            found.get(name).is_some_and(|info| {
                info.shape == *tensor.shape() && info.ggml_dtype == tensor.dtype()
            })
        });
    if !same {
        invalid!("the tensors read back are not those that were written");
    }
    Ok(())
}
