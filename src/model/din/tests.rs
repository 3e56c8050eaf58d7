//! Tests of the module above.

use std::collections::BTreeMap;

use super::*;
use crate::nn::Gradients;
use crate::ranks::{Alone, Threads};
use crate::rng;

fn sizes(attention: &[usize], mlp: &[usize]) -> DinSizes {
    DinSizes { num_items: 7, dim: 3, attention: attention.to_vec(), mlp: mlp.to_vec() }
}

/// A tiny f64 network none of whose parameters is at its special starting value.
fn tiny(attention: &[usize], mlp: &[usize]) -> Din {
    tiny_of(attention, mlp, DType::F64)
}

fn tiny_of(attention: &[usize], mlp: &[usize], dtype: DType) -> Din {
    let din = Din::new(&sizes(attention, mlp), 3, dtype, &Device::Cpu).unwrap();
    for (name, value) in din.params().snapshot().unwrap() {
        let noise = rng::normal(&mut rng::stream(5, &name, &[]), value.elem_count(), 0.3);
        let noise = Tensor::from_vec(noise, value.shape(), &Device::Cpu).unwrap();
        let value = (value + noise.to_dtype(dtype).unwrap()).unwrap();
        din.params().set(&name, &value).unwrap();
    }
    din
}

/// Histories of different lengths, so that any padding would show.
const SAMPLES: [(&[u32], u32); 5] =
    [(&[1, 2, 3, 4], 5), (&[6], 0), (&[2, 2], 2), (&[5, 0, 1], 6), (&[3, 4, 6, 1], 1)];

fn batch() -> DinBatch {
    DinBatch::new(SAMPLES, &Device::Cpu).unwrap()
}

fn values(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// The network in plain loops over padded histories with a mask, after the paper's formulas.
struct Reference {
    weights: BTreeMap<String, Vec<f64>>,
    dim: usize,
}

impl Reference {
    fn row(&self, item: u32) -> &[f64] {
        &self.weights["embeddings"][item as usize * self.dim..][..self.dim]
    }

    /// One linear layer on every row.
    fn linear(&self, name: &str, rows: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let (w, b) =
            (&self.weights[&format!("{name}.weight")], &self.weights[&format!("{name}.bias")]);
        let out = |x: &Vec<f64>, j: usize| {
            b[j] + x.iter().enumerate().map(|(i, v)| v * w[i * b.len() + j]).sum::<f64>()
        };
        rows.iter().map(|x| (0..b.len()).map(|j| out(x, j)).collect()).collect()
    }

    /// Rows normalised by the moments of those the mask admits.
    fn normalize(rows: &[Vec<f64>], mask: &[bool]) -> Vec<Vec<f64>> {
        let n = mask.iter().filter(|&&m| m).count() as f64;
        let real = || rows.iter().zip(mask).filter(|(_, m)| **m).map(|(r, _)| r);
        let width = rows[0].len();
        let mean: Vec<f64> = (0..width).map(|j| real().map(|r| r[j]).sum::<f64>() / n).collect();
        let variance: Vec<f64> =
            (0..width).map(|j| real().map(|r| (r[j] - mean[j]).powi(2)).sum::<f64>() / n).collect();
        let scaled = |r: &Vec<f64>| {
            (0..width).map(|j| (r[j] - mean[j]) / (variance[j] + 1e-5).sqrt()).collect()
        };
        rows.iter().map(scaled).collect()
    }

    fn dice(&self, name: &str, rows: &[Vec<f64>], mask: &[bool]) -> Vec<Vec<f64>> {
        let alpha = &self.weights[&format!("{name}.dice.alpha")];
        let mut out = rows.to_vec();
        for (row, normal) in out.iter_mut().zip(Self::normalize(rows, mask)) {
            for (j, s) in row.iter_mut().enumerate() {
                let p = 1.0 / (1.0 + (-normal[j]).exp());
                *s = p * *s + (1.0 - p) * alpha[j] * *s;
            }
        }
        out
    }

    fn mlp(&self, name: &str, hidden: usize, x: &[Vec<f64>], mask: &[bool]) -> Vec<f64> {
        let mut x = self.linear(&format!("{name}.0"), x);
        for i in 0..hidden {
            x = self.dice(&format!("{name}.{i}"), &x, mask);
            x = self.linear(&format!("{name}.{}", i + 1), &x);
        }
        x.into_iter().map(|row| row[0]).collect()
    }

    fn logits(&self, hidden: (usize, usize), padded_len: usize) -> Vec<f64> {
        let (mut inputs, mut mask, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        for (history, query) in SAMPLES {
            for j in 0..padded_len {
                let (q, k) = (self.row(query), self.row(*history.get(j).unwrap_or(&0)));
                let pairs = || q.iter().zip(k);
                let mut x = [q, k].concat();
                x.extend(pairs().map(|(q, k)| q - k));
                x.extend(pairs().map(|(q, k)| q * k));
                inputs.push(x);
                mask.push(j < history.len());
                keys.push(k);
            }
        }
        let attention = self.mlp("attention", hidden.0, &inputs, &mask);
        let mut features = Vec::new();
        for (sample, (_, query)) in SAMPLES.iter().enumerate() {
            let mut interest = vec![0.0; self.dim];
            for p in sample * padded_len..(sample + 1) * padded_len {
                for (u, k) in interest.iter_mut().zip(keys[p]) {
                    *u += if mask[p] { attention[p] * k } else { 0.0 };
                }
            }
            let q = self.row(*query);
            let product: Vec<f64> = interest.iter().zip(q).map(|(u, q)| u * q).collect();
            features.push([interest, q.to_vec(), product].concat());
        }
        let all = [true; SAMPLES.len()];
        let head = self.mlp("mlp", hidden.1, &Self::normalize(&features, &all), &all);
        let bias = |s: usize| self.weights["item-bias"][SAMPLES[s].1 as usize];
        (0..SAMPLES.len()).map(|s| head[s] + bias(s)).collect()
    }
}

#[test]
fn packed_network_equals_the_padded_one_with_a_mask() {
    for (attention, mlp) in [(&[4][..], &[5][..]), (&[4, 2], &[5, 3]), (&[], &[])] {
        let mut din = tiny(attention, mlp);
        let weights = din.params().tensors().map(|(name, t)| (name.to_string(), values(t)));
        let reference = Reference { weights: weights.collect(), dim: 3 };
        let packed = values(&din.forward_train(&batch(), &Alone).unwrap());
        for padded_len in [4, 9] {
            let padded = reference.logits((attention.len(), mlp.len()), padded_len);
            for (a, b) in packed.iter().zip(&padded) {
                assert!((a - b).abs() < 1e-10, "packed {packed:?}, padded {padded:?}");
            }
        }
    }
}

#[test]
fn gradients_equal_finite_differences() {
    let mut din = tiny(&[4, 2], &[5]);
    let params = din.params().clone();
    let labels = Tensor::new(&[1f64, 0.0, 1.0, 0.0, 1.0], &Device::Cpu).unwrap();
    let mut loss =
        || binary_cross_entropy(&din.forward_train(&batch(), &Alone).unwrap(), &labels).unwrap();
    let gradients = Gradients::collect(&params, &loss().backward().unwrap()).unwrap();
    let step = 1e-5;
    for (name, value) in params.snapshot().unwrap() {
        let analytic = values(&gradients.tensor(&params, &name).unwrap());
        for (i, analytic) in analytic.into_iter().enumerate() {
            let mut at = |offset: f64| {
                let mut moved = values(&value);
                moved[i] += offset;
                let moved = Tensor::from_vec(moved, value.shape(), &Device::Cpu).unwrap();
                params.set(&name, &moved).unwrap();
                loss().to_scalar::<f64>().unwrap()
            };
            let numeric = (at(step) - at(-step)) / (2.0 * step);
            let error = (analytic - numeric).abs();
            assert!(
                error < 1e-6 * (1e-2 + numeric.abs()),
                "{name}[{i}]: backward {analytic}, differences {numeric}"
            );
        }
        params.set(&name, &value).unwrap();
    }
}

#[test]
fn ranks_that_share_a_batch_give_the_gradients_and_statistics_of_all_of_it() {
    let labels = [1f32, 0.0, 1.0, 0.0, 1.0];
    let of = |size: usize| {
        Threads::run(size, |ranks| {
            let mut din = tiny_of(&[4, 2], &[5], DType::F32);
            let own = ranks.part_of(SAMPLES.iter().map(|_| 1));
            let batch = DinBatch::new(SAMPLES[own.clone()].iter().copied(), &Device::Cpu).unwrap();
            let share = own.len() as f64 / SAMPLES.len() as f64;
            let logits = din.forward_train(&batch, ranks).unwrap();
            let labels = Tensor::new(&labels[own], &Device::Cpu).unwrap();
            let loss = (binary_cross_entropy(&logits, &labels).unwrap() * share).unwrap();
            let params = din.params();
            let gradients = Gradients::collect(params, &loss.backward().unwrap()).unwrap();
            let of = |name: &str| {
                let mut gradient: Vec<f32> = gradients
                    .tensor(params, name)
                    .and_then(|gradient| gradient.flatten_all()?.to_vec1())
                    .unwrap();
                ranks.sum(&mut gradient);
                gradient
            };
            let gradients: Vec<Vec<f32>> = params.names().map(of).collect();
            let running =
                |norm: &&BatchNorm| [&norm.running.mean, &norm.running.variance].map(values_f32);
            (gradients, din.norms().iter().map(running).collect::<Vec<_>>())
        })
    };
    let alone = of(1).remove(0);
    for size in [2, 3] {
        let found = of(size);
        assert!(found.iter().all(|of_rank| *of_rank == found[0]));
        let pairs = found[0].0.iter().flatten().zip(alone.0.iter().flatten());
        let running = found[0].1.iter().flatten().flatten().zip(alone.1.iter().flatten().flatten());
        for (a, b) in pairs.chain(running) {
            assert!((a - b).abs() < 1e-5 * (1.0 + b.abs()), "{size} ranks: {a}, alone {b}");
        }
    }
}

fn values_f32(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn cross_entropy_is_the_naive_one_and_stays_finite() {
    let naive = |x: f64, y: f64| {
        let p = 1.0 / (1.0 + (-x).exp());
        -(y * p.ln() + (1.0 - y) * (1.0 - p).ln())
    };
    let ours = |x: f64, y: f64| {
        let logits = candle_core::Var::new(&[x], &Device::Cpu).unwrap();
        let labels = Tensor::new(&[y], &Device::Cpu).unwrap();
        let loss = binary_cross_entropy(logits.as_tensor(), &labels).unwrap();
        let grad = loss.backward().unwrap().get(&logits).unwrap().to_vec1::<f64>().unwrap()[0];
        (loss.to_scalar::<f64>().unwrap(), grad)
    };
    for x in [-8.0, -1.5, -1e-3, 0.0, 0.3, 2.0, 9.0] {
        for y in [0.0, 1.0] {
            let (loss, grad) = ours(x, y);
            assert!((loss - naive(x, y)).abs() < 1e-10, "loss {loss} at {x}, {y}");
            let expected = 1.0 / (1.0 + (-x).exp()) - y;
            assert!((grad - expected).abs() < 1e-10, "gradient {grad} at {x}, {y}");
        }
    }
    for (x, y, expected) in [(100.0, 0.0, (100.0, 1.0)), (-100.0, 1.0, (100.0, -1.0))] {
        let (loss, grad) = ours(x, y);
        assert!((loss - expected.0).abs() < 1e-10 && (grad - expected.1).abs() < 1e-10);
        assert!(ours(x, 1.0 - y).0.abs() < 1e-10);
    }
}

#[test]
fn running_statistics_converge_to_those_of_the_batch_and_are_saved() {
    let mut din = tiny(&[4], &[5]);
    let mut train = Vec::new();
    for _ in 0..300 {
        train = values(&din.forward_train(&batch(), &Alone).unwrap());
    }
    let infer = values(&din.forward(&batch()).unwrap());
    for (a, b) in train.iter().zip(&infer) {
        assert!((a - b).abs() < 1e-8, "training {train:?}, inference {infer:?}");
    }
    let weights = din.weights().unwrap();
    for norm in ["attention.0.dice", "mlp.input", "mlp.0.dice"] {
        for part in ["running-mean", "running-variance"] {
            let running = values(&weights[&format!("{norm}.{part}")]);
            let start = f64::from(part == "running-variance");
            assert!(running.iter().all(|&v| v != start), "{norm}.{part} {running:?}");
        }
    }
}

#[test]
fn inference_does_not_depend_on_the_other_samples() {
    let din = tiny(&[4], &[5]);
    let together = values(&din.forward(&batch()).unwrap());
    for (sample, expected) in SAMPLES.iter().zip(together) {
        let alone = DinBatch::new([*sample], &Device::Cpu).unwrap();
        assert!((values(&din.forward(&alone).unwrap())[0] - expected).abs() < 1e-12);
    }
}

#[test]
fn an_empty_history_is_refused() {
    let error = DinBatch::new([(&[][..], 1)], &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("history"), "{error}");
}
