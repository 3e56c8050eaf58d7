//! TIGER's training pass by hand, on the CPU: it keeps what a backward pass cannot compute again cheaply, and nothing
//! else.
//!
//! The same function as [`Tiger::losses`] and its graph, which stay for other devices, and which the tests hold this to.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::hand::{ByHand, KeptFeedForward};
use super::layers::{Attention, Block, EPS, FeedForward, Stack};
use super::{Tiger, TigerPart};
use crate::model::sequential::History;
use crate::nn::{GradientSum, Gradients};
use crate::ops::slices::{self, Buffer, Pool, Update};
use crate::ops::{Precision, Rows};

/// Memory that one training step hands to the next.
#[derive(Debug, Default)]
pub struct TigerWorkspace {
    pool: Pool<f32>,
    served: Option<Gradients>,
}

impl TigerWorkspace {
    /// Takes back the memory of gradients that have served.
    pub fn take_back(&mut self, gradients: Gradients) {
        self.served = Some(gradients);
    }
}

/// What is kept of an attention, (tokens, width) each.
#[derive(Debug)]
struct KeptAttention<'p> {
    input: Buffer<'p, f32>,
    /// Times the root of `head_dim`, by which the operation divides.
    query: Buffer<'p, f32>,
    key: Buffer<'p, f32>,
    value: Buffer<'p, f32>,
    attended: Buffer<'p, f32>,
    /// Where its dropout stands.
    site: u64,
}

#[derive(Debug)]
struct KeptBlock<'p> {
    attention: KeptAttention<'p>,
    cross: Option<KeptAttention<'p>>,
    feed_forward: KeptFeedForward<'p>,
}

/// What is kept of an encoder or a decoder.
#[derive(Debug)]
struct KeptStack<'p> {
    rows: Rows,
    buckets: Vec<u32>,
    /// (offsets, heads)
    bias: Vec<f32>,
    blocks: Vec<KeptBlock<'p>>,
    /// Before the last norm, and behind it and its dropout, (tokens, dim).
    output: Buffer<'p, f32>,
    states: Buffer<'p, f32>,
    /// Where the first dropout stands, and the last.
    sites: [u64; 2],
}

/// What a decoder reads: the states of the encoder, and which of them each of its tokens sees.
struct Read<'a> {
    states: &'a [f32],
    rows: &'a Rows,
}

impl Tiger {
    /// The share of `part` in the mean loss of [`Tiger::losses`] over the whole batch, and its gradients. The workspace
    /// of a step before makes it faster.
    ///
    /// # Errors
    /// As there.
    pub fn gradients(
        &self,
        histories: &[History<'_>],
        targets: &[u32],
        part: TigerPart,
        workspace: &mut TigerWorkspace,
    ) -> Result<(f64, Gradients)> {
        let per_label = 1.0 / (part.targets * self.num_levels()) as f64;
        if !self.is_by_hand() {
            let loss = (self.losses(histories, targets, Some(part))?.sum_all()? * per_label)?;
            let gradients = Gradients::collect(&self.params, &loss.backward()?)?;
            let loss = loss.to_dtype(candle_core::DType::F64)?.to_scalar()?;
            return Ok((loss, gradients));
        }
        let prompt = self.prompt(histories)?;
        let (written, labels) = self.lessons(targets)?;
        let writing = self.writing(&prompt.tokens, &written)?;
        let mut sums = GradientSum::new(&self.params, workspace.served.take());
        let pool = &workspace.pool;
        let by_hand = |pass| ByHand { network: self, pass, pool };
        let reader = by_hand(self.pass_over_histories(Some(part)));
        let lengths: Vec<usize> = prompt.tokens.iter().map(Range::len).collect();
        let read = reader.forward(&self.encoder, &prompt.ids, &lengths, None)?;
        let source = Read { states: &read.states, rows: &writing.rows };
        let writer = by_hand(self.pass_over_targets(&reader.pass, Some(part)));
        let mut wrote =
            writer.forward(&self.decoder, &writing.ids, &writing.lengths, Some(&source))?;

        let of_width = 1.0 / (self.config.dim as f64).sqrt();
        slices::scale(&mut wrote.states, of_width);
        let mut grad = pool.take(wrote.states.len());
        let loss = slices::cross_entropy(
            &wrote.states,
            &self.embeddings,
            0..self.vocab_size() as u32,
            &labels,
            None,
            None,
            per_label,
            &mut grad,
            sums.of(&self.embeddings),
            self.config.precision,
            pool,
        )?;
        slices::scale(&mut grad, of_width);

        let mut states_grad = pool.zeros(read.states.len());
        let source = Some((&source, &mut *states_grad));
        writer.backward(&self.decoder, wrote, &writing.ids, grad, source, &mut sums)?;
        reader.backward(&self.encoder, read, &prompt.ids, states_grad, None, &mut sums)?;
        Ok((loss * per_label, sums.finish(|_| false)?))
    }
}

impl<'a> ByHand<'a> {
    /// As [`Stack::forward`], from the tokens.
    fn forward(
        &self,
        stack: &Stack,
        ids: &[u32],
        lengths: &[usize],
        read: Option<&Read<'_>>,
    ) -> Result<KeptStack<'a>> {
        let rows = Rows::packed(lengths);
        let rows = if read.is_some() { rows } else { rows.both_ways() };
        let most = lengths.iter().copied().max().unwrap_or(1).max(1);
        let (buckets, bias) = stack.ways(most, read.is_some())?;
        let mut x = self.embedded(ids)?;
        let first = self.pass.next_site();
        self.drop(&mut x, self.network.config.dim, first);
        let mut blocks = Vec::with_capacity(stack.blocks.len());
        for Block { attention, cross, feed_forward } in &stack.blocks {
            let (kept, stream) = self.attend(attention, x, None, Some(&bias), &rows)?;
            let (kept_cross, stream) = match (cross, read) {
                (Some(cross), Some(read)) => {
                    let (kept, stream) =
                        self.attend(cross, stream, Some(read.states), None, read.rows)?;
                    (Some(kept), stream)
                }
                _ => (None, stream),
            };
            let (feed_forward, stream) = self.feed(feed_forward, stream)?;
            blocks.push(KeptBlock { attention: kept, cross: kept_cross, feed_forward });
            x = stream;
        }
        let mut states = self.normed(&x, &stack.norm)?;
        let last = self.pass.next_site();
        self.drop(&mut states, self.network.config.dim, last);
        Ok(KeptStack { rows, buckets, bias, blocks, output: x, states, sites: [first, last] })
    }

    /// An attention to `states`, or to the stream itself.
    fn attend(
        &self,
        attention: &Attention,
        input: Buffer<'a, f32>,
        states: Option<&[f32]>,
        bias: Option<&[f32]>,
        rows: &Rows,
    ) -> Result<(KeptAttention<'a>, Buffer<'a, f32>)> {
        let h = self.normed(&input, &attention.norm)?;
        let source = states.unwrap_or(&h);
        let key = self.projected(source, &attention.key)?;
        let value = self.projected(source, &attention.value)?;
        let query = self.query(&h, attention)?;
        let attended = self.attended([&query, &key, &value], bias, rows);
        let (out, site) = self.add_branch(&input, &attended, &attention.output)?;
        Ok((KeptAttention { input, query, key, value, attended, site }, out))
    }

    /// Adds the gradients of all that led to the states, from theirs; that of what was read to what comes with it.
    fn backward(
        &self,
        stack: &Stack,
        kept: KeptStack<'a>,
        ids: &[u32],
        mut grad: Buffer<'a, f32>,
        mut read: Option<(&Read<'_>, &mut [f32])>,
        sums: &mut GradientSum<'_>,
    ) -> Result<()> {
        let KeptStack { rows, buckets, bias, blocks, output, sites: [first, last], .. } = kept;
        self.drop(&mut grad, self.network.config.dim, last);
        let mut stream_grad = self.pool.zeros(grad.len());
        norm_backward(&output, &stack.norm, &grad, &mut stream_grad, sums)?;
        drop((output, grad));
        let mut grad = stream_grad;
        let mut bias_grad = self.pool.zeros(bias.len());
        for (block, kept) in stack.blocks.iter().zip(blocks).rev() {
            self.feed_backward(&block.feed_forward, kept.feed_forward, &mut grad, sums)?;
            if let (Some(cross), Some(kept), Some((read, states_grad))) =
                (&block.cross, kept.cross, &mut read)
            {
                let source = Some((read.states, &mut **states_grad));
                self.attend_backward(cross, kept, &mut grad, source, None, read.rows, sums)?;
            }
            let bias = Some((&*bias, &mut *bias_grad));
            self.attend_backward(
                &block.attention,
                kept.attention,
                &mut grad,
                None,
                bias,
                &rows,
                sums,
            )?;
        }
        if let Some(sum) = sums.adding_to(&stack.bias) {
            let heads = self.network.config.heads;
            slices::embedding_backward(sum.values, &bias_grad, heads, &buckets, sum.first_row);
        }
        self.drop(&mut grad, self.network.config.dim, first);
        if let Some(sum) = sums.adding_to(&self.network.embeddings) {
            let width = self.network.config.dim;
            slices::embedding_backward(sum.values, &grad, width, ids, sum.first_row);
        }
        Ok(())
    }

    /// Adds to `grad`, which is that of the stream behind an attention, what its branch adds to that before it.
    #[expect(
        clippy::too_many_arguments,
        reason = "a layer, what it read, and where its gradients go"
    )]
    fn attend_backward(
        &self,
        attention: &Attention,
        kept: KeptAttention<'a>,
        grad: &mut [f32],
        states: Option<(&[f32], &mut [f32])>,
        bias: Option<(&[f32], &mut [f32])>,
        rows: &Rows,
        sums: &mut GradientSum<'_>,
    ) -> Result<()> {
        let KeptAttention { input, query, key, value, attended, site } = kept;
        let mut branch = self.copied(grad);
        self.drop(&mut branch, self.network.config.dim, site);
        let mut attended_grad = self.pool.take(attended.len());
        let overwrite = Update::Overwrite;
        self.linear_backward(
            &attention.output,
            [&attended, &branch],
            &mut attended_grad,
            overwrite,
            sums,
        )?;
        drop((branch, attended));
        let [mut query_grad, mut key_grad, mut value_grad] =
            [&query, &key, &value].map(|x| self.pool.take(x.len()));
        slices::attention_backward(
            [&mut query_grad, &mut key_grad, &mut value_grad],
            [&query, &key, &value],
            bias,
            &attended_grad,
            self.heads(),
            rows,
            Precision::Full,
        );
        drop((query, key, value, attended_grad));
        slices::scale(&mut query_grad, (attention.head_dim as f64).sqrt());
        let h = self.normed(&input, &attention.norm)?;
        let mut h_grad = self.pool.take(h.len());
        let ends = [&*h, &*query_grad];
        self.linear_backward(&attention.query, ends, &mut h_grad, overwrite, sums)?;
        {
            let (source, source_grad) = match states {
                Some((states, states_grad)) => (states, states_grad),
                None => (&*h, &mut *h_grad),
            };
            for (weight, grad) in [(&attention.key, &key_grad), (&attention.value, &value_grad)] {
                let ends = [source, &**grad];
                self.linear_backward(weight, ends, source_grad, Update::Add, sums)?;
            }
        }
        norm_backward(&input, &attention.norm, &h_grad, grad, sums)
    }

    /// As [`Self::attend_backward`], of a feed-forward.
    fn feed_backward(
        &self,
        layer: &FeedForward,
        KeptFeedForward { input, hidden, site }: KeptFeedForward<'a>,
        grad: &mut [f32],
        sums: &mut GradientSum<'_>,
    ) -> Result<()> {
        let mut branch = self.copied(grad);
        self.drop(&mut branch, self.network.config.dim, site);
        let mut hidden_grad = self.pool.take(hidden.len());
        let overwrite = Update::Overwrite;
        let ends = [&*hidden, &*branch];
        self.linear_backward(&layer.down, ends, &mut hidden_grad, overwrite, sums)?;
        slices::relu_backward(&mut hidden_grad, &hidden, 1.0 / (1.0 - self.network.config.dropout));
        drop((branch, hidden));
        let h = self.normed(&input, &layer.norm)?;
        let mut h_grad = self.pool.take(h.len());
        self.linear_backward(&layer.up, [&h, &hidden_grad], &mut h_grad, overwrite, sums)?;
        norm_backward(&input, &layer.norm, &h_grad, grad, sums)
    }

    /// The gradients of a layer that took `x` and whose output has the gradient `grad`: that of `x` into `x_grad`.
    fn linear_backward(
        &self,
        weight: &Tensor,
        [x, grad]: [&[f32]; 2],
        x_grad: &mut [f32],
        update: Update,
        sums: &mut GradientSum<'_>,
    ) -> Result<()> {
        let (precision, tokens) = (self.pass.precision, grad.len() / weight.dim(0)?);
        if let Some(sum) = sums.of(weight) {
            slices::linear_weight_grad(sum.values, grad, x, tokens, sum.update, precision);
        }
        slices::linear_input_grad(x_grad, grad, weight, update, precision)
    }
}

/// Adds the gradient of a norm's input to `x_grad`.
fn norm_backward(
    x: &[f32],
    weight: &Tensor,
    grad: &[f32],
    x_grad: &mut [f32],
    sums: &mut GradientSum<'_>,
) -> Result<()> {
    let weight_grad = sums.adding_to(weight).map(|sum| sum.values);
    slices::rms_norm_backward(x, weight, grad, EPS, x_grad, weight_grad)
}
