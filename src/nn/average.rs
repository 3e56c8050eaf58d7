//! A moving average of parameters (Polyak and Juditsky, 1992), which ranks better than where they stand at
//! any one step.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{CpuStorage, DType, InplaceOp2, Layout, Result, Tensor, bail};
use rayon::prelude::*;

use super::{Params, division};
use crate::ops::slices::vectorize;
use crate::ranks::Ranks;

/// Values a task works on.
const BLOCK: usize = 1 << 14;

/// `average = d * average + (1 - d) * parameter` after every step, with `d` rising to `decay`.
#[derive(Debug)]
pub struct Average {
    decay: f64,
    /// In f32, of every parameter.
    values: BTreeMap<String, Tensor>,
    /// Parameters of another type while their averages, rounded, stand in their place.
    held: BTreeMap<String, Tensor>,
}

impl Average {
    /// Begins at the values of `params`.
    pub fn new(params: &Params, decay: f64) -> Result<Self> {
        let value = |(name, t): (&str, &Tensor)| {
            Ok((name.to_string(), t.detach().to_dtype(DType::F32)?.copy()?))
        };
        let values = params.tensors().map(value).collect::<Result<_>>()?;
        Ok(Self { decay, values, held: BTreeMap::new() })
    }

    /// Takes in the parameters after `step` steps; of several ranks each those values whose step it takes, which
    /// [`Self::spread`] puts on the others.
    pub fn update(&mut self, params: &Params, step: u64, ranks: &dyn Ranks) -> Result<()> {
        // While few steps are behind it, the average forgets where it began.
        let decay = self.decay.min((1.0 + step as f64) / (10.0 + step as f64));
        for (name, p) in params.iter() {
            let Some(average) = self.values.get_mut(name) else {
                bail!("there is no average of {name}");
            };
            let parameter = p.var.as_tensor().detach();
            if parameter.device().is_cpu() && parameter.dtype() == DType::F32 {
                let rows = p.trained(&parameter)?;
                let own = division::own(ranks, &rows);
                let average = p.trained(average)?;
                average.inplace_op2(&rows, &Mix { decay: decay as f32, own })?;
            } else {
                let fresh = (parameter.to_dtype(DType::F32)? * (1.0 - decay))?;
                *average = ((&*average * decay)? + fresh)?;
            }
        }
        Ok(())
    }

    /// Puts what each of `ranks` has taken in in its place on all.
    pub fn spread(&self, params: &Params, ranks: &dyn Ranks) -> Result<()> {
        for (name, p) in params.iter() {
            let rows = p.trained(p.var.as_tensor())?;
            if let (Some(bounds), Some(average), DType::F32) =
                (division::bounds(ranks, &rows), self.values.get(name), rows.dtype())
            {
                division::spread_rows(ranks, &p.trained(average)?, &bounds)?;
            }
        }
        Ok(())
    }

    /// Exchanges the values of `params` and the average; where they are of another type than f32, the average stays
    /// here, too, as exact as it is.
    pub fn swap(&mut self, params: &Params) -> Result<()> {
        for (name, parameter) in params.tensors() {
            let Some(average) = self.values.get_mut(name) else {
                bail!("there is no average of {name}");
            };
            if parameter.dtype() == DType::F32 {
                let held = parameter.detach().copy()?;
                params.set(name, average)?;
                *average = held;
            } else if let Some(held) = self.held.remove(name) {
                params.set(name, &held)?;
            } else {
                self.held.insert(name.into(), parameter.detach().copy()?);
                params.set(name, &average.to_dtype(parameter.dtype())?)?;
            }
        }
        Ok(())
    }

    /// The average, for a checkpoint.
    pub fn state(&self) -> &BTreeMap<String, Tensor> {
        &self.values
    }

    /// Comes back to what [`Average::state`] gave.
    pub fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        for (name, average) in &mut self.values {
            match state.get(name).filter(|saved| saved.dims() == average.dims()) {
                Some(saved) => *average = saved.copy()?,
                None => bail!("the saved average lacks {name}, or has it in another size"),
            }
        }
        Ok(())
    }
}

/// `average = decay * average + (1 - decay) * value`, in place, of the values at `own`.
struct Mix {
    decay: f32,
    own: Range<usize>,
}

impl InplaceOp2 for Mix {
    fn name(&self) -> &'static str {
        "moving-average"
    }

    fn cpu_fwd(
        &self,
        average: &mut CpuStorage,
        average_layout: &Layout,
        value: &CpuStorage,
        value_layout: &Layout,
    ) -> Result<()> {
        let (Some((from, to)), Some((first, end))) =
            (average_layout.contiguous_offsets(), value_layout.contiguous_offsets())
        else {
            bail!("averages are taken of contiguous tensors");
        };
        let (CpuStorage::F32(average), CpuStorage::F32(value)) = (average, value) else {
            bail!("averages are taken in f32");
        };
        let (keep, fresh) = (self.decay, 1.0 - self.decay);
        let blocks = average[from..to][self.own.clone()].par_chunks_mut(BLOCK);
        blocks.zip(value[first..end][self.own.clone()].par_chunks(BLOCK)).for_each(
            |(average, value)| {
                vectorize(
                    #[inline(always)]
                    || average.iter_mut().zip(value).for_each(|(a, v)| *a = keep * *a + fresh * v),
                );
            },
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ranks::Alone;

    fn values(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1().unwrap()
    }

    #[test]
    fn it_follows_the_parameters_and_changes_places_with_them() {
        for dtype in [DType::F32, DType::BF16] {
            let mut params = Params::new();
            let start = Tensor::zeros((2, 3), dtype, &Device::Cpu).unwrap();
            let tensor = params.insert("w", &start).unwrap();
            let mut average = Average::new(&params, 0.5).unwrap();
            params.set("w", &start.ones_like().unwrap()).unwrap();
            // The first steps weigh more: 1 - 2 / 11, then the decay itself.
            average.update(&params, 1, &Alone).unwrap();
            assert!(values(&average.state()["w"]).iter().all(|v| (v - 9.0 / 11.0).abs() < 1e-6));
            average.update(&params, 100, &Alone).unwrap();
            let expected = 0.5 * 9.0 / 11.0 + 0.5;
            assert!(values(&average.state()["w"]).iter().all(|v| (v - expected).abs() < 1e-6));

            average.swap(&params).unwrap();
            assert!(values(&tensor).iter().all(|v| (v - expected).abs() < 5e-3));
            average.swap(&params).unwrap();
            assert_eq!(values(&tensor), [1.0; 6]);
            assert!(values(&average.state()["w"]).iter().all(|v| (v - expected).abs() < 1e-6));
        }
    }

    #[test]
    fn a_saved_average_of_another_shape_is_refused() {
        let mut params = Params::new();
        let start = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
        params.insert("w", &start).unwrap();
        let mut average = Average::new(&params, 0.5).unwrap();
        let other = [("w".to_string(), start.t().unwrap())].into();
        assert!(average.restore(&other).unwrap_err().to_string().contains('w'));
    }
}
