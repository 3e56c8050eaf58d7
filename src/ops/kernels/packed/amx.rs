//! The micro-kernel of AMX, in bf16: a tile register holds 16 lines of 16 words.

use std::arch::asm;
use std::sync::OnceLock;

use super::{Block, Kernel, Left, Output, PANEL};
use crate::ops::kernels::matrix::Update;

/// Lines of a tile, and words of a line.
const LINES: usize = 16;
/// Rows and columns the micro-kernel takes at a time: their sums fill four tiles.
const SQUARE: usize = 2 * LINES;
/// Words along the inner dimension that one pass covers: what a task reads of them stays in the second
/// cache.
const DEPTH: usize = 512;

/// Whether this machine has AMX with bf16, and the operating system lets us use it.
pub(super) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(detect)
}

#[cfg(target_os = "linux")]
fn detect() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const REQUEST_PERMISSION: libc::c_int = 0x1023;
    const TILE_DATA: libc::c_int = 18;
    const NEEDED: u32 = 1 << 22 | 1 << 24;
    if __cpuid(0).eax < 7 || __cpuid_count(7, 0).edx & NEEDED != NEEDED {
        return false;
    }
    #[expect(unsafe_code, reason = "Linux grants tile registers on request only")]
    // SAFETY: the call takes two numbers and changes nothing but this process's permission.
    let answer = unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) };
    answer == 0
}

#[cfg(not(target_os = "linux"))]
fn detect() -> bool {
    false
}

/// Multiplies squares of [`SQUARE`] rows and columns.
pub(super) struct Amx;

impl Kernel for Amx {
    const DEPTH_STEP: usize = LINES;

    #[expect(unsafe_code, reason = "tiles are loaded and stored by pointers")]
    unsafe fn multiply(
        left: Left,
        right: &[u32],
        output: Output<f32>,
        update: Update,
        block: &Block,
    ) {
        let mut edge = [0.0f32; SQUARE * SQUARE];
        // SAFETY: the caller checked the machine; nobody else's tiles are alive.
        unsafe { Shapes::of(SQUARE).set() };
        for word in (0..block.words).step_by(DEPTH) {
            let depth = DEPTH.min(block.words - word);
            let add = word > 0 || update == Update::Add;
            for (panel, first) in block.panels.clone().flat_map(|p| [(p, 0), (p, SQUARE)]) {
                let column = panel * PANEL + first;
                if column >= block.columns {
                    break;
                }
                let right = &right[(panel * block.words + word) * PANEL..][..depth * PANEL];
                for row in block.rows.clone().step_by(SQUARE) {
                    let rows = SQUARE.min(block.rows.end - row);
                    let columns = SQUARE.min(block.columns - column);
                    let whole = rows == SQUARE && columns == SQUARE;
                    let left_start = left.start.wrapping_add(row * left.stride + word);
                    // Where no rows are left for them, the lower tiles repeat the upper ones' first.
                    let below = if rows > LINES { LINES * left.stride } else { 0 };
                    let to = output.start.wrapping_add(row * output.stride + column);
                    let square = Square {
                        left: left_start,
                        left_below: left_start.wrapping_add(below),
                        left_stride: left.stride,
                        right: right.as_ptr().wrapping_add(first),
                        steps: depth / LINES,
                        output: if whole { to } else { edge.as_mut_ptr() },
                        output_stride: if whole { output.stride } else { SQUARE },
                        add: whole && add,
                    };
                    // SAFETY: the tiles have as many lines as rows are left, the depth is filled up to a
                    // multiple of LINES; the square lies inside the output, or goes to `edge` and only
                    // its part of it on.
                    unsafe {
                        if rows < SQUARE {
                            Shapes::of(rows).set();
                        }
                        square.compute();
                        if rows < SQUARE {
                            Shapes::of(SQUARE).set();
                        }
                        if !whole {
                            for (i, sums) in edge.chunks_exact(SQUARE).enumerate().take(rows) {
                                for (j, &sum) in sums.iter().enumerate().take(columns) {
                                    let to = to.add(i * output.stride + j);
                                    *to = if add { *to + sum } else { sum };
                                }
                            }
                        }
                    }
                }
            }
        }
        // SAFETY: the tiles hold nothing that is still needed.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// The configuration of the tile registers.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    line_bytes: [u16; 16],
    lines: [u8; 16],
}

impl Shapes {
    /// Sums and left operand have `rows` lines in the upper tiles and, from 16 on, the lower ones.
    fn of(rows: usize) -> Self {
        let upper = rows.min(LINES) as u8;
        let lower = rows.saturating_sub(LINES).max(1) as u8;
        let full = LINES as u8;
        let (mut line_bytes, mut lines) = ([0; 16], [0; 16]);
        line_bytes[..8].fill(4 * LINES as u16);
        lines[..8].copy_from_slice(&[upper, upper, lower, lower, upper, lower, full, full]);
        Self { palette: 1, start_row: 0, reserved: [0; 14], line_bytes, lines }
    }

    /// # Safety
    /// The machine has AMX, and no tile holds anything that is still needed.
    #[expect(unsafe_code, reason = "the intrinsics of AMX are not stable yet")]
    unsafe fn set(&self) {
        // SAFETY: as the caller says.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const *self, options(nostack, readonly)) };
    }
}

/// What the micro-kernel multiplies: [`SQUARE`] rows of words with as many columns of a panel.
struct Square {
    left: *const u32,
    /// Its rows from 16 on.
    left_below: *const u32,
    left_stride: usize,
    right: *const u32,
    /// Tiles along the inner dimension; at least one.
    steps: usize,
    output: *mut f32,
    output_stride: usize,
    add: bool,
}

impl Square {
    /// # Safety
    /// The tiles have [`Shapes`], and all that is read and written is there.
    #[inline]
    #[expect(unsafe_code, reason = "the intrinsics of AMX are not stable yet")]
    unsafe fn compute(&self) {
        // SAFETY: as the caller says; the tile registers are declared as changed.
        unsafe {
            asm!(
                "test {add:e}, {add:e}",
                "jnz 2f",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "jmp 3f",
                "2:",
                "tileloadd tmm0, [{out} + {out_stride}*1]",
                "tileloadd tmm1, [{out} + {out_stride}*1 + 64]",
                "tileloadd tmm2, [{out_below} + {out_stride}*1]",
                "tileloadd tmm3, [{out_below} + {out_stride}*1 + 64]",
                "3:",
                "tileloadd tmm4, [{left} + {left_stride}*1]",
                "tileloadd tmm6, [{right} + {right_stride}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{right} + {right_stride}*1 + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{left_below} + {left_stride}*1]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {left}, 64",
                "add {left_below}, 64",
                "add {right}, {right_step}",
                "dec {steps}",
                "jnz 3b",
                "tilestored [{out} + {out_stride}*1], tmm0",
                "tilestored [{out} + {out_stride}*1 + 64], tmm1",
                "tilestored [{out_below} + {out_stride}*1], tmm2",
                "tilestored [{out_below} + {out_stride}*1 + 64], tmm3",
                add = in(reg) u32::from(self.add),
                left = inout(reg) self.left => _,
                left_below = inout(reg) self.left_below => _,
                left_stride = in(reg) 4 * self.left_stride,
                right = inout(reg) self.right => _,
                right_stride = in(reg) 4 * PANEL,
                right_step = const 4 * PANEL * LINES,
                steps = inout(reg) self.steps => _,
                out = in(reg) self.output,
                out_below = in(reg) self.output.wrapping_add(LINES * self.output_stride),
                out_stride = in(reg) 4 * self.output_stride,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}
