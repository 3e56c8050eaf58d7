//! From the vectors of each source to codes, by the configured method.

use std::path::{Path, PathBuf};

use ndarray::{Array2, ArrayView2};
use serde_json::{Map, Value, json};

use crate::embed::train_rq_vae;
use crate::index::{
    HierarchicalKMeans, ItemIndex, Method, Order, Source, SourceCodes, TreePlan, Uniqueness,
    quantize, residual_kmeans, shared_trees, store,
};
use crate::model::save_safetensors;
use crate::run::needs::Needs;
use crate::run::stages::Made;
use crate::run::{Monitor, Run};
use crate::{Result, files};

/// The folder of the autoencoders, in that of the index.
pub(super) const RQ_VAE: &str = "rq-vae";

/// Builds the index of `plans` in the folder `dir`; `vectors` has the (items, dim) vectors of each plan,
/// or nothing where codes are random; `behavior` what codes of texts are aligned to.
pub(in crate::run) fn build(
    run: &Run,
    plans: &[TreePlan],
    vectors: &[&Array2<f32>],
    behavior: Option<&Array2<f32>>,
    dir: &Path,
    monitor: &mut dyn Monitor,
) -> Result<(ItemIndex, Made)> {
    let (config, num_items) = (&run.config, run.dataset.num_items());
    let (method, order) = (config.index.method, config.index.order);
    if vectors.is_empty() || method == Method::Random {
        let codes = |plan: &TreePlan| {
            if method.is_residual() {
                vec![plan.branching; plan.levels]
            } else {
                plan.num_codes(num_items)
            }
        };
        let codes: Vec<usize> = plans.iter().flat_map(codes).collect();
        let index = ItemIndex::random(num_items, &codes, config.seed)?;
        return Ok((index, Made::default()));
    }
    let clustered = plans.iter().zip(vectors).filter(|(p, _)| !has_code_each(method, p, num_items));
    let bytes = clustered.map(|(plan, z)| clustering_bytes(plan, z.dim())).max();
    let needs = Needs { memory: bytes.unwrap_or(0), disk: 0 };
    run.afford("the clustering of items", needs, 0)?;
    let sources: Vec<(&TreePlan, ArrayView2<'_, f32>)> =
        plans.iter().zip(vectors.iter().map(|z| z.view())).collect();
    let mut builder = Builder { run, behavior, dir, monitor, made: Made::of(["tree.safetensors"]) };
    let parts = match sources.as_slice() {
        [semantic, behavior] if config.index.shared => {
            // Which source comes first decides which of the two gives up uniqueness.
            if order == Order::BehaviorFirst {
                let [behavior, semantic] = builder.shared(*behavior, *semantic)?;
                vec![semantic, behavior]
            } else {
                builder.shared(*semantic, *behavior)?.into()
            }
        }
        sources => sources
            .iter()
            .map(|&source| builder.codes(source, &Uniqueness::alone(num_items)))
            .collect::<Result<_>>()?,
    };
    store::write_trees(&dir.join("tree.safetensors"), &parts)?;
    let figures = |part: &SourceCodes| {
        let mut figures = json!({ "moved": part.moved });
        if !part.left.is_empty() {
            figures["variance_left"] = json!(part.left);
        }
        if !part.similarity.is_empty() {
            figures["code_similarity"] = json!(part.similarity);
        }
        (part.source.to_string(), figures)
    };
    let of_sources: Map<String, Value> = parts.iter().map(figures).collect();
    builder.made.tell("sources", of_sources);
    Ok((ItemIndex::join(&parts, order)?, builder.made))
}

/// Whether every item has a code of its own in the only level of a source.
fn has_code_each(method: Method, plan: &TreePlan, num_items: usize) -> bool {
    method.is_residual() && plan.levels == 1 && plan.branching >= num_items
}

/// Bytes of memory that the codes of a source take to be made from (items, dim) vectors.
fn clustering_bytes(plan: &TreePlan, (items, dim): (usize, usize)) -> u64 {
    // What is left of the vectors and a level's codes of it; the distances of a level, by item and by cluster.
    let clusters = plan.branching.min(items);
    (size_of::<f32>() * items * (2 * dim + 2 * clusters)) as u64
}

struct Builder<'a> {
    run: &'a Run,
    behavior: Option<&'a Array2<f32>>,
    dir: &'a Path,
    monitor: &'a mut dyn Monitor,
    made: Made,
}

type Vectors<'a> = (&'a TreePlan, ArrayView2<'a, f32>);

impl Builder<'_> {
    /// The codes of two sources of which only both together tell all items apart.
    fn shared<'z>(&mut self, first: Vectors<'z>, second: Vectors<'z>) -> Result<[SourceCodes; 2]> {
        if self.run.config.index.method == Method::HierarchicalKmeans {
            let (vectors, plans) = ([first.1, second.1], [*first.0, *second.0]);
            let config = &self.run.config;
            return shared_trees(vectors, plans, config.index.numbering, config.seed);
        }
        let before = Uniqueness::before(first.1.nrows(), second.0);
        let first = self.codes(first, &before)?;
        let second = self.codes(second, &Uniqueness::after(&first))?;
        Ok([first, second])
    }

    /// The codes of one source.
    fn codes(&mut self, (plan, z): Vectors<'_>, unique: &Uniqueness) -> Result<SourceCodes> {
        let seed = self.run.config.seed;
        let method = self.run.config.index.method;
        if has_code_each(method, plan, z.nrows()) {
            return Ok(SourceCodes::one_each(plan.source, z));
        }
        match method {
            Method::HierarchicalKmeans | Method::Random => {
                let numbering = self.run.config.index.numbering;
                let kmeans = HierarchicalKMeans { numbering, ..HierarchicalKMeans::from(*plan) };
                let tree = kmeans.fit(z, seed)?;
                Ok(SourceCodes::tree(plan.source, &tree))
            }
            Method::ResidualKmeans => residual_kmeans(z, plan, unique, seed),
            Method::RqVae => self.rq_vae(plan, z, unique),
        }
    }

    fn rq_vae(
        &mut self,
        plan: &TreePlan,
        z: ArrayView2<'_, f32>,
        unique: &Uniqueness,
    ) -> Result<SourceCodes> {
        let config = &self.run.config.index.rq_vae;
        let monitor = &mut *self.monitor;
        monitor.begin(&format!("train {} autoencoder", plan.source), config.steps as u64);
        let aligned = self.behavior.filter(|_| plan.source == Source::Semantic).map(Array2::view);
        let seed = self.run.config.seed;
        let trained = train_rq_vae(z, aligned, plan, config, seed, &mut |report| {
            let note = format!(
                "reconstruction {:.4}  quantization {:.4}",
                report.reconstruction, report.quantization
            );
            monitor.advance(report.step as u64, &note);
        });
        monitor.end();
        let trained = trained?;
        let folder = PathBuf::from(RQ_VAE);
        files::make_dir(&self.dir.join(&folder))?;
        let weights = folder.join(format!("{}.safetensors", plan.source));
        save_safetensors(self.dir.join(&weights), &trained.weights)?;
        let report = folder.join(format!("{}.json", plan.source));
        files::write_json(&self.dir.join(&report), &json!({ "reports": trained.reports }))?;
        self.made.take(Made::of([weights, report]));
        quantize(trained.latents.view(), plan, unique, &mut |level, _| {
            Ok(trained.codebooks[level].clone())
        })
    }
}
