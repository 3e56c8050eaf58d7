//! What can be typed.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use super::baseline::BaselineArgs;
use super::generate::GenerateArgs;
use super::index::IndexArgs;
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
    /// Override a value of the configuration, e.g. --set index.semantic.k=32
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
    Index(IndexArgs),
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
    /// Train and evaluate a recommender of another kind, to compare with (docs/baselines.md)
    Baseline(BaselineArgs),
    /// Continue a prompt with the trained model; --seed is that of the draws alone
    Generate(GenerateArgs),
    /// Recommend items to a user, after a history, or by a description; one, a file of them, or line by
    /// line (docs/recommend.md)
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
    /// Their dimensions
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

#[derive(Debug, ClapArgs)]
pub(super) struct BenchTrainArgs {
    /// The backbone
    #[arg(long)]
    pub(super) shape: ShapeChoice,
    /// Blocks [default: those of the shape]
    #[arg(long)]
    pub(super) layers: Option<usize>,
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

#[derive(Debug, ClapArgs)]
pub(super) struct BenchGenerateArgs {
    /// The backbone
    #[arg(long)]
    pub(super) shape: ShapeChoice,
    /// What products are multiplied in; sums and weights are f32
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
    /// Beam width, or several to compare; one as wide as the catalogue scores every item [default:
    /// eval.beam of the configuration]
    #[arg(long, value_name = "N,N,…", value_delimiter = ',')]
    pub(super) beam: Vec<usize>,
    /// test or valid [default: test]
    #[arg(long)]
    pub(super) split: Option<Split>,
    /// With or without the annealing adapter [default: both, where there is one]
    #[arg(long)]
    pub(super) adapter: Option<Switch>,
    /// Only the first this many users; of texts, at most this many samples a kind [default: 500]
    #[arg(long, value_name = "N")]
    pub(super) limit: Option<usize>,
    /// Test each metric against the same evaluation of another run, user by user
    #[arg(long, value_name = "OTHER_RUN")]
    pub(super) compare: Option<PathBuf>,
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
#[allow(clippy::struct_excessive_bools, reason = "each is a flag")]
#[command(group(
    clap::ArgGroup::new("whom")
        .required(true)
        .args(["user", "history", "text", "batch", "interactive"])
))]
pub(super) struct RecommendArgs {
    /// A user of the dataset; the history is everything the user took
    #[arg(long, value_name = "ID")]
    pub(super) user: Option<String>,
    /// Items, oldest first, by id or by the shop's own id
    #[arg(long, value_name = "ID,ID,…")]
    pub(super) history: Option<String>,
    /// A description of what is wanted, for somebody without a history
    #[arg(long)]
    pub(super) text: Option<String>,
    /// A file of requests, a JSON object a line; the answers are JSON lines in the same order
    #[arg(long, value_name = "FILE")]
    pub(super) batch: Option<PathBuf>,
    /// Load the model once and answer each line of stdin, a history or a JSON object, at once; an empty
    /// line ends
    #[arg(long)]
    pub(super) interactive: bool,
    /// Where the answers to --batch go [default: stdout]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["user", "history", "text", "interactive"])]
    pub(super) out: Option<PathBuf>,
    /// How many items
    #[arg(long, default_value_t = 10)]
    pub(super) top: usize,
    /// Beam width; at least --top in effect [default: eval.beam of the configuration]
    #[arg(long)]
    pub(super) beam: Option<usize>,
    /// With or without the annealing adapter [default: for histories on, where there is one; for texts
    /// off]
    #[arg(long)]
    pub(super) adapter: Option<Switch>,
    /// Never recommend an item of the history
    #[arg(long)]
    pub(super) exclude_history: bool,
    /// Recommend only the items in this file: an id or shop's own id a line, # for comments
    #[arg(long, value_name = "FILE")]
    pub(super) only: Option<PathBuf>,
    /// Say what each token of an item stands for, and what of the history shares it
    #[arg(long)]
    pub(super) explain: bool,
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
