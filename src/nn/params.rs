//! The trainable parameters of a model, in a fixed order, and their gradients.

use std::collections::{BTreeMap, HashMap};

use candle_core::backprop::GradStore;
use candle_core::{DType, Result, Tensor, TensorId, Var, bail};

use crate::ops::slices::{self, Update, WeightGrad};

/// A trainable tensor; rows before `first_row` stay frozen.
#[derive(Debug, Clone)]
struct Param {
    var: Var,
    first_row: usize,
}

/// Trainable parameters by name, iterated in name order.
///
/// A model holds clones of the tensors handed out here: they share storage, so an update in place
/// is seen by the model at once.
#[derive(Debug, Clone, Default)]
pub struct Params {
    map: BTreeMap<String, Param>,
}

impl Params {
    /// No parameters.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes `value` trainable under `name` and returns the tensor for the model to use.
    pub fn insert(&mut self, name: impl Into<String>, value: &Tensor) -> Result<Tensor> {
        self.insert_rows(name, value, 0)
    }

    /// As [`Params::insert`], but only the rows from `first_row` on are trained.
    pub fn insert_rows(
        &mut self,
        name: impl Into<String>,
        value: &Tensor,
        first_row: usize,
    ) -> Result<Tensor> {
        // `copy` detaches from the caller's storage: `Var::from_tensor` may share it.
        let var = Var::from_tensor(&value.detach().copy()?)?;
        let tensor = var.as_tensor().clone();
        let name = name.into();
        if self.map.insert(name.clone(), Param { var, first_row }).is_some() {
            bail!("parameter {name} is registered twice");
        }
        Ok(tensor)
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.map.keys().map(String::as_str)
    }

    /// The full tensor of every parameter, in order.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.map.iter().map(|(name, p)| (name.as_str(), p.var.as_tensor()))
    }

    /// The trained rows of every parameter, in order; they share the parameter's storage.
    pub fn trained_rows(&self) -> impl Iterator<Item = (&str, Result<Tensor>)> {
        self.map.iter().map(|(name, p)| (name.as_str(), rows_from(p.var.as_tensor(), p.first_row)))
    }

    /// The number of scalars that training changes.
    pub fn num_trained(&self) -> usize {
        self.map
            .values()
            .map(|p| p.var.elem_count() - p.first_row * row_len(p.var.as_tensor()))
            .sum()
    }

    /// Overwrites the value of `name` in place.
    pub fn set(&self, name: &str, value: &Tensor) -> Result<()> {
        match self.map.get(name) {
            Some(p) => p.var.set(value),
            None => bail!("no parameter named {name}"),
        }
    }

    /// A deep copy of all values, for a checkpoint to come back to.
    pub fn snapshot(&self) -> Result<BTreeMap<String, Tensor>> {
        self.tensors().map(|(name, t)| Ok((name.to_string(), t.detach().copy()?))).collect()
    }
}

fn row_len(t: &Tensor) -> usize {
    t.dims().iter().skip(1).product()
}

fn rows_from(t: &Tensor, first_row: usize) -> Result<Tensor> {
    if first_row == 0 { Ok(t.clone()) } else { t.narrow(0, first_row, t.dim(0)? - first_row) }
}

/// One gradient a trained parameter, by name; for partly frozen ones, of the trained rows only.
#[derive(Debug, Clone)]
pub struct Gradients {
    map: BTreeMap<String, Tensor>,
}

impl Gradients {
    /// Takes the gradients of `params` out of a backward pass.
    ///
    /// # Errors
    /// Names the first parameter that received none: a cut in the graph is a bug, never a warning.
    pub fn collect(params: &Params, store: &GradStore) -> Result<Self> {
        Self::collect_with_optional(params, store, |_| false)
    }

    /// As [`Gradients::collect`], but parameters that `optional` picks by name may go without: theirs
    /// is zero.
    pub fn collect_with_optional(
        params: &Params,
        store: &GradStore,
        optional: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        let mut map = BTreeMap::new();
        for (name, p) in &params.map {
            let grad = match store.get(p.var.as_tensor()) {
                Some(grad) => rows_from(grad, p.first_row)?.contiguous()?,
                None if optional(name) => rows_from(&p.var.zeros_like()?, p.first_row)?,
                None => bail!("no gradient reached parameter {name}"),
            };
            map.insert(name.clone(), grad);
        }
        Ok(Self { map })
    }

    /// Adds the gradients of another micro-batch.
    pub fn accumulate(&mut self, other: &Self) -> Result<()> {
        for (name, grad) in &mut self.map {
            match other.map.get(name) {
                Some(more) => *grad = (&*grad + more)?,
                None => bail!("no gradient reached parameter {name}"),
            }
        }
        Ok(())
    }

    /// The gradient of `name`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.map.get(name)
    }

    /// The Euclidean norm over all gradients together.
    pub fn norm(&self) -> Result<f64> {
        let mut sum = 0.0;
        for grad in self.map.values() {
            sum += if slices::serve(&[grad]) {
                slices::sum_of_squares(grad)?
            } else {
                let grad = grad.to_dtype(DType::F32)?;
                f64::from(grad.sqr()?.sum_all()?.to_scalar::<f32>()?)
            };
        }
        Ok(sum.sqrt())
    }
}

/// Gradients under construction, on the CPU in f32: a backward pass by hand adds to them.
///
/// A gradient takes memory from the moment it is first asked for.
#[derive(Debug)]
pub struct GradientSum<'a> {
    params: &'a Params,
    names: HashMap<TensorId, &'a str>,
    sums: BTreeMap<&'a str, Vec<f32>>,
}

impl<'a> GradientSum<'a> {
    /// Nothing yet, for `params`.
    pub fn new(params: &'a Params) -> Self {
        let names = params.tensors().map(|(name, t)| (t.id(), name)).collect();
        Self { params, names, sums: BTreeMap::new() }
    }

    /// Where the gradient of a model's `weight` is summed; none if it is frozen.
    pub(crate) fn of(&mut self, weight: &Tensor) -> Option<WeightGrad<'_>> {
        let name = *self.names.get(&weight.id())?;
        let first_row = self.params.map[name].first_row;
        let length = weight.elem_count() - first_row * row_len(weight);
        let update = if self.sums.contains_key(name) { Update::Add } else { Update::Overwrite };
        let values = self.sums.entry(name).or_insert_with(|| vec![0.0; length]);
        Some(WeightGrad { values, first_row, update })
    }

    /// Adds a part that a graph's backward pass computed, where it reached `weight`.
    pub fn add(&mut self, weight: &Tensor, store: &GradStore) -> Result<()> {
        if let (Some(sum), Some(part)) = (self.of(weight), store.get(weight)) {
            let part = rows_from(part, sum.first_row)?.flatten_all()?.to_vec1::<f32>()?;
            slices::add(sum.values, &part);
        }
        Ok(())
    }

    /// The finished gradients; those of parameters that `optional` picks by name may be missing and are
    /// zero.
    ///
    /// # Errors
    /// Names the first other parameter that was never reached.
    pub fn finish(mut self, optional: impl Fn(&str) -> bool) -> Result<Gradients> {
        let mut map = BTreeMap::new();
        for (name, p) in &self.params.map {
            let rows = rows_from(p.var.as_tensor(), p.first_row)?;
            let grad = match self.sums.remove(name.as_str()) {
                Some(sum) => Tensor::from_vec(sum, rows.shape(), rows.device())?,
                None if optional(name) => rows.zeros_like()?,
                None => bail!("no gradient reached parameter {name}"),
            };
            map.insert(name.clone(), grad);
        }
        Ok(Gradients { map })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    #[test]
    fn a_parameter_without_gradient_is_named() {
        let mut params = Params::new();
        let a =
            params.insert("a", &Tensor::ones(2, candle_core::DType::F32, &Device::Cpu).unwrap());
        params
            .insert("b", &Tensor::ones(2, candle_core::DType::F32, &Device::Cpu).unwrap())
            .unwrap();
        let grads = a.unwrap().sum_all().unwrap().backward().unwrap();
        let error = Gradients::collect(&params, &grads).unwrap_err().to_string();
        assert!(error.contains("parameter b"), "{error}");
    }

    #[test]
    fn frozen_rows_are_not_counted() {
        let mut params = Params::new();
        let t = Tensor::ones((5, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        params.insert_rows("w", &t, 4).unwrap();
        assert_eq!(params.num_trained(), 3);
    }
}
