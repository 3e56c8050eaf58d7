//! The benchmarks.

use std::path::PathBuf;

use candle_core::Device;
use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use serde_json::Value;

use super::device::{self, DeviceChoice};
use super::show::{self, out};
use crate::bench::{
    EmbedBench, GenerateBench, KMeansBench, Shape, TrainBench, embed, generate, kmeans, train,
};
use crate::decode::Normalize;
use crate::ops::peak_device_bytes;
use crate::run::peak_memory_bytes;

#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// Whole optimiser steps: forward, loss on the second half of each row, backward, clipping, AdamW
    Train(BenchTrainArgs),
    /// Hidden states of random texts, as semantic embeddings are computed from them
    Embed(BenchEmbedArgs),
    /// Beam search over a random catalogue: users a second from prompt to ranked items
    Generate(BenchGenerateArgs),
    /// Balanced hierarchical k-means over random clustered vectors: the whole tree, and the root alone
    Kmeans(BenchKmeansArgs),
}

#[derive(Debug, ClapArgs)]
pub(super) struct BenchKmeansArgs {
    /// Vectors
    #[arg(long, default_value_t = 12_101)]
    pub(super) items: usize,
    /// Dimensions of a vector
    #[arg(long, default_value_t = 576)]
    pub(super) dim: usize,
    /// The largest branching of the tree
    #[arg(long, default_value_t = 256)]
    pub(super) k: usize,
    /// The levels of the tree; 0 for as few as --k allows
    #[arg(long, default_value_t = 0)]
    pub(super) levels: usize,
    /// Write the vectors to this file, in numpy's format
    #[arg(long, value_name = "FILE.npy")]
    pub(super) out: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Clone, Copy, ClapArgs)]
pub(super) struct BackboneArgs {
    /// The backbone
    #[arg(long)]
    pub(super) shape: ShapeChoice,
    /// Blocks [default: those of the shape]
    #[arg(long)]
    pub(super) layers: Option<usize>,
    /// Precision of matrix products; sums and weights are f32
    #[arg(long, default_value = "f32")]
    pub(super) dtype: FloatChoice,
}

impl BackboneArgs {
    /// The shape, its blocks where they are said, and whether products are in bf16.
    fn chosen(self) -> (Shape, Option<usize>, bool) {
        (shape(self.shape), self.layers, self.dtype == FloatChoice::Bf16)
    }
}

#[derive(Debug, ClapArgs)]
pub(super) struct BenchEmbedArgs {
    #[command(flatten)]
    pub(super) backbone: BackboneArgs,
    /// Tokens of a text
    #[arg(long, default_value_t = 64)]
    pub(super) seq: usize,
    /// Passes of 4,096 tokens to time, after one that is not timed
    #[arg(long, default_value_t = 5)]
    pub(super) passes: usize,
    /// As JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct BenchTrainArgs {
    #[command(flatten)]
    pub(super) backbone: BackboneArgs,
    /// Rows of a step
    #[arg(long, default_value_t = 32)]
    pub(super) batch: usize,
    /// Tokens of a row
    #[arg(long, default_value_t = 128)]
    pub(super) seq: usize,
    /// Steps to time, after one that is not timed
    #[arg(long, default_value_t = 10)]
    pub(super) steps: u64,
    /// Train LoRA adapters instead of the backbone
    #[arg(long)]
    pub(super) lora: bool,
    /// Keep only the input of every block for the backward pass
    #[arg(long)]
    pub(super) checkpointing: bool,
    /// As JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct BenchGenerateArgs {
    /// The backbone
    #[arg(long)]
    pub(super) shape: ShapeChoice,
    /// Precision of matrix products; sums and weights are f32
    #[arg(long, default_value = "f32")]
    pub(super) dtype: FloatChoice,
    /// Users searched for together
    #[arg(long, default_value_t = 32)]
    pub(super) batch: usize,
    /// Tokens of a prompt
    #[arg(long, default_value_t = 128)]
    pub(super) prompt: usize,
    /// Beam width
    #[arg(long, default_value_t = 20)]
    pub(super) beam: usize,
    /// Items of the catalogue, with indices of four levels of 256 codes
    #[arg(long, default_value_t = 12_101)]
    pub(super) items: usize,
    /// What scores are normalised over
    #[arg(long, default_value = "level")]
    pub(super) normalize: NormalizeChoice,
    /// Batches to time, after one that is not timed
    #[arg(long, default_value_t = 5)]
    pub(super) batches: usize,
    /// As JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum NormalizeChoice {
    /// The tokens of the level
    Level,
    /// The whole vocabulary
    Vocab,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ShapeChoice {
    /// 6.8 M parameters
    Tiny,
    /// SmolLM2-135M with 1,024 item tokens
    #[value(name = "smollm2")]
    SmolLm2,
    /// Llama-7B with 1,024 item tokens, 27 GB of weights
    #[value(name = "llama7b")]
    Llama7b,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum FloatChoice {
    F32,
    Bf16,
}

/// Runs a benchmark and prints its figures.
pub(super) fn run(command: &BenchCommand, seed: u64, device: DeviceChoice) -> anyhow::Result<()> {
    let device = device::open(device)?;
    let (figures, json) = match command {
        BenchCommand::Train(args) => {
            let (shape, layers, bf16) = args.backbone.chosen();
            let bench = TrainBench {
                shape,
                layers,
                bf16,
                batch: args.batch,
                seq: args.seq,
                steps: args.steps,
                lora: args.lora,
                checkpointing: args.checkpointing,
            };
            (serde_json::to_value(train(bench, seed, &device)?)?, args.json)
        }
        BenchCommand::Embed(args) => {
            let (shape, layers, bf16) = args.backbone.chosen();
            let BenchEmbedArgs { seq, passes, .. } = *args;
            let bench = EmbedBench { shape, layers, bf16, seq, passes };
            (serde_json::to_value(embed(bench, seed, &device)?)?, args.json)
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
    print(figures, json, &device)
}

fn shape(choice: ShapeChoice) -> Shape {
    match choice {
        ShapeChoice::Tiny => Shape::Tiny,
        ShapeChoice::SmolLm2 => Shape::SmolLm2,
        ShapeChoice::Llama7b => Shape::Llama7b,
    }
}

fn print(mut figures: Value, json: bool, device: &Device) -> anyhow::Result<()> {
    figures["peak_memory_bytes"] = peak_memory_bytes().into();
    if let Some(bytes) = peak_device_bytes(device)? {
        figures["peak_device_bytes"] = bytes.into();
    }
    if json { show::json(&figures) } else { out(&show::figures(&figures)) }
}
