//! The gradients of trainable parameters.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Tensor, TensorId, bail};

use super::division;
use super::params::{Params, row_len};
use crate::ops;
use crate::ops::slices::{self, Update, WeightGrad};
use crate::ranks::Ranks;

/// The gradient of a parameter's trained rows.
#[derive(Debug, Clone)]
pub(super) enum Gradient {
    /// Of a pass by hand, on the CPU, in the order of the parameter's values.
    Values(Vec<f32>),
    /// The same of some rows of a table, by their numbers; the others' is zero.
    Rows(BTreeMap<u32, Vec<f32>>),
    /// Of a graph.
    Tensor(Tensor),
}

/// One gradient a trained parameter, by name; for partly frozen ones, of the trained rows only.
#[derive(Debug, Clone)]
pub struct Gradients {
    map: BTreeMap<String, Gradient>,
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
        for (name, p) in params.iter() {
            let grad = match store.get(p.var.as_tensor()) {
                Some(grad) => p.trained(grad)?.contiguous()?,
                None if optional(name) => p.trained(&p.var.zeros_like()?)?,
                None => bail!("no gradient reached parameter {name}"),
            };
            map.insert(name.to_string(), Gradient::Tensor(grad));
        }
        Ok(Self { map })
    }

    /// Those of nothing.
    pub fn zeros(params: &Params) -> Result<Self> {
        let zeros = |(name, rows): (&str, Result<Tensor>)| {
            Ok((name.to_string(), Gradient::Tensor(rows?.zeros_like()?)))
        };
        Ok(Self { map: params.trained_rows().map(zeros).collect::<Result<_>>()? })
    }

    /// Adds the gradients of another micro-batch.
    pub fn accumulate(&mut self, other: &Self) -> Result<()> {
        for (name, grad) in &mut self.map {
            match (grad, other.map.get(name)) {
                (Gradient::Tensor(grad), Some(Gradient::Tensor(more))) => *grad = (&*grad + more)?,
                _ => bail!("no gradient reached parameter {name}"),
            }
        }
        Ok(())
    }

    /// Adds the gradients of the other ranks, which each summed over their part of a batch, to the values whose step
    /// this rank takes; the other values mean nothing then, until [`Self::spread`].
    ///
    /// Rows of a table that no other product reaches are told by their numbers, and not as the whole table.
    pub fn sum_over(&mut self, ranks: &dyn Ranks, params: &Params) -> Result<()> {
        if ranks.is_alone() {
            return Ok(());
        }
        let is_sparse = |grad: &Gradient| u8::from(matches!(grad, Gradient::Rows(_)));
        let own: Vec<u8> = self.map.values().map(is_sparse).collect();
        let everywhere = ranks.gather(&own);
        for (i, (name, grad)) in self.map.iter_mut().enumerate() {
            if everywhere.iter().all(|of_rank| of_rank.get(i) == Some(&1)) {
                if let Gradient::Rows(rows) = grad {
                    *rows = rows_over(ranks, rows);
                }
                continue;
            }
            let bounds = division::bounds(ranks, &trained_rows(params, name)?);
            let sum = |values: &mut [f32]| match &bounds {
                Some(bounds) => ranks.sum_parts(values, bounds),
                None => ranks.sum(values),
            };
            match grad {
                Gradient::Values(values) => sum(values),
                Gradient::Rows(_) => {
                    let mut values = dense(params, name, grad)?.flatten_all()?.to_vec1()?;
                    sum(&mut values);
                    *grad = Gradient::Values(values);
                }
                Gradient::Tensor(tensor) => {
                    let mut values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
                    sum(&mut values);
                    let sum = Tensor::from_vec(values, tensor.shape(), &Device::Cpu)?;
                    *tensor = sum.to_device(tensor.device())?.to_dtype(tensor.dtype())?;
                }
            }
        }
        Ok(())
    }

    /// Puts what [`Self::sum_over`] left on each rank in its place on all.
    pub fn spread(&mut self, ranks: &dyn Ranks, params: &Params) -> Result<()> {
        for (name, grad) in &mut self.map {
            let Some(bounds) = division::bounds(ranks, &trained_rows(params, name)?) else {
                continue;
            };
            match grad {
                Gradient::Values(values) => ranks.spread(values, &bounds),
                // All ranks have all of them.
                Gradient::Rows(_) => {}
                Gradient::Tensor(tensor) => division::spread_rows(ranks, tensor, &bounds)?,
            }
        }
        Ok(())
    }

    pub(super) fn of(&self, name: &str) -> Option<&Gradient> {
        self.map.get(name)
    }

    /// The gradient of `name`, one of `params`, as a dense tensor of its trained rows.
    pub fn tensor(&self, params: &Params, name: &str) -> Result<Tensor> {
        match self.map.get(name) {
            Some(grad) => dense(params, name, grad),
            None => bail!("there is no parameter {name}"),
        }
    }

    /// The Euclidean norm over all gradients together, of which each rank has its own part.
    pub fn norm(&self, ranks: &dyn Ranks, params: &Params) -> Result<f64> {
        let mut sum = 0.0;
        let mut of_tensors = Vec::new();
        for (name, grad) in &self.map {
            let rows = trained_rows(params, name)?;
            let (own, width) = (division::own(ranks, &rows), row_len(&rows).max(1));
            if division::bounds(ranks, &rows).is_none() && !ranks.is_first() {
                // What every rank has counts once.
                continue;
            }
            match grad {
                Gradient::Values(values) => sum += slices::sum_of_squares(&values[own]),
                Gradient::Rows(rows) => {
                    let own = rows.range((own.start / width) as u32..(own.end / width) as u32);
                    sum += own.map(|(_, row)| slices::sum_of_squares(row)).sum::<f64>();
                }
                Gradient::Tensor(grad) => {
                    of_tensors.push(grad.flatten_all()?.narrow(0, own.start, own.len())?);
                }
            }
        }
        if !of_tensors.is_empty() {
            sum += ops::sum_of_squares(&of_tensors)?;
        }
        Ok(ranks.sums(&[sum])[0].sqrt())
    }
}

/// The trained rows of `name`, one of `params`.
fn trained_rows(params: &Params, name: &str) -> Result<Tensor> {
    let Some(p) = params.get(name) else { bail!("there is no parameter {name}") };
    p.trained(p.var.as_tensor())
}

/// The gradient of the trained rows of `name`, one of `params`, as a tensor.
fn dense(params: &Params, name: &str, grad: &Gradient) -> Result<Tensor> {
    let rows = trained_rows(params, name)?;
    match grad {
        Gradient::Tensor(grad) => Ok(grad.clone()),
        Gradient::Values(values) => Tensor::from_slice(values, rows.shape(), rows.device()),
        Gradient::Rows(sparse) => {
            let width = row_len(&rows);
            let mut values = vec![0.0; rows.elem_count()];
            for (&row, grad) in sparse {
                values[row as usize * width..][..width].copy_from_slice(grad);
            }
            Tensor::from_vec(values, rows.shape(), rows.device())
        }
    }
}

/// The sums over the ranks of rows by their numbers, added up in the order of the ranks.
fn rows_over(ranks: &dyn Ranks, rows: &BTreeMap<u32, Vec<f32>>) -> BTreeMap<u32, Vec<f32>> {
    let width = rows.values().next().map_or(0, Vec::len) as u32;
    let mut message: Vec<u8> = width.to_le_bytes().into();
    for (row, grad) in rows {
        message.extend(row.to_le_bytes());
        message.extend(grad.iter().flat_map(|value| value.to_le_bytes()));
    }
    let mut sums: BTreeMap<u32, Vec<f32>> = BTreeMap::new();
    for of_rank in ranks.gather(&message) {
        let words = of_rank.as_chunks::<4>().0;
        let Some((width, lines)) = words.split_first() else { continue };
        for line in lines.chunks_exact(1 + u32::from_le_bytes(*width) as usize) {
            let row = u32::from_le_bytes(line[0]);
            let values = line[1..].iter().map(|bytes| f32::from_le_bytes(*bytes));
            match sums.entry(row) {
                Entry::Vacant(entry) => {
                    entry.insert(values.collect());
                }
                Entry::Occupied(entry) => add(entry.into_mut(), values),
            }
        }
    }
    sums
}

fn add(sum: &mut [f32], values: impl IntoIterator<Item = f32>) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

/// Gradients under construction, on the CPU in f32: a backward pass by hand adds to them.
///
/// A gradient takes memory from the moment it is first asked for.
#[derive(Debug)]
pub struct GradientSum<'a> {
    params: &'a Params,
    names: HashMap<TensorId, &'a str>,
    sums: BTreeMap<&'a str, Gradient>,
    /// Memory of gradients that have served.
    spare: BTreeMap<String, Vec<f32>>,
}

impl<'a> GradientSum<'a> {
    /// Nothing yet, for `params`; the memory of `served` is used again.
    pub fn new(params: &'a Params, served: Option<Gradients>) -> Self {
        let names = params.tensors().map(|(name, t)| (t.id(), name)).collect();
        let served = served.into_iter().flat_map(|gradients| gradients.map);
        let spare = served.filter_map(|(name, grad)| match grad {
            Gradient::Values(values) => Some((name, values)),
            Gradient::Rows(_) | Gradient::Tensor(_) => None,
        });
        Self { params, names, spare: spare.collect(), sums: BTreeMap::new() }
    }

    /// Where the gradient of a model's `weight` is summed; none if it is frozen. What is there when it
    /// says to overwrite means nothing.
    pub(crate) fn of(&mut self, weight: &Tensor) -> Option<WeightGrad<'_>> {
        let name = *self.names.get(&weight.id())?;
        let first_row = self.params.get(name)?.first_row;
        let length = weight.elem_count() - first_row * row_len(weight);
        let update = if self.sums.contains_key(name) { Update::Add } else { Update::Overwrite };
        let spare = &mut self.spare;
        let sum = self.sums.entry(name).or_insert_with(|| {
            let spare = spare.remove(name).filter(|values| values.len() == length);
            Gradient::Values(spare.unwrap_or_else(|| vec![0.0; length]))
        });
        match sum {
            Gradient::Values(values) => Some(WeightGrad { values, first_row, update }),
            Gradient::Rows(_) | Gradient::Tensor(_) => None,
        }
    }

    /// As [`GradientSum::of`], with zeros where nothing was summed yet: for what only adds.
    pub(crate) fn adding_to(&mut self, weight: &Tensor) -> Option<WeightGrad<'_>> {
        let mut sum = self.of(weight)?;
        if sum.update == Update::Overwrite {
            sum.values.fill(0.0);
            sum.update = Update::Add;
        }
        Some(sum)
    }

    /// Adds the gradients of rows of a table that nothing else is summed for: `grad` has one line an id.
    pub(crate) fn add_rows(&mut self, table: &Tensor, ids: &[u32], grad: &[f32]) {
        let Some(&name) = self.names.get(&table.id()) else { return };
        let first_row = self.params.get(name).map_or(0, |p| p.first_row) as u32;
        let sum = self.sums.entry(name).or_insert_with(|| Gradient::Rows(BTreeMap::new()));
        let Gradient::Rows(rows) = sum else { return };
        for (&id, line) in ids.iter().zip(grad.chunks_exact(row_len(table))) {
            let Some(row) = id.checked_sub(first_row) else { continue };
            match rows.entry(row) {
                Entry::Vacant(entry) => {
                    entry.insert(line.to_vec());
                }
                Entry::Occupied(entry) => add(entry.into_mut(), line.iter().copied()),
            }
        }
    }

    /// Adds a part that a graph's backward pass computed, where it reached `weight`.
    pub fn add(&mut self, weight: &Tensor, store: &GradStore) -> Result<()> {
        if let Some(part) = store.get(weight)
            && let Some(sum) = self.adding_to(weight)
        {
            let part = part.flatten_all()?.to_vec1::<f32>()?;
            slices::add(sum.values, &part[sum.first_row * row_len(weight)..]);
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
        for name in self.params.names() {
            let grad = match self.sums.remove(name) {
                Some(sum) => sum,
                None if optional(name) => Gradient::Rows(BTreeMap::new()),
                None => bail!("no gradient reached parameter {name}"),
            };
            map.insert(name.to_string(), grad);
        }
        Ok(Gradients { map })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranks::Alone;

    #[test]
    fn a_parameter_without_gradient_is_named() {
        let mut params = Params::new();
        let ones = Tensor::ones(2, DType::F32, &Device::Cpu).unwrap();
        let a = params.insert("a", &ones).unwrap();
        params.insert("b", &ones).unwrap();
        let grads = a.sum_all().unwrap().backward().unwrap();
        let error = Gradients::collect(&params, &grads).unwrap_err().to_string();
        assert!(error.contains("parameter b"), "{error}");
    }

    #[test]
    fn rows_of_a_table_are_summed_by_id() {
        let mut params = Params::new();
        let table = Tensor::zeros((5, 2), DType::F32, &Device::Cpu).unwrap();
        let table = params.insert_rows("table", &table, 1).unwrap();
        let mut sum = GradientSum::new(&params, None);
        sum.add_rows(&table, &[3, 0, 3], &[1.0, 2.0, 9.0, 9.0, 10.0, 20.0]);
        sum.add_rows(&table, &[4], &[5.0, 6.0]);
        let gradients = sum.finish(|_| false).unwrap();
        let dense = gradients.tensor(&params, "table").unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(dense, [[0.0, 0.0], [0.0, 0.0], [11.0, 22.0], [5.0, 6.0]]);
        let square = 11.0f64.powi(2) + 22.0f64.powi(2) + 25.0 + 36.0;
        assert!((gradients.norm(&Alone, &params).unwrap() - square.sqrt()).abs() < 1e-9);
    }

    #[test]
    fn memory_that_served_holds_no_gradient() {
        let mut params = Params::new();
        let zeros = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
        let weight = params.insert("w", &zeros).unwrap();
        let mut sum = GradientSum::new(&params, None);
        sum.adding_to(&weight).unwrap().values.fill(7.0);
        let served = sum.finish(|_| false).unwrap();
        let mut sum = GradientSum::new(&params, Some(served));
        assert_eq!(sum.adding_to(&weight).unwrap().values, [0.0; 3]);
    }
}
