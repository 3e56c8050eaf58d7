//! The trainable parameters of a model, in a fixed order.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor, Var, bail};

/// A trainable tensor; rows before `first_row` stay frozen.
#[derive(Debug, Clone)]
pub(super) struct Param {
    pub(super) var: Var,
    pub(super) first_row: usize,
}

impl Param {
    /// The part of a tensor of the parameter's shape that is trained.
    pub(super) fn trained(&self, t: &Tensor) -> Result<Tensor> {
        rows_from(t, self.first_row)
    }
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
        // Detached, so that the variable gets storage of its own and not another variable's.
        let var = Var::from_tensor(&value.detach())?;
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

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Param)> {
        self.map.iter().map(|(name, p)| (name.as_str(), p))
    }

    pub(super) fn get(&self, name: &str) -> Option<&Param> {
        self.map.get(name)
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

    /// Takes over the values that [`Self::snapshot`] gave.
    ///
    /// # Errors
    /// Names a parameter that is missing or has another shape.
    pub fn restore(&self, values: &BTreeMap<String, Tensor>) -> Result<()> {
        for (name, tensor) in self.tensors() {
            match values.get(name) {
                Some(value) if value.dims() == tensor.dims() => self.set(name, value)?,
                Some(value) => bail!("{name} is {:?}, expected {:?}", value.dims(), tensor.dims()),
                None => bail!("there is no weight {name}"),
            }
        }
        Ok(())
    }

    /// A deep copy of all values, for a checkpoint to come back to.
    pub fn snapshot(&self) -> Result<BTreeMap<String, Tensor>> {
        self.tensors().map(|(name, t)| Ok((name.to_string(), t.detach().copy()?))).collect()
    }
}

/// Values of a row.
pub(super) fn row_len(t: &Tensor) -> usize {
    t.dims().iter().skip(1).product()
}

fn rows_from(t: &Tensor, first_row: usize) -> Result<Tensor> {
    if first_row == 0 { Ok(t.clone()) } else { t.narrow(0, first_row, t.dim(0)? - first_row) }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    #[test]
    fn frozen_rows_are_not_counted() {
        let mut params = Params::new();
        let t = Tensor::ones((5, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        params.insert_rows("w", &t, 4).unwrap();
        assert_eq!(params.num_trained(), 3);
    }
}
