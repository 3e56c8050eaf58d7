//! What can be typed.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use super::generate::GenerateArgs;
use crate::data::Split;

/// A generative recommender in one binary: from interactions and item texts to a language model that
/// writes the next item, token by token.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub(super) struct Args {
    /// Configuration file [default: ./llmbs.toml if there is one, else the embedded demo]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Run folder [default: runs/NAME, after the configuration file]
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) run: Option<PathBuf>,
    /// Override a value of the configuration, e.g. --set index.k=32
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, global = true, default_value = "auto", value_name = "DEVICE")]
    pub(super) device: DeviceChoice,
    /// Threads to use [default: all cores]
    #[arg(long, global = true, value_name = "N")]
    pub(super) threads: Option<usize>,
    /// Seed of every random draw; the same as --set seed=N
    #[arg(long, global = true, value_name = "N")]
    pub(super) seed: Option<u64>,
    /// Say more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub(super) verbose: u8,
    /// Say nothing but warnings and errors
    #[arg(short, long, global = true)]
    pub(super) quiet: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Look at a dataset, or write the synthetic one
    Data {
        #[command(subcommand)]
        command: DataCommand,
    },
    /// Embed the items and build the item index
    Index {
        /// Redo it, and mark the later stages stale
        #[arg(long)]
        force: bool,
    },
    /// Train a stage
    Train {
        /// Which stage
        #[arg(long)]
        stage: StageChoice,
        /// Redo it, and mark the later stages stale
        #[arg(long)]
        force: bool,
    },
    /// Rank the whole catalogue for every user and score the ranking
    Eval(EvalArgs),
    /// Continue a prompt with the trained model; --seed is that of the draws alone
    Generate(GenerateArgs),
    /// Recommend items to one user or after one history
    Recommend(RecommendArgs),
    /// Index, both training stages and evaluation: whatever is not done yet
    Run,
    /// Print the resolved configuration
    Config,
    /// Time the engines on random input
    Bench {
        #[command(subcommand)]
        command: BenchCommand,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// Whole optimiser steps: forward, loss on the second half of each row, backward, clipping, AdamW
    Train(BenchTrainArgs),
}

#[derive(Debug, ClapArgs)]
pub(super) struct BenchTrainArgs {
    /// The backbone
    #[arg(long)]
    pub(super) shape: ShapeChoice,
    /// What products are multiplied in; sums and weights are f32
    #[arg(long, default_value = "f32")]
    pub(super) dtype: FloatChoice,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ShapeChoice {
    /// 6.8 M parameters
    Tiny,
    /// SmolLM2-135M with 1,024 item tokens
    #[value(name = "smollm2")]
    SmolLm2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum FloatChoice {
    F32,
    Bf16,
}

#[derive(Debug, Subcommand)]
pub(super) enum DataCommand {
    /// Print statistics of the dataset
    Stats {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Write the synthetic shop as a dataset folder
    Synth {
        /// The folder
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

#[derive(Debug, Default, ClapArgs)]
pub(super) struct EvalArgs {
    /// What is asked of the model
    #[arg(long, default_value = "recommend")]
    pub(super) task: EvalTask,
    /// Beam width [default: eval.beam of the configuration]
    #[arg(long)]
    pub(super) beam: Option<usize>,
    /// test or valid [default: test]
    #[arg(long)]
    pub(super) split: Option<Split>,
    /// With or without the annealing adapter [default: both, where there is one]
    #[arg(long)]
    pub(super) adapter: Option<Switch>,
    /// Only the first this many users; of texts, at most this many samples a kind [default: 500]
    #[arg(long, value_name = "N")]
    pub(super) limit: Option<usize>,
    /// As JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Evaluate again, even if the result is there
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum EvalTask {
    /// The next item
    #[default]
    Recommend,
    /// Titles and descriptions
    Text,
}

#[derive(Debug, ClapArgs)]
#[command(group(clap::ArgGroup::new("whom").required(true).args(["user", "history"])))]
pub(super) struct RecommendArgs {
    /// A user of the dataset; the history is everything the user took
    #[arg(long, value_name = "ID")]
    pub(super) user: Option<String>,
    /// Items, oldest first, by id or by the shop's own id
    #[arg(long, value_name = "ID,ID,…", value_delimiter = ',')]
    pub(super) history: Option<Vec<String>>,
    /// How many items
    #[arg(long, default_value_t = 10)]
    pub(super) top: usize,
    /// Beam width [default: eval.beam of the configuration]
    #[arg(long)]
    pub(super) beam: Option<usize>,
    /// With or without the annealing adapter [default: on, where there is one]
    #[arg(long)]
    pub(super) adapter: Option<Switch>,
    /// As JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum StageChoice {
    /// All tasks, with the contrastive loss
    Initial,
    /// The annealing adapter
    Anneal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Switch {
    On,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeviceChoice {
    Auto,
    Cpu,
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => match text.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
                Some(ordinal) => Ok(Self::Cuda(ordinal)),
                None => Err(format!("{text:?} is none of auto, cpu, cuda and cuda:N")),
            },
        }
    }
}
