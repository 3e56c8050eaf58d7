//! Training of the autoencoder whose codebooks `method = "rq-vae"` quantises with.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use ndarray::{Array2, ArrayView2, Axis};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::index::{TreePlan, Uniqueness, residual_kmeans};
use crate::model::rq_vae::{RqVae, RqVaeSizes};
use crate::nn::{AdamW, AdamWConfig, Gradients};
use crate::{Result, invalid, rng};

/// Items encoded in one pass outside training.
const ENCODING_BATCH: usize = 4096;
/// Reports of a training.
const REPORTS: usize = 50;

/// `[index.rq-vae]`: the autoencoder and its training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RqVaeConfig {
    /// Widths of the encoder's hidden layers; the decoder has them in reverse.
    pub hidden: Vec<usize>,
    /// Width of the latent vectors that are quantised.
    pub latent: usize,
    /// Steps of the optimiser. Codes settle after so many steps, however few the items are.
    pub steps: usize,
    /// Items in a step.
    pub batch_size: usize,
    /// Learning rate of AdamW.
    pub learning_rate: f64,
    /// Weight of the commitment loss.
    pub commitment: f64,
}

impl Default for RqVaeConfig {
    fn default() -> Self {
        Self {
            hidden: vec![256, 128],
            latent: 32,
            steps: 2400,
            batch_size: 512,
            learning_rate: 1e-3,
            commitment: 0.25,
        }
    }
}

/// The losses since the report before, means over the items seen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RqVaeReport {
    /// Steps taken so far.
    pub step: usize,
    /// Squared error a component, of vectors scaled to variance 1.
    pub reconstruction: f64,
    /// Squared distance a component between latent vectors and the rows taken, summed over levels.
    pub quantization: f64,
}

/// A trained autoencoder as far as codes go.
#[derive(Debug, Clone)]
pub struct RqVaeLatents {
    /// The latent vectors of all items, (items, latent).
    pub latents: Array2<f32>,
    /// (k, latent) a level.
    pub codebooks: Vec<Array2<f32>>,
    /// The parameters by name, and `input.mean` (input) and `input.scale` (1): the network sees
    /// `(vector - mean) * scale`.
    pub weights: BTreeMap<String, Tensor>,
    /// The course of the training.
    pub reports: Vec<RqVaeReport>,
}

/// Trains on `vectors`, (items, input), with the levels and codebook sizes of `plan`. Codebooks begin as
/// residual k-means of the untrained encoder's latents. `on_report` hears of its course.
///
/// # Errors
/// Vectors that cannot be measured, and a training that diverges.
pub fn train_rq_vae(
    vectors: ArrayView2<'_, f32>,
    plan: &TreePlan,
    config: &RqVaeConfig,
    seed: u64,
    on_report: &mut dyn FnMut(&RqVaeReport),
) -> Result<RqVaeLatents> {
    let (num_items, input) = vectors.dim();
    let sizes = RqVaeSizes {
        input,
        hidden: config.hidden.clone(),
        latent: config.latent,
        k: plan.branching,
        levels: plan.levels,
    };
    let (x, mean, scale) = standardized(vectors)?;
    let network = RqVae::new(&sizes, seed, DType::F32)?;
    let latents = encode(&network, &x)?;
    let first = residual_kmeans(latents.view(), plan, &Uniqueness::none(num_items), seed)?;
    for (level, rows) in first.centroids.iter().enumerate() {
        network.set_codebook(level, &tensor(rows.view())?)?;
    }

    // Decay would pull codes towards the origin and away from what they stand for.
    let adam = AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() };
    let mut adam = AdamW::new(network.params(), adam)?;
    let mut order: Vec<u32> = (0..num_items as u32).collect();
    let mut reports = Vec::new();
    let every = config.steps.div_ceil(REPORTS);
    let (mut sums, mut seen) = ([0.0; 2], 0);
    let steps_an_epoch = num_items.div_ceil(config.batch_size);
    for step in 0..config.steps {
        let (epoch, place) = (step / steps_an_epoch, step % steps_an_epoch);
        if place == 0 {
            order.shuffle(&mut rng::stream(seed, "rq-vae-order", &[epoch as u64]));
        }
        let start = place * config.batch_size;
        let batch = &order[start..num_items.min(start + config.batch_size)];
        let rows = x.index_select(&Tensor::new(batch, &Device::Cpu)?, 0)?;
        let losses = network.losses(&rows)?;
        let loss = losses.total(config.commitment)?;
        let gradients = Gradients::collect(network.params(), &loss.backward()?)?;
        adam.step(network.params(), &gradients, config.learning_rate, 1.0)?;
        for (sum, part) in sums.iter_mut().zip([&losses.reconstruction, &losses.codebook]) {
            *sum += f64::from(part.to_scalar::<f32>()?) * batch.len() as f64;
        }
        seen += batch.len();
        let step = step + 1;
        if step % every != 0 && step != config.steps {
            continue;
        }
        let [reconstruction, quantization] = sums.map(|sum| sum / seen as f64);
        if !(reconstruction + quantization).is_finite() {
            invalid!(
                "the autoencoder of index.method = \"rq-vae\" diverged before step {step} on source \
                 {}: lower index.rq-vae.learning-rate",
                plan.source
            );
        }
        let report = RqVaeReport { step, reconstruction, quantization };
        on_report(&report);
        reports.push(report);
        (sums, seen) = ([0.0; 2], 0);
    }

    let mut weights = network.params().snapshot()?;
    weights.insert("input.mean".into(), Tensor::new(mean, &Device::Cpu)?);
    weights.insert("input.scale".into(), Tensor::new(&[scale], &Device::Cpu)?);
    let codebooks = (0..plan.levels).map(|level| array(network.codebook(level)));
    Ok(RqVaeLatents {
        latents: encode(&network, &x)?,
        codebooks: codebooks.collect::<Result<_>>()?,
        weights,
        reports,
    })
}

/// The vectors moved to mean 0 and scaled together to variance 1, with the mean and the scale.
fn standardized(vectors: ArrayView2<'_, f32>) -> Result<(Tensor, Vec<f32>, f32)> {
    let mean = match vectors.mean_axis(Axis(0)) {
        Some(mean) if !mean.is_empty() => mean,
        _ => invalid!("there are no item vectors to train an autoencoder on"),
    };
    let mut centered = &vectors - &mean;
    let sum: f64 = centered.iter().map(|&x| f64::from(x).powi(2)).sum();
    let deviation = (sum / centered.len() as f64).sqrt();
    // Vectors that are all equal stay at the origin.
    let scale = if deviation > 0.0 { (1.0 / deviation) as f32 } else { 1.0 };
    centered *= scale;
    Ok((tensor(centered.view())?, mean.to_vec(), scale))
}

fn encode(network: &RqVae, x: &Tensor) -> Result<Array2<f32>> {
    let rows = x.dim(0)?;
    let mut parts = Vec::new();
    for start in (0..rows).step_by(ENCODING_BATCH) {
        let part = x.narrow(0, start, ENCODING_BATCH.min(rows - start))?;
        parts.push(network.encode(&part)?.detach());
    }
    array(&Tensor::cat(&parts, 0)?)
}

fn tensor(matrix: ArrayView2<'_, f32>) -> Result<Tensor> {
    let values: Vec<f32> = matrix.iter().copied().collect();
    Ok(Tensor::from_vec(values, matrix.dim(), &Device::Cpu)?)
}

fn array(matrix: &Tensor) -> Result<Array2<f32>> {
    let columns = matrix.dim(1)?;
    let values = matrix.flatten_all()?.to_vec1::<f32>()?;
    Ok(Array2::from_shape_fn(matrix.dims2()?, |(i, j)| values[i * columns + j]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{Source, quantize};

    /// Items around 12 centres in 10 dimensions.
    fn vectors() -> Array2<f32> {
        let mut stream = rng::stream(4, "vectors", &[]);
        let centers = rng::normal(&mut stream, 12 * 10, 1.0);
        let noise = rng::normal(&mut stream, 200 * 10, 0.2);
        Array2::from_shape_fn((200, 10), |(i, j)| {
            centers[i % 12 * 10 + j] + noise[i * 10 + j] + 3.0
        })
    }

    fn config() -> RqVaeConfig {
        RqVaeConfig {
            hidden: vec![16],
            latent: 6,
            steps: 400,
            batch_size: 32,
            ..Default::default()
        }
    }

    const PLAN: TreePlan = TreePlan { source: Source::Semantic, levels: 3, branching: 8 };

    #[test]
    fn training_lowers_the_reconstruction_error_and_codes_come_out_unique() {
        let vectors = vectors();
        let trained = train_rq_vae(vectors.view(), &PLAN, &config(), 1, &mut |_| {}).unwrap();
        let (first, last) = (trained.reports[0], trained.reports[49]);
        assert!(last.reconstruction < 0.5 * first.reconstruction, "{first:?} {last:?}");
        let unique = Uniqueness::alone(200);
        let codes = quantize(trained.latents.view(), &PLAN, &unique, &mut |level, _| {
            Ok(trained.codebooks[level].clone())
        });
        let codes = codes.unwrap();
        // Codebooks that lag behind the encoder would leave most of the latents.
        assert!(codes.left[2] < 0.4, "{:?}", codes.left);
        let mut tuples: Vec<&[u32]> = codes.items().collect();
        tuples.sort_unstable();
        tuples.dedup();
        assert_eq!(tuples.len(), 200);
    }

    #[test]
    fn a_seed_fixes_training_on_any_number_of_threads() {
        let vectors = vectors();
        let train = |threads, seed| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let config = RqVaeConfig { steps: 20, ..config() };
            pool.install(|| {
                train_rq_vae(vectors.view(), &PLAN, &config, seed, &mut |_| {}).unwrap()
            })
        };
        let one = train(1, 7);
        let two = train(2, 7);
        assert!(one.latents == two.latents && one.codebooks == two.codebooks);
        assert!(one.latents != train(2, 8).latents);
    }
}
