//! The demo's index tells apart what it should: siblings share what the source of their level knows.

use candle_core::Device;
use llmbs::config::{DEMO, RunConfig};
use llmbs::data::synth::Shop;
use llmbs::index::{Source, agreement, store};
use llmbs::run::{Run, Silent, Stage};

#[test]
fn siblings_share_category_and_co_purchase_three_times_as_often_as_strangers() {
    let dir = tempfile::tempdir().unwrap();
    // The trees of the paper on the demo's shop.
    let trees = [
        "index.method=hierarchical-kmeans",
        "index.shared=false",
        "index.semantic.levels=2",
        "index.behavior.levels=2",
        "index.behavior.k=32",
        "index.behavior.encoder=din",
        "train.distillation.weight=0",
    ];
    let config = RunConfig::parse(DEMO, "demo.toml", &trees.map(String::from)).unwrap();
    let shop = Shop::generate(&config.data.synthetic).unwrap();
    let mut run = Run::open(dir.path(), config, Device::Cpu).unwrap();
    run.stage(Stage::Index, false, &mut Silent).unwrap();
    let sources = [Source::Semantic, Source::Semantic, Source::Behavior, Source::Behavior];
    let index = store::read(&dir.path().join("index/index.json"), &sources).unwrap();

    for (name, levels, label) in
        [("category", 0..1, &shop.category), ("co-purchase group", 2..3, &shop.group)]
    {
        let found = agreement(&index, levels, label);
        let (siblings, strangers) = (found.siblings.unwrap(), found.strangers.unwrap());
        assert!(siblings >= 3.0 * strangers, "{name}: {siblings:.4} against {strangers:.4}");
    }
}
