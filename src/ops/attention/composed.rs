//! Attention by candle's own differentiable operations: rows padded to one length, all at once.

use std::ops::Range;

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, D, Device, Layout, Result, Shape, Storage, Tensor, bail,
};

use super::rows::Rows;

/// `bias` as in [`super::biased_attention`].
pub(super) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    bias: Option<&Tensor>,
    rows: &Rows,
) -> Result<Tensor> {
    let ((tokens, heads, head_dim), (keys, kv_heads, _)) = (q.dims3()?, k.dims3()?);
    if tokens == 0 {
        return q.reshape((0, heads * head_dim));
    }
    let padded = Padded::new(rows);
    let Padded { count, queries, keys: seen, .. } = padded;
    let group = heads / kv_heads;
    let from_tokens = Places::new(&padded.query_rows, tokens, q.device())?;
    // (tokens, heads, head_dim) -> (rows * kv_heads, group * queries, head_dim)
    let q = from_tokens
        .take(&(q / (head_dim as f64).sqrt())?)?
        .reshape((count, queries, kv_heads, group, head_dim))?
        .permute((0, 2, 3, 1, 4))?
        .reshape((count * kv_heads, group * queries, head_dim))?;
    let from_keys = if rows.own_their_keys() {
        Some(Places::new(&padded.key_rows, keys, k.device())?)
    } else {
        None
    };
    // (keys, kv_heads, head_dim) -> (rows * kv_heads, seen, head_dim)
    let spread = |t: &Tensor| {
        let taken = match &from_keys {
            Some(places) => places.take(t)?,
            None => t.contiguous()?.index_select(&padded.key_rows_of_any(t.device())?, 0)?,
        };
        taken.reshape((count, seen, kv_heads, head_dim))?.transpose(1, 2)?.reshape((
            count * kv_heads,
            seen,
            head_dim,
        ))
    };
    let (k, v) = (spread(k)?, spread(v)?);
    let scores = q.matmul(&k.t()?)?.reshape((count, heads, queries, seen))?;
    let scores = match bias {
        Some(bias) => (scores + padded.spread(bias)?)?,
        None => scores,
    };
    let scores = scores.broadcast_add(&padded.mask(q.device())?.to_dtype(q.dtype())?)?;
    let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
    let probabilities = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
    // (rows * kv_heads, group * queries, head_dim) -> (rows * queries, heads, head_dim)
    let output = probabilities
        .reshape((count * kv_heads, group * queries, seen))?
        .matmul(&v)?
        .reshape((count, kv_heads, group, queries, head_dim))?
        .permute((0, 3, 1, 2, 4))?
        .reshape((count * queries, heads, head_dim))?;
    from_tokens.inverse().take(&output)?.reshape((tokens, heads * head_dim))
}

/// The rows that have queries, as many queries and keys in each as the longest has.
struct Padded {
    count: usize,
    queries: usize,
    keys: usize,
    /// The token at each place, (rows, queries); none in padding.
    query_rows: Vec<Option<u32>>,
    /// The key at each place, (rows, keys).
    key_rows: Vec<Option<u32>>,
    /// The last of its row's own keys that each query sees.
    query_places: Vec<f32>,
    /// Where each key stands among them; before all queries in a context, after them in padding.
    key_places: Vec<f32>,
    /// Whether a key is for the query at its own place alone.
    private: Vec<u8>,
    /// Where the queries of each row stand among its own keys.
    own_places: Vec<Range<usize>>,
}

impl Padded {
    fn new(rows: &Rows) -> Self {
        let served: Vec<_> = rows.rows().iter().filter(|row| !row.queries.is_empty()).collect();
        let contexts: Vec<Vec<usize>> =
            served.iter().map(|row| rows.visible(&row.context).collect()).collect();
        let queries = served.iter().map(|row| row.queries.len()).max().unwrap_or(0);
        let lengths =
            served.iter().zip(&contexts).map(|(row, context)| context.len() + row.own.len());
        let keys = lengths.max().unwrap_or(0);
        let count = served.len();
        let mut padded = Self {
            count,
            queries,
            keys,
            query_rows: vec![None; count * queries],
            key_rows: vec![None; count * keys],
            // A query in padding sees the first own key, as every query has to see one.
            query_places: vec![0.0; count * queries],
            key_places: vec![f32::INFINITY; count * keys],
            private: vec![0; count * keys],
            own_places: served
                .iter()
                .map(|row| row.own.len().saturating_sub(row.queries.len())..row.own.len())
                .collect(),
        };
        for (i, (row, context)) in served.iter().zip(&contexts).enumerate() {
            for (j, (query, last)) in row.queries.clone().zip(rows.last_seen(row)).enumerate() {
                padded.query_rows[i * queries + j] = Some(query as u32);
                padded.query_places[i * queries + j] = last as f32;
            }
            let places = std::iter::repeat_n(-1.0, context.len());
            let places = places.chain((0..row.own.len()).map(|place| place as f32));
            let seen = context.iter().copied().chain(row.own.clone());
            for (j, (key, place)) in seen.zip(places).enumerate() {
                let at = i * keys + j;
                padded.key_rows[at] = Some(key as u32);
                padded.key_places[at] = place;
                padded.private[at] = u8::from(place >= 0.0 && rows.is_private(key));
            }
        }
        padded
    }

    /// (rows, 1, queries, keys): 0 where the query sees the key, else minus infinity.
    fn mask(&self, device: &Device) -> Result<Tensor> {
        let of_keys = (self.count, 1, 1, self.keys);
        let places =
            Tensor::from_slice(&self.query_places, (self.count, 1, self.queries, 1), device)?;
        let key_places = Tensor::from_slice(&self.key_places, of_keys, device)?;
        let before = key_places.broadcast_le(&places)?;
        let sees = if self.private.contains(&1) {
            let private = Tensor::from_slice(&self.private, of_keys, device)?;
            let private = private.broadcast_as(before.shape())?;
            private.where_cond(&key_places.broadcast_eq(&places)?, &before)?
        } else {
            before
        };
        let shape = (self.count, 1, self.queries, self.keys);
        let hidden = Tensor::full(f32::NEG_INFINITY, shape, device)?;
        sees.where_cond(&hidden.zeros_like()?, &hidden)
    }

    /// The bias (offsets, heads) of each query and key of rows without context, (rows, heads, queries, keys); any in
    /// padding.
    fn spread(&self, bias: &Tensor) -> Result<Tensor> {
        let (offsets, heads) = bias.dims2()?;
        let mut ids = Vec::with_capacity(self.count * self.queries * self.keys);
        for own in &self.own_places {
            for place in own.clone() {
                let offset = |key: usize| (offsets / 2 + key).saturating_sub(place);
                ids.extend((0..self.keys).map(|key| offset(key).min(offsets - 1) as u32));
            }
            ids.resize(ids.len() + (self.queries - own.len()) * self.keys, 0);
        }
        let shape = (self.count, self.queries, self.keys, heads);
        let ids = Tensor::new(ids, bias.device())?;
        bias.contiguous()?.index_select(&ids, 0)?.reshape(shape)?.permute((0, 3, 1, 2))
    }

    /// The key at each place, any in padding.
    fn key_rows_of_any(&self, device: &Device) -> Result<Tensor> {
        numbers(self.key_rows.iter().map(|row| row.unwrap_or(0)), device)
    }
}

fn numbers(values: impl Iterator<Item = u32>, device: &Device) -> Result<Tensor> {
    Tensor::new(values.collect::<Vec<u32>>(), device)
}

/// Places that rows of a matrix are taken to, each row to one at most: so the way back is another taking, where
/// candle's gradient of a selection adds up rows one after another.
#[derive(Clone)]
struct Places {
    there: Taking,
    back: Taking,
}

/// Which row each place gets.
#[derive(Clone)]
struct Taking {
    /// (places), any row where there is none.
    rows: Tensor,
    /// (places, 1, 1): 0 where there is none, else 1; none where every place has a row.
    kept: Option<Tensor>,
}

impl Taking {
    fn new(rows: &[Option<u32>], device: &Device) -> Result<Self> {
        let kept = if rows.contains(&None) {
            let kept: Vec<f32> =
                rows.iter().map(|row| f32::from(u8::from(row.is_some()))).collect();
            Some(Tensor::from_vec(kept, (rows.len(), 1, 1), device)?)
        } else {
            None
        };
        Ok(Self { rows: numbers(rows.iter().map(|row| row.unwrap_or(0)), device)?, kept })
    }

    /// The rows of `t` at their places, zeros elsewhere.
    fn of(&self, t: &Tensor) -> Result<Tensor> {
        let taken = t.contiguous()?.index_select(&self.rows, 0)?;
        match &self.kept {
            Some(kept) => taken.broadcast_mul(&kept.to_dtype(t.dtype())?),
            None => Ok(taken),
        }
    }
}

impl Places {
    /// `rows` says which of `count` rows each place gets.
    fn new(rows: &[Option<u32>], count: usize, device: &Device) -> Result<Self> {
        let mut places = vec![None; count];
        for (place, row) in rows.iter().enumerate() {
            if let Some(row) = row {
                places[*row as usize] = Some(place as u32);
            }
        }
        Ok(Self { there: Taking::new(rows, device)?, back: Taking::new(&places, device)? })
    }

    /// From the places to the rows.
    fn inverse(&self) -> Self {
        Self { there: self.back.clone(), back: self.there.clone() }
    }

    /// The rows of `t` at their places; any in padding.
    fn take(&self, t: &Tensor) -> Result<Tensor> {
        t.contiguous()?.apply_op1(self.clone())
    }

    fn shape(&self, layout: &Layout) -> Result<Shape> {
        let (_, heads, width) = layout.shape().dims3()?;
        Ok((self.there.rows.dim(0)?, heads, width).into())
    }
}

impl CustomOp1 for Places {
    fn name(&self) -> &'static str {
        "places"
    }

    fn cpu_fwd(&self, t: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, rows_layout) = self.there.rows.storage_and_layout();
        let Storage::Cpu(rows) = &*rows else { bail!("attention: row numbers on another device") };
        Ok((t.index_select(rows, layout, rows_layout, 0)?, self.shape(layout)?))
    }

    fn cuda_fwd(&self, t: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (rows, rows_layout) = self.there.rows.storage_and_layout();
        let Storage::Cuda(rows) = &*rows else { bail!("attention: row numbers on another device") };
        Ok((t.index_select(rows, layout, rows_layout, 0)?, self.shape(layout)?))
    }

    fn bwd(&self, _t: &Tensor, _out: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.back.of(grad)?))
    }
}
