//! HGN (Ma et al., 2019): gates choose what of each of the last items, and which of them, counts for a user.

use candle_core::{DType, Device, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::layers::{Builder, Drops, Masks};
use super::recent::{Recent, Users, longest};
use super::{Core, History, Items, Sequential, TrainingConfig, check};
use crate::ops;

/// `[baseline.hgn]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct HgnConfig {
    /// Width of the embeddings of items and users.
    pub dim: usize,
    /// The last items that are looked at.
    pub history: usize,
    /// Probability of dropout on the embeddings of the last items.
    pub dropout: f64,
    /// How it is trained; its settings stand among these.
    #[serde(flatten)]
    pub training: TrainingConfig,
}

impl Default for HgnConfig {
    fn default() -> Self {
        Self { dim: 128, history: 5, dropout: 0.3, training: TrainingConfig::default() }
    }
}

/// `score(j | u, history) = (u + sum_k g_k f_k / sum_k g_k + sum_k e_k) . q_j + b_j` (equation 8): the user, the last
/// items with the features and instances that the gates let through (equations 3 and 5, averaged as in its authors'
/// program), and the items themselves.
#[derive(Debug, Clone)]
pub struct Hgn {
    core: Core,
    config: HgnConfig,
    items: Tensor,
    users: Users,
    /// Of items and of the user, (dim, dim) both.
    feature: [Tensor; 2],
    feature_bias: Tensor,
    /// Of items (1, dim), and of the user (history, dim).
    instance: [Tensor; 2],
}

impl Hgn {
    /// A fresh network; `trained` says of each user whether training has something of them to foretell, `dtype` is f32
    /// but for numeric checks.
    pub fn new(
        config: &HgnConfig,
        num_items: usize,
        trained: &[bool],
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let &HgnConfig { dim, history, .. } = config;
        let mut builder = Builder::new("hgn", seed, dtype, device);
        Ok(Self {
            config: config.clone(),
            items: builder.matrix("items", (num_items, dim))?,
            users: Users::new(builder.matrix("users", (trained.len(), dim))?, trained)?,
            feature: [
                builder.matrix("feature.item", (dim, dim))?,
                builder.matrix("feature.user", (dim, dim))?,
            ],
            feature_bias: builder.constant("feature.bias", dim, 0.0)?,
            instance: [
                builder.matrix("instance.item", (1, dim))?,
                builder.matrix("instance.user", (history, dim))?,
            ],
            core: {
                let output = Items {
                    weight: builder.matrix("output.weight", (num_items, dim))?,
                    bias: Some(builder.constant("output.bias", num_items, 0.0)?),
                };
                builder.core(output, longest(config.history), &config.training)
            },
        })
    }
}

impl Sequential for Hgn {
    fn core(&self) -> &Core {
        &self.core
    }

    fn values_per_token(&self) -> usize {
        12 * self.config.history * self.config.dim
    }

    fn looks_back(&self) -> usize {
        self.config.history
    }

    fn states(&self, histories: &[History<'_>], dropout: Option<Masks>) -> Result<Tensor> {
        check("hgn", self.core.history, histories)?;
        let recent = Recent::of(histories, self.config.history);
        let x = Drops(dropout).at(0, self.config.dropout, recent.embedded(&self.items)?)?;
        let user = self.users.embedded(&recent.users)?;
        let (tokens, history, dim) = x.dims3()?;
        let project = |x: &Tensor, weight| ops::linear(x, weight, self.core.precision);

        let rows = x.reshape((tokens * history, dim))?;
        let of_items = project(&rows, &self.feature[0])?.reshape((tokens, history, dim))?;
        let of_user = ops::add_at_places(&project(&user, &self.feature[1])?, &self.feature_bias)?;
        let gate = ops::sigmoid(&ops::add_at_places(&of_items, &of_user)?)?;
        let features = (&x * gate)?;

        let rows = features.reshape((tokens * history, dim))?;
        let of_items = project(&rows, &self.instance[0])?.reshape((tokens, history))?;
        let gate = ops::sigmoid(&(of_items + project(&user, &self.instance[1])?)?)?.unsqueeze(2)?;
        let gate = (gate * recent.there(&x)?)?;
        let chosen = ops::sum_over_places(&features.broadcast_mul(&gate)?)?;
        let chosen = chosen.broadcast_div(&ops::sum_over_places(&gate)?)?;
        (user + chosen)? + ops::sum_over_places(&x)?
    }
}
