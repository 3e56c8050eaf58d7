//! GRU4Rec (Hidasi et al., 2016): a gated recurrent unit reads a session item by item.

use candle_core::{DType, Device, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::layers::{Affine, Builder, Drops, Masks};
use super::{Core, History, Items, Sequential, TrainingConfig, check};
use crate::ops::{self, Precision};

/// `[baseline.gru4rec]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Gru4RecConfig {
    /// Width of an item embedding.
    pub dim: usize,
    /// Width of the recurrent state.
    pub hidden: usize,
    /// Recurrent layers, one above the other.
    pub layers: usize,
    /// The longest history, in items.
    pub history: usize,
    /// Probability of dropout on item embeddings.
    pub dropout: f64,
    /// How it is trained; its settings stand among these.
    #[serde(flatten)]
    pub training: TrainingConfig,
}

impl Default for Gru4RecConfig {
    fn default() -> Self {
        let training = TrainingConfig { learning_rate: 2e-3, ..TrainingConfig::default() };
        Self { dim: 256, hidden: 128, layers: 1, history: 50, dropout: 0.5, training }
    }
}

/// One recurrent layer.
#[derive(Debug, Clone)]
struct Gru {
    /// Of the input: reset, update and new state, (3 hidden, in).
    input: Affine,
    /// Of the state before, (3 hidden, hidden).
    state: Affine,
}

impl Gru {
    /// `h' = (1 - z) n + z h`, with `n = tanh(W x + r U h)` of the input's share `gates` (rows, 3 hidden) and `h`
    /// (rows, hidden).
    fn step(&self, gates: &Tensor, h: &Tensor, precision: Precision) -> Result<Tensor> {
        let of_state = self.state.forward(h, precision)?;
        let width = h.dim(1)?;
        let part = |t: &Tensor, i: usize| t.narrow(1, i * width, width);
        let reset = ops::sigmoid(&(part(gates, 0)? + part(&of_state, 0)?)?)?;
        let update = ops::sigmoid(&(part(gates, 1)? + part(&of_state, 1)?)?)?;
        let new = (part(gates, 2)? + (reset * part(&of_state, 2)?)?)?.tanh()?;
        // n + z (h - n)
        &new + (update * (h - &new)?)?
    }
}

/// Item embeddings go through recurrent layers, and a linear layer makes the last state one to hold against them.
///
/// Against the paper, items are told from others by a softmax, as in its authors' later work (Hidasi and Karatzoglou,
/// 2018), and the output shares the embeddings.
#[derive(Debug, Clone)]
pub struct Gru4Rec {
    core: Core,
    config: Gru4RecConfig,
    items: Tensor,
    layers: Vec<Gru>,
    output: Affine,
}

impl Gru4Rec {
    /// A fresh network; `dtype` is f32 but for numeric checks.
    pub fn new(
        config: &Gru4RecConfig,
        num_items: usize,
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let &Gru4RecConfig { dim, hidden, layers, .. } = config;
        let mut builder = Builder::new("gru4rec", seed, dtype, device);
        let mut layer = |i: usize| {
            let inputs = if i == 0 { dim } else { hidden };
            Ok(Gru {
                input: builder.affine(&format!("layers.{i}.input"), (3 * hidden, inputs))?,
                state: builder.affine(&format!("layers.{i}.state"), (3 * hidden, hidden))?,
            })
        };
        let layers = (0..layers).map(&mut layer).collect::<Result<_>>()?;
        let items = builder.matrix("items", (num_items, dim))?;
        let output = builder.affine("output", (dim, hidden))?;
        let core = builder.core(Items::shared(&items), config.history, &config.training);
        Ok(Self { core, config: config.clone(), items, layers, output })
    }
}

impl Sequential for Gru4Rec {
    fn core(&self) -> &Core {
        &self.core
    }

    fn values_per_token(&self) -> usize {
        3 * self.config.dim + 16 * self.config.hidden * self.config.layers
    }

    fn states(&self, histories: &[History<'_>], dropout: Option<Masks>) -> Result<Tensor> {
        check("gru4rec", self.core.history, histories)?;
        let steps = Steps::of(histories);
        let x = ops::embedding(&self.items, &steps.items)?;
        let mut x = Drops(dropout).at(0, self.config.dropout, x)?;
        for layer in &self.layers {
            let gates = split(&layer.input.forward(&x, self.core.precision)?, &steps.sizes)?;
            let mut h =
                Tensor::zeros((histories.len(), self.config.hidden), x.dtype(), x.device())?;
            let mut states = Vec::with_capacity(gates.len());
            for (gates, &size) in gates.iter().zip(&steps.sizes) {
                // The longest histories come first: those that go on are the first of those before.
                h = layer.step(gates, &h.narrow(0, 0, size)?, self.core.precision)?;
                states.push(h.clone());
            }
            x = Tensor::cat(&states, 0)?;
        }
        let x = ops::embedding(&x, &steps.back)?;
        self.output.forward(&x, self.core.precision)
    }
}

/// Rows of `x`, so many for each of `sizes`. It is halved again and again: the gradient of every part that is cut out
/// is as large as what it is cut out of.
fn split(x: &Tensor, sizes: &[usize]) -> Result<Vec<Tensor>> {
    if sizes.len() < 2 {
        return Ok(vec![x.clone()]);
    }
    let (before, behind) = sizes.split_at(sizes.len() / 2);
    let first = before.iter().sum();
    let mut parts = split(&x.narrow(0, 0, first)?, before)?;
    parts.extend(split(&x.narrow(0, first, x.dim(0)? - first)?, behind)?);
    Ok(parts)
}

/// What is read at the same time: step by step, of every history that is long enough, the longest first.
struct Steps {
    items: Vec<u32>,
    /// How many histories each step reads.
    sizes: Vec<usize>,
    /// Where each item of the histories, one after another, stands among `items`.
    back: Vec<u32>,
}

impl Steps {
    fn of(histories: &[History<'_>]) -> Self {
        let mut order: Vec<usize> = (0..histories.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(histories[i].items.len()));
        let longest = order.first().map_or(0, |&i| histories[i].items.len());
        let (mut items, mut sizes) = (Vec::new(), Vec::new());
        let mut places = vec![Vec::new(); histories.len()];
        for step in 0..longest {
            let before = items.len();
            for &i in order.iter().take_while(|&&i| histories[i].items.len() > step) {
                places[i].push(items.len() as u32);
                items.push(histories[i].items[step]);
            }
            sizes.push(items.len() - before);
        }
        Self { items, sizes, back: places.concat() }
    }
}
