//! Attention on the CPU: one task a (set of rows, key-value head), which gathers what it needs into its own
//! scratch, so that the inner products run over contiguous memory.
//!
//! A set is one row, or neighbouring rows whose contexts begin alike (the beams of one user): these become
//! one matrix product over all their keys, with the keys of the other rows masked.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp3, Layout, Result, Shape, Tensor, WithDType, bail,
};
use rayon::prelude::*;

use super::rows::{Row, Rows};
use super::task::{BLOCK, HeadShape, Inputs, Scratch, Task, alike, queries};
use crate::ops::cpu::{self, with_float, zeros_if};
use crate::ops::cuda::{self, View};
use crate::ops::kernels::{Float, MatMut, Precision, Stored};

pub(super) struct Attention {
    pub(super) rows: Arc<Rows>,
    /// Whether a backward pass may follow.
    pub(super) tracked: bool,
    /// What such a pass needs of the forward one, on a GPU.
    pub(super) totals: Mutex<Option<Tensor>>,
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let heads = HeadShape::of(q_layout.shape(), k_layout.shape())?;
        with_float!(q.dtype(), T => {
            let (k, v) = (cpu::slice::<T>(k, k_layout)?, cpu::slice(v, v_layout)?);
            let q = cpu::slice(q, q_layout)?;
            let mut out = vec![T::default(); q.len()];
            let precision = Precision::Full;
            forward(&mut out, &Inputs { q, k, v, heads, bias: None, precision }, &self.rows);
            let tokens = q_layout.shape().dims3()?.0;
            Ok((T::to_cpu_storage_owned(out), (tokens, heads.query_width()).into()))
        })
    }

    fn cuda_fwd(
        &self,
        q: &CudaStorage,
        q_layout: &Layout,
        k: &CudaStorage,
        k_layout: &Layout,
        v: &CudaStorage,
        v_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (tokens, heads, head_dim) = q_layout.shape().dims3()?;
        let inputs = [View::new(q, q_layout), View::new(k, k_layout), View::new(v, v_layout)];
        let (out, totals) = cuda::attention(inputs, &self.rows, self.tracked)?;
        let Ok(mut kept) = self.totals.lock() else { bail!("attention: a pass failed") };
        *kept = totals;
        Ok((out, (tokens, heads * head_dim).into()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        if !self.rows.own_their_keys() {
            bail!("attention: no backward for rows that share keys or have a context");
        }
        let heads = HeadShape::of(q.shape(), k.shape())?;
        let grad = grad.contiguous()?;
        if grad.device().is_cuda() {
            let kept = self.totals.lock().ok().and_then(|kept| kept.clone());
            let Some(totals) = kept else { bail!("attention: a backward without its forward") };
            let [q, k, v] = cuda::attention_backward([q, k, v], [out, &grad, &totals], &self.rows)?;
            return Ok((q, k, v));
        }
        let held = [cpu::values(q), cpu::values(k), cpu::values(v), cpu::values(&grad)];
        with_float!(q.dtype(), T => {
            let [q_values, k_values, v_values, grad] = &held;
            let (k_slice, v_slice) = (k_values.slice::<T>()?, v_values.slice()?);
            let precision = Precision::Full;
            let (q_slice, bias) = (q_values.slice()?, None);
            let inputs = Inputs { q: q_slice, k: k_slice, v: v_slice, heads, bias, precision };
            let mut grads = [q, k, v].map(|t| zeros_if(t.track_op(), t.elem_count()));
            let parts = grads.each_mut().map(Option::as_deref_mut);
            backward(&inputs, grad.slice()?, &self.rows, parts, None);
            let [q_grad, k_grad, v_grad] = grads;
            Ok((
                q_grad.map(|g| cpu::tensor(g, q.shape())).transpose()?,
                k_grad.map(|g| cpu::tensor(g, k.shape())).transpose()?,
                v_grad.map(|g| cpu::tensor(g, v.shape())).transpose()?,
            ))
        })
    }
}

/// Splits the rows into sets, in order.
fn sets(rows: &[Row]) -> Vec<&[Row]> {
    let mut sets = Vec::new();
    let mut start = 0;
    for end in 1..=rows.len() {
        if end == rows.len() || !joins(&rows[start..end], &rows[end]) {
            sets.push(&rows[start..end]);
            start = end;
        }
    }
    sets
}

/// Whether a row is worth computing together with a set: they share enough keys to make up for the
/// products with keys of other rows, which are masked.
fn joins(set: &[Row], row: &Row) -> bool {
    let split = alike(set.iter().chain([row]));
    let keys = |ranges: &[Range<usize>]| ranges.iter().map(Range::len).sum::<usize>();
    let apart = |row: &Row| row.own.len() + keys(&row.context[split..]);
    split > 0
        && row.queries.end - set[0].queries.start <= BLOCK
        && set.iter().map(apart).sum::<usize>() + apart(row) <= 2 * keys(&row.context[..split])
}

fn tasks(rows: &Rows, heads: HeadShape) -> Vec<Task<'_>> {
    let of_set = |set| (0..heads.kv_heads).map(move |kv_head| Task { set, kv_head, rows });
    sets(rows.rows()).into_iter().flat_map(of_set).collect()
}

/// The part of `out` that each task writes: its queries, its heads.
fn query_blocks<'a, T>(out: &'a mut [T], rows: &Rows, heads: HeadShape) -> Vec<MatMut<'a, T>> {
    let width = heads.query_width();
    let tokens = out.len() / width;
    let ranges = sets(rows.rows()).into_iter().map(queries);
    MatMut::new(out, tokens, width).into_blocks(ranges, heads.group_width())
}

/// The part of a key gradient that each task writes: its own keys, its head.
fn key_blocks<'a, T>(out: &'a mut [T], rows: &Rows, heads: HeadShape) -> Vec<MatMut<'a, T>> {
    let width = heads.key_width();
    let keys = out.len() / width;
    let ranges = rows.rows().iter().map(|row| row.own.clone());
    MatMut::new(out, keys, width).into_blocks(ranges, heads.head_dim)
}

/// A block for each task, or none for each.
fn optional<B>(tasks: usize, blocks: Option<Vec<B>>) -> Vec<Option<B>> {
    match blocks {
        Some(blocks) => blocks.into_iter().map(Some).collect(),
        None => (0..tasks).map(|_| None).collect(),
    }
}

pub(in crate::ops) fn forward<S: Stored>(out: &mut [S], inputs: &Inputs<'_, S>, rows: &Rows) {
    let blocks = query_blocks(out, rows, inputs.heads);
    tasks(rows, inputs.heads).into_par_iter().zip(blocks).for_each_init(
        Scratch::default,
        |scratch, (task, mut out)| {
            task.forward(inputs, scratch, &mut out);
        },
    );
}

/// Overwrites the gradients that are wanted; adds to that of the bias, (offsets, heads).
pub(in crate::ops) fn backward<S: Stored>(
    inputs: &Inputs<'_, S>,
    grad: &[S],
    rows: &Rows,
    [q_grad, k_grad, v_grad]: [Option<&mut [S]>; 3],
    bias_grad: Option<&mut [S::Wide]>,
) {
    let heads = inputs.heads;
    let tasks = tasks(rows, heads);
    let q_blocks = optional(tasks.len(), q_grad.map(|g| query_blocks(g, rows, heads)));
    let k_blocks = optional(tasks.len(), k_grad.map(|g| key_blocks(g, rows, heads)));
    let v_blocks = optional(tasks.len(), v_grad.map(|g| key_blocks(g, rows, heads)));
    // (tasks, group, offsets): added up in the order of the tasks, whoever did them.
    let of_task = heads.group * inputs.offsets();
    let mut bias_parts = match bias_grad {
        Some(_) => vec![S::Wide::ZERO; tasks.len() * of_task],
        None => Vec::new(),
    };
    let blocks = bias_grad.is_some().then(|| bias_parts.chunks_exact_mut(of_task).collect());
    let bias_blocks = optional(tasks.len(), blocks);
    tasks.par_iter().zip(q_blocks).zip(k_blocks).zip(v_blocks).zip(bias_blocks).for_each_init(
        Scratch::default,
        |scratch, ((((task, q_grad), k_grad), v_grad), bias_grad)| {
            task.backward(inputs, grad, scratch, [q_grad, k_grad, v_grad], bias_grad);
        },
    );
    let Some(bias_grad) = bias_grad else { return };
    let all_heads = heads.kv_heads * heads.group;
    for (task, part) in tasks.iter().zip(bias_parts.chunks_exact(of_task)) {
        for (i, of_head) in part.chunks_exact(inputs.offsets()).enumerate() {
            let totals = bias_grad.iter_mut().skip(task.kv_head * heads.group + i);
            for (total, &grad) in totals.step_by(all_heads).zip(of_head) {
                *total += grad;
            }
        }
    }
}
