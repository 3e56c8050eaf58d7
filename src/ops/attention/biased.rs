//! Attention with a bias that goes by how far a key is from its query (Raffel et al., 2020, section 2.1).

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, WithDType, bail};

use super::task::{HeadShape, Inputs};
use super::{Rows, check_shapes, composed, fused};
use crate::ops::cpu::{self, with_float, zeros_if};
use crate::ops::kernels::Precision;

/// As [`super::attention`], with `bias` added to the scores before the softmax.
///
/// # Shapes
/// - `bias`: (2 * most - 1, heads) for rows of up to `most` keys; a key that stands n places behind its query has the
///   row `most - 1 + n`, one before it a row before that
/// - all others as there
///
/// # Errors
/// As there, and rows that share keys or have a context, or keys farther away than the bias goes.
pub fn biased_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    bias: &Tensor,
    rows: &Arc<Rows>,
) -> Result<Tensor> {
    check_shapes(q, k, v, rows)?;
    let at_keys = rows.rows().iter().all(|row| row.queries.len() <= row.own.len());
    if !rows.own_their_keys() || !at_keys {
        bail!("attention: a bias is for rows that stand at keys of their own, without context");
    }
    let longest = rows.rows().iter().map(|row| row.own.len()).max().unwrap_or(0);
    let ((offsets, heads), (_, query_heads, _)) = (bias.dims2()?, q.dims3()?);
    if offsets % 2 == 0 || offsets / 2 + 1 < longest || heads != query_heads {
        bail!(
            "attention: a bias {:?} for {query_heads} heads and rows of up to {longest} keys",
            bias.dims()
        );
    }
    if crate::ops::fused_on_cpu(&[q, k, v, bias]) {
        // An operation takes three tensors at most.
        let keys_and_values = Tensor::stack(&[k, v], 0)?;
        let op = BiasedAttention { rows: Arc::clone(rows) };
        q.contiguous()?.apply_op3(&keys_and_values, &bias.contiguous()?, op)
    } else {
        composed::attention(q, k, v, Some(bias), rows)
    }
}

/// Of queries, keys and values (2, keys, `kv_heads`, `head_dim`), and bias.
struct BiasedAttention {
    rows: Arc<Rows>,
}

fn heads_of(q: &Shape, keys_and_values: &Shape) -> Result<HeadShape> {
    let (_, keys, kv_heads, head_dim) = keys_and_values.dims4()?;
    HeadShape::of(q, &(keys, kv_heads, head_dim).into())
}

impl CustomOp3 for BiasedAttention {
    fn name(&self) -> &'static str {
        "biased-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        keys_and_values: &CpuStorage,
        kv_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let heads = heads_of(q_layout.shape(), kv_layout.shape())?;
        with_float!(q.dtype(), T => {
            let kv = cpu::slice::<T>(keys_and_values, kv_layout)?;
            let (k, v) = kv.split_at(kv.len() / 2);
            let (q, bias) = (cpu::slice(q, q_layout)?, Some(cpu::slice(bias, bias_layout)?));
            let mut out = vec![T::default(); q.len()];
            let precision = Precision::Full;
            fused::forward(&mut out, &Inputs { q, k, v, heads, bias, precision }, &self.rows);
            let tokens = q_layout.shape().dims3()?.0;
            Ok((T::to_cpu_storage_owned(out), (tokens, heads.query_width()).into()))
        })
    }

    fn bwd(
        &self,
        q: &Tensor,
        keys_and_values: &Tensor,
        bias: &Tensor,
        _out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let heads = heads_of(q.shape(), keys_and_values.shape())?;
        let grad = grad.contiguous()?;
        let held = [q, keys_and_values, bias, &grad].map(cpu::values);
        with_float!(q.dtype(), T => {
            let [q_values, kv_values, bias_values, grad] = &held;
            let kv = kv_values.slice::<T>()?;
            let (k, v) = kv.split_at(kv.len() / 2);
            let (q_slice, bias_slice) = (q_values.slice()?, Some(bias_values.slice()?));
            let precision = Precision::Full;
            let inputs = Inputs { q: q_slice, k, v, heads, bias: bias_slice, precision };
            let [mut q_grad, mut kv_grad, mut bias_grad] =
                [q, keys_and_values, bias].map(|t| zeros_if(t.track_op(), t.elem_count()));
            let (k_grad, v_grad) = match kv_grad.as_mut().map(|g| g.split_at_mut(kv.len() / 2)) {
                Some((k_grad, v_grad)) => (Some(k_grad), Some(v_grad)),
                None => (None, None),
            };
            let parts = [q_grad.as_deref_mut(), k_grad, v_grad];
            fused::backward(&inputs, grad.slice()?, &self.rows, parts, bias_grad.as_deref_mut());
            Ok((
                q_grad.map(|g| cpu::tensor(g, q.shape())).transpose()?,
                kv_grad.map(|g| cpu::tensor(g, keys_and_values.shape())).transpose()?,
                bias_grad.map(|g| cpu::tensor(g, bias.shape())).transpose()?,
            ))
        })
    }
}
