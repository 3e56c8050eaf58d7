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

/// What LETTER adds, as a smooth function of the weights; `behavior` and `kin` as the network takes them.
fn letter(
    weights: &Weights,
    items: &Matrix,
    choices: &[Choice],
    behavior: &Matrix,
    kin: &[Vec<u32>],
) -> f64 {
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let surprise =
        |logits: Vec<f64>, target: f64| logits.into_iter().map(f64::exp).sum::<f64>().ln() - target;
    let mut loss = 0.0;
    for (i, (x, choice)) in items.iter().zip(choices).enumerate() {
        let latent = mlp(weights, "encoder", x);
        let quantized: Vec<f64> =
            latent.iter().zip(&choice.offset).map(|(l, offset)| l + offset).collect();
        let logits: Vec<f64> = behavior.iter().map(|z| product(&quantized, z)).collect();
        let own = logits[i];
        loss += 0.5 * surprise(logits, own);
        for level in 0..2 {
            let book: Vec<&[f64]> = weights[&codebook_name(level)].chunks(3).collect();
            let code = choice.codes[level];
            let others = (0..4).filter(|&other| other != code);
            let logits = others.map(|other| product(book[code], book[other])).collect();
            let target = product(book[code], book[kin[level][i] as usize]);
            loss += 0.7 * surprise(logits, target) / 2.0;
        }
    }
    loss / items.len() as f64
}

/// Checks a loss and all its gradients against a plain computation.
fn check_loss(network: &RqVae, loss: &Tensor, plain: impl Fn(&Weights) -> f64) {
    const H: f64 = 1e-5;
    let weights = weights(network);
    let difference = loss.to_scalar::<f64>().unwrap() - plain(&weights);
    assert!(difference.abs() < 1e-12, "{difference}");
    let gradients = Gradients::collect(network.params(), &loss.backward().unwrap()).unwrap();
    for name in network.params().names() {
        let gradient = gradients.tensor(network.params(), name).unwrap();
        let gradient = gradient.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        for (i, gradient) in gradient.into_iter().enumerate() {
            let at = |shift: f64| {
                let mut moved = weights.clone();
                moved.get_mut(name).unwrap()[i] += shift;
                plain(&moved)
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
fn loss_and_gradients_equal_a_plain_computation_and_its_finite_differences() {
    let network = network();
    let x = normal("items", 6, 5);
    let items = x.to_vec2::<f64>().unwrap();
    let choices: Vec<Choice> = items.iter().map(|x| choose(&weights(&network), x)).collect();
    let losses = network.losses(&x).unwrap();
    for (level, codes) in losses.codes.iter().enumerate() {
        assert!(codes.iter().zip(&choices).all(|(&code, c)| code as usize == c.codes[level]));
    }
    let loss = losses.total(BETA).unwrap();
    check_loss(&network, &loss, |weights| smooth_loss(weights, &items, &choices));

    let behavior = normal("behavior", 6, 3);
    let kin: Vec<Vec<u32>> = losses
        .codes
        .iter()
        .map(|codes| codes.iter().map(|code| (code + 1) % 4).collect())
        .collect();
    let alignment = losses.alignment(&behavior).unwrap();
    let diversity = network.diversity(&losses.codes, &kin).unwrap();
    let loss = ((loss + (alignment * 0.5).unwrap()).unwrap() + (diversity * 0.7).unwrap()).unwrap();
    let behavior = behavior.to_vec2::<f64>().unwrap();
    check_loss(&network, &loss, |weights| {
        smooth_loss(weights, &items, &choices) + letter(weights, &items, &choices, &behavior, &kin)
    });
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
