//! The parts of the passes by hand, in training and in search, over plain slices.

use candle_core::{Result, Tensor};

use super::Tiger;
use super::layers::{Attention, EPS, FeedForward, Pass};
use crate::ops::slices::{self, Buffer, HeadShape, Pool, Update};
use crate::ops::{Precision, Rows};

/// What is kept of a feed-forward.
#[derive(Debug)]
pub(super) struct KeptFeedForward<'p> {
    pub(super) input: Buffer<'p, f32>,
    /// Behind the rectifier and its dropout.
    pub(super) hidden: Buffer<'p, f32>,
    /// Where the dropout of its branch stands.
    pub(super) site: u64,
}

/// A pass whose buffers are those of `pool`.
pub(super) struct ByHand<'a> {
    pub(super) network: &'a Tiger,
    pub(super) pass: Pass,
    pub(super) pool: &'a Pool<f32>,
}

impl<'a> ByHand<'a> {
    pub(super) fn embedded(&self, ids: &[u32]) -> Result<Buffer<'a, f32>> {
        let mut x = self.pool.take(ids.len() * self.network.config.dim);
        slices::embedding(&mut x, &self.network.embeddings, ids)?;
        Ok(x)
    }

    /// The queries of an attention, times the root of `head_dim`, by which the operation divides.
    pub(super) fn query(&self, h: &[f32], attention: &Attention) -> Result<Buffer<'a, f32>> {
        let mut query = self.projected(h, &attention.query)?;
        slices::scale(&mut query, (attention.head_dim as f64).sqrt());
        Ok(query)
    }

    pub(super) fn attended(
        &self,
        [query, key, value]: [&[f32]; 3],
        bias: Option<&[f32]>,
        rows: &Rows,
    ) -> Buffer<'a, f32> {
        let mut attended = self.pool.take(query.len());
        let inputs = [query, key, value];
        slices::attention(&mut attended, inputs, bias, self.heads(), rows, Precision::Full);
        attended
    }

    pub(super) fn heads(&self) -> HeadShape {
        let config = &self.network.config;
        HeadShape { kv_heads: config.heads, group: 1, head_dim: config.head_dim }
    }

    /// Dropout of `x`, (tokens, width), by the mask of a place.
    pub(super) fn drop(&self, x: &mut [f32], width: usize, site: u64) {
        if let Some(mask) = self.pass.mask(site) {
            slices::dropout(x, mask.p, mask.key_of(width), None);
        }
    }

    pub(super) fn copied(&self, x: &[f32]) -> Buffer<'a, f32> {
        let mut copied = self.pool.take(x.len());
        slices::copy(&mut copied, x);
        copied
    }

    pub(super) fn normed(&self, x: &[f32], weight: &Tensor) -> Result<Buffer<'a, f32>> {
        let mut normed = self.pool.take(x.len());
        slices::rms_norm(&mut normed, x, weight, EPS)?;
        Ok(normed)
    }

    pub(super) fn projected(&self, x: &[f32], weight: &Tensor) -> Result<Buffer<'a, f32>> {
        let (out, inner) = weight.dims2()?;
        let mut projected = self.pool.take(x.len() / inner * out);
        slices::linear(&mut projected, x, weight, Update::Overwrite, self.pass.precision)?;
        Ok(projected)
    }

    /// The stream behind a branch that ends with `weight`, and where the branch's dropout stands.
    pub(super) fn add_branch(
        &self,
        stream: &[f32],
        x: &[f32],
        weight: &Tensor,
    ) -> Result<(Buffer<'a, f32>, u64)> {
        let (mut out, site) = (self.projected(x, weight)?, self.pass.next_site());
        self.drop(&mut out, self.network.config.dim, site);
        slices::add(&mut out, stream);
        Ok((out, site))
    }

    /// A feed-forward, and the stream behind it.
    pub(super) fn feed(
        &self,
        layer: &FeedForward,
        input: Buffer<'a, f32>,
    ) -> Result<(KeptFeedForward<'a>, Buffer<'a, f32>)> {
        let mut hidden = self.projected(&self.normed(&input, &layer.norm)?, &layer.up)?;
        slices::relu(&mut hidden);
        self.drop(&mut hidden, self.network.config.feed_forward, self.pass.next_site());
        let (out, site) = self.add_branch(&input, &hidden, &layer.down)?;
        Ok((KeptFeedForward { input, hidden, site }, out))
    }
}
