//! AdamW with decoupled weight decay (Loshchilov and Hutter, 2019), in place.

use std::collections::BTreeMap;
use std::sync::Mutex;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Tensor, bail};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Gradients, Params};
use crate::ops::slices;

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
enum Moments {
    /// Of an f32 parameter on the CPU: values in the order of the parameter's.
    Slices([Vec<f32>; 2]),
    /// Of any other.
    Tensors([Tensor; 2]),
}

impl Moments {
    fn zeros(rows: &Tensor) -> Result<Self> {
        if slices::serve(&[rows]) {
            return Ok(Self::Slices([vec![0.0; rows.elem_count()], vec![0.0; rows.elem_count()]]));
        }
        let zeros = || Tensor::zeros(rows.shape(), DType::F32, rows.device());
        Ok(Self::Tensors([zeros()?, zeros()?]))
    }

    /// Both as tensors of these dimensions.
    fn tensors(&self, dims: &[usize]) -> Result<[Tensor; 2]> {
        match self {
            Self::Slices([first, second]) => {
                let tensor = |x: &[f32]| Tensor::from_slice(x, dims, &Device::Cpu);
                Ok([tensor(first)?, tensor(second)?])
            }
            Self::Tensors(tensors) => Ok(tensors.clone()),
        }
    }

    /// Takes over saved values, if they have as many.
    fn set(&mut self, which: usize, saved: &Tensor) -> Result<bool> {
        match self {
            Self::Slices(slices) if slices[which].len() == saved.elem_count() => {
                slices[which] = saved.flatten_all()?.to_vec1()?;
            }
            Self::Tensors(tensors) if tensors[which].dims() == saved.dims() => {
                tensors[which] = saved.to_device(tensors[which].device())?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
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
            moments.insert(name.to_string(), Moments::zeros(&rows?)?);
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
            match moments {
                Moments::Slices(moments) => slices::with_values(grad, |grad| {
                    let moments = Mutex::new(moments);
                    rows.inplace_op1(&InPlace {
                        config: &self.config,
                        update,
                        grad,
                        scale,
                        moments,
                    })
                })??,
                Moments::Tensors(moments) => {
                    update.composed(&self.config, &rows, moments, grad, scale)?;
                }
            }
        }
        Ok(())
    }

    /// The state as named tensors (`NAME.first`, `NAME.second`), for a checkpoint of `params`.
    pub fn state(&self, params: &Params) -> Result<BTreeMap<String, Tensor>> {
        let mut state = BTreeMap::new();
        for (name, rows) in params.trained_rows() {
            let Some(moments) = self.moments.get(name) else { continue };
            let [first, second] = moments.tensors(rows?.dims())?;
            state.insert(format!("{name}.first"), first);
            state.insert(format!("{name}.second"), second);
        }
        Ok(state)
    }

    /// Comes back to a state that [`AdamW::state`] gave after `step` steps.
    pub fn restore(&mut self, step: u64, state: &BTreeMap<String, Tensor>) -> Result<()> {
        for (name, moments) in &mut self.moments {
            for (which, part) in ["first", "second"].into_iter().enumerate() {
                let saved = state.get(&format!("{name}.{part}"));
                let fits = saved.map(|saved| moments.set(which, saved)).transpose()?;
                if fits != Some(true) {
                    bail!(
                        "the saved optimiser state lacks {name}.{part}, or has it in another size"
                    );
                }
            }
        }
        self.step = step;
        Ok(())
    }
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
        [first, second]: &mut [Tensor; 2],
        grad: &Tensor,
        scale: f64,
    ) -> Result<()> {
        let grad = (grad.to_dtype(DType::F32)? * scale)?;
        let mix =
            |average: &Tensor, new: Tensor, beta: f64| (average * beta)? + (new * (1.0 - beta))?;
        *first = mix(first, grad.clone(), config.beta1)?;
        *second = mix(second, grad.sqr()?, config.beta2)?;
        let first = (&*first / self.correction1)?;
        let root = (&*second / self.correction2)?.sqrt()?;
        let value = rows.to_dtype(DType::F32)?.detach();
        let change = ((first / (root + self.eps)?)? + (&value * self.decay)?)?;
        let value = (value - (change * self.lr)?)?.to_dtype(rows.dtype())?;
        rows.slice_set(&value, 0, 0)
    }
}

/// Values a task works on.
const BLOCK: usize = 1 << 14;

/// One step of one parameter in one pass over its values, gradient and moments.
struct InPlace<'a> {
    config: &'a AdamWConfig,
    update: Update,
    grad: &'a [f32],
    scale: f64,
    /// candle hands out the parameter only; the moments come along and are written all the same.
    moments: Mutex<&'a mut [Vec<f32>; 2]>,
}

impl InplaceOp1 for InPlace<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let value = match (storage, layout.contiguous_offsets()) {
            (CpuStorage::F32(data), Some((start, end))) => &mut data[start..end],
            _ => bail!("the optimiser works on contiguous f32 tensors"),
        };
        let Ok(mut moments) = self.moments.lock() else { bail!("a step of the optimiser failed") };
        let [first, second] = &mut **moments;
        let (beta1, beta2) = (self.config.beta1 as f32, self.config.beta2 as f32);
        let (fresh1, fresh2) = ((1.0 - self.config.beta1) as f32, (1.0 - self.config.beta2) as f32);
        let Update { lr, decay, eps, correction1, correction2 } = self.update;
        let (lr, decay, eps) = (lr as f32, decay as f32, eps as f32);
        let (scale1, scale2) = (1.0 / correction1 as f32, 1.0 / correction2 as f32);
        let scale = self.scale as f32;
        let moments = first.par_chunks_mut(BLOCK).zip(second.par_chunks_mut(BLOCK));
        let blocks = value.par_chunks_mut(BLOCK).zip(self.grad.par_chunks(BLOCK)).zip(moments);
        blocks.for_each(|((value, grad), (first, second))| {
            for (((p, g), m), v) in value.iter_mut().zip(grad).zip(first).zip(second) {
                let g = g * scale;
                *m = beta1 * *m + fresh1 * g;
                *v = beta2 * *v + fresh2 * (g * g);
                *p -= lr * (*m * scale1 / ((*v * scale2).sqrt() + eps) + decay * *p);
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first_row: usize, composed: bool) -> Vec<f32> {
        let _guard = composed.then(crate::ops::force_composed);
        let mut params = Params::new();
        let start = Tensor::new(&[[1f32, -2.0], [0.5, 3.0], [2.0, -1.0]], &Device::Cpu).unwrap();
        let w = params.insert_rows("w", &start, first_row).unwrap();
        let mut adam = AdamW::new(&params, AdamWConfig::default()).unwrap();
        for _ in 0..5 {
            let loss = w.sqr().unwrap().sqr().unwrap().sum_all().unwrap();
            let grads = Gradients::collect(&params, &loss.backward().unwrap()).unwrap();
            adam.step(&params, &grads, 0.1, 0.5).unwrap();
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
