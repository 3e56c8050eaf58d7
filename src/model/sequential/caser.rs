//! Caser (Tang and Wang, 2018): convolutions over the embeddings of the last items, as over an image.

use candle_core::{DType, Device, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::layers::{Affine, Builder, Drops, Masks};
use super::recent::{Recent, Users, longest};
use super::{Core, History, Items, Sequential, TrainingConfig, check};

/// `[baseline.caser]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct CaserConfig {
    /// Width of the embeddings of items and users.
    pub dim: usize,
    /// The last items that are looked at.
    pub history: usize,
    /// Horizontal filters of each height.
    pub horizontal: usize,
    /// Vertical filters.
    pub vertical: usize,
    /// Probability of dropout on what the filters find.
    pub dropout: f64,
    /// How it is trained; its settings stand among these.
    #[serde(flatten)]
    pub training: TrainingConfig,
}

impl Default for CaserConfig {
    fn default() -> Self {
        let training =
            TrainingConfig { learning_rate: 2e-3, weight_decay: 0.1, ..TrainingConfig::default() };
        Self { dim: 128, history: 5, horizontal: 16, vertical: 4, dropout: 0.5, training }
    }
}

/// `score(i | u, history) = [relu(W [o, o'] + b), P_u] . W'_i + b'_i` (equation 10): `o` the strongest answer of each
/// horizontal filter, which spans the embeddings of some items that follow each other, and `o'` sums over the items,
/// weighted by each vertical filter.
#[derive(Debug, Clone)]
pub struct Caser {
    core: Core,
    config: CaserConfig,
    items: Tensor,
    users: Users,
    /// Of each height from 1, (filters, height * dim).
    horizontal: Vec<Affine>,
    /// (filters, history)
    vertical: Affine,
    hidden: Affine,
}

impl Caser {
    /// A fresh network; `trained` says of each user whether training has something of them to foretell, `dtype` is f32
    /// but for numeric checks.
    pub fn new(
        config: &CaserConfig,
        num_items: usize,
        trained: &[bool],
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let &CaserConfig { dim, history, horizontal, vertical, .. } = config;
        let mut builder = Builder::new("caser", seed, dtype, device);
        let found = horizontal * history + vertical * dim;
        let heights = 1..=history;
        Ok(Self {
            config: config.clone(),
            horizontal: heights
                .map(|h| builder.affine(&format!("horizontal.{h}"), (horizontal, h * dim)))
                .collect::<Result<_>>()?,
            vertical: builder.affine("vertical", (vertical, history))?,
            hidden: builder.affine("hidden", (dim, found))?,
            items: builder.matrix("items", (num_items, dim))?,
            users: Users::new(builder.matrix("users", (trained.len(), dim))?, trained)?,
            core: {
                let output = builder.affine("output", (num_items, 2 * dim))?;
                let output = Items { weight: output.weight, bias: Some(output.bias) };
                builder.core(output, longest(config.history), &config.training)
            },
        })
    }

    /// The strongest answer of each filter to some items that follow each other, (tokens, filters), in `x`
    /// (tokens, history, dim).
    fn strongest(&self, x: &Tensor, height: usize) -> Result<Tensor> {
        let (tokens, history, dim) = x.dims3()?;
        let filters = &self.horizontal[height - 1];
        let answer = |first| {
            let seen = x.narrow(1, first, height)?.reshape((tokens, height * dim))?;
            filters.forward(&seen, self.core.precision)?.relu()
        };
        // Pairwise: where both are alike, as over places without items, each gets half of the gradient.
        (1..=history - height).try_fold(answer(0)?, |most, first| most.maximum(&answer(first)?))
    }
}

impl Sequential for Caser {
    fn core(&self) -> &Core {
        &self.core
    }

    fn values_per_token(&self) -> usize {
        4 * self.config.history * (self.config.history * self.config.dim + self.config.horizontal)
    }

    fn looks_back(&self) -> usize {
        self.config.history
    }

    fn states(&self, histories: &[History<'_>], dropout: Option<Masks>) -> Result<Tensor> {
        check("caser", self.core.history, histories)?;
        let recent = Recent::of(histories, self.config.history);
        let x = recent.embedded(&self.items)?;
        let (tokens, history, dim) = x.dims3()?;
        let mut found =
            (1..=history).map(|height| self.strongest(&x, height)).collect::<Result<Vec<_>>>()?;
        // Each column of the embeddings is summed over the items.
        let columns = x.transpose(1, 2)?.contiguous()?.reshape((tokens * dim, history))?;
        let sums = self.vertical.forward(&columns, self.core.precision)?;
        found.push(sums.reshape((tokens, dim * self.config.vertical))?);
        let found = Tensor::cat(&found, 1)?;
        let found = Drops(dropout).at(0, self.config.dropout, found)?;
        let found = self.hidden.forward(&found, self.core.precision)?.relu()?;
        Tensor::cat(&[found, self.users.embedded(&recent.users)?], 1)
    }
}
