//! The benchmarks.

use serde_json::Value;

use super::args::{
    BenchCommand, BenchKmeansArgs, DeviceChoice, FloatChoice, NormalizeChoice, ShapeChoice,
};
use super::{device, results};
use crate::bench::{GenerateBench, KMeansBench, Shape, TrainBench, generate, kmeans, train};
use crate::decode::Normalize;
use crate::run::peak_memory_bytes;

/// Runs a benchmark and prints its figures.
pub(super) fn run(command: &BenchCommand, seed: u64, device: DeviceChoice) -> anyhow::Result<()> {
    let device = device::open(device)?;
    let (figures, json) = match command {
        BenchCommand::Train(args) => {
            let bench = TrainBench {
                shape: shape(args.shape),
                layers: args.layers,
                bf16: args.dtype == FloatChoice::Bf16,
                batch: args.batch,
                seq: args.seq,
                steps: args.steps,
                lora: args.lora,
                checkpointing: args.checkpointing,
            };
            (serde_json::to_value(train(bench, seed, &device)?)?, args.json)
        }
        BenchCommand::Generate(args) => {
            let bench = GenerateBench {
                shape: shape(args.shape),
                bf16: args.dtype == FloatChoice::Bf16,
                batch: args.batch,
                prompt: args.prompt,
                beam: args.beam,
                items: args.items,
                normalize: match args.normalize {
                    NormalizeChoice::Level => Normalize::Level,
                    NormalizeChoice::Vocab => Normalize::Vocab,
                },
                batches: args.batches,
            };
            (serde_json::to_value(generate(bench, seed, &device)?)?, args.json)
        }
        BenchCommand::Kmeans(args) => {
            let BenchKmeansArgs { items, dim, k, levels, .. } = *args;
            let bench = KMeansBench { items, dim, k, levels };
            (serde_json::to_value(kmeans(bench, args.out.as_deref(), seed)?)?, args.json)
        }
    };
    print(figures, json)
}

fn shape(choice: ShapeChoice) -> Shape {
    match choice {
        ShapeChoice::Tiny => Shape::Tiny,
        ShapeChoice::SmolLm2 => Shape::SmolLm2,
    }
}

fn print(mut figures: Value, json: bool) -> anyhow::Result<()> {
    figures["peak_memory_bytes"] = peak_memory_bytes().into();
    if json {
        println!("{}", serde_json::to_string_pretty(&figures)?);
    } else {
        print!("{}", results::figures(&figures));
    }
    Ok(())
}
