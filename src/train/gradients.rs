//! Losses and gradients of one global batch (paper, equation 7), on two ways that compute the same: by
//! hand on the CPU, and by candle's graph everywhere else.

use candle_core::{DType, Tensor, Var};

use super::batch::Batch;
use super::contrast::Projectors;
use super::trainer::{Losses, Trainer};
use crate::model::{Backprop, DropoutPair};
use crate::nn::{Dropout, GradientSum, Gradients};
use crate::ops::slices;
use crate::tasks::Sample;
use crate::{Result, invalid, ops};

/// What a micro-batch has to know of its global batch.
struct Share {
    step: u64,
    /// Labels and contrastive targets of the whole batch: means are over these.
    labels: usize,
    targets: usize,
    dropout: DropoutPair,
}

impl Trainer<'_> {
    /// Losses and gradients of a global batch, whatever its division into micro-batches: every mean is
    /// over the global batch.
    pub fn gradients(&self, samples: &[Sample], step: u64) -> Result<(Losses, Gradients)> {
        if samples.is_empty() {
            invalid!("a batch is empty");
        }
        let micro = self.config.micro_batch.unwrap_or(samples.len()).max(1);
        let batches = samples.chunks(micro).enumerate().map(|(i, micro)| {
            let share = Share {
                step,
                labels: samples.iter().map(|s| s.labels.len()).sum(),
                targets: samples.iter().map(|s| s.contrast.len()).sum(),
                dropout: self.dropout((step << 16) + i as u64),
            };
            (Batch::pack(micro), share)
        });
        if Backprop::serves(self.model) { self.by_hand(batches) } else { self.by_graph(batches) }
    }

    /// The dropouts of one pass.
    fn dropout(&self, pass: u64) -> DropoutPair {
        let drop = |p: f64, salt: u64| {
            let key = (pass ^ self.seed.rotate_left(32)).wrapping_mul(0xD129_0B26_88B4_A2B3) ^ salt;
            (p > 0.0).then_some(Dropout { p, key })
        };
        DropoutPair { residual: drop(self.config.dropout, 1), lora: drop(self.lora_dropout, 2) }
    }

    fn by_hand(
        &self,
        batches: impl Iterator<Item = (Batch, Share)>,
    ) -> Result<(Losses, Gradients)> {
        let (mut losses, mut sums) = (Losses::default(), GradientSum::new(self.params));
        let mut contrasted = false;
        for (batch, share) in batches {
            let model = self.model;
            let checkpointing = self.config.checkpointing;
            let pass = Backprop::forward(model, &batch.input, share.dropout, checkpointing)?;
            let rows = [&*batch.label_rows, &*batch.contrast_rows].concat();
            let states = pass.states(&rows)?;
            let mut grad = vec![0.0; states.len()];
            let split = batch.labels.len() * model.config().hidden_size;
            let scale = 1.0 / share.labels as f64;
            let generation = scale
                * slices::cross_entropy(
                    &states[..split],
                    model.lm_head(),
                    &batch.labels,
                    scale,
                    &mut grad[..split],
                    sums.of(model.lm_head()),
                    model.precision(),
                )?;
            losses.generation += generation;
            losses.total += generation;
            let shape = (batch.contrast_rows.len(), model.config().hidden_size);
            let states = Tensor::from_slice(&states[split..], shape, model.device())?;
            let states = Var::from_tensor(&states)?;
            if let Some(loss) = self.contrast_loss(&states, &batch, &share, &mut losses)? {
                contrasted = true;
                let store = loss.backward()?;
                for (_, projector) in self.params.tensors() {
                    sums.add(projector, &store)?;
                }
                if let Some(part) = store.get(&states) {
                    grad[split..].copy_from_slice(&part.flatten_all()?.to_vec1::<f32>()?);
                }
                losses.total += scalar(&loss)?;
            }
            pass.backward(&rows, &grad, &mut sums)?;
        }
        // A batch may hold no <con>: then the projectors rightly receive nothing from it.
        Ok((losses, sums.finish(|name| !contrasted && name.starts_with("projectors."))?))
    }

    fn by_graph(
        &self,
        batches: impl Iterator<Item = (Batch, Share)>,
    ) -> Result<(Losses, Gradients)> {
        let mut losses = Losses::default();
        let mut sum: Option<Gradients> = None;
        for (batch, share) in batches {
            let model = self.model;
            let hidden = model.hidden(&batch.input, None, share.dropout)?;
            let rows = |rows: &[u32]| hidden.index_select(&Tensor::new(rows, hidden.device())?, 0);
            let states = rows(&batch.label_rows)?;
            let nll =
                ops::cross_entropy(&states, model.lm_head(), &batch.labels, model.precision())?;
            let mut total = (nll.sum_all()? / share.labels as f64)?;
            losses.generation += scalar(&total)?;
            let contrast = if batch.contrast_rows.is_empty() {
                None
            } else {
                let states = rows(&batch.contrast_rows)?;
                self.contrast_loss(&states, &batch, &share, &mut losses)?
            };
            let contrasted = contrast.is_some();
            if let Some(loss) = contrast {
                total = (total.to_dtype(loss.dtype())? + loss)?;
            }
            losses.total += scalar(&total)?;
            let optional = |name: &str| !contrasted && name.starts_with("projectors.");
            let gradients =
                Gradients::collect_with_optional(self.params, &total.backward()?, optional)?;
            match &mut sum {
                Some(sum) => sum.accumulate(&gradients)?,
                None => sum = Some(gradients),
            }
        }
        match sum {
            Some(gradients) => Ok((losses, gradients)),
            None => invalid!("a batch is empty"),
        }
    }

    /// The contrastive loss of the `<con>` states of a micro-batch, (n, hidden); none where it has none.
    fn contrast_loss(
        &self,
        states: &Tensor,
        batch: &Batch,
        share: &Share,
        losses: &mut Losses,
    ) -> Result<Option<Tensor>> {
        let Some((projectors, config, items)) = self.contrast else { return Ok(None) };
        if batch.contrast_rows.is_empty() {
            return Ok(None);
        }
        let negatives = Projectors::negatives(config, items, self.seed, share.step);
        let mut total: Option<Tensor> = None;
        for side in
            projectors.losses(states, &batch.contrast_items, &negatives, config.temperature)?
        {
            let mean = (side.losses.sum_all()? / share.targets as f64)?;
            let (loss, top1) = match side.name {
                "semantic" => (&mut losses.con_s, &mut losses.top1_s),
                _ => (&mut losses.con_b, &mut losses.top1_b),
            };
            *loss = Some(loss.unwrap_or(0.0) + scalar(&mean)?);
            *top1 = Some(top1.unwrap_or(0.0) + side.top1 / share.targets as f64);
            let weighted = (mean * side.weight)?;
            total = Some(match total {
                Some(total) => (total + weighted)?,
                None => weighted,
            });
        }
        Ok(total)
    }
}

fn scalar(t: &Tensor) -> Result<f64> {
    Ok(t.to_dtype(DType::F64)?.to_scalar()?)
}
