//! Attention over packed rows: tiles of queries by tiles of keys, whose scores never leave the chip (Dao, 2023).

use candle_core::{CudaStorage, DType, Device, Result, Tensor, bail};

use super::table::{Table, Tiles};
use super::{Call, LANES, View, driver, tensor, with_views};
use crate::ops::attention::{HeadShape, Rows};

/// Queries, and keys, of a tile.
const TILE: usize = 32;
/// Threads that work on a tile.
const TILE_THREADS: usize = 128;
/// Values of a head that the kernels take at most.
const MOST: usize = 128;
/// Warps of a block where each has a query of its own.
const WARPS: usize = 4;
/// Rows with fewer queries than this, on average, are attended query by query.
const FEW: usize = 8;

impl Table {
    /// `numbers` begins with six a row.
    fn new(rows: &Rows, tokens: usize, call: &Call<'_>) -> Result<Self> {
        let (mut numbers, mut segments) = (Vec::new(), Vec::new());
        let (mut row_of, mut last) = (Vec::with_capacity(tokens), Vec::with_capacity(tokens));
        let (mut query_tiles, mut key_tiles) = (Vec::new(), Vec::new());
        for (i, row) in rows.rows().iter().enumerate() {
            let before = segments.len() / 2;
            segments.extend(row.context.iter().flat_map(|range| [range.start, range.end]));
            let (own, queries) = (&row.own, &row.queries);
            let context = [before, segments.len() / 2];
            numbers.extend([own.start, own.end, queries.start, queries.end]);
            numbers.extend(context);
            row_of.extend(queries.clone().map(|_| i));
            last.extend(rows.last_seen(row));
            query_tiles.extend((0..queries.len()).step_by(TILE).flat_map(|first| [i, first]));
            key_tiles.extend((0..own.len()).step_by(TILE).flat_map(|first| [i, first]));
        }
        let mut part = |values: &[usize]| {
            let first = numbers.len();
            numbers.extend(values);
            first
        };
        let (row_of, last, segments) = (part(&row_of), part(&last), part(&segments));
        let mut tiles = |tiles: &[usize]| Tiles { first: part(tiles), count: tiles.len() / 2 };
        let (query_tiles, key_tiles) = (tiles(&query_tiles), tiles(&key_tiles));
        let private = rows.private().iter().any(|&private| private);
        let flags: Vec<usize> = rows.private().iter().map(|&flag| usize::from(flag)).collect();
        let private = private.then(|| part(&flags));
        let numbers: Vec<u32> = numbers.into_iter().map(|number| number as u32).collect();
        Ok(Self {
            numbers: call.ids(&numbers)?,
            row_of,
            last,
            segments,
            query_tiles,
            key_tiles,
            private,
            queries_a_row: tokens / rows.rows().len().max(1),
        })
    }

    /// That of `rows`, which keep it.
    fn of<'r>(rows: &'r Rows, tokens: usize, call: &Call<'_>) -> Result<&'r Self> {
        let kept = &rows.on_device().0;
        if kept.get().is_none() {
            // Another thread may have been faster.
            let _ = kept.set(Self::new(rows, tokens, call)?);
        }
        match kept.get() {
            Some(table)
                if table.numbers.device().same_device(&Device::Cuda(call.device.clone())) =>
            {
                Ok(table)
            }
            _ => bail!("attention: rows that were on one device cannot be used on another"),
        }
    }
}

/// The addresses of a table's parts.
struct Parts {
    rows: u64,
    row_of: u64,
    last: u64,
    segments: u64,
    query_tiles: u64,
    key_tiles: u64,
    private: u64,
}

impl Parts {
    fn of(table: &Table) -> Result<Self> {
        let rows = with_views([&table.numbers], |[numbers]| numbers.address())?;
        let at = |first: usize| rows + 4 * first as u64;
        Ok(Self {
            rows,
            row_of: at(table.row_of),
            last: at(table.last),
            segments: at(table.segments),
            query_tiles: at(table.query_tiles.first),
            key_tiles: at(table.key_tiles.first),
            private: table.private.map_or(0, at),
        })
    }
}

/// Whether there are kernels for heads of so many values of `dtype`: tiles of wide ones in f64 are more than most
/// devices have room for.
pub(in crate::ops) fn takes(head_dim: usize, dtype: DType) -> bool {
    head_dim <= if dtype == DType::F64 { MOST / 2 } else { MOST }
}

/// Runs a kernel over tiles, with room for `arrays` of a tile's keys or queries, and for `scores` tiles of scores.
fn over_tiles(
    call: &Call<'_>,
    kernel: &str,
    grid: [usize; 2],
    (head_dim, arrays, scores): (usize, usize, usize),
    arguments: &[u64],
) -> Result<()> {
    if grid.contains(&0) {
        return Ok(());
    }
    let width = if head_dim <= MOST / 2 { MOST / 2 } else { MOST };
    let values = arrays * TILE * (width + 1) + scores * TILE * (TILE + 1);
    let shared = values * call.dtype.size_in_bytes();
    let kernel = format!("{kernel}_{width}");
    let launch = (grid, TILE_THREADS, shared);
    driver::launch(call.device, call.dtype, &kernel, launch, arguments)
}

/// As [`crate::ops::attention()`]; with `kept` also what a backward pass needs, (tokens, heads).
pub(in crate::ops) fn attention(
    [q, k, v]: [View<'_>; 3],
    rows: &Rows,
    kept: bool,
) -> Result<(CudaStorage, Option<Tensor>)> {
    let heads = HeadShape::of(q.layout.shape(), k.layout.shape())?;
    let tokens = q.layout.shape().dims3()?.0;
    let all_heads = heads.kv_heads * heads.group;
    let call = Call::like(q);
    let table = Table::of(rows, tokens, &call)?;
    let parts = Parts::of(table)?;
    let (out, address) = call.fresh(q.count())?;
    let inputs = [q.address()?, k.address()?, v.address()?];
    let shape = [all_heads, heads.group, heads.head_dim].map(|n| n as u64);
    if !kept && table.queries_a_row < FEW {
        let seen = [parts.row_of, parts.rows, parts.last, parts.segments, parts.private];
        let arguments = [&[address][..], &inputs, &seen, &[tokens as u64], &shape].concat();
        let blocks = (tokens * all_heads).div_ceil(WARPS);
        call.blocks("attention_few", [blocks, 1], WARPS * LANES, &arguments)?;
        return Ok((out, None));
    }
    let (totals, totals_at) = call.fresh_if(kept, tokens * all_heads)?;
    let seen = [parts.query_tiles, parts.rows, parts.last, parts.segments, parts.private];
    let arguments = [&[address, totals_at][..], &inputs, &seen, &shape].concat();
    let grid = [table.query_tiles.count, all_heads];
    over_tiles(&call, "attention", grid, (heads.head_dim, 3, 1), &arguments)?;
    Ok((out, totals.map(|totals| tensor(totals, (tokens, all_heads)))))
}

/// The gradients of those of `q`, `k` and `v` that are tracked; `totals` are what [`attention`] kept.
pub(in crate::ops) fn attention_backward(
    [q, k, v]: [&Tensor; 3],
    [out, grad, totals]: [&Tensor; 3],
    rows: &Rows,
) -> Result<[Option<Tensor>; 3]> {
    let heads = HeadShape::of(q.shape(), k.shape())?;
    let tokens = q.dims3()?.0;
    let all_heads = heads.kv_heads * heads.group;
    with_views([q, k, v, out, grad, totals], |[q_view, k_view, v_view, out, grad, totals]| {
        let call = Call::like(q_view);
        let table = Table::of(rows, tokens, &call)?;
        let parts = Parts::of(table)?;
        let (_common, common) = call.fresh(tokens * all_heads)?;
        let lines = tokens * all_heads;
        let arguments =
            [common, out.address()?, grad.address()?, lines as u64, heads.head_dim as u64];
        call.blocks("attention_common", [lines.div_ceil(WARPS), 1], WARPS * LANES, &arguments)?;
        let inputs = [q_view.address()?, k_view.address()?, v_view.address()?];
        let inputs = [&inputs[..], &[grad.address()?, totals.address()?, common]].concat();
        let seen = [parts.rows, parts.last, parts.private];
        let shape = [all_heads, heads.group, heads.head_dim].map(|n| n as u64);
        let (q_grad, address) = call.fresh_if(q.track_op(), q.elem_count())?;
        if q_grad.is_some() {
            let arguments = [&[address][..], &inputs, &[parts.query_tiles], &seen, &shape].concat();
            let grid = [table.query_tiles.count, all_heads];
            over_tiles(&call, "attention_queries", grid, (heads.head_dim, 4, 1), &arguments)?;
        }
        let (mut k_grad, mut v_grad) = (None, None);
        if k.track_op() || v.track_op() {
            // Keys that nobody sees have no tile.
            let (of_keys, keys_at) = call.zeros(k.elem_count())?;
            let (of_values, values_at) = call.zeros(v.elem_count())?;
            let outs = [keys_at, values_at];
            let arguments = [&outs[..], &inputs, &[parts.key_tiles], &seen, &shape].concat();
            let grid = [table.key_tiles.count, heads.kv_heads];
            over_tiles(&call, "attention_keys", grid, (heads.head_dim, 4, 2), &arguments)?;
            k_grad = k.track_op().then(|| tensor(of_keys, k.shape()));
            v_grad = v.track_op().then(|| tensor(of_values, v.shape()));
        }
        Ok([q_grad.map(|g| tensor(g, q.shape())), k_grad, v_grad])
    })
}
