//! Training of the autoencoder whose codebooks `method = "rq-vae"` quantises with, with LETTER's losses where they
//! weigh something.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use ndarray::{Array2, ArrayView2, Axis};
use rand::Rng as _;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::index::{TreePlan, Uniqueness, balanced_clusters, residual_kmeans};
use crate::model::rq_vae::{RqVae, RqVaeSizes};
use crate::nn::{AdamW, AdamWConfig, Gradients};
use crate::{Error, Result, invalid, rng};

/// Items encoded in one pass outside training.
const ENCODING_BATCH: usize = 4096;
/// Codes are clustered every epoch, or where that is shorter, after so many steps.
const CLUSTERED_EVERY: usize = 20;
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
    /// Weight of LETTER's collaborative regularisation, which draws the codes of texts to z^b; its paper has 0.02.
    pub alignment: f64,
    /// Weight of LETTER's diversity regularisation, which spreads items over codes; its paper has 1e-4.
    pub diversity: f64,
    /// Clusters of a codebook's rows, of equal size, for the diversity.
    pub diversity_clusters: usize,
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
            alignment: 0.0,
            diversity: 0.0,
            diversity_clusters: 10,
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
    /// The cross-entropy of telling items apart by z^b, where it weighs something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alignment: Option<f64>,
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
/// residual k-means of the untrained encoder's latents. `on_report` hears of its course. `behavior`, (items, latent),
/// is what latents are aligned to.
///
/// # Errors
/// Vectors that cannot be measured, and a training that diverges.
pub fn train_rq_vae(
    vectors: ArrayView2<'_, f32>,
    behavior: Option<ArrayView2<'_, f32>>,
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
    let behavior = behavior.map(|z| {
        // Rows of length one on average, so that what inner products come to is the encoder's to say.
        let (z, ..) = standardized(z)?;
        let length = (config.latent as f64).sqrt();
        Ok::<_, Error>((z / length)?)
    });
    let behavior = behavior.transpose()?;
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
    let (mut sums, mut seen) = ([0.0; 3], 0);
    let mut clusters = Vec::new();
    let steps_an_epoch = num_items.div_ceil(config.batch_size);
    for step in 0..config.steps {
        let (epoch, place) = (step / steps_an_epoch, step % steps_an_epoch);
        if place == 0 {
            order.shuffle(&mut rng::stream(seed, "rq-vae-order", &[epoch as u64]));
        }
        if config.diversity > 0.0 && step % steps_an_epoch.max(CLUSTERED_EVERY) == 0 {
            clusters = cluster_codes(&network, plan, config.diversity_clusters, seed, step)?;
        }
        let start = place * config.batch_size;
        let batch = &order[start..num_items.min(start + config.batch_size)];
        let ids = Tensor::new(batch, &Device::Cpu)?;
        let losses = network.losses(&x.index_select(&ids, 0)?)?;
        let mut loss = losses.total(config.commitment)?;
        let mut parts = vec![losses.reconstruction.clone(), losses.codebook.clone()];
        if let Some(behavior) = &behavior {
            let alignment = losses.alignment(&behavior.index_select(&ids, 0)?)?;
            loss = (loss + (&alignment * config.alignment)?)?;
            parts.push(alignment);
        }
        if config.diversity > 0.0 {
            let kin = draw_kin(&losses.codes, &clusters, seed, step);
            loss = (loss + (network.diversity(&losses.codes, &kin)? * config.diversity)?)?;
        }
        let gradients = Gradients::collect(network.params(), &loss.backward()?)?;
        adam.step(network.params(), &gradients, config.learning_rate, 1.0)?;
        for (sum, part) in sums.iter_mut().zip(&parts) {
            *sum += f64::from(part.to_scalar::<f32>()?) * batch.len() as f64;
        }
        seen += batch.len();
        let step = step + 1;
        if step % every != 0 && step != config.steps {
            continue;
        }
        let [reconstruction, quantization, alignment] = sums.map(|sum| sum / seen as f64);
        if !(reconstruction + quantization + alignment).is_finite() {
            return Err(diverged(plan, step));
        }
        let alignment = behavior.is_some().then_some(alignment);
        let report = RqVaeReport { step, reconstruction, quantization, alignment };
        on_report(&report);
        reports.push(report);
        (sums, seen) = ([0.0; 3], 0);
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

fn diverged(plan: &TreePlan, step: usize) -> Error {
    Error::Invalid(format!(
        "the autoencoder of index.method = \"rq-vae\" diverged before step {step} on source {}: lower \
         index.rq-vae.learning-rate",
        plan.source
    ))
}

/// The codes of each level in clusters of like rows.
fn cluster_codes(
    network: &RqVae,
    plan: &TreePlan,
    clusters: usize,
    seed: u64,
    step: usize,
) -> Result<Vec<Vec<Vec<u32>>>> {
    // Of two codes at least, so that each has another.
    let clusters = clusters.min(plan.branching / 2).max(1);
    let of_level = |level: usize| {
        let rows = array(network.codebook(level))?;
        if rows.iter().any(|value| !value.is_finite()) {
            return Err(diverged(plan, step));
        }
        let mut rng = rng::stream(seed, "rq-vae-clusters", &[step as u64, level as u64]);
        balanced_clusters(rows.view(), clusters, &mut rng)
    };
    (0..plan.levels).map(of_level).collect()
}

/// For each item's code, a level, another of its cluster.
fn draw_kin(
    codes: &[Vec<u32>],
    clusters: &[Vec<Vec<u32>>],
    seed: u64,
    step: usize,
) -> Vec<Vec<u32>> {
    let mut stream = rng::stream(seed, "rq-vae-kin", &[step as u64]);
    let mut of_level = |(codes, clusters): (&Vec<u32>, &Vec<Vec<u32>>)| {
        let mut place = BTreeMap::new();
        for cluster in clusters {
            place.extend(cluster.iter().enumerate().map(|(at, &code)| (code, (cluster, at))));
        }
        let mut other = |code: &u32| {
            let (cluster, at) = place[code];
            let drawn = stream.gen_range(1..cluster.len().max(2));
            cluster[(at + drawn) % cluster.len()]
        };
        codes.iter().map(&mut other).collect()
    };
    codes.iter().zip(clusters).map(&mut of_level).collect()
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
        let trained = train_rq_vae(vectors.view(), None, &PLAN, &config(), 1, &mut |_| {}).unwrap();
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
                train_rq_vae(vectors.view(), None, &PLAN, &config, seed, &mut |_| {}).unwrap()
            })
        };
        let one = train(1, 7);
        let two = train(2, 7);
        assert!(one.latents == two.latents && one.codebooks == two.codebooks);
        assert!(one.latents != train(2, 8).latents);
    }

    #[test]
    fn alignment_tells_items_apart_by_behavior_that_texts_know_little_of() {
        let vectors = vectors();
        let mut stream = rng::stream(4, "behavior", &[]);
        let behavior = Array2::from_shape_vec((200, 6), rng::normal(&mut stream, 200 * 6, 1.0));
        let behavior = behavior.unwrap();
        let train = |alignment, diversity| {
            let config = RqVaeConfig { alignment, diversity, diversity_clusters: 3, ..config() };
            let z = (alignment > 0.0).then(|| behavior.view());
            train_rq_vae(vectors.view(), z, &PLAN, &config, 1, &mut |_| {}).unwrap()
        };
        let aligned = train(0.5, 0.0);
        let [first, last] = [0, 49].map(|at| aligned.reports[at].alignment.unwrap());
        // Telling 32 items apart at random would cost ln 32.
        assert!(first > 3.0 && last < first - 0.4, "{first} {last}");
        let alone = train(0.0, 0.0);
        assert!(alone.reports[0].alignment.is_none());
        assert!(alone.latents != aligned.latents);
        assert!(alone.codebooks != train(0.0, 0.5).codebooks);
    }

    #[test]
    fn kin_of_a_code_is_another_of_its_cluster() {
        let clusters = vec![vec![vec![0, 3], vec![1, 2, 4]], vec![vec![0, 1, 2, 3, 4]]];
        let codes = vec![vec![0, 3, 1, 4, 4, 4, 4, 4], vec![2; 8]];
        let kin = draw_kin(&codes, &clusters, 1, 0);
        assert_eq!(kin[0][..2], [3, 0]);
        for (level, kin) in kin.iter().enumerate() {
            for (code, kin) in codes[level].iter().zip(kin) {
                let cluster =
                    clusters[level].iter().find(|cluster| cluster.contains(code)).unwrap();
                assert!(code != kin && cluster.contains(kin), "{code} {kin}");
            }
        }
        let drawn: std::collections::BTreeSet<u32> = kin[0][3..].iter().copied().collect();
        assert_eq!(drawn, [1, 2].into());
    }
}
