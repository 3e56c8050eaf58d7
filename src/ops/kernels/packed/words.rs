//! Operands rewritten as words.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, __mmask16, _mm512_castps_si512, _mm512_cvtne2ps_pbh,
    _mm512_loadu_si512, _mm512_mask_storeu_epi32, _mm512_maskz_loadu_ps, _mm512_permutexvar_epi16,
    _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_storeu_si512,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};
use std::mem::transmute;

use super::{Kernel, PANEL};
use crate::ops::kernels::matrix::Mat;

/// Values in a vector.
pub(super) const LANES: usize = 16;

/// The first `n` lanes.
pub(super) fn lanes(n: usize) -> __mmask16 {
    if n >= LANES { !0 } else { (1 << n) - 1 }
}

/// Lane-wise `n` values from `from`, zero behind them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[expect(unsafe_code, reason = "vector loads take pointers")]
pub(super) unsafe fn load(from: *const f32, n: usize) -> __m512 {
    // SAFETY: the caller has `n` values there, and no masked lane is read.
    unsafe { _mm512_maskz_loadu_ps(lanes(n), from) }
}

/// 16 words along a contiguous inner dimension that still has `n` values from `from` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[expect(unsafe_code, reason = "vector loads take pointers")]
unsafe fn words_along<K: Kernel>(from: *const f32, n: usize) -> __m512i {
    // SAFETY: the caller has `n` values there; those behind are masked.
    unsafe {
        if K::BF16 {
            let second = load(from.wrapping_add(LANES), n.saturating_sub(LANES));
            transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, load(from, n)))
        } else {
            _mm512_castps_si512(load(from, n))
        }
    }
}

/// One word of each of `n` (up to 16) neighbours, whose inner dimension is `stride` apart and still has
/// `left` values.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[expect(unsafe_code, reason = "vector loads take pointers")]
unsafe fn words_across<K: Kernel>(
    from: *const f32,
    stride: usize,
    left: usize,
    n: usize,
) -> __m512i {
    // SAFETY: the caller has `n` values in each of the lines that are left; no other is read.
    unsafe {
        if !K::BF16 {
            return _mm512_castps_si512(load(from, n));
        }
        let second =
            if left > 1 { load(from.wrapping_add(stride), n) } else { _mm512_setzero_ps() };
        // The first line's values lie in the lower half, the second line's in the upper one.
        let halves = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, load(from, n)));
        let mut order = [0u16; 2 * LANES];
        for (i, at) in order.iter_mut().enumerate() {
            *at = (i / 2 + i % 2 * LANES) as u16;
        }
        _mm512_permutexvar_epi16(_mm512_loadu_si512(order.as_ptr().cast()), halves)
    }
}

/// Turns 16 rows of 16 words into columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn transpose(rows: &[__m512i; LANES]) -> [__m512i; LANES] {
    let mut pairs = *rows;
    for i in (0..LANES).step_by(2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    // quads[4 g + c] holds, in lane l, column 4 l + c of rows 4 g .. 4 g + 4.
    let mut quads = pairs;
    for i in (0..LANES).step_by(4) {
        quads[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
        quads[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
        quads[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        quads[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    let mut columns = quads;
    for c in 0..4 {
        let even_low = _mm512_shuffle_i32x4::<0x88>(quads[c], quads[4 + c]);
        let odd_low = _mm512_shuffle_i32x4::<0xdd>(quads[c], quads[4 + c]);
        let even_high = _mm512_shuffle_i32x4::<0x88>(quads[8 + c], quads[12 + c]);
        let odd_high = _mm512_shuffle_i32x4::<0xdd>(quads[8 + c], quads[12 + c]);
        columns[c] = _mm512_shuffle_i32x4::<0x88>(even_low, even_high);
        columns[4 + c] = _mm512_shuffle_i32x4::<0x88>(odd_low, odd_high);
        columns[8 + c] = _mm512_shuffle_i32x4::<0xdd>(even_low, even_high);
        columns[12 + c] = _mm512_shuffle_i32x4::<0xdd>(odd_low, odd_high);
    }
    columns
}

/// Writes the words of up to [`PANEL`] rows of `lhs` from `row` on, one row after the other.
///
/// Here and in [`pack_right`], what lies together is read together: the groups of 16 are the inner loop.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[expect(unsafe_code, reason = "vector loads and stores take pointers")]
pub(super) unsafe fn pack_left<K: Kernel>(
    lhs: Mat<'_, f32>,
    row: usize,
    words: usize,
    to: &mut [u32],
) {
    let per_word = 1 + usize::from(K::BF16);
    let all_rows = to.len() / words;
    let start = lhs.data.as_ptr();
    for word in (0..words).step_by(LANES) {
        let (at, store) = (word * per_word, lanes(words - word));
        for group in (0..all_rows).step_by(LANES) {
            let (row, rows) = (row + group, LANES.min(all_rows - group));
            let mut block = [_mm512_setzero_si512(); LANES];
            // SAFETY: row + rows and at stay below the sizes of `lhs`; loads are masked behind them, and
            // stores end with the row of words.
            unsafe {
                if lhs.col_stride == 1 {
                    for (i, out) in block.iter_mut().enumerate().take(rows) {
                        let from = start.add((row + i) * lhs.row_stride + at);
                        *out = words_along::<K>(from, lhs.cols - at);
                    }
                } else {
                    for (i, out) in
                        block.iter_mut().enumerate().take((lhs.cols - at).div_ceil(per_word))
                    {
                        let inner = at + i * per_word;
                        let from = start.add(inner * lhs.col_stride + row);
                        let left = lhs.cols - inner;
                        *out = words_across::<K>(from, lhs.col_stride, left, rows);
                    }
                    block = transpose(&block);
                }
                for (i, &line) in block.iter().enumerate().take(rows) {
                    let to = to.as_mut_ptr().add((group + i) * words + word);
                    _mm512_mask_storeu_epi32(to.cast(), store, line);
                }
            }
        }
    }
}

/// Writes the words of up to [`PANEL`] columns of `rhs` from `column` on, zeros for those it lacks.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[expect(unsafe_code, reason = "vector loads and stores take pointers")]
pub(super) unsafe fn pack_right<K: Kernel>(
    rhs: Mat<'_, f32>,
    column: usize,
    words: usize,
    to: &mut [u32],
) {
    let per_word = 1 + usize::from(K::BF16);
    let start = rhs.data.as_ptr();
    for word in (0..words).step_by(LANES) {
        let at = word * per_word;
        for group in (0..PANEL).step_by(LANES) {
            let column = column + group;
            let columns = rhs.cols.saturating_sub(column).min(LANES);
            let mut block = [_mm512_setzero_si512(); LANES];
            // SAFETY: the columns and the inner positions read lie inside `rhs`; loads are masked behind
            // them, and only words of this panel are stored.
            unsafe {
                if rhs.row_stride == 1 {
                    for (i, out) in block.iter_mut().enumerate().take(columns) {
                        let from = start.add((column + i) * rhs.col_stride + at);
                        *out = words_along::<K>(from, rhs.rows - at);
                    }
                    block = transpose(&block);
                } else if columns > 0 {
                    for (i, out) in
                        block.iter_mut().enumerate().take((rhs.rows - at).div_ceil(per_word))
                    {
                        let inner = at + i * per_word;
                        let from = start.add(inner * rhs.row_stride + column);
                        let left = rhs.rows - inner;
                        *out = words_across::<K>(from, rhs.row_stride, left, columns);
                    }
                }
                for (i, &line) in block.iter().enumerate().take(words - word) {
                    let to = to.as_mut_ptr().add((word + i) * PANEL + group);
                    _mm512_storeu_si512(to.cast(), line);
                }
            }
        }
    }
}
