//! Operands rewritten as words.

use std::arch::x86_64::{
    __m256bh, __m256i, __m512, __m512bh, __m512i, __mmask16, _mm256_mask_storeu_epi16,
    _mm512_castsi512_ps, _mm512_castsi512_si256, _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh,
    _mm512_cvtneps_pbh, _mm512_loadu_si512, _mm512_mask_storeu_epi32, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_epi16, _mm512_maskz_loadu_ps, _mm512_or_si512, _mm512_permutexvar_epi16,
    _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_slli_epi32,
    _mm512_storeu_si512, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};
use std::mem::transmute;

use super::{PANEL, VALUES};
use crate::ops::kernels::Stored;
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
unsafe fn load(from: *const f32, n: usize) -> __m512 {
    // SAFETY: the caller has `n` values there, and no masked lane is read.
    unsafe { _mm512_maskz_loadu_ps(lanes(n), from) }
}

/// Lane-wise `n` values in bf16 from `from`, as the lower halves of words; zero behind them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[expect(unsafe_code, reason = "vector loads take pointers")]
unsafe fn load_halves<A>(from: *const A, n: usize) -> __m512i {
    let mask = u32::from(lanes(n));
    // SAFETY: the caller has `n` values of 16 bits there, and no masked lane is read.
    let halves = unsafe { _mm512_maskz_loadu_epi16(mask, from.cast()) };
    _mm512_cvtepu16_epi32(_mm512_castsi512_si256(halves))
}

/// As [`load`], of what widens to f32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[expect(unsafe_code, reason = "vector loads take pointers")]
pub(super) unsafe fn load_wide<A: Stored<Wide = f32>>(from: *const A, n: usize) -> __m512 {
    // SAFETY: as the caller says; what widens to f32 is f32 or bf16.
    unsafe {
        if size_of::<A>() == size_of::<f32>() {
            load(from.cast(), n)
        } else {
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(load_halves(from, n)))
        }
    }
}

/// Stores `n` of the lanes, rounded to what is kept there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
#[expect(unsafe_code, reason = "vector stores take pointers")]
pub(super) unsafe fn store_rounded<O: Stored<Wide = f32>>(to: *mut O, n: usize, values: __m512) {
    // SAFETY: the caller has room for `n` values there, and no masked lane is written; what widens to f32
    // is f32 or bf16.
    unsafe {
        if size_of::<O>() == size_of::<f32>() {
            _mm512_mask_storeu_ps(to.cast(), lanes(n), values);
        } else {
            let halves = transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(values));
            _mm256_mask_storeu_epi16(to.cast(), lanes(n), halves);
        }
    }
}

/// 16 words along a contiguous inner dimension that still has `n` values from `from` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[expect(unsafe_code, reason = "vector loads take pointers")]
unsafe fn words_along<A: Stored<Wide = f32>>(from: *const A, n: usize) -> __m512i {
    // SAFETY: the caller has `n` values there; those behind are masked.
    unsafe {
        if size_of::<A>() == size_of::<u16>() {
            let mask = if n >= 2 * LANES { !0 } else { (1 << n) - 1 };
            return _mm512_maskz_loadu_epi16(mask, from.cast());
        }
        let second = load_wide(from.wrapping_add(LANES), n.saturating_sub(LANES));
        transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, load_wide(from, n)))
    }
}

/// One word of each of `n` (up to 16) neighbours, whose inner dimension is `stride` apart and still has
/// `left` values.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[expect(unsafe_code, reason = "vector loads take pointers")]
unsafe fn words_across<A: Stored<Wide = f32>>(
    from: *const A,
    stride: usize,
    left: usize,
    n: usize,
) -> __m512i {
    let below = from.wrapping_add(stride);
    // SAFETY: the caller has `n` values in each of the lines that are left; no other is read.
    unsafe {
        // The first line's values lie in the lower half of the words, the second line's in the upper one.
        if size_of::<A>() == size_of::<u16>() {
            let first = load_halves(from, n);
            if left == 1 {
                return first;
            }
            return _mm512_or_si512(first, _mm512_slli_epi32::<16>(load_halves(below, n)));
        }
        let second = if left > 1 { load_wide(below, n) } else { _mm512_setzero_ps() };
        let halves =
            transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, load_wide(from, n)));
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

/// Writes the words of up to [`PANEL`] rows of `lhs` from `row` on, `stride` apart.
///
/// Here and in [`pack_right`], what lies together is read together: the groups of 16 are the inner loop.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[expect(unsafe_code, reason = "vector loads and stores take pointers")]
pub(super) unsafe fn pack_left<A: Stored<Wide = f32>>(
    lhs: Mat<'_, A>,
    row: usize,
    (words, stride): (usize, usize),
    to: &mut [u32],
) {
    let all_rows = to.len() / stride;
    let start = lhs.data.as_ptr();
    for word in (0..words).step_by(LANES) {
        let (at, store) = (word * VALUES, lanes(words - word));
        for group in (0..all_rows).step_by(LANES) {
            let (row, rows) = (row + group, LANES.min(all_rows - group));
            let mut block = [_mm512_setzero_si512(); LANES];
            // SAFETY: row + rows and at stay below the sizes of `lhs`; loads are masked behind them, and
            // stores end with the row of words.
            unsafe {
                if lhs.col_stride == 1 {
                    for (i, out) in block.iter_mut().enumerate().take(rows) {
                        let from = start.add((row + i) * lhs.row_stride + at);
                        *out = words_along(from, lhs.cols - at);
                    }
                } else {
                    for (i, out) in
                        block.iter_mut().enumerate().take((lhs.cols - at).div_ceil(VALUES))
                    {
                        let inner = at + i * VALUES;
                        let from = start.add(inner * lhs.col_stride + row);
                        let left = lhs.cols - inner;
                        *out = words_across(from, lhs.col_stride, left, rows);
                    }
                    block = transpose(&block);
                }
                for (i, &line) in block.iter().enumerate().take(rows) {
                    let to = to.as_mut_ptr().add((group + i) * stride + word);
                    _mm512_mask_storeu_epi32(to.cast(), store, line);
                }
            }
        }
    }
}

/// Writes the words of up to [`PANEL`] columns of `rhs` from `column` on, zeros for those it lacks.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[expect(unsafe_code, reason = "vector loads and stores take pointers")]
pub(super) unsafe fn pack_right<A: Stored<Wide = f32>>(
    rhs: Mat<'_, A>,
    column: usize,
    words: usize,
    to: &mut [u32],
) {
    let start = rhs.data.as_ptr();
    for word in (0..words).step_by(LANES) {
        let at = word * VALUES;
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
                        *out = words_along(from, rhs.rows - at);
                    }
                    block = transpose(&block);
                } else if columns > 0 {
                    for (i, out) in
                        block.iter_mut().enumerate().take((rhs.rows - at).div_ceil(VALUES))
                    {
                        let inner = at + i * VALUES;
                        let from = start.add(inner * rhs.row_stride + column);
                        let left = rhs.rows - inner;
                        *out = words_across(from, rhs.row_stride, left, columns);
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
