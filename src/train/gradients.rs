//! Losses and gradients of one global batch (paper, equation 7), on two ways that compute the same: by
//! hand on the CPU, and by candle's graph everywhere else.

use std::ops::Range;

use candle_core::{D, DType, Tensor, Var};
use half::bf16;

use super::batch::Batch;
use super::contrast::{Contrast, Projectors};
use super::repeats;
use super::report::Losses;
use super::trainer::Trainer;
use crate::model::{Backprop, Checkpointed, DropoutPair, Inner, Pools};
use crate::nn::{Dropout, GradientSum, Gradients};
use crate::ops::slices::{self, Activation, Shifts, SoftTargets};
use crate::tasks::Sample;
use crate::{Result, invalid, ops};

/// Memory that one step hands to the next.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    full: Pools<f32>,
    half: Pools<bf16>,
    /// Gradients that the optimiser is done with.
    pub(super) served: Option<Gradients>,
}

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
        let (losses, mut gradients) =
            self.gradients_in(&mut Workspace::default(), samples, step)?;
        gradients.spread(self.ranks, self.params)?;
        Ok((losses, gradients))
    }

    /// As [`Trainer::gradients`], in memory that outlives the step; each rank has those values alone whose step it
    /// takes.
    pub(super) fn gradients_in(
        &self,
        workspace: &mut Workspace,
        samples: &[Sample],
        step: u64,
    ) -> Result<(Losses, Gradients)> {
        if samples.is_empty() {
            invalid!("a batch is empty");
        }
        let micro = self.config.micro_batch.unwrap_or(samples.len()).max(1);
        let batches = samples.chunks(micro).enumerate().filter_map(|(i, micro)| {
            let tokens = |sample: &Sample| sample.ids.len();
            let own = self.ranks.part_of(micro.iter().map(tokens));
            let before = micro[..own.start].iter().map(tokens).sum();
            let share = Share {
                step,
                labels: samples.iter().map(|s| s.labels.len()).sum(),
                targets: samples.iter().map(|s| s.contrast.len()).sum(),
                dropout: self.dropout((step << 16) + i as u64, before),
            };
            (!own.is_empty()).then_some((&micro[own], share))
        });
        let served = workspace.served.take();
        let (losses, mut gradients) = match self.model.pass_by_hand() {
            None => self.by_graph(batches),
            Some(Inner::Full) => self.by_hand(batches, &workspace.full, served),
            Some(Inner::Half) => self.by_hand(batches, &workspace.half, served),
        }?;
        gradients.sum_over(self.ranks, self.params)?;
        Ok((losses.over(self.ranks), gradients))
    }

    /// The dropouts of one pass, of whose tokens `before` are those of other ranks.
    fn dropout(&self, pass: u64, before: usize) -> DropoutPair {
        let drop = |p: f64, salt: u64| {
            let key = (pass ^ self.seed.rotate_left(32)).wrapping_mul(0xD129_0B26_88B4_A2B3) ^ salt;
            (p > 0.0).then_some(Dropout { p, key, before })
        };
        DropoutPair { residual: drop(self.config.dropout, 1), lora: drop(self.lora_dropout, 2) }
    }

    fn by_hand<'s, A: Activation>(
        &self,
        batches: impl Iterator<Item = (&'s [Sample], Share)>,
        pools: &Pools<A>,
        served: Option<Gradients>,
    ) -> Result<(Losses, Gradients)> {
        let (mut losses, mut sums) = (Losses::default(), GradientSum::new(self.params, served));
        let (mut contrasted, mut reached) = (false, false);
        for (samples, share) in batches {
            reached = true;
            let batch = Batch::pack(samples, self.levels.as_deref());
            let told = self.told(samples, &batch.order)?;
            let model = self.model;
            let checkpointing = self.config.checkpointing;
            let (input, dropout) = (&batch.input, share.dropout);
            let rows = [&*batch.label_rows, &*batch.contrast_rows].concat();
            let pass = Backprop::forward(model, input, &rows, dropout, checkpointing, pools)?;
            let states = pass.states()?;
            let mut grad = pools.wide.zeros(states.len());
            let split = batch.labels.len() * model.config().hidden_size;
            let scale = 1.0 / share.labels as f64;
            let mut generation = 0.0;
            for Group { labels, vocabulary, recommended } in self.normalizations(&batch) {
                let head = model.lm_head();
                let (soft, shifts) = self.of_group(&told, recommended);
                let part = labels.start * model.config().hidden_size
                    ..labels.end * model.config().hidden_size;
                // A part of the vocabulary writes a part of the gradient.
                let whole = vocabulary.len() == head.dim(0)? && !labels.is_empty();
                let sum = if whole { sums.of(head) } else { sums.adding_to(head) };
                generation += scale
                    * slices::cross_entropy(
                        &states[part.clone()],
                        head,
                        vocabulary,
                        &batch.labels[labels],
                        soft,
                        shifts,
                        scale,
                        &mut grad[part],
                        sum,
                        model.precision(),
                        &pools.wide,
                    )?;
            }
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
            pass.backward(&grad, &mut sums)?;
        }
        // A batch may hold no <con>: then the projectors rightly receive nothing from it. Nothing does where a batch
        // has fewer samples than ranks.
        let optional = |name: &str| !reached || !contrasted && name.starts_with(Projectors::PREFIX);
        Ok((losses, sums.finish(optional)?))
    }

    fn by_graph<'s>(
        &self,
        batches: impl Iterator<Item = (&'s [Sample], Share)>,
    ) -> Result<(Losses, Gradients)> {
        let mut losses = Losses::default();
        let mut sum: Option<Gradients> = None;
        for (samples, share) in batches {
            let batch = Batch::pack(samples, self.levels.as_deref());
            let told = self.told(samples, &batch.order)?;
            let model = self.model;
            let (input, dropout) = (&batch.input, share.dropout);
            let checkpointed = self
                .config
                .checkpointing
                .then(|| Checkpointed::forward(model, input, dropout))
                .transpose()?;
            let hidden = match &checkpointed {
                Some(pass) => pass.hidden()?,
                None => model.hidden(input, None, dropout)?,
            };
            let rows = |rows: &[u32]| ops::embedding(&hidden, rows);
            let states = rows(&batch.label_rows)?;
            let mut total = states.zeros_like()?.sum_all()?;
            for Group { labels, vocabulary, recommended } in self.normalizations(&batch) {
                let states = states.narrow(0, labels.start, labels.len())?;
                let (first, count) = (vocabulary.start, vocabulary.len());
                let head = model.lm_head().narrow(0, first as usize, count)?;
                let labels: Vec<u32> = batch.labels[labels].iter().map(|id| id - first).collect();
                let sum = match self.of_group(&told, recommended) {
                    (None, None) => {
                        ops::cross_entropy(&states, &head, &labels, model.precision())?.sum_all()?
                    }
                    (soft, shifts) => {
                        let soft = soft.map(|soft| SoftTargets { first, ..soft });
                        let shifts = shifts.map(|shifts| Shifts { first, ..shifts });
                        soft_cross_entropy(
                            &states,
                            &head,
                            &labels,
                            soft,
                            shifts,
                            model.precision(),
                        )?
                    }
                };
                total = (total + (sum / share.labels as f64)?)?;
            }
            let generation = total.clone();
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
            let optional = |name: &str| !contrasted && name.starts_with(Projectors::PREFIX);
            let mut store = total.backward()?;
            if let Some(pass) = checkpointed {
                pass.backward(self.params, &mut store)?;
            }
            let gradients = Gradients::collect_with_optional(self.params, &store, optional)?;
            // Read when all is asked for: a device that is waited for has nothing to do.
            losses.generation += scalar(&generation)?;
            losses.total += scalar(&total)?;
            match &mut sum {
                Some(sum) => sum.accumulate(&gradients)?,
                None => sum = Some(gradients),
            }
        }
        match sum {
            Some(gradients) => Ok((losses, gradients)),
            None => Ok((losses, GradientSum::new(self.params, None).finish(|_| true)?)),
        }
    }

    /// What is said of the labels of sequence recommendation beside their targets; `order` names the labels by their places
    /// in the samples.
    fn told(&self, samples: &[Sample], order: &[u32]) -> Result<Told> {
        fn in_order<T: Default>(mut rows: Vec<T>, order: &[u32]) -> Vec<T> {
            order.iter().map(|&at| std::mem::take(&mut rows[at as usize])).collect()
        }
        let drawn_to = match self.teacher {
            Some(teacher) => in_order(teacher.distributions(samples)?, order),
            None => Vec::new(),
        };
        let owned = match (self.model.config().repeat_bias, self.items) {
            (Some(_), Some(items)) => in_order(repeats::owned(items, samples)?, order),
            (Some(_), None) if samples.iter().any(|sample| sample.recommends) => {
                invalid!("a model with a repeat bias is trained without the tokens of the items")
            }
            _ => Vec::new(),
        };
        Ok(Told { drawn_to, owned })
    }

    /// What the labels `recommended` are drawn to, and the logits that are shifted.
    fn of_group<'t>(
        &self,
        told: &'t Told,
        recommended: Option<Range<usize>>,
    ) -> (Option<SoftTargets<'t>>, Option<Shifts<'t>>) {
        let Some(rows) = recommended else { return (None, None) };
        let soft = self.teacher.map(|teacher| teacher.soft(&told.drawn_to[rows.clone()]));
        let by = self.model.config().repeat_bias;
        let shifts = by.map(|by| Shifts { by: by as f32, first: 0, rows: &told.owned[rows] });
        (soft, shifts)
    }

    /// The labels of a batch by what is asked of them and over what their probabilities are normalised; at
    /// least one group, none empty but in a batch without labels.
    fn normalizations(&self, batch: &Batch) -> Vec<Group> {
        let (all, whole) = (batch.labels.len(), 0..self.model.config().vocab_size as u32);
        let told = self.teacher.is_some() || self.model.config().repeat_bias.is_some();
        if self.levels.is_none() && !told {
            return vec![Group { labels: 0..all, vocabulary: whole, recommended: None }];
        }
        let split = all - batch.order.len();
        let mut groups = Vec::new();
        if split > 0 || all == 0 {
            groups.push(Group { labels: 0..split, vocabulary: whole.clone(), recommended: None });
        }
        let mut first = split;
        for &count in &batch.recommended {
            let label = batch.labels[first];
            let level = self.levels.iter().flatten().find(|ids| ids.contains(&label));
            let (labels, recommended) =
                (first..first + count, first - split..first + count - split);
            let vocabulary = level.unwrap_or(&whole).clone();
            groups.push(Group { labels, vocabulary, recommended: Some(recommended) });
            first += count;
        }
        groups
    }

    /// The contrastive loss of the `<con>` states of a micro-batch, (n, hidden); none where it has none.
    fn contrast_loss(
        &self,
        states: &Tensor,
        batch: &Batch,
        share: &Share,
        losses: &mut Losses,
    ) -> Result<Option<Tensor>> {
        let Some(Contrast { projectors, config, items }) = self.contrast else {
            return Ok(None);
        };
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

/// Labels that are treated alike.
struct Group {
    labels: Range<usize>,
    vocabulary: Range<u32>,
    /// Of sequence recommendation: which of its labels these are.
    recommended: Option<Range<usize>>,
}

/// What is said of labels of sequence recommendation, a row each, where something says it.
struct Told {
    /// The teacher's distributions.
    drawn_to: Vec<Vec<(u32, f32)>>,
    /// The tokens that would end what the user has.
    owned: Vec<Vec<u32>>,
}

/// The sum of the losses of `labels` among the rows of `head`, (ids, hidden), by operations that candle has; `states` is
/// (n, hidden).
fn soft_cross_entropy(
    states: &Tensor,
    head: &Tensor,
    labels: &[u32],
    soft: Option<SoftTargets<'_>>,
    shifts: Option<Shifts<'_>>,
    precision: ops::Precision,
) -> Result<Tensor> {
    let mut logits = ops::linear(states, head, precision)?;
    let (shape, ids) = (logits.shape().clone(), head.dim(0)?);
    let (device, dtype) = (logits.device().clone(), logits.dtype());
    let dense = |values: Vec<f32>| Tensor::from_vec(values, &shape, &device)?.to_dtype(dtype);
    if let Some(Shifts { by, first, rows }) = shifts {
        let mut values = vec![0f32; shape.elem_count()];
        for (line, row) in values.chunks_mut(ids).zip(rows) {
            for id in row {
                line[(id - first) as usize] = by;
            }
        }
        logits = (logits + dense(values)?)?;
    }
    let mut shares = vec![0f32; shape.elem_count()];
    let weight = soft.map_or(0.0, |soft| soft.weight);
    for (line, &label) in shares.chunks_mut(ids).zip(labels) {
        line[label as usize] = 1.0 - weight;
    }
    if let Some(SoftTargets { first, rows, .. }) = soft {
        for (line, row) in shares.chunks_mut(ids).zip(rows) {
            for &(id, share) in row {
                line[(id - first) as usize] += weight * share;
            }
        }
    }
    let log_total = logits.log_sum_exp(D::Minus1)?.unsqueeze(1)?;
    let log_probabilities = logits.broadcast_sub(&log_total)?;
    Ok((log_probabilities * dense(shares)?)?.sum_all()?.neg()?)
}

fn scalar(t: &Tensor) -> Result<f64> {
    Ok(t.to_dtype(DType::F64)?.to_scalar()?)
}
