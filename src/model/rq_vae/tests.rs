use std::collections::BTreeMap;

use super::*;
use crate::nn::Gradients;
use crate::rng;

const BETA: f64 = 0.25;

fn sizes() -> RqVaeSizes {
    RqVaeSizes { input: 5, hidden: vec![7, 6], latent: 3, k: 4, levels: 2 }
}

fn normal(label: &str, rows: usize, columns: usize) -> Tensor {
    let draws = rng::normal(&mut rng::stream(3, label, &[]), rows * columns, 1.0);
    Tensor::from_vec(draws, (rows, columns), &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap()
}

fn network() -> RqVae {
    let network = RqVae::new(&sizes(), 1, DType::F64).unwrap();
    for level in 0..2 {
        network.set_codebook(level, &normal(&format!("book {level}"), 4, 3)).unwrap();
    }
    for layer in 0..3 {
        for (name, rows) in [("encoder", [7, 6, 3]), ("decoder", [6, 7, 5])] {
            let bias = (normal(name, rows[layer], 1) * 0.3).unwrap();
            network.params().set(&format!("{name}.{layer}.bias"), &bias).unwrap();
        }
    }
    network
}

type Weights = BTreeMap<String, Vec<f64>>;
type Matrix = Vec<Vec<f64>>;

fn weights(network: &RqVae) -> Weights {
    let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    network.params().tensors().map(|(name, t)| (name.to_string(), values(t))).collect()
}

/// The layers called `name`, by loops.
fn mlp(weights: &Weights, name: &str, x: &[f64]) -> Vec<f64> {
    let mut x = x.to_vec();
    for layer in 0..3 {
        let weight = &weights[&format!("{name}.{layer}.weight")];
        let bias = &weights[&format!("{name}.{layer}.bias")];
        if layer > 0 {
            for x in &mut x {
                *x = x.max(0.0);
            }
        }
        let rows = weight.chunks(x.len()).zip(bias);
        x = rows.map(|(w, b)| w.iter().zip(&x).map(|(w, x)| w * x).sum::<f64>() + b).collect();
    }
    x
}

fn squared(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
}

/// Of one item: the code and the residual of each level, and what quantisation adds to its latent.
struct Choice {
    codes: Vec<usize>,
    residuals: Matrix,
    rows: Matrix,
    offset: Vec<f64>,
}

fn choose(weights: &Weights, x: &[f64]) -> Choice {
    let latent = mlp(weights, "encoder", x);
    let mut residual = latent.clone();
    let (mut codes, mut residuals, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for level in 0..2 {
        let book: Vec<&[f64]> = weights[&codebook_name(level)].chunks(3).collect();
        let distance = |code: &usize| squared(&residual, book[*code]);
        let code = (0..4).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap();
        residuals.push(residual.clone());
        rows.push(book[code].to_vec());
        codes.push(code);
        residual.iter_mut().zip(book[code]).for_each(|(r, c)| *r -= c);
    }
    Choice { codes, residuals, rows, offset: residual.iter().map(|r| -r).collect() }
}

/// The loss as a smooth function of the weights: all that no gradient passes through stays as it was
/// when `choices` were made.
fn smooth_loss(weights: &Weights, items: &Matrix, choices: &[Choice]) -> f64 {
    let mut loss = 0.0;
    for (x, choice) in items.iter().zip(choices) {
        let latent = mlp(weights, "encoder", x);
        let quantized: Vec<f64> =
            latent.iter().zip(&choice.offset).map(|(l, offset)| l + offset).collect();
        loss += squared(&mlp(weights, "decoder", &quantized), x) / 5.0;
        let mut residual = latent;
        for level in 0..2 {
            let row = &weights[&codebook_name(level)][choice.codes[level] * 3..][..3];
            loss += squared(row, &choice.residuals[level]) / 3.0;
            loss += BETA * squared(&residual, &choice.rows[level]) / 3.0;
            residual.iter_mut().zip(&choice.rows[level]).for_each(|(r, c)| *r -= c);
        }
    }
    loss / items.len() as f64
}

#[test]
fn loss_and_gradients_equal_a_plain_computation_and_its_finite_differences() {
    const H: f64 = 1e-5;
    let network = network();
    let x = normal("items", 6, 5);
    let items = x.to_vec2::<f64>().unwrap();
    let weights = weights(&network);
    let choices: Vec<Choice> = items.iter().map(|x| choose(&weights, x)).collect();
    let loss = network.losses(&x).unwrap().total(BETA).unwrap();
    let plain = smooth_loss(&weights, &items, &choices);
    assert!((loss.to_scalar::<f64>().unwrap() - plain).abs() < 1e-12);

    let gradients = Gradients::collect(network.params(), &loss.backward().unwrap()).unwrap();
    for name in network.params().names() {
        let gradient = gradients.tensor(network.params(), name).unwrap();
        let gradient = gradient.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        for (i, gradient) in gradient.into_iter().enumerate() {
            let at = |shift: f64| {
                let mut moved = weights.clone();
                moved.get_mut(name).unwrap()[i] += shift;
                smooth_loss(&moved, &items, &choices)
            };
            let slope = (at(H) - at(-H)) / (2.0 * H);
            assert!(
                (slope - gradient).abs() < 1e-6 * slope.abs().max(0.1),
                "{name}, element {i}: gradient {gradient}, finite difference {slope}"
            );
        }
    }
}

#[test]
fn every_level_is_quantised_to_its_nearest_row() {
    let rows = normal("rows", 50, 3);
    let book = normal("book", 9, 3);
    let (all, books) = (rows.to_vec2::<f64>().unwrap(), book.to_vec2::<f64>().unwrap());
    for (row, code) in all.iter().zip(nearest(&rows, &book).unwrap()) {
        assert!(books.iter().all(|b| squared(row, &books[code as usize]) <= squared(row, b)));
    }
}
