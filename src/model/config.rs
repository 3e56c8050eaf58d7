//! The shape of a Llama-architecture model, as Hugging Face's `config.json` writes it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::rope_scaling::{RawRope, RopeScaling};
use crate::error::plain;
use crate::files;
use crate::{Error, Result, invalid};

/// The only architecture there is here, by its names in `architectures` and `model_type`.
const ARCHITECTURE: (&str, &str) = ("LlamaForCausalLM", "llama");

/// Far beyond every model, and small enough that the bytes of a matrix fit an integer.
const MAX_SIZE: usize = 1 << 28;
const MAX_LAYERS: usize = 1 << 16;

/// A Llama-architecture model; the fields carry their names in `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Rows of the embedding: at least as many as the tokenizer has tokens.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads, each shared by as many query heads (Ainslie et al., 2023).
    pub num_key_value_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// The longest sequence the positions were trained for.
    pub max_position_embeddings: usize,
    /// Added to the mean square in the norms (Zhang and Sennrich, 2019).
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies (Su et al., 2021).
    pub rope_theta: f64,
    /// How the rotary frequencies are stretched for long contexts.
    pub rope_scaling: Option<RopeScaling>,
    /// Whether the embedding is the output projection too.
    pub tie_word_embeddings: bool,
    /// Standard deviation of freshly drawn weights.
    pub initializer_range: f64,
    /// Data type of the saved weights, for example `float32`.
    pub torch_dtype: Option<String>,
    /// The begin-of-sequence token.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a sequence.
    pub eos_token_id: Vec<u32>,
    /// Added to the logit of a token that ends an item of the history; Hugging Face passes it over.
    pub repeat_bias: Option<f64>,
    /// `generation_config.json` as it was read, so that saving keeps what we do not interpret; empty where it
    /// says nothing of its own.
    pub generation: Map<String, Value>,
}

impl LlamaConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// For other architectures and for anything our Llama does not compute: biases, other
    /// activations, other rotary scalings, quantized weights.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = files::read_text(path)?;
        Self::from_json(&text).map_err(|e| Error::Invalid(format!("{}: {e}", path.display())))
    }

    /// Writes a `config.json` that Hugging Face loads.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        files::write(path.as_ref(), format!("{:#}\n", self.to_json()).as_bytes())
    }

    /// A two-layer model small enough for tests, with grouped heads and tied embeddings.
    pub fn tiny_test() -> Self {
        Self {
            vocab_size: 64,
            hidden_size: 32,
            intermediate_size: 48,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 8,
            max_position_embeddings: 128,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: None,
            tie_word_embeddings: true,
            initializer_range: 0.02,
            torch_dtype: None,
            bos_token_id: None,
            eos_token_id: vec![0],
            repeat_bias: None,
            generation: Map::new(),
        }
    }

    /// The rotary frequencies in radians a position, one a pair of features: `head_dim / 2` values.
    pub fn inverse_frequencies(&self) -> Vec<f64> {
        let base = |i| self.rope_theta.powf(-2.0 * i as f64 / self.head_dim as f64);
        (0..self.head_dim / 2)
            .map(|i| self.rope_scaling.map_or(base(i), |s| s.apply(base(i))))
            .collect()
    }

    /// The name and shape of every weight; matrices are (out, in), as Hugging Face stores them.
    pub fn tensor_shapes(&self) -> BTreeMap<String, Vec<usize>> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let (queries, keys) =
            (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        let mut shapes = BTreeMap::new();
        for i in 0..self.num_hidden_layers {
            let layer = [
                ("self_attn.q_proj", vec![queries, hidden]),
                ("self_attn.k_proj", vec![keys, hidden]),
                ("self_attn.v_proj", vec![keys, hidden]),
                ("self_attn.o_proj", vec![hidden, queries]),
                ("mlp.gate_proj", vec![inner, hidden]),
                ("mlp.up_proj", vec![inner, hidden]),
                ("mlp.down_proj", vec![hidden, inner]),
                ("input_layernorm", vec![hidden]),
                ("post_attention_layernorm", vec![hidden]),
            ];
            let named = |(name, shape)| (format!("model.layers.{i}.{name}.weight"), shape);
            shapes.extend(layer.map(named));
        }
        shapes.insert("model.embed_tokens.weight".into(), vec![self.vocab_size, hidden]);
        shapes.insert("model.norm.weight".into(), vec![hidden]);
        if !self.tie_word_embeddings {
            shapes.insert("lm_head.weight".into(), vec![self.vocab_size, hidden]);
        }
        shapes
    }

    /// Checks what the fields must satisfy together.
    pub(crate) fn check(&self) -> Result<()> {
        let positive = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            invalid!("{key} is 0");
        }
        if let Some((key, value)) = positive.iter().find(|(_, value)| *value > MAX_SIZE) {
            invalid!("{key} is {value}; no more than {MAX_SIZE} is supported");
        }
        if self.num_hidden_layers > MAX_LAYERS {
            invalid!(
                "num_hidden_layers is {}; no more than {MAX_LAYERS} is supported",
                self.num_hidden_layers
            );
        }
        if self.num_attention_heads * self.head_dim > MAX_SIZE {
            invalid!(
                "num_attention_heads {} of head_dim {} are more than {MAX_SIZE} features",
                self.num_attention_heads,
                self.head_dim
            );
        }
        for (key, value) in [("rms_norm_eps", self.rms_norm_eps), ("rope_theta", self.rope_theta)] {
            if !(value.is_finite() && value > 0.0) {
                invalid!("{key} is {value}; it must be a number above 0");
            }
        }
        if let Some(bias) = self.repeat_bias.filter(|bias| !bias.is_finite()) {
            invalid!("repeat_bias is {bias}; it must be a finite number");
        }
        self.rope_scaling.map_or(Ok(()), RopeScaling::check)?;
        let (heads, shared) = (self.num_attention_heads, self.num_key_value_heads);
        if !heads.is_multiple_of(shared) {
            invalid!("num_attention_heads {heads} is no multiple of num_key_value_heads {shared}");
        }
        if !self.head_dim.is_multiple_of(2) {
            invalid!("head_dim {} is odd, rotary positions need pairs", self.head_dim);
        }
        Ok(())
    }

    fn from_json(text: &str) -> Result<Self> {
        let json = |e: serde_json::Error| Error::Invalid(plain(e));
        // First, because another architecture has other keys and "missing field" would mislead.
        check_architecture(&serde_json::from_str(text).map_err(json)?)?;
        let raw: RawConfig = serde_json::from_str(text).map_err(json)?;
        raw.check()?;
        let rope = raw.rope_parameters.or(raw.rope_scaling).unwrap_or_default();
        let heads = raw.num_attention_heads;
        if raw.head_dim.is_none() && (heads == 0 || !raw.hidden_size.is_multiple_of(heads)) {
            invalid!(
                "hidden_size {} is no multiple of num_attention_heads {heads}",
                raw.hidden_size
            );
        }
        let config = Self {
            vocab_size: raw.vocab_size,
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            num_hidden_layers: raw.num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: raw.num_key_value_heads.unwrap_or(heads),
            head_dim: raw.head_dim.unwrap_or_else(|| raw.hidden_size / heads),
            max_position_embeddings: raw.max_position_embeddings.unwrap_or(2048),
            rms_norm_eps: raw.rms_norm_eps.unwrap_or(1e-6),
            rope_theta: rope.rope_theta.or(raw.rope_theta).unwrap_or(10_000.0),
            rope_scaling: rope.scaling()?,
            tie_word_embeddings: raw.tie_word_embeddings.unwrap_or(false),
            initializer_range: raw.initializer_range.unwrap_or(0.02),
            torch_dtype: raw.torch_dtype.or(raw.dtype),
            bos_token_id: raw.bos_token_id.and_then(|ids| ids.list().first().copied()),
            eos_token_id: raw.eos_token_id.map(TokenIds::list).unwrap_or_default(),
            repeat_bias: raw.repeat_bias,
            generation: Map::new(),
        };
        config.check()?;
        Ok(config)
    }

    fn to_json(&self) -> Value {
        let mut json = json!({
            "architectures": [ARCHITECTURE.0],
            "attention_bias": false,
            "attention_dropout": 0.0,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_json(),
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": self.initializer_range,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "mlp_bias": false,
            "model_type": ARCHITECTURE.1,
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "pretraining_tp": 1,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_scaling": self.rope_scaling.map(RopeScaling::to_json),
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": self.torch_dtype.as_deref().unwrap_or("float32"),
            "use_cache": true,
            "vocab_size": self.vocab_size,
        });
        if let Some(bias) = self.repeat_bias {
            json["repeat_bias"] = bias.into();
        }
        json
    }

    /// `generation_config.json` for the folder that this configuration is saved to.
    pub(super) fn generation_json(&self) -> Value {
        let mut json = self.generation.clone();
        if json.is_empty() {
            // Hugging Face then follows `config.json`, should that change.
            json.insert("_from_model_config".into(), true.into());
        }
        json.entry("bos_token_id").or_insert_with(|| json!(self.bos_token_id));
        json.entry("eos_token_id").or_insert_with(|| self.eos_json());
        Value::Object(json)
    }

    /// `eos_token_id` as Hugging Face writes it: null, one id or a list.
    pub(crate) fn eos_json(&self) -> Value {
        match self.eos_token_id.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            several => json!(several),
        }
    }
}

fn check_architecture(config: &Value) -> Result<()> {
    let (class, model_type) = ARCHITECTURE;
    let found = match config["architectures"].as_array() {
        Some(list) if list.iter().any(|name| name == class) => return Ok(()),
        Some(list) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
        None if config["model_type"] == model_type => return Ok(()),
        None => config["model_type"].as_str().unwrap_or("nothing").to_string(),
    };
    invalid!(
        "the architecture is {found}; only {class} is supported (Llama 1-3, SmolLM2 and their like)"
    )
}

/// `config.json` as it is on disk: transformers 4 writes `rope_theta` and `rope_scaling`,
/// transformers 5 `rope_parameters`.
#[derive(Deserialize)]
struct RawConfig {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    hidden_act: Option<String>,
    max_position_embeddings: Option<usize>,
    initializer_range: Option<f64>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<RawRope>,
    rope_parameters: Option<RawRope>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    torch_dtype: Option<String>,
    dtype: Option<String>,
    bos_token_id: Option<TokenIds>,
    eos_token_id: Option<TokenIds>,
    repeat_bias: Option<f64>,
    quantization_config: Option<Value>,
}

impl RawConfig {
    fn check(&self) -> Result<()> {
        for (key, value) in [("attention_bias", self.attention_bias), ("mlp_bias", self.mlp_bias)] {
            if value == Some(true) {
                invalid!("{key} is true; only projections without bias are supported");
            }
        }
        if let Some(act) = self.hidden_act.as_deref().filter(|act| *act != "silu") {
            invalid!("hidden_act is {act:?}; only \"silu\" is supported");
        }
        if self.quantization_config.is_some() {
            invalid!(
                "quantization_config is set; only unquantized weights or a GGUF file are read"
            );
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TokenIds {
    One(u32),
    Several(Vec<u32>),
}

impl TokenIds {
    fn list(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Several(ids) => ids,
        }
    }
}
