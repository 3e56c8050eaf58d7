//! AdamW with decoupled weight decay (Loshchilov and Hutter, 2019), in place.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Tensor, WithDType, bail};
use half::bf16;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::gradients::Gradient;
use super::params::row_len;
use super::{Gradients, Params, division};
use crate::ops::slices::{self, Activation, Noise};
use crate::ops::{self, AdamWStep};
use crate::ranks::{Alone, Ranks};

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
    /// What the two moments are kept in; `bf16` on the CPU only.
    pub moments: MomentType,
}

/// What moments are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MomentType {
    /// f32.
    F32,
    /// bf16, rounded at random so that small changes are not lost on average.
    Bf16,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, moments: MomentType::F32 }
    }
}

/// The two moments of one parameter's trained rows.
#[derive(Debug, Clone)]
enum Moments {
    /// Of an f32 or bf16 parameter on the CPU: values in the order of the parameter's.
    Full([Vec<f32>; 2]),
    Half([Vec<bf16>; 2]),
    /// Of any other, in f32.
    Tensors([Tensor; 2]),
}

impl Moments {
    /// Of `count` values of `rows`.
    fn zeros(rows: &Tensor, count: usize, kept: MomentType) -> Result<Self> {
        match (slices::serve(&[rows]), kept) {
            (true, MomentType::F32) => Ok(Self::Full([vec![0.0; count], vec![0.0; count]])),
            (true, MomentType::Bf16) => {
                Ok(Self::Half([vec![bf16::ZERO; count], vec![bf16::ZERO; count]]))
            }
            (false, MomentType::F32) => {
                let zeros = || Tensor::zeros(rows.shape(), DType::F32, rows.device());
                Ok(Self::Tensors([zeros()?, zeros()?]))
            }
            (false, MomentType::Bf16) => bail!("moments in bf16 are for training on the CPU"),
        }
    }

    /// Both as tensors of the shape of `rows`, of which these are the values at `own`.
    fn tensors(&self, ranks: &dyn Ranks, rows: &Tensor, own: &Range<usize>) -> Result<[Tensor; 2]> {
        fn whole<M: WithDType>(
            moments: &[Vec<M>; 2],
            (ranks, rows, own): (&dyn Ranks, &Tensor, &Range<usize>),
        ) -> Result<[Tensor; 2]> {
            let whole = |moments: &Vec<M>| {
                let Some(bounds) = division::bounds(ranks, rows) else {
                    return Tensor::from_slice(moments, rows.dims(), &Device::Cpu);
                };
                let mut all = vec![M::zero(); rows.elem_count()];
                all[own.clone()].copy_from_slice(moments);
                let all = Tensor::from_vec(all, rows.dims(), &Device::Cpu)?;
                division::spread_rows(ranks, &all, &bounds)?;
                Ok(all)
            };
            let [first, second] = moments.each_ref().map(whole);
            Ok([first?, second?])
        }
        match self {
            Self::Full(moments) => whole(moments, (ranks, rows, own)),
            Self::Half(moments) => whole(moments, (ranks, rows, own)),
            Self::Tensors(tensors) => Ok(tensors.clone()),
        }
    }

    /// Takes over the values at `own` of `count` saved ones, if they are as many and of the same type.
    fn set(
        &mut self,
        which: usize,
        saved: &Tensor,
        count: usize,
        own: &Range<usize>,
    ) -> Result<bool> {
        fn set<M: WithDType>(
            to: &mut Vec<M>,
            saved: &Tensor,
            (count, own): (usize, &Range<usize>),
        ) -> Result<bool> {
            let fits = count == saved.elem_count() && saved.dtype() == M::DTYPE;
            if fits {
                *to = saved.flatten_all()?.narrow(0, own.start, own.len())?.to_vec1()?;
            }
            Ok(fits)
        }
        match self {
            Self::Full(moments) => set(&mut moments[which], saved, (count, own)),
            Self::Half(moments) => set(&mut moments[which], saved, (count, own)),
            Self::Tensors(tensors) => {
                let fits = tensors[which].dims() == saved.dims();
                if fits {
                    tensors[which] = saved.to_device(tensors[which].device())?;
                }
                Ok(fits)
            }
        }
    }
}

/// AdamW over a set of [`Params`]: `p -= lr * (m / (sqrt(v) + eps) + weight_decay * p)` with
/// bias-corrected moments `m`, `v`.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    step: u64,
    /// Of each parameter the values whose step this rank takes, and their moments.
    moments: BTreeMap<String, (Range<usize>, Moments)>,
}

impl AdamW {
    /// An optimiser at step 0 for `params`, alone.
    pub fn new(params: &Params, config: AdamWConfig) -> Result<Self> {
        Self::divided(params, config, &Alone)
    }

    /// An optimiser at step 0 for this rank's part of `params`: no other values have moments here.
    pub fn divided(params: &Params, config: AdamWConfig, ranks: &dyn Ranks) -> Result<Self> {
        let mut moments = BTreeMap::new();
        for (name, rows) in params.trained_rows() {
            let rows = rows?;
            let own = division::own(ranks, &rows);
            let zeros = Moments::zeros(&rows, own.len(), config.moments)?;
            moments.insert(name.to_string(), (own, zeros));
        }
        Ok(Self { config, step: 0, moments })
    }

    /// The step of ranks that each have the gradients of their part of a batch: afterwards all have the same weights, and
    /// of `gradients` nothing but the memory is of use.
    pub fn step_over(
        &mut self,
        ranks: &dyn Ranks,
        params: &Params,
        gradients: &mut Gradients,
        lr: f64,
    ) -> Result<()> {
        gradients.sum_over(ranks, params)?;
        self.step(params, gradients, lr, 1.0)?;
        division::spread(ranks, params)
    }

    /// Applies one step with learning rate `lr`, after scaling the gradients by `scale` (clipping). Of several ranks
    /// each changes its own values, which [`super::spread`] puts on the others.
    pub fn step(
        &mut self,
        params: &Params,
        gradients: &Gradients,
        lr: f64,
        scale: f64,
    ) -> Result<()> {
        self.step += 1;
        let betas = [self.config.beta1, self.config.beta2];
        let step = AdamWStep {
            rate: lr,
            // Decay pulls a weight matrix towards zero; a norm's scale or a bias has no such prior.
            decay: 0.0,
            eps: self.config.eps,
            betas,
            corrections: betas.map(|beta| 1.0 - beta.powf(self.step as f64)),
            scale,
        };
        for (index, (name, rows)) in params.trained_rows().enumerate() {
            let rows = rows?;
            let (Some(grad), Some((own, moments))) =
                (gradients.of(name), self.moments.get_mut(name))
            else {
                bail!("no gradient reached parameter {name}");
            };
            let decay = if rows.rank() < 2 { 0.0 } else { self.config.weight_decay };
            let step = AdamWStep { decay, ..step };
            let noise = Noise::new(self.step, index as u64);
            if let Moments::Tensors(moments) = moments {
                let grad = gradients.tensor(params, name)?;
                step_of_tensor(step, &rows, moments, &grad, noise)?;
                continue;
            }
            let mut take = |grad: Grad<'_>| {
                let fused = Fused { step, grad, own: own.clone(), width: row_len(&rows), noise };
                match moments {
                    Moments::Full(m) => rows.inplace_op1(&InPlace(fused, Mutex::new(m))),
                    Moments::Half(m) => rows.inplace_op1(&InPlace(fused, Mutex::new(m))),
                    Moments::Tensors(_) => Ok(()),
                }
            };
            match grad {
                Gradient::Values(values) => take(Grad::Dense(&values[own.clone()])),
                Gradient::Rows(rows) => take(Grad::Rows(rows)),
                Gradient::Tensor(tensor) => {
                    slices::of_tensor(tensor, |values| take(Grad::Dense(&values[own.clone()])))
                }
            }?;
        }
        Ok(())
    }

    /// The state as named tensors (`NAME.first`, `NAME.second`), for a checkpoint of `params`. Of `ranks`, among which
    /// it is divided, the first has it whole and the others nothing.
    pub fn state(&self, params: &Params, ranks: &dyn Ranks) -> Result<BTreeMap<String, Tensor>> {
        let mut state = BTreeMap::new();
        for (name, rows) in params.trained_rows() {
            let Some((own, moments)) = self.moments.get(name) else { continue };
            let [first, second] = moments.tensors(ranks, &rows?, own)?;
            if !ranks.is_first() {
                continue;
            }
            state.insert(format!("{name}.first"), first);
            state.insert(format!("{name}.second"), second);
        }
        Ok(state)
    }

    /// Comes back to a state of `params` that [`AdamW::state`] gave after `step` steps.
    pub fn restore(
        &mut self,
        params: &Params,
        step: u64,
        state: &BTreeMap<String, Tensor>,
    ) -> Result<()> {
        for (name, rows) in params.trained_rows() {
            let Some((own, moments)) = self.moments.get_mut(name) else { continue };
            let count = rows?.elem_count();
            for (which, part) in ["first", "second"].into_iter().enumerate() {
                let saved = state.get(&format!("{name}.{part}"));
                let fits = saved.map(|saved| moments.set(which, saved, count, own)).transpose()?;
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

/// A step off the CPU: in one pass where there is a kernel for it, else by candle's own operations.
fn step_of_tensor(
    step: AdamWStep,
    rows: &Tensor,
    [first, second]: &mut [Tensor; 2],
    grad: &Tensor,
    noise: Noise,
) -> Result<()> {
    if ops::adamw(rows, [first, second], &grad.contiguous()?, step)? {
        return Ok(());
    }
    let grad = (grad.to_dtype(DType::F32)? * step.scale)?;
    let mix = |average: &Tensor, new: Tensor, beta: f64| (average * beta)? + (new * (1.0 - beta))?;
    *first = mix(first, grad.clone(), step.betas[0])?;
    *second = mix(second, grad.sqr()?, step.betas[1])?;
    let first = (&*first / step.corrections[0])?;
    let root = (&*second / step.corrections[1])?.sqrt()?;
    let value = rows.to_dtype(DType::F32)?.detach();
    let change = ((first / (root + step.eps)?)? + (&value * step.decay)?)?;
    let value = (value - (change * step.rate)?)?;
    rows.slice_set(&slices::narrowed(&value, rows.dtype(), noise)?, 0, 0)
}

/// Values a task works on.
const BLOCK: usize = 1 << 14;

/// The gradient of a parameter's trained rows.
#[derive(Clone, Copy)]
enum Grad<'a> {
    /// Of the values whose step is taken.
    Dense(&'a [f32]),
    /// Of the rows that are there; the others' is zero.
    Rows(&'a BTreeMap<u32, Vec<f32>>),
}

/// One step of one parameter in one pass over its values, gradient and moments.
struct Fused<'a> {
    step: AdamWStep,
    grad: Grad<'a>,
    /// The values whose step is taken: whole rows.
    own: Range<usize>,
    /// Values of a row.
    width: usize,
    noise: Noise,
}

impl Fused<'_> {
    fn step<P: Activation, M: Activation>(&self, value: &mut [P], [first, second]: [&mut [M]; 2]) {
        let (zeros, before) = (vec![0.0; self.width], self.own.start);
        let value = &mut value[self.own.clone()];
        let size = match self.grad {
            Grad::Dense(_) => BLOCK,
            Grad::Rows(_) => self.width,
        };
        let moments = first.par_chunks_mut(size).zip(second.par_chunks_mut(size));
        let blocks = value.par_chunks_mut(size).zip(moments).enumerate();
        blocks.for_each(|(i, (value, moments))| {
            let grad = match self.grad {
                Grad::Dense(grad) => &grad[i * size..][..value.len()],
                Grad::Rows(rows) => rows.get(&((before / self.width + i) as u32)).unwrap_or(&zeros),
            };
            self.block(before + i * size, value, grad, moments);
        });
    }

    /// A block of values, of which `start` come before it.
    fn block<P: Activation, M: Activation>(
        &self,
        start: usize,
        value: &mut [P],
        grad: &[f32],
        (first, second): (&mut [M], &mut [M]),
    ) {
        let AdamWStep { rate, decay, eps, betas, corrections, scale } = self.step;
        let [beta1, beta2] = betas.map(|beta| beta as f32);
        let [fresh1, fresh2] = betas.map(|beta| (1.0 - beta) as f32);
        let (rate, decay, eps) = (rate as f32, decay as f32, eps as f32);
        let [scale1, scale2] = corrections.map(|correction| 1.0 / correction as f32);
        let scale = scale as f32;
        slices::vectorize(
            #[inline(always)]
            || {
                let moments = first.iter_mut().zip(second);
                for (i, ((p, &g), (m, v))) in value.iter_mut().zip(grad).zip(moments).enumerate() {
                    let noise = self.noise.of(start + i);
                    let g = g * scale;
                    let new1 = beta1 * m.widen() + fresh1 * g;
                    let new2 = beta2 * v.widen() + fresh2 * (g * g);
                    let old = p.widen();
                    let change = new1 * scale1 / ((new2 * scale2).sqrt() + eps) + decay * old;
                    *p = P::narrow_randomly(old - rate * change, noise[0]);
                    *m = M::narrow_randomly(new1, noise[1]);
                    *v = M::narrow_randomly(new2, noise[2]);
                }
            },
        );
    }
}

/// [`Fused`] on the parameter that candle hands out; the moments come along and are written all the same.
struct InPlace<'a, M>(Fused<'a>, Mutex<&'a mut [Vec<M>; 2]>);

impl<M: Activation> InplaceOp1 for InPlace<'_, M> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let Self(fused, moments) = self;
        let Ok(mut moments) = moments.lock() else { bail!("a step of the optimiser failed") };
        let moments = moments.each_mut().map(Vec::as_mut_slice);
        match (storage, layout.contiguous_offsets()) {
            (CpuStorage::F32(data), Some((start, end))) => {
                fused.step(&mut data[start..end], moments);
            }
            (CpuStorage::BF16(data), Some((start, end))) => {
                fused.step(&mut data[start..end], moments);
            }
            _ => bail!("the optimiser works on contiguous f32 and bf16 tensors"),
        }
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
    fn a_gradient_by_rows_equals_a_dense_one() {
        let step = |sparse: bool| {
            let mut params = Params::new();
            let start =
                Tensor::new(&[[1f32, -2.0], [0.5, 3.0], [2.0, -1.0]], &Device::Cpu).unwrap();
            let w = params.insert("w", &start).unwrap();
            let mut adam = AdamW::new(&params, AdamWConfig::default()).unwrap();
            for row in [1, 2] {
                let mut sum = crate::nn::GradientSum::new(&params, None);
                if sparse {
                    sum.add_rows(&w, &[row], &[0.5, -0.25]);
                } else {
                    let at = 2 * row as usize;
                    let values = sum.adding_to(&w).unwrap().values;
                    values[at..at + 2].copy_from_slice(&[0.5, -0.25]);
                }
                adam.step(&params, &sum.finish(|_| false).unwrap(), 0.1, 1.0).unwrap();
            }
            w.to_vec2::<f32>().unwrap()
        };
        assert_eq!(step(true), step(false));
    }

    #[test]
    fn small_changes_reach_bf16_weights_and_moments_on_average() {
        let count = 4096;
        let run = |dtype: DType, moments: MomentType, composed: bool| {
            let _guard = composed.then(crate::ops::force_composed);
            let mut params = Params::new();
            let start = Tensor::ones(count, dtype, &Device::Cpu).unwrap();
            let w = params.insert("w", &start).unwrap();
            let config = AdamWConfig { moments, ..AdamWConfig::default() };
            let mut adam = AdamW::new(&params, config).unwrap();
            // Steps of 1e-4: less than a tenth of what separates 1 from the bf16 below it.
            for step in 0..200 {
                let mut sum = crate::nn::GradientSum::new(&params, None);
                let size = if step < 100 { 1.0 } else { 0.1 };
                sum.adding_to(&w).unwrap().values.fill(size);
                adam.step(&params, &sum.finish(|_| false).unwrap(), 1e-4, 1.0).unwrap();
            }
            let w = w.to_dtype(DType::F32).unwrap();
            f64::from(w.mean_all().unwrap().to_scalar::<f32>().unwrap())
        };
        let exact = run(DType::F32, MomentType::F32, false);
        for (dtype, moments, composed) in [
            (DType::BF16, MomentType::F32, false),
            (DType::BF16, MomentType::F32, true),
            (DType::F32, MomentType::Bf16, false),
            (DType::BF16, MomentType::Bf16, false),
        ] {
            let rounded = run(dtype, moments, composed);
            assert!((1.0 - exact) > 0.01 && (rounded - exact).abs() < 2e-4, "{rounded} {exact}");
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
