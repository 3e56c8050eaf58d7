//! What the passes by hand have in common, in training and at inference: the parts of a block over plain
//! slices, for all tokens or for those of the last block that are needed.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::{DropoutPair, Llama, Packed, site_of};
use crate::nn::{Dropout, Linear};
use crate::ops::Rows;
use crate::ops::slices::{self, Activation, Buffer, HeadShape, Pool, Update};

/// The memory of passes whose blocks are kept in `A`.
#[derive(Debug)]
pub(crate) struct Pools<A> {
    pub(crate) wide: Pool<f32>,
    pub(super) narrow: Pool<A>,
}

impl<A: Activation> Default for Pools<A> {
    fn default() -> Self {
        Self { wide: Pool::default(), narrow: Pool::default() }
    }
}

/// The tokens of a pass, or those behind the first in each row that is needed.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) count: usize,
    pub(super) rows: Arc<Rows>,
    /// Cosines and sines, (lines, `head_dim` / 2) each.
    angles: [Vec<f32>; 2],
    /// Their places among all tokens; none where they are all.
    pub(super) chosen: Option<Vec<u32>>,
}

impl Lines {
    /// All tokens of `input`.
    pub(super) fn all(model: &Llama, input: &Packed) -> Self {
        let angles = model
            .angles(&input.positions)
            .map(|angles| angles.into_iter().map(|a| a as f32).collect());
        Self { count: input.ids.len(), rows: Arc::clone(&input.rows), angles, chosen: None }
    }

    /// Those that the last block has to compute for `needed`; none if they are all.
    pub(super) fn needed(&self, needed: &[u32]) -> Option<Self> {
        let (rows, chosen) = self.rows.starting_at_needed(needed);
        if chosen.len() == self.count {
            return None;
        }
        let angles = self.angles.each_ref().map(|angles| {
            let half = angles.len() / self.count.max(1);
            let of = |&line: &u32| &angles[line as usize * half..][..half];
            chosen.iter().flat_map(of).copied().collect()
        });
        Some(Self { count: chosen.len(), rows: Arc::new(rows), angles, chosen: Some(chosen) })
    }

    /// Where a token stands among these lines.
    pub(super) fn place_of(&self, token: u32) -> u32 {
        let among = |chosen: &Vec<u32>| chosen.partition_point(|&line| line < token) as u32;
        self.chosen.as_ref().map_or(token, among)
    }

    /// These lines of `x`, which has one for every token; none where they are all.
    pub(super) fn gather<'p, X: Activation>(
        &self,
        pool: &'p Pool<X>,
        x: &[X],
        width: usize,
    ) -> Option<Buffer<'p, X>> {
        let chosen = self.chosen.as_ref()?;
        let mut gathered = pool.take(chosen.len() * width);
        gather(&mut gathered, x, width, chosen);
        Some(gathered)
    }
}

/// The lines `at` of `x`.
pub(super) fn gather<X: Activation>(out: &mut [X], x: &[X], width: usize, at: &[u32]) {
    for (to, &line) in out.chunks_exact_mut(width).zip(at) {
        to.copy_from_slice(&x[line as usize * width..][..width]);
    }
}

/// The parts of a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass<'a, A: Activation> {
    pub(super) model: &'a Llama,
    pub(super) dropout: DropoutPair,
    pub(super) pools: &'a Pools<A>,
}

impl<'a, A: Activation> Pass<'a, A> {
    /// The pass inside of block `i`.
    pub(super) fn at_block(self, i: usize) -> Self {
        let site = 16 * i as u64 + 1;
        let dropout = DropoutPair {
            residual: self.dropout.residual.map(|d| d.site(site)),
            lora: self.dropout.lora.map(|d| d.site(site)),
        };
        Self { dropout, ..self }
    }

    /// The residual stream before the first block.
    pub(super) fn embedded(&self, ids: &[u32]) -> Result<Buffer<'a, f32>> {
        let mut x = self.pools.wide.take(ids.len() * self.model.config.hidden_size);
        slices::embedding(&mut x, &self.model.embed_tokens, ids)?;
        let width = self.model.config.hidden_size;
        drop_in_place(&mut x, width, site_of(self.dropout.residual, 0), None);
        Ok(x)
    }

    pub(super) fn heads(&self) -> HeadShape {
        let config = &self.model.config;
        let kv_heads = config.num_key_value_heads;
        let group = config.num_attention_heads / kv_heads;
        HeadShape { kv_heads, group, head_dim: config.head_dim }
    }

    /// Rotates queries or keys, or their gradients back.
    pub(super) fn rotate(&self, lines: &Lines, x: &mut [A], inverse: bool) {
        if lines.count == 0 {
            return;
        }
        let head_dim = self.model.config.head_dim;
        let heads = x.len() / (lines.count * head_dim);
        slices::rope(x, [&lines.angles[0], &lines.angles[1]], (heads, head_dim), inverse);
    }

    /// The norm of a residual stream.
    pub(super) fn normed(&self, x: &[f32], weight: &Tensor) -> Result<Buffer<'a, A>> {
        let mut h = self.pools.narrow.take(x.len());
        slices::rms_norm(&mut h, x, weight, self.model.config.rms_norm_eps)?;
        Ok(h)
    }

    pub(super) fn activated(&self, gate: &[A], up: &[A]) -> Buffer<'a, A> {
        let mut activated = self.pools.narrow.take(gate.len());
        slices::swiglu(&mut activated, gate, up);
        activated
    }

    /// What a layer makes of `x`.
    pub(super) fn project(
        &self,
        lines: &Lines,
        linear: &Linear,
        x: &[A],
        site: u64,
    ) -> Result<Buffer<'a, A>> {
        let mut out = self.pools.narrow.take(lines.count * linear.weight.dim(0)?);
        self.linear(&mut out, lines, linear, x, Update::Overwrite, site)?;
        Ok(out)
    }

    /// Adds a branch to the residual stream: what its last layer makes of `x`.
    pub(super) fn add_branch(
        &self,
        stream: &mut [f32],
        lines: &Lines,
        linear: &Linear,
        x: &[A],
        [lora, residual]: [u64; 2],
    ) -> Result<()> {
        if self.dropout.residual.is_none() {
            return self.linear(stream, lines, linear, x, Update::Add, lora);
        }
        let mut branch = self.pools.wide.take(stream.len());
        self.linear(&mut branch, lines, linear, x, Update::Overwrite, lora)?;
        let (width, chosen) = (self.model.config.hidden_size, lines.chosen.as_deref());
        drop_in_place(&mut branch, width, site_of(self.dropout.residual, residual), chosen);
        slices::add(stream, &branch);
        Ok(())
    }

    /// As [`Linear::forward`].
    fn linear<O: Activation>(
        &self,
        out: &mut [O],
        lines: &Lines,
        linear: &Linear,
        x: &[A],
        update: Update,
        site: u64,
    ) -> Result<()> {
        let precision = self.model.precision;
        slices::linear(out, x, &linear.weight, update, precision)?;
        if let Some(lora) = &linear.lora {
            let mut low = self.pools.wide.take(lines.count * lora.a.dim(0)?);
            let thinned = dropped(&self.pools.narrow, x, site_of(self.dropout.lora, site), lines);
            let x = thinned.as_deref().unwrap_or(x);
            slices::linear(&mut low, x, &lora.a, Update::Overwrite, precision)?;
            slices::scale(&mut low, lora.scale);
            slices::linear(out, &low, &lora.b, Update::Add, precision)?;
        }
        Ok(())
    }
}

/// `x` after dropout, where there is one.
pub(super) fn dropped<'p, X: Activation>(
    pool: &'p Pool<X>,
    x: &[X],
    dropout: Option<Dropout>,
    lines: &Lines,
) -> Option<Buffer<'p, X>> {
    dropout.is_some().then(|| {
        let mut dropped = pool.take(x.len());
        slices::copy(&mut dropped, x);
        let width = x.len() / lines.count.max(1);
        drop_in_place(&mut dropped, width, dropout, lines.chosen.as_deref());
        dropped
    })
}

/// Drops elements of the lines `chosen` of a matrix, or of all of it; a line has `width` elements.
pub(super) fn drop_in_place<X: Activation>(
    x: &mut [X],
    width: usize,
    dropout: Option<Dropout>,
    chosen: Option<&[u32]>,
) {
    if let Some(dropout) = dropout {
        slices::dropout(x, dropout.p, dropout.key_of(width), chosen);
    }
}
