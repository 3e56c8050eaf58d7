//! Cross-entropy of targets that may be drawn to distributions, and its gradients at once: for training that needs no
//! graph of operations.

use std::ops::Range;

use rayon::prelude::*;

use super::kernels::{Float, Mat, MatMut, Precision, Stored, Threads, Update, matmul};
use super::log_softmax::{log_sum_exp, probabilities};
use super::pool::Pool;

/// Bytes of logits held at a time.
const PART_BYTES: usize = 32 << 20;
/// Columns a part has at least.
const MIN_PART_COLUMNS: usize = 256;

/// Distributions that probabilities are drawn to beside their targets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SoftTargets<'a> {
    /// Their share of what is drawn to; the targets have the rest.
    pub(crate) weight: f32,
    /// The first id of the vocabulary at hand.
    pub(crate) first: u32,
    /// A distribution a row: ids, ascending, with their shares.
    pub(crate) rows: &'a [Vec<(u32, f32)>],
}

impl<'a> SoftTargets<'a> {
    /// The ids of `part` in the distribution of a row, counted from its first, with their shares.
    fn of_part(&self, row: usize, part: &Range<usize>) -> impl Iterator<Item = (usize, f32)> + 'a {
        let place = |id: u32| (id - self.first) as usize;
        let row = self.rows[row].as_slice();
        let from = row.partition_point(|&(id, _)| place(id) < part.start);
        let to = row.partition_point(|&(id, _)| place(id) < part.end);
        let (first, start) = (self.first, part.start);
        row[from..to].iter().map(move |&(id, share)| ((id - first) as usize - start, share))
    }
}

/// What is added to the logits of some ids, of each row its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shifts<'a> {
    /// How much.
    pub(crate) by: f32,
    /// The first id of the vocabulary at hand.
    pub(crate) first: u32,
    /// The ids of a row, each once.
    pub(crate) rows: &'a [Vec<u32>],
}

impl Shifts<'_> {
    /// Shifts the logits that a row has of `part`.
    fn apply(&self, row: usize, part: &Range<usize>, logits: &mut [f32]) {
        let places = self.rows[row].iter().map(|id| (id - self.first) as usize);
        for place in places.filter(|place| part.contains(place)) {
            logits[place - part.start] += self.by;
        }
    }
}

/// The sum of the losses of rows `hidden`, and the gradients of `scale` times that sum: `hidden_grad` is
/// overwritten, `weight_grad` overwritten or added to.
///
/// Logits are there for a part of the vocabulary at a time. Where that is not all of it, a first pass sums
/// their exponentials and a second computes them again: one more product, but the weight and its gradient
/// are gone through only once a pass.
#[expect(clippy::too_many_arguments, reason = "what a loss reads and what it writes")]
pub(super) fn loss_and_gradients<S: Stored<Wide = f32>, W: Stored<Wide = f32>>(
    hidden: Mat<'_, S>,
    weight: Mat<'_, W>,
    targets: &[u32],
    soft: Option<SoftTargets<'_>>,
    shifts: Option<Shifts<'_>>,
    scale: f32,
    hidden_grad: &mut [f32],
    mut weight_grad: Option<WeightGrad<'_>>,
    precision: Precision,
    pool: &Pool<f32>,
) -> f64 {
    if targets.is_empty() {
        return 0.0;
    }
    let (rows, width, vocab) = (targets.len(), weight.cols, weight.rows);
    let columns = part_columns(rows, vocab);
    let parts: Vec<_> =
        (0..vocab).step_by(columns).map(|first| first..vocab.min(first + columns)).collect();
    let mut logits = pool.take(rows * columns);
    let fill = |logits: &mut [f32], part: &Range<usize>| {
        let lines = weight.lines(part.clone());
        let mut view = MatMut::new(logits, rows, lines.rows);
        matmul(&mut view, hidden, lines.t(), Update::Overwrite, Threads::All, precision);
        if let Some(shifts) = &shifts {
            let lines = logits.par_chunks_mut(part.len()).enumerate();
            lines.for_each(|(row, line)| shifts.apply(row, part, line));
        }
    };
    let hard = 1.0 - soft.map_or(0.0, |soft| soft.weight);
    // The logarithm of the summed exponentials, and the logit that is drawn to, a mean of logits.
    let mut sums = vec![(f32::NEG_INFINITY, 0.0f32); rows];
    for part in &parts {
        let logits = &mut logits[..rows * part.len()];
        fill(logits, part);
        let lines = logits.par_chunks(part.len()).zip(targets).enumerate();
        lines.zip(&mut sums).for_each(|((row, (line, &target)), (total, picked))| {
            *total = log_add_exp(*total, log_sum_exp(line));
            if part.contains(&(target as usize)) {
                *picked += hard * line[target as usize - part.start];
            }
            if let Some(soft) = &soft {
                let drawn_to = soft.of_part(row, part).map(|(at, share)| share * line[at]);
                *picked += soft.weight * drawn_to.sum::<f32>();
            }
        });
    }
    // Backwards: the logits of the last part are still there.
    for (i, part) in parts.iter().enumerate().rev() {
        let logits = &mut logits[..rows * part.len()];
        let last = i + 1 == parts.len();
        if !last {
            fill(logits, part);
        }
        let lines = logits.par_chunks_mut(part.len()).zip(targets).enumerate();
        lines.zip(&sums).for_each(|((row, (line, &target)), &(total, _))| {
            probabilities(line, total, scale);
            if part.contains(&(target as usize)) {
                line[target as usize - part.start] -= hard * scale;
            }
            if let Some(soft) = &soft {
                for (at, share) in soft.of_part(row, part) {
                    line[at] -= soft.weight * scale * share;
                }
            }
        });
        let change = Mat::new(logits, rows, part.len());
        let update = if last { Update::Overwrite } else { Update::Add };
        let weight = weight.lines(part.clone());
        let mut view = MatMut::new(hidden_grad, rows, width);
        matmul(&mut view, change, weight, update, Threads::All, precision);
        if let Some(grad) = &mut weight_grad {
            let first = part.start.max(grad.first_row).min(part.end);
            let trained = change.columns_from(first - part.start);
            let lines =
                first.saturating_sub(grad.first_row)..part.end.saturating_sub(grad.first_row);
            let values = &mut grad.values[lines.start * width..lines.end * width];
            let mut view = MatMut::new(values, lines.len(), width);
            matmul(&mut view, trained.t(), hidden, grad.update, Threads::All, precision);
        }
    }
    sums.iter().map(|&(total, picked)| f64::from(total - picked)).sum()
}

/// Ids whose logits [`loss_and_gradients`] holds at a time.
pub(super) fn part_columns(rows: usize, vocab: usize) -> usize {
    (PART_BYTES / (rows.max(1) * size_of::<f32>())).max(MIN_PART_COLUMNS).min(vocab)
}

/// `ln(exp(a) + exp(b))` of a finite `b`.
fn log_add_exp(a: f32, b: f32) -> f32 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == f32::NEG_INFINITY { high } else { high + Float::exp(low - high).ln_1p() }
}

/// The gradient of the rows of a weight from `first_row` on, and whether there is something to add to.
#[derive(Debug)]
pub(crate) struct WeightGrad<'a> {
    /// (rows - `first_row`, width)
    pub(crate) values: &'a mut [f32],
    pub(crate) first_row: usize,
    pub(crate) update: Update,
}

impl<'a> WeightGrad<'a> {
    /// The gradient of some rows of the weight, counted from the first of them.
    pub(super) fn lines(self, lines: &Range<usize>, width: usize) -> WeightGrad<'a> {
        let values = self.values;
        let part = lines.start.saturating_sub(self.first_row) * width
            ..lines.end.saturating_sub(self.first_row) * width;
        let first_row = self.first_row.saturating_sub(lines.start).min(lines.len());
        WeightGrad { values: &mut values[part], first_row, update: self.update }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    #[test]
    fn logits_are_shifted_in_whichever_part_they_are() {
        let (rows, width, vocab) = (14_000, 3, 700);
        assert!(part_columns(rows, vocab) < vocab, "one part holds all");
        let draw =
            |name: &str, n: usize| rng::normal(&mut rng::stream(1, name, &[]), n * width, 1.0);
        let (hidden, weight) = (draw("hidden", rows), draw("weight", vocab));
        let targets: Vec<u32> = (0..rows).map(|row| (row * 53 % vocab) as u32).collect();
        let shifted: Vec<Vec<u32>> = (0..rows)
            .map(|row| vec![(row * 37 % 350) as u32, 350 + (row * 91 % 350) as u32])
            .collect();
        let shifts = Shifts { by: -2.0, first: 0, rows: &shifted };
        let mut grad = vec![0.0f32; hidden.len()];
        let loss = loss_and_gradients(
            Mat::new(&hidden, rows, width),
            Mat::new(&weight, vocab, width),
            &targets,
            None,
            Some(shifts),
            1.0,
            &mut grad,
            None,
            Precision::Full,
            &Pool::default(),
        );
        let mut expected = 0.0;
        for (row, state) in hidden.chunks(width).enumerate() {
            let dot = |line: &[f32]| line.iter().zip(state).map(|(a, b)| f64::from(a * b)).sum();
            let mut logits: Vec<f64> = weight.chunks(width).map(dot).collect();
            for &id in &shifted[row] {
                logits[id as usize] -= 2.0;
            }
            let total: f64 = logits.iter().map(|logit| logit.exp()).sum();
            expected += total.ln() - logits[targets[row] as usize];
            for (at, found) in grad[row * width..(row + 1) * width].iter().enumerate() {
                let of = |(logit, line): (&f64, &[f32])| logit.exp() / total * f64::from(line[at]);
                let mean: f64 = logits.iter().zip(weight.chunks(width)).map(of).sum();
                let right = mean - f64::from(weight[targets[row] as usize * width + at]);
                assert!((f64::from(*found) - right).abs() < 1e-4, "row {row}: {found} {right}");
            }
        }
        assert!((loss - expected).abs() < 1e-4 * expected, "{loss} {expected}");
    }
}
