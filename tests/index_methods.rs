//! Every way of building an index: unique codes, lengths from 2 to 8 item tokens, orders, shared paths.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::common::program::{fails, run, tiny};
use candle_core::Device;
use llmbs::config::RunConfig;
use llmbs::index::{
    HierarchicalKMeans, IndexSettings, ItemIndex, Method, Numbering, Order, Source, SourceCodes,
    TreePlan, TreeSettings, Uniqueness, quantize, residual_kmeans, shared_trees, store,
};
use llmbs::rng;
use llmbs::run::{Run, Silent, Stage};
use ndarray::Array2;
use proptest::prelude::*;

/// `num_items` random vectors of which only `distinct` differ.
fn vectors(seed: u64, num_items: usize, dim: usize, distinct: usize) -> Array2<f32> {
    let values = rng::normal(&mut rng::stream(seed, "vectors", &[]), distinct * dim, 1.0);
    Array2::from_shape_fn((num_items, dim), |(i, j)| values[(i * 7 % distinct) * dim + j])
}

fn plan(source: Source, branching: usize, levels: usize) -> TreePlan {
    TreePlan { source, levels, branching }
}

/// How many items have each beginning of `levels` codes.
fn clusters(codes: &SourceCodes, levels: usize) -> BTreeMap<Vec<u32>, usize> {
    let mut clusters = BTreeMap::new();
    for codes in codes.items() {
        *clusters.entry(codes[..levels].to_vec()).or_default() += 1;
    }
    clusters
}

/// Both sources by hierarchical k-means, of which only the tuples of both are unique.
fn shared(num_items: usize, same: usize, plans: [TreePlan; 2]) -> [SourceCodes; 2] {
    let z = [1, 2].map(|seed| vectors(seed, num_items, 6, num_items.div_ceil(same)));
    shared_trees([z[0].view(), z[1].view()], plans, Numbering::Axis, 3).unwrap()
}

/// The same by residual k-means.
fn shared_residual(num_items: usize, same: usize, plans: [TreePlan; 2]) -> [SourceCodes; 2] {
    let z = [1, 2].map(|seed| vectors(seed, num_items, 6, num_items.div_ceil(same)));
    let before = Uniqueness::before(num_items, &plans[1]);
    let first = residual_kmeans(z[0].view(), &plans[0], &before, 3).unwrap();
    let after = Uniqueness::after(&first);
    let second = residual_kmeans(z[1].view(), &plans[1], &after, 3).unwrap();
    [first, second]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn residual_codes_tell_all_items_apart(
        seed in 0u64..1000, num_items in 1usize..200, dim in 1usize..12, k in 2usize..20,
        extra_levels in 0usize..2, same in 1usize..5,
    ) {
        let size = TreeSettings { k, levels: 0 };
        let levels = llmbs::index::min_levels(num_items, k).unwrap() + extra_levels;
        let plan = plan(Source::Semantic, size.k.min(num_items), levels);
        prop_assume!(plan.room() >= num_items as u128);
        let vectors = vectors(seed, num_items, dim, num_items.div_ceil(same));
        let unique = Uniqueness::alone(num_items);
        let codes = residual_kmeans(vectors.view(), &plan, &unique, seed).unwrap();
        let index = ItemIndex::join(&[codes], Order::default()).unwrap();
        prop_assert_eq!((index.num_items(), index.num_levels()), (num_items, levels));
    }

    #[test]
    fn shared_sources_tell_all_items_apart_together(
        num_items in 1usize..200, levels in prop::collection::vec(1usize..4, 2), same in 1usize..5,
        order in 0usize..3, residual in any::<bool>(),
    ) {
        let method = if residual { Method::ResidualKmeans } else { Method::HierarchicalKmeans };
        let settings = IndexSettings {
            source: Source::Unit,
            method,
            order: [Order::SemanticFirst, Order::BehaviorFirst, Order::Interleaved][order],
            shared: true,
            semantic: TreeSettings { k: 16, levels: levels[0] },
            behavior: TreeSettings { k: 16, levels: levels[1] },
        };
        let Ok(plans) = settings.plan(num_items) else { return Ok(()) };
        let plans = [plans[0], plans[1]];
        let build = if residual { shared_residual } else { shared };
        let parts = build(num_items, same, plans);
        let index = ItemIndex::join(&parts, settings.order).unwrap();
        prop_assert_eq!(index.num_levels(), levels[0] + levels[1]);
        let sources: Vec<Source> = index.levels().iter().map(|level| level.source).collect();
        prop_assert_eq!(sources, settings.level_sources(&plans));
    }
}

#[test]
fn in_a_shared_index_several_items_share_the_first_path_and_few_are_moved() {
    let settings = |method| IndexSettings {
        source: Source::Unit,
        method,
        order: Order::SemanticFirst,
        shared: true,
        semantic: TreeSettings { k: 32, levels: 2 },
        behavior: TreeSettings { k: 32, levels: 2 },
    };
    let plans = settings(Method::HierarchicalKmeans).plan(800).unwrap();
    // 7^4 is the first fourth power from 1,600 on.
    let [first, second] = shared(800, 1, [plans[0], plans[1]]);
    let paths = clusters(&first, 2);
    assert_eq!(paths.len(), 49);
    assert!(paths.values().all(|&items| (16..=17).contains(&items)));
    assert_eq!(clusters(&second, 2).len(), 49, "codes of the second mean the same everywhere");
    assert!(0 < second.moved && second.moved < 400, "{}", second.moved);
    assert_eq!(first.centroids.len() + second.centroids.len(), 4);

    let plans = settings(Method::ResidualKmeans).plan(800).unwrap();
    let [first, second] = shared_residual(800, 1, [plans[0], plans[1]]);
    assert!(clusters(&first, 2).values().any(|&items| items > 1));
    assert!(second.moved < 100, "{}", second.moved);
}

#[test]
fn each_level_of_residual_codes_leaves_less_of_the_vectors() {
    let vectors = vectors(5, 500, 12, 500);
    let plan = plan(Source::Semantic, 16, 4);
    let codes = residual_kmeans(vectors.view(), &plan, &Uniqueness::alone(500), 1).unwrap();
    let left = [&[1.0], &codes.left[..]].concat();
    assert!(left.windows(2).all(|pair| pair[1] < 0.9 * pair[0]), "{left:?}");
    // What is said to be left is what the centroids of the codes leave.
    let mut error = 0.0;
    for (vector, codes_of) in vectors.outer_iter().zip(codes.items()) {
        let mut rest = vector.to_owned();
        for (book, &code) in codes.centroids.iter().zip(codes_of) {
            rest -= &book.row(code as usize);
        }
        error += f64::from(rest.dot(&rest));
    }
    let mean = vectors.mean_axis(ndarray::Axis(0)).unwrap();
    let variance: f64 = (&vectors - &mean).iter().map(|&x| f64::from(x * x)).sum();
    assert!((error / variance - left[4]).abs() < 1e-5);
}

#[test]
fn a_last_level_in_want_of_codes_is_shared_out_at_the_least_cost() {
    // Three items at one place of the first level; on the second the codebook is given.
    let vectors = Array2::from_shape_vec((4, 1), vec![0.0, 0.1, 0.2, 10.0]).unwrap();
    let books = [
        Array2::from_shape_vec((3, 1), vec![0.0, 5.0, 10.0]).unwrap(),
        Array2::from_shape_vec((3, 1), vec![0.2, 0.15, -0.3]).unwrap(),
    ];
    let plan = plan(Source::Semantic, 3, 2);
    let codes = quantize(vectors.view(), &plan, &Uniqueness::alone(4), &mut |level, _| {
        Ok(books[level].clone())
    });
    let codes = codes.unwrap();
    // 0.1 and 0.2 would both have 0.15 or 0.2, and 0.0 either: -0.3 is cheapest for 0.0.
    assert_eq!(codes.codes, [0, 2, 0, 1, 0, 0, 2, 1]);
    assert_eq!(codes.moved, 1, "only item 0 lost the code nearest to it");
}

#[test]
fn codes_run_out_exactly_and_not_before() {
    let vectors = Array2::zeros((27, 4));
    let fit = |num_items, levels| {
        let unique = Uniqueness::alone(num_items);
        let vectors = vectors.slice(ndarray::s![..num_items, ..]);
        residual_kmeans(vectors, &plan(Source::Behavior, 3, levels), &unique, 1)
    };
    let codes = fit(27, 3).unwrap();
    assert_eq!(clusters(&codes, 3).len(), 27);
    let error = fit(27, 2).unwrap_err().to_string();
    assert!(error.starts_with("9 tuples of codes cannot tell 27 items apart"), "{error}");
    assert_eq!(clusters(&fit(9, 2).unwrap(), 2).len(), 9);
}

#[test]
fn codes_are_the_same_on_one_and_two_threads() {
    let vectors = vectors(3, 1500, 24, 1000);
    let on = |threads, seed| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let unique = Uniqueness::alone(1500);
            let plan = plan(Source::Semantic, 48, 2);
            let residual = residual_kmeans(vectors.view(), &plan, &unique, seed).unwrap();
            let both = [vectors.view(), vectors.view()];
            let coarse = [TreePlan { branching: 7, ..plan }; 2];
            (residual, shared_trees(both, coarse, Numbering::Axis, seed).unwrap())
        })
    };
    let one = on(1, 7);
    assert!(one == on(2, 7));
    assert!(one.0.codes != on(2, 8).0.codes);
}

#[test]
fn orders_have_the_same_codes_at_other_places() {
    let part = |source, seed, levels| {
        let tree = HierarchicalKMeans::new(8, levels);
        SourceCodes::tree(source, &tree.fit(vectors(seed, 50, 4, 50).view(), 1).unwrap())
    };
    let parts = [part(Source::Semantic, 1, 2), part(Source::Behavior, 2, 3)];
    for (order, places) in [
        (Order::SemanticFirst, [0, 1, 2, 3, 4]),
        (Order::BehaviorFirst, [3, 4, 0, 1, 2]),
        (Order::Interleaved, [0, 2, 1, 3, 4]),
    ] {
        let index = ItemIndex::join(&parts, order).unwrap();
        for item in 0..50 {
            let codes: Vec<u32> = parts
                .iter()
                .flat_map(|p| &p.codes[item * p.num_levels()..][..p.num_levels()])
                .copied()
                .collect();
            let moved = places.map(|place| index.item_codes(item as u32)[place]);
            assert_eq!(moved.to_vec(), codes, "{order:?}");
        }
        let sources = places.map(|place| index.levels()[place].source);
        let (semantic, behavior) = (Source::Semantic, Source::Behavior);
        assert_eq!(sources, [semantic, semantic, behavior, behavior, behavior]);
    }
}

/// A shop of 30 items; `[index]` is to follow.
const SHOP: &str = r"
[data.synthetic]
users = 60
items = 30
groups = 5
[backbone.scratch]
vocab-size = 300
hidden-size = 16
intermediate-size = 32
num-hidden-layers = 1
num-attention-heads = 2
num-key-value-heads = 1
[train.warmup]
epochs = 0
[index.behavior.din]
dim = 8
epochs = 1
[index.rq-vae]
hidden = [16]
latent = 4
steps = 20
";

/// Builds an index with these settings in `dir`.
fn index(dir: &Path, settings: &[String]) -> ItemIndex {
    let config = RunConfig::parse(SHOP, "shop.toml", settings).unwrap();
    let layout = config.index.settings();
    let mut run = Run::open(dir, config, Device::Cpu).unwrap();
    run.stage(Stage::Index, true, &mut Silent).unwrap();
    let sources = layout.level_sources(&layout.plan(30).unwrap());
    store::read(&dir.join("index/index.json"), &sources).unwrap()
}

#[test]
fn every_method_and_source_builds_one_to_eight_item_tokens() {
    let dir = tempfile::tempdir().unwrap();
    for method in ["hierarchical-kmeans", "residual-kmeans", "rq-vae", "random"] {
        for (source, shared) in
            [("unit", false), ("unit", true), ("semantic", false), ("behavior", false)]
        {
            if method == "random" && (shared || source != "unit") {
                continue;
            }
            for levels in 1..=4 {
                // The fewest codes with which one level, or one source, tells the items apart.
                let k = if levels == 1 && !shared { 30 } else { 6 };
                let settings = [
                    format!("index.method={method}"),
                    format!("index.source={source}"),
                    format!("index.shared={shared}"),
                    format!("index.semantic.k={k}"),
                    format!("index.behavior.k={k}"),
                    format!("index.semantic.levels={levels}"),
                    format!("index.behavior.levels={levels}"),
                ];
                let index = index(dir.path(), &settings);
                let all = if source == "unit" { 2 * levels } else { levels };
                assert_eq!((index.num_items(), index.num_levels()), (30, all));
            }
        }
    }
}

#[test]
fn what_codes_stand_for_is_written_for_every_method() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = |settings: &[&str]| {
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        index(
            dir.path(),
            &[&["index.semantic.k=8".into(), "index.behavior.k=7".into()], &settings[..]].concat(),
        );
        let bytes = fs::read(dir.path().join("index/tree.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let shape = |name: &str| (name.to_string(), tensors.tensor(name).unwrap().shape().to_vec());
        let mut shapes: Vec<_> = tensors
            .names()
            .into_iter()
            .map(shape)
            .filter(|(name, _)| name.contains("centroids"))
            .collect();
        shapes.sort();
        shapes.into_iter().map(|(name, shape)| format!("{name} {shape:?}")).collect::<Vec<_>>()
    };
    let tree = ["behavior.centroids.0 [6, 8]", "semantic.centroids.0 [6, 16]"];
    assert_eq!(tensors(&[]), tree);
    let books = |semantic, behavior| {
        [("behavior", 7, behavior), ("semantic", 8, semantic)]
            .map(|(source, k, dim): (&str, usize, usize)| {
                [0, 1].map(|level| format!("{source}.centroids.{level} [{k}, {dim}]"))
            })
            .concat()
    };
    assert_eq!(tensors(&["index.method=residual-kmeans"]), books(16, 8));
    assert_eq!(tensors(&["index.method=rq-vae"]), books(4, 4));
    assert!(dir.path().join("index/rq-vae/semantic.safetensors").exists());
    // 3^4 is the first fourth power from 60 on: nine leaves of three or four items.
    let shared = [("behavior", 8), ("semantic", 16)].map(|(source, dim)| {
        [3, 9]
            .iter()
            .enumerate()
            .map(|(level, rows)| format!("{source}.centroids.{level} [{rows}, {dim}]"))
            .collect::<Vec<_>>()
    });
    assert_eq!(tensors(&["index.shared=true"]), shared.concat());
}

#[test]
fn codes_of_texts_are_drawn_to_behavior_that_stands_beside_their_autoencoder() {
    let dir = tempfile::tempdir().unwrap();
    let settings = |more: &[&str]| -> Vec<String> {
        let all = ["index.source=semantic", "index.method=rq-vae", "index.semantic.k=8"];
        all.iter().chain(more).map(ToString::to_string).collect()
    };
    let alone = index(dir.path(), &settings(&["index.rq-vae.latent=8"]));
    let aligned = ["index.rq-vae.latent=8", "index.rq-vae.alignment=1", "index.rq-vae.diversity=1"];
    assert_ne!(index(dir.path(), &settings(&aligned)), alone);
    let file = |name: &str| dir.path().join("index").join(name);
    assert!(file("rq-vae/behavior.safetensors").exists() && file("rq-vae/din").exists());
    assert!(!file("behavior.safetensors").exists());
    let reports = fs::read_to_string(file("rq-vae/semantic.json")).unwrap();
    assert!(reports.contains("alignment"), "{reports}");
    let manifest = fs::read_to_string(dir.path().join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let outputs = &manifest["stages"]["index"]["outputs"];
    assert!(outputs["index/rq-vae/behavior.safetensors"].is_string(), "{outputs}");
    // Of both sources that of the second is drawn to, which stands where it always does.
    let both = [&aligned[..], &["index.source=unit", "index.behavior.k=8"]].concat();
    index(dir.path(), &settings(&both));
    assert!(file("behavior.safetensors").exists() && !file("rq-vae/din").exists());
    assert!(fs::read_to_string(file("rq-vae/semantic.json")).unwrap().contains("alignment"));
    assert!(!fs::read_to_string(file("rq-vae/behavior.json")).unwrap().contains("alignment"));
}

#[test]
fn a_tree_grows_from_eigenvectors() {
    let dir = tempfile::tempdir().unwrap();
    let settings = ["index.source=behavior", "index.behavior.encoder=spectral"];
    let index = index(dir.path(), &settings.map(String::from));
    assert_eq!((index.num_items(), index.num_levels()), (30, 2));
    let manifest = fs::read_to_string(dir.path().join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let figures = &manifest["stages"]["index"]["figures"];
    assert_eq!(figures["behavior_eigenvalues"].as_array().unwrap().len(), 6);
    assert!(figures["behavior_residual"].as_f64().unwrap() < 1e-3, "{figures}");
}

#[test]
fn every_method_serves_training_and_explained_recommendations() {
    for settings in [
        &["index.method=residual-kmeans"][..],
        &["index.method=rq-vae", "index.order=behavior-first"],
        &["index.shared=true", "index.order=interleaved"],
    ] {
        let dir = tiny();
        let dir = dir.path();
        let mut words: Vec<&str> = settings.iter().flat_map(|set| ["--set", set]).collect();
        words.extend(["--set", "index.rq-vae.steps=20", "--set", "train.initial.epochs=1"]);
        let with = |command: &[&str]| run(dir, &[&words[..], command].concat(), 0).0;
        with(&["index"]);
        with(&["train", "--stage", "initial"]);
        let text = with(&["recommend", "--history", "1,2", "--top", "3", "--explain", "--json"]);
        let items: serde_json::Value = serde_json::from_str(&text).unwrap();
        let explanation = &items[0]["explanation"];
        assert_eq!(explanation["tokens"].as_array().unwrap().len(), 4, "{text}");
        assert_eq!(explanation["shared"].as_array().unwrap().len(), 2, "{text}");
        let last = &explanation["tokens"][3]["token"];
        assert!(last.as_str().unwrap().starts_with("<d_"), "{text}");
    }
}

#[test]
fn settings_that_cannot_work_are_refused_before_any_work() {
    let dir = tiny();
    let dir = dir.path();
    for (settings, expected) in [
        (&["source=semantic", "shared=true"][..], "index.shared is about two sources"),
        (&["source=behavior", "order=interleaved"], "it is \"behavior\""),
        (&["method=random", "shared=true"], "it is \"random\""),
        (&["method=vq-vae"], "vq-vae"),
        (&["order=random"], "semantic-first"),
        (&["method=residual-kmeans", "behavior.k=7"], "raise k to 8 or levels to 3"),
        (&["method=rq-vae", "semantic.levels=1"], "raise k to 60 or levels to 2"),
        (
            &["shared=true", "semantic.k=2", "behavior.k=2"],
            "make 16 tuples of codes, too few for 60",
        ),
        (
            &["rq-vae.latent=0", "rq-vae.commitment=-1"],
            "index.rq-vae.commitment = -1: must be from 0 to",
        ),
        (
            &["method=rq-vae", "source=behavior", "rq-vae.alignment=1"],
            "it needs index.source = \"semantic\" or \"unit\"",
        ),
        (
            &["method=rq-vae", "rq-vae.alignment=1", "rq-vae.latent=5"],
            "index.rq-vae.latent = 5: with index.rq-vae.alignment it is the width of z^b, which is",
        ),
        (&["rq-vae.hidden=[4,0]"], "index.rq-vae.hidden = 0: must be from 1 to"),
    ] {
        let settings: Vec<String> = settings.iter().map(|set| format!("index.{set}")).collect();
        let mut words: Vec<&str> = settings.iter().flat_map(|set| ["--set", set]).collect();
        words.push("index");
        fails(dir, &words, &[expected]);
    }
    // Nor is a run begun for the sake of a backbone that is not there.
    fails(dir, &["--set", "backbone.path=./gone.gguf", "index"], &["gone.gguf", "does not exist"]);
    assert!(!dir.join("runs/llmbs").exists());
}
