//! What may come next, on the CPU: what was written stays as keys and values, so that a code costs one token.
//!
//! The same function as [`Tiger::log_probabilities`], which stays for other devices, and which the tests hold this to.

use std::ops::Range;

use candle_core::{Result, Tensor, bail};

use super::hand::ByHand;
use super::layers::{Block, Pass, Stack};
use super::{Memory, Tiger, rows_across};
use crate::model::sequential::History;
use crate::ops::slices::{self, Buffer, Pool};
use crate::ops::{Row, Rows};

/// Keys and values, (tokens, heads * `head_dim`) each.
type KeysValues = [Vec<f32>; 2];

/// Histories that were read, and what has been written after them.
#[derive(Debug)]
pub struct Reading<'a> {
    network: &'a Tiger,
    pool: Pool<f32>,
    /// Of the histories, for each block of the decoder.
    read: Vec<KeysValues>,
    /// The tokens of each history.
    tokens: Vec<Range<usize>>,
    /// After which of them each hypothesis stands.
    of_rows: Vec<usize>,
    /// Of the hypotheses, (rows, codes written, heads * `head_dim`), for each block of the decoder.
    written: Vec<KeysValues>,
    /// How many codes have been told.
    level: usize,
}

impl Tiger {
    /// Reads histories for a search by hand; none on a device or in a type that has none.
    ///
    /// # Errors
    /// A history that is empty, an unknown item.
    pub fn reading(&self, histories: &[History<'_>]) -> Result<Option<Reading<'_>>> {
        if !self.is_by_hand() {
            return Ok(None);
        }
        let Memory { blocks, tokens } = self.read(histories)?;
        let values = |t: &Tensor| t.flatten_all()?.to_vec1();
        let read: Result<Vec<KeysValues>> =
            blocks.iter().map(|[k, v]| Ok([values(k)?, values(v)?])).collect();
        let written = vec![KeysValues::default(); self.decoder.blocks.len()];
        let of_rows = (0..tokens.len()).collect();
        let pool = Pool::default();
        Ok(Some(Reading { network: self, pool, read: read?, tokens, of_rows, written, level: 0 }))
    }
}

impl Reading<'_> {
    /// The log-probabilities of the codes of the next level, (rows, codes of the level): at the first a row a history,
    /// then one for each of `rows`, a row of the call before and the code written after it. As
    /// [`Tiger::log_probabilities`], over the whole vocabulary.
    ///
    /// # Errors
    /// A call after the last level.
    pub fn next(&mut self, rows: &[(usize, u32)]) -> Result<Vec<f32>> {
        let network = self.network;
        let Some(&choices) = network.codes.levels.get(self.level) else {
            bail!("tiger: items of {} levels have no other code", network.num_levels());
        };
        let (parents, tokens): (Vec<usize>, Vec<u32>) = if self.level == 0 {
            (0..self.tokens.len()).map(|row| (row, network.start())).unzip()
        } else {
            let first = network.first_token(self.level - 1) as u32;
            rows.iter().map(|&(parent, code)| (parent, first + code)).unzip()
        };
        let first = network.first_token(self.level);
        let of_rows: Vec<usize> = parents.iter().map(|&parent| self.of_rows[parent]).collect();
        let mut written = vec![KeysValues::default(); self.written.len()];
        let mut found = Vec::with_capacity(parents.len() * choices);
        let at_once = Tiger::HYPOTHESES_AT_ONCE;
        let parts = parents.chunks(at_once).zip(tokens.chunks(at_once));
        for ((parents, tokens), of_rows) in parts.zip(of_rows.chunks(at_once)) {
            let read = rows_across(&self.tokens, of_rows)?;
            let logits = self.logits(parents, tokens, &read, &mut written)?;
            for row in logits.chunks_exact(network.vocab_size()) {
                let total = slices::log_sum_exp(row);
                found.extend(row[first..first + choices].iter().map(|logit| logit - total));
            }
        }
        (self.of_rows, self.written, self.level) = (of_rows, written, self.level + 1);
        Ok(found)
    }

    /// (rows, vocabulary), after the hypotheses `parents` and a token more each, whose keys and values go to `written`.
    fn logits(
        &self,
        parents: &[usize],
        tokens: &[u32],
        read: &Rows,
        written: &mut [KeysValues],
    ) -> Result<Buffer<'_, f32>> {
        let Self { network, pool, level, .. } = self;
        let hand = ByHand { network, pass: Pass::new(&network.config, None), pool };
        let Stack { blocks, norm, .. } = &network.decoder;
        let length = level + 1;
        let (_, bias) = network.decoder.ways(length, true)?;
        let own = |row: usize| row * length..(row + 1) * length;
        let row = |row: usize| Row { queries: row..row + 1, own: own(row), context: Vec::new() };
        let rows = Rows::new((0..parents.len()).map(row).collect())?;
        let mut x = hand.embedded(tokens)?;
        for (i, Block { attention, cross, feed_forward }) in blocks.iter().enumerate() {
            let h = hand.normed(&x, &attention.norm)?;
            let width = attention.key.dim(0)?;
            let mut span = 0..0;
            let both = written[i].iter_mut().zip(&self.written[i]);
            for (weight, (kept, before)) in [&attention.key, &attention.value].into_iter().zip(both)
            {
                span.start = kept.len();
                let new = hand.projected(&h, weight)?;
                for (&parent, new) in parents.iter().zip(new.chunks_exact(width)) {
                    kept.extend_from_slice(&before[parent * level * width..][..level * width]);
                    kept.extend_from_slice(new);
                }
                span.end = kept.len();
            }
            let [keys, values] = written[i].each_ref().map(|kept| &kept[span.clone()]);
            let query = hand.query(&h, attention)?;
            let attended = hand.attended([&query, keys, values], Some(&bias), &rows);
            x = hand.add_branch(&x, &attended, &attention.output)?.0;
            if let Some(cross) = cross {
                let h = hand.normed(&x, &cross.norm)?;
                let [keys, values] = &self.read[i];
                let query = hand.query(&h, cross)?;
                let attended = hand.attended([&query, keys, values], None, read);
                x = hand.add_branch(&x, &attended, &cross.output)?.0;
            }
            x = hand.feed(feed_forward, x)?.1;
        }
        let mut states = hand.normed(&x, norm)?;
        slices::scale(&mut states, 1.0 / (network.config.dim as f64).sqrt());
        hand.projected(&states, &network.embeddings)
    }
}
