//! AdamW with decoupled weight decay (Loshchilov and Hutter, 2019), in place.

use std::collections::BTreeMap;

use candle_core::{CpuStorage, DType, InplaceOp2, InplaceOp3, Layout, Result, Tensor, bail};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Gradients, Params};

/// Hyper-parameters of [`AdamW`] that do not change during a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay; not applied to vectors (norms and biases).
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 }
    }
}

/// The two moments of one parameter's trained rows, in f32.
#[derive(Debug, Clone)]
struct Moments {
    first: Tensor,
    second: Tensor,
}

/// AdamW over a set of [`Params`]: `p -= lr * (m / (sqrt(v) + eps) + weight_decay * p)` with
/// bias-corrected moments `m`, `v`.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    step: u64,
    moments: BTreeMap<String, Moments>,
}

impl AdamW {
    /// An optimiser at step 0 for `params`.
    pub fn new(params: &Params, config: AdamWConfig) -> Result<Self> {
        let mut moments = BTreeMap::new();
        for (name, rows) in params.trained_rows() {
            let rows = rows?;
            let zeros = || Tensor::zeros(rows.shape(), DType::F32, rows.device());
            moments.insert(name.to_string(), Moments { first: zeros()?, second: zeros()? });
        }
        Ok(Self { config, step: 0, moments })
    }

    /// Applies one step with learning rate `lr`, after scaling the gradients by `scale` (clipping).
    pub fn step(
        &mut self,
        params: &Params,
        gradients: &Gradients,
        lr: f64,
        scale: f64,
    ) -> Result<()> {
        self.step += 1;
        let update = Update {
            lr,
            // Decay pulls a weight matrix towards zero; a norm's scale or a bias has no such prior.
            decay: 0.0,
            eps: self.config.eps,
            correction1: 1.0 - self.config.beta1.powf(self.step as f64),
            correction2: 1.0 - self.config.beta2.powf(self.step as f64),
        };
        for (name, rows) in params.trained_rows() {
            let rows = rows?;
            let (Some(grad), Some(moments)) = (gradients.get(name), self.moments.get_mut(name))
            else {
                bail!("no gradient reached parameter {name}");
            };
            let decay = if rows.rank() < 2 { 0.0 } else { self.config.weight_decay };
            let update = Update { decay, ..update };
            if rows.device().is_cpu() && rows.dtype() == DType::F32 {
                let (beta1, beta2) = (self.config.beta1, self.config.beta2);
                moments.first.inplace_op2(grad, &Average { beta: beta1, scale, square: false })?;
                moments.second.inplace_op2(grad, &Average { beta: beta2, scale, square: true })?;
                rows.inplace_op3(&moments.first, &moments.second, &update)?;
            } else {
                update.composed(&self.config, &rows, moments, grad, scale)?;
            }
        }
        Ok(())
    }

    /// The state as named tensors (`NAME.first`, `NAME.second`), for a checkpoint.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let mut state = BTreeMap::new();
        for (name, m) in &self.moments {
            state.insert(format!("{name}.first"), m.first.clone());
            state.insert(format!("{name}.second"), m.second.clone());
        }
        state
    }

    /// Comes back to a state that [`AdamW::state`] gave after `step` steps.
    pub fn restore(&mut self, step: u64, state: &BTreeMap<String, Tensor>) -> Result<()> {
        for (name, m) in &mut self.moments {
            for (part, slot) in [("first", &mut m.first), ("second", &mut m.second)] {
                match state.get(&format!("{name}.{part}")) {
                    Some(t) if t.dims() == slot.dims() => *slot = t.to_device(slot.device())?,
                    _ => bail!("the saved optimiser state lacks {name}.{part} {:?}", slot.shape()),
                }
            }
        }
        self.step = step;
        Ok(())
    }
}

/// `average = beta * average + (1 - beta) * (scale * gradient)^(1 or 2)`.
struct Average {
    beta: f64,
    scale: f64,
    square: bool,
}

/// One parameter update from its moments.
#[derive(Clone, Copy)]
struct Update {
    lr: f64,
    decay: f64,
    eps: f64,
    correction1: f64,
    correction2: f64,
}

impl Update {
    /// The same update by candle's own operations, for devices without the fused one.
    fn composed(
        &self,
        config: &AdamWConfig,
        rows: &Tensor,
        moments: &mut Moments,
        grad: &Tensor,
        scale: f64,
    ) -> Result<()> {
        let grad = (grad.to_dtype(DType::F32)? * scale)?;
        let mix =
            |average: &Tensor, new: Tensor, beta: f64| (average * beta)? + (new * (1.0 - beta))?;
        moments.first = mix(&moments.first, grad.clone(), config.beta1)?;
        moments.second = mix(&moments.second, grad.sqr()?, config.beta2)?;
        let first = (&moments.first / self.correction1)?;
        let root = (&moments.second / self.correction2)?.sqrt()?;
        let value = rows.to_dtype(DType::F32)?.detach();
        let change = ((first / (root + self.eps)?)? + (&value * self.decay)?)?;
        let value = (value - (change * self.lr)?)?.to_dtype(rows.dtype())?;
        rows.slice_set(&value, 0, 0)
    }
}

const BLOCK: usize = 1 << 14;

fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(data), Some((start, end))) => Ok(&data[start..end]),
        _ => bail!("the optimiser works on contiguous f32 tensors"),
    }
}

fn slice_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(data), Some((start, end))) => Ok(&mut data[start..end]),
        _ => bail!("the optimiser works on contiguous f32 tensors"),
    }
}

impl InplaceOp2 for Average {
    fn name(&self) -> &'static str {
        "moving-average"
    }

    fn cpu_fwd(
        &self,
        average: &mut CpuStorage,
        average_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<()> {
        let (average, grad) = (slice_mut(average, average_layout)?, slice(grad, grad_layout)?);
        let (beta, fresh, scale) = (self.beta as f32, (1.0 - self.beta) as f32, self.scale as f32);
        average.par_chunks_mut(BLOCK).zip(grad.par_chunks(BLOCK)).for_each(|(a, g)| {
            for (a, g) in a.iter_mut().zip(g) {
                let g = g * scale;
                *a = beta * *a + fresh * if self.square { g * g } else { g };
            }
        });
        Ok(())
    }
}

impl InplaceOp3 for Update {
    fn name(&self) -> &'static str {
        "adamw-update"
    }

    fn cpu_fwd(
        &self,
        value: &mut CpuStorage,
        value_layout: &Layout,
        first: &CpuStorage,
        first_layout: &Layout,
        second: &CpuStorage,
        second_layout: &Layout,
    ) -> Result<()> {
        let value = slice_mut(value, value_layout)?;
        let (first, second) = (slice(first, first_layout)?, slice(second, second_layout)?);
        let (lr, decay, eps) = (self.lr as f32, self.decay as f32, self.eps as f32);
        let (scale1, scale2) = (1.0 / self.correction1 as f32, 1.0 / self.correction2 as f32);
        value
            .par_chunks_mut(BLOCK)
            .zip(first.par_chunks(BLOCK).zip(second.par_chunks(BLOCK)))
            .for_each(|(value, (first, second))| {
                for ((p, m), v) in value.iter_mut().zip(first).zip(second) {
                    *p -= lr * (m * scale1 / ((v * scale2).sqrt() + eps) + decay * *p);
                }
            });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn run(first_row: usize, composed: bool) -> Vec<f32> {
        let mut params = Params::new();
        let start = Tensor::new(&[[1f32, -2.0], [0.5, 3.0], [2.0, -1.0]], &Device::Cpu).unwrap();
        let w = params.insert_rows("w", &start, first_row).unwrap();
        let mut adam = AdamW::new(&params, AdamWConfig::default()).unwrap();
        for _ in 0..5 {
            let loss = w.sqr().unwrap().sqr().unwrap().sum_all().unwrap();
            let grads = Gradients::collect(&params, &loss.backward().unwrap()).unwrap();
            if composed {
                adam.step += 1;
                let update = Update {
                    lr: 0.1,
                    decay: 0.01,
                    eps: 1e-8,
                    correction1: 1.0 - 0.9f64.powf(adam.step as f64),
                    correction2: 1.0 - 0.999f64.powf(adam.step as f64),
                };
                let rows = params.trained_rows().next().unwrap().1.unwrap();
                let moments = adam.moments.get_mut("w").unwrap();
                update
                    .composed(&adam.config, &rows, moments, grads.get("w").unwrap(), 0.5)
                    .unwrap();
            } else {
                adam.step(&params, &grads, 0.1, 0.5).unwrap();
            }
        }
        w.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn fused_step_equals_composed_step() {
        for first_row in [0, 1] {
            for (a, b) in run(first_row, false).iter().zip(run(first_row, true)) {
                assert!((a - b).abs() < 1e-6, "{a} {b}");
            }
        }
    }

    #[test]
    fn rows_before_the_first_trained_one_stay() {
        let w = run(2, false);
        assert_eq!(w[..4], [1.0, -2.0, 0.5, 3.0]);
        assert!(w[4] < 2.0 && w[5] > -1.0);
    }

    #[test]
    fn first_step_moves_by_the_learning_rate() {
        let mut params = Params::new();
        let w = params.insert("w", &Tensor::new(&[3f32], &Device::Cpu).unwrap()).unwrap();
        let mut adam = AdamW::new(&params, AdamWConfig::default()).unwrap();
        let grads = w.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        adam.step(&params, &Gradients::collect(&params, &grads).unwrap(), 0.1, 1.0).unwrap();
        assert!((w.to_vec1::<f32>().unwrap()[0] - 2.9).abs() < 1e-5);
    }
}
