//! The work of one task of the fused attention: a set of rows under one key-value head.

use std::ops::Range;

use candle_core::{Result, Shape};

use super::rows::{Row, Rows};
use crate::ops::kernels::{
    Float, Mat, MatMut, Precision, Stored, Threads, Update, dot, matmul, softmax, vectorize,
};

/// Queries whose scores a task holds at a time.
pub(super) const BLOCK: usize = 64;

/// The layout of the heads.
#[derive(Clone, Copy)]
pub(crate) struct HeadShape {
    /// Key-value heads.
    pub(crate) kv_heads: usize,
    /// Query heads for each key-value head.
    pub(crate) group: usize,
    /// Values of a head.
    pub(crate) head_dim: usize,
}

impl HeadShape {
    pub(in crate::ops) fn of(q: &Shape, k: &Shape) -> Result<Self> {
        let ((_, heads, head_dim), (_, kv_heads, _)) = (q.dims3()?, k.dims3()?);
        Ok(Self { kv_heads, group: heads / kv_heads, head_dim })
    }

    /// Values of one query in one group; they lie next to each other.
    pub(super) fn group_width(self) -> usize {
        self.group * self.head_dim
    }

    pub(super) fn query_width(self) -> usize {
        self.kv_heads * self.group_width()
    }

    pub(super) fn key_width(self) -> usize {
        self.kv_heads * self.head_dim
    }
}

pub(in crate::ops) struct Inputs<'a, S> {
    pub(in crate::ops) q: &'a [S],
    pub(in crate::ops) k: &'a [S],
    pub(in crate::ops) v: &'a [S],
    pub(in crate::ops) heads: HeadShape,
    /// (offsets, heads), as in [`super::biased_attention`]; added to the scores of rows without context.
    pub(in crate::ops) bias: Option<&'a [S]>,
    /// Of the matrix products.
    pub(in crate::ops) precision: Precision,
}

impl<S: Stored> Inputs<'_, S> {
    /// `out = lhs * rhs`, or that added to what is there: tasks are what threads divide.
    fn product<A: Stored<Wide = S::Wide>, B: Stored<Wide = S::Wide>>(
        &self,
        out: &mut MatMut<'_, S::Wide>,
        lhs: Mat<'_, A>,
        rhs: Mat<'_, B>,
        update: Update,
    ) {
        matmul(out, lhs, rhs, update, Threads::One, self.precision);
    }
}

impl<S> Inputs<'_, S> {
    /// How many offsets from a query to a key have a bias, the middle one that of its own place.
    pub(super) fn offsets(&self) -> usize {
        let HeadShape { kv_heads, group, .. } = self.heads;
        self.bias.map_or(0, |bias| bias.len() / (kv_heads * group))
    }
}

/// One (set of rows, key-value head).
pub(super) struct Task<'a> {
    pub(super) set: &'a [Row],
    pub(super) kv_head: usize,
    pub(super) rows: &'a Rows,
}

/// Where the keys of one row of a set lie among the gathered ones.
struct Segment {
    /// Where what it does not share begins: the rest of its context, then its own keys.
    start: usize,
    /// Its first own key.
    own: usize,
    /// Positions of private keys among its own.
    private: Vec<usize>,
}

/// A task's working memory, kept by its thread from task to task. Its matrices have one line for each
/// (query, head of the group), queries outermost.
#[derive(Default)]
pub(super) struct Scratch<S: Stored> {
    /// (keys of the set, `head_dim`)
    keys: Vec<S>,
    values: Vec<S>,
    /// (queries * group, `head_dim`), divided by the root of `head_dim`
    queries: Vec<S::Wide>,
    /// (group, offsets)
    bias: Vec<S::Wide>,
    /// (queries * group, visible keys)
    probabilities: Vec<S::Wide>,
    /// (queries * group, `head_dim`)
    output: Vec<S::Wide>,
    output_grad: Vec<S>,
    /// (queries * group, visible keys)
    score_grad: Vec<S::Wide>,
    /// (own keys, `head_dim`)
    key_grad: Vec<S::Wide>,
    value_grad: Vec<S::Wide>,
}

/// How many ranges the contexts of some rows begin with alike.
pub(super) fn alike<'r>(mut rows: impl Iterator<Item = &'r Row>) -> usize {
    let Some(first) = rows.next() else { return 0 };
    let with = |row: &Row| {
        first.context.iter().zip(&row.context).take_while(|(range, other)| range == other).count()
    };
    rows.map(with).fold(first.context.len(), usize::min)
}

pub(super) fn queries(set: &[Row]) -> Range<usize> {
    set[0].queries.start..set[set.len() - 1].queries.end
}

impl Task<'_> {
    pub(super) fn forward<S: Stored>(
        &self,
        inputs: &Inputs<'_, S>,
        s: &mut Scratch<S>,
        out: &mut MatMut<'_, S>,
    ) {
        let HeadShape { group, head_dim, .. } = inputs.heads;
        let segments = self.gather_keys(inputs, s);
        let length = queries(self.set).len();
        for first in (0..length).step_by(BLOCK) {
            let queries = first..length.min(first + BLOCK);
            let lines = queries.len() * group;
            let visible = self.probabilities(inputs, s, queries.clone(), &segments);
            s.output.resize(lines * head_dim, S::Wide::ZERO);
            inputs.product(
                &mut MatMut::new(&mut s.output, lines, head_dim),
                Mat::new(&s.probabilities, lines, visible),
                Mat::new(&s.values[..visible * head_dim], visible, head_dim),
                Update::Overwrite,
            );
            for (i, output) in queries.zip(s.output.chunks_exact(group * head_dim)) {
                scaled_copy(out.row(i), output, S::Wide::ONE);
            }
        }
    }

    /// As the forward; the set is a single row whose keys are its own. Adds to the gradient of its heads' part of the
    /// bias, (group, offsets).
    pub(super) fn backward<S: Stored>(
        &self,
        inputs: &Inputs<'_, S>,
        grad: &[S],
        s: &mut Scratch<S>,
        [mut q_grad, mut k_grad, mut v_grad]: [Option<MatMut<'_, S>>; 3],
        mut bias_grad: Option<&mut [S::Wide]>,
    ) {
        let HeadShape { group, head_dim, .. } = inputs.heads;
        let scale = scale::<S::Wide>(head_dim);
        let segments = self.gather_keys(inputs, s);
        let length = queries(self.set).len();
        for total in [&mut s.key_grad, &mut s.value_grad] {
            total.clear();
            total.resize(self.set[0].own.len() * head_dim, S::Wide::ZERO);
        }
        for first in (0..length).step_by(BLOCK) {
            let queries = first..length.min(first + BLOCK);
            let lines = queries.len() * group;
            let visible = self.probabilities(inputs, s, queries.clone(), &segments);
            s.output_grad.clear();
            self.gather_queries(grad, inputs.heads, queries.clone(), |line| {
                s.output_grad.extend_from_slice(line);
            });
            let probabilities = Mat::new(&s.probabilities, lines, visible);
            let output_grad = Mat::new(&s.output_grad, lines, head_dim);
            let seen = visible * head_dim;
            if v_grad.is_some() {
                let mut total = MatMut::new(&mut s.value_grad[..seen], visible, head_dim);
                inputs.product(&mut total, probabilities.t(), output_grad, Update::Add);
            }
            if q_grad.is_none() && k_grad.is_none() && bias_grad.is_none() {
                continue;
            }
            s.score_grad.resize(lines * visible, S::Wide::ZERO);
            let values = Mat::new(&s.values[..seen], visible, head_dim);
            let mut score_grad = MatMut::new(&mut s.score_grad, lines, visible);
            inputs.product(&mut score_grad, output_grad, values.t(), Update::Overwrite);
            softmax_backward(&mut s.score_grad, &s.probabilities, visible);
            if let Some(bias_grad) = &mut bias_grad {
                for (line, grad) in s.score_grad.chunks_exact(visible).enumerate() {
                    let first = self.first_offset(inputs, queries.start + line / group);
                    let of_head = &mut bias_grad[line % group * inputs.offsets()..];
                    for (total, &grad) in of_head[first..].iter_mut().zip(grad) {
                        *total += grad;
                    }
                }
            }
            let score_grad = Mat::new(&s.score_grad, lines, visible);
            if let Some(q_grad) = &mut q_grad {
                s.output.resize(lines * head_dim, S::Wide::ZERO);
                let keys = Mat::new(&s.keys[..seen], visible, head_dim);
                let mut output = MatMut::new(&mut s.output, lines, head_dim);
                inputs.product(&mut output, score_grad, keys, Update::Overwrite);
                for (i, line) in queries.zip(s.output.chunks_exact(group * head_dim)) {
                    scaled_copy(q_grad.row(i), line, scale);
                }
            }
            if k_grad.is_some() {
                // The gathered queries carry the scale already.
                let scaled = Mat::new(&s.queries, lines, head_dim);
                let mut total = MatMut::new(&mut s.key_grad[..seen], visible, head_dim);
                inputs.product(&mut total, score_grad.t(), scaled, Update::Add);
            }
        }
        for (block, total) in [(&mut k_grad, &s.key_grad), (&mut v_grad, &s.value_grad)] {
            if let Some(block) = block {
                for (j, line) in total.chunks_exact(head_dim).enumerate() {
                    scaled_copy(block.row(j), line, S::Wide::ONE);
                }
            }
        }
    }

    /// Copies the keys and values that the set can see: first what its rows share, then row by row.
    fn gather_keys<S: Stored>(&self, inputs: &Inputs<'_, S>, s: &mut Scratch<S>) -> Vec<Segment> {
        let HeadShape { head_dim, .. } = inputs.heads;
        let split = alike(self.set.iter());
        let mut keys: Vec<usize> = self.rows.visible(&self.set[0].context[..split]).collect();
        let mut segments = Vec::with_capacity(self.set.len());
        for row in self.set {
            let start = keys.len();
            keys.extend(self.rows.visible(&row.context[split..]));
            let (own, private) = (keys.len(), self.rows.private_positions(row));
            keys.extend(row.own.clone());
            segments.push(Segment { start, own, private });
        }
        let (width, column) = (inputs.heads.key_width(), self.kv_head * head_dim);
        for (from, to) in [(inputs.k, &mut s.keys), (inputs.v, &mut s.values)] {
            to.resize(keys.len() * head_dim, S::default());
            for (to, &key) in to.chunks_exact_mut(head_dim).zip(&keys) {
                to.copy_from_slice(&from[key * width + column..][..head_dim]);
            }
        }
        segments
    }

    /// Where the bias of the set's first key stands for a query of the set, a single row.
    fn first_offset<S>(&self, inputs: &Inputs<'_, S>, query: usize) -> usize {
        let Row { own, queries, .. } = &self.set[0];
        inputs.offsets() / 2 - (own.len() - queries.len() + query)
    }

    /// Copies the bias of this task's heads, head by head.
    fn gather_bias<S: Stored>(&self, inputs: &Inputs<'_, S>, s: &mut Scratch<S>) {
        let HeadShape { kv_heads, group, .. } = inputs.heads;
        s.bias.clear();
        for head in self.kv_head * group..(self.kv_head + 1) * group {
            let of_head = inputs.bias.unwrap_or_default().iter().skip(head);
            s.bias.extend(of_head.step_by(kv_heads * group).map(|v| v.widen()));
        }
    }

    /// Hands on this task's part of some queries, or of the gradient of their output, line by line.
    fn gather_queries<S: Stored>(
        &self,
        from: &[S],
        heads: HeadShape,
        queries: Range<usize>,
        mut to: impl FnMut(&[S]),
    ) {
        let (width, part) = (heads.query_width(), heads.group_width());
        let first = self.set[0].queries.start;
        for i in queries {
            let start = (first + i) * width + self.kv_head * part;
            to(&from[start..start + part]);
        }
    }

    /// Fills `s.queries` and `s.probabilities` for a range of the set's queries; returns how many of the
    /// gathered keys these can see.
    fn probabilities<S: Stored>(
        &self,
        inputs: &Inputs<'_, S>,
        s: &mut Scratch<S>,
        queries: Range<usize>,
        segments: &[Segment],
    ) -> usize {
        let HeadShape { group, head_dim, .. } = inputs.heads;
        let lines = queries.len() * group;
        let scale = scale::<S::Wide>(head_dim);
        s.queries.clear();
        self.gather_queries(inputs.q, inputs.heads, queries.clone(), |line| {
            s.queries.extend(line.iter().map(|v| v.widen() * scale));
        });
        // For each query, its row's segment and the last of the row's own keys that it sees.
        let places: Vec<(&Segment, usize)> = self
            .set
            .iter()
            .zip(segments)
            .flat_map(|(row, s)| self.rows.last_seen(row).map(move |i| (s, i)))
            .skip(queries.start)
            .take(queries.len())
            .collect();
        let visible = places.last().map_or(0, |(segment, i)| segment.own + i + 1);
        s.probabilities.resize(lines * visible, S::Wide::ZERO);
        inputs.product(
            &mut MatMut::new(&mut s.probabilities, lines, visible),
            Mat::new(&s.queries, lines, head_dim),
            Mat::new(&s.keys[..visible * head_dim], visible, head_dim).t(),
            Update::Overwrite,
        );
        let shared = segments[0].start;
        let offsets = inputs.offsets();
        if offsets > 0 {
            self.gather_bias(inputs, s);
        }
        vectorize(
            #[inline(always)]
            || {
                for (line, scores) in s.probabilities.chunks_exact_mut(visible).enumerate() {
                    if offsets > 0 {
                        let first = self.first_offset(inputs, queries.start + line / group);
                        let bias = &s.bias[line % group * offsets + first..];
                        for (score, &bias) in scores.iter_mut().zip(bias) {
                            *score += bias;
                        }
                    }
                    let (segment, i) = places[line / group];
                    let (seen, future) = scores.split_at_mut(segment.own + i + 1);
                    seen[shared..segment.start].fill(S::Wide::NEG_INFINITY);
                    for position in segment.private.iter().take_while(|&&position| position < i) {
                        seen[segment.own + position] = S::Wide::NEG_INFINITY;
                    }
                    softmax(seen);
                    future.fill(S::Wide::ZERO);
                }
            },
        );
        visible
    }
}

fn scale<T: Float>(head_dim: usize) -> T {
    T::one() / T::from_f64(head_dim as f64).sqrt()
}

/// Turns the gradient of the probabilities into that of the scores, line by line of `n`.
fn softmax_backward<T: Float>(grad: &mut [T], probabilities: &[T], n: usize) {
    vectorize(
        #[inline(always)]
        || {
            for (grad, p) in grad.chunks_exact_mut(n).zip(probabilities.chunks_exact(n)) {
                let mean = dot(grad, p);
                for (g, &p) in grad.iter_mut().zip(p) {
                    *g = p * (*g - mean);
                }
            }
        },
    );
}

fn scaled_copy<S: Stored>(to: &mut [S], from: &[S::Wide], scale: S::Wide) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = S::narrow(from * scale);
    }
}
