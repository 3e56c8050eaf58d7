//! Keys and values of the tokens seen so far.

use candle_core::{Result, Tensor, bail};
use half::bf16;

use super::pass::Pools;
use crate::ops::slices::Activation;

/// Keys and values of the tokens seen so far, one pair a layer, (keys, `kv_heads`, `head_dim`).
///
/// The cache only grows at its end: rows point into it, so that many rows (the beams of a user, the
/// users behind one instruction) share what they have in common without a copy.
#[derive(Debug, Default)]
pub struct KvCache {
    held: Held,
}

#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    /// Of passes by candle's graph.
    Graph(Vec<(Tensor, Tensor)>),
    /// Of passes by hand.
    Full(Slices<f32>),
    Half(Slices<bf16>),
}

/// What passes by hand keep from one to the next.
#[derive(Debug)]
pub(super) struct Slices<A: Activation> {
    /// Tokens seen.
    pub(super) len: usize,
    /// Keys and values of each layer.
    pub(super) layers: Vec<[Vec<A>; 2]>,
    pub(super) pools: Pools<A>,
}

impl<A: Activation> Default for Slices<A> {
    fn default() -> Self {
        Self { len: 0, layers: Vec::new(), pools: Pools::default() }
    }
}

impl<A: Activation> Slices<A> {
    fn truncate(&mut self, len: usize) {
        for side in self.layers.iter_mut().flatten() {
            side.truncate(side.len() / self.len.max(1) * len);
        }
        self.len = self.len.min(len);
    }
}

impl KvCache {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of keys held.
    pub fn len(&self) -> usize {
        match &self.held {
            Held::Nothing => 0,
            Held::Graph(layers) => layers.first().map_or(0, |(k, _)| k.dims()[0]),
            Held::Full(slices) => slices.len,
            Held::Half(slices) => slices.len,
        }
    }

    /// Whether nothing has been cached yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets everything after the first `len` keys.
    pub fn truncate(&mut self, len: usize) -> Result<()> {
        match &mut self.held {
            Held::Nothing => {}
            Held::Graph(layers) if len == 0 => layers.clear(),
            Held::Graph(layers) => {
                for side in layers.iter_mut().flat_map(|(k, v)| [k, v]) {
                    *side = side.narrow(0, 0, len)?.contiguous()?;
                }
            }
            Held::Full(slices) => slices.truncate(len),
            Held::Half(slices) => slices.truncate(len),
        }
        Ok(())
    }

    /// Appends a layer's keys and values; gives all of them.
    pub(super) fn append(
        &mut self,
        layer: usize,
        k: Tensor,
        v: Tensor,
    ) -> Result<(Tensor, Tensor)> {
        if matches!(self.held, Held::Nothing) {
            self.held = Held::Graph(Vec::new());
        }
        let Held::Graph(layers) = &mut self.held else { return mixed() };
        match layers.get_mut(layer) {
            None => layers.push((k, v)),
            Some((old_k, old_v)) => {
                *old_k = Tensor::cat(&[&*old_k, &k], 0)?;
                *old_v = Tensor::cat(&[&*old_v, &v], 0)?;
            }
        }
        Ok(layers[layer].clone())
    }
}

/// A type that passes by hand keep keys and values in.
pub(super) trait Cached: Activation {
    /// What such passes keep in `cache`.
    fn of(cache: &mut KvCache) -> Result<&mut Slices<Self>>;
}

impl Cached for f32 {
    fn of(cache: &mut KvCache) -> Result<&mut Slices<Self>> {
        if matches!(cache.held, Held::Nothing) {
            cache.held = Held::Full(Slices::default());
        }
        if let Held::Full(slices) = &mut cache.held { Ok(slices) } else { mixed() }
    }
}

impl Cached for bf16 {
    fn of(cache: &mut KvCache) -> Result<&mut Slices<Self>> {
        if matches!(cache.held, Held::Nothing) {
            cache.held = Held::Half(Slices::default());
        }
        if let Held::Half(slices) = &mut cache.held { Ok(slices) } else { mixed() }
    }
}

fn mixed<T>() -> Result<T> {
    bail!("a cache serves passes of one kind and precision")
}
