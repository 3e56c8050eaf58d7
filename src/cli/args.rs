//! What can be typed.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

use super::ablate::AblateArgs;
use super::baseline::BaselineArgs;
use super::bench::BenchCommand;
use super::data::DataCommand;
use super::device::DeviceChoice;
use super::eval::EvalArgs;
use super::export::ExportArgs;
use super::generate::GenerateArgs;
use super::index::IndexArgs;
use super::init::InitArgs;
use super::logging::LogFormat;
use super::recommend::RecommendArgs;
use super::report::ReportArgs;
use super::serve::ServeArgs;
use super::train::{ImportAdapterArgs, TrainArgs};
use crate::config::key_of;

/// A generative recommender in one binary: from interactions and item texts to a language model that
/// writes the next item, token by token.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub(super) struct Args {
    /// Configuration file [default: the one in the --run folder, else ./llmbs.toml, else the embedded demo]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Run folder [default: the run whose config.toml is --config, else runs/NAME for a file NAME.toml]
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) run: Option<PathBuf>,
    /// Override a value of the configuration, e.g. --set index.semantic.k=32
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, global = true, default_value = "auto", value_name = "DEVICE")]
    pub(super) device: DeviceChoice,
    /// Threads to use [default: all cores]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) threads: Option<u16>,
    /// Seed of every random draw but those of the synthetic shop (data.synthetic.seed); the same as --set seed=N
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u64).range(..1 << 63))]
    pub(super) seed: Option<u64>,
    /// Say more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub(super) verbose: u8,
    /// Say nothing but warnings and errors
    #[arg(short, long, global = true)]
    pub(super) quiet: bool,
    /// How logs, progress and errors are written to stderr
    #[arg(long, global = true, value_enum, default_value = "text", value_name = "FORMAT")]
    pub(super) log_format: LogFormat,
    #[command(subcommand)]
    pub(super) command: Command,
}

impl Args {
    /// Takes `words` apart, the name of the program before them.
    ///
    /// # Errors
    /// Where they are none of the program's, and where what stands before a subcommand and behind it cannot be together.
    pub(super) fn of(words: &[OsString]) -> Result<Self, clap::Error> {
        let mut args = Self::try_parse_from(words)?;
        // On its own the parser forgets what stands before a subcommand where the same option stands behind it.
        args.set =
            values(words, "--set").map(|value| value.to_string_lossy().into_owned()).collect();
        let once = ["--config", "--run", "--device", "--threads", "--seed", "--log-format"];
        let twice = once.into_iter().find(|option| values(words, option).count() > 1);
        let told = if let Some(option) = twice {
            format!("the argument '{option}' cannot be used multiple times")
        } else if args.quiet && args.verbose > 0 {
            "the argument '--verbose...' cannot be used with '--quiet'".into()
        } else if args.seed.is_some()
            && !args.command.draws_by_seed()
            && args.set.iter().any(|set| key_of(set) == "seed")
        {
            "the argument '--seed <N>' cannot be used with '--set seed=N'".into()
        } else {
            return Ok(args);
        };
        Err(Self::command().error(ErrorKind::ArgumentConflict, told))
    }
}

/// What `option` is given, on whichever side of a subcommand.
fn values<'w>(words: &'w [OsString], option: &'w str) -> impl Iterator<Item = &'w OsStr> {
    let mut words = words.iter().take_while(|word| *word != "--");
    std::iter::from_fn(move || {
        loop {
            let word = words.next()?;
            if word == option {
                return words.next().map(OsString::as_os_str);
            }
            let joined = word.to_str().and_then(|word| word.strip_prefix(option));
            if let Some(value) = joined.and_then(|rest| rest.strip_prefix('=')) {
                return Some(OsStr::new(value));
            }
        }
    })
}

impl Command {
    /// Whether it uses what stands in a run, with the data that this was made from.
    pub(super) fn uses(&self) -> bool {
        match self {
            Self::Generate(_) | Self::Recommend(_) | Self::Serve(_) | Self::Export(_) => true,
            Self::Index(index) => index.uses(),
            _ => false,
        }
    }
}

impl Command {
    /// Whether `--seed` is that of its draws alone, and none of the configuration: a text may be drawn with another
    /// seed than the model was trained with.
    pub(super) fn draws_by_seed(&self) -> bool {
        matches!(self, Self::Generate(_))
    }

    /// The run that this one goes on from.
    pub(super) fn before(&self) -> Option<&Path> {
        match self {
            Self::Index(index) => index.before(),
            Self::Train(train) => train.before(),
            _ => None,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Import and export datasets, look at one, or write the synthetic one
    Data {
        #[command(subcommand)]
        command: DataCommand,
    },
    /// Write a configuration that fits a dataset
    Init(InitArgs),
    /// Embed the items and build the item index
    Index(IndexArgs),
    /// Train a stage
    Train(TrainArgs),
    /// Replace stage anneal by a LoRA adapter trained elsewhere on the model of stage initial
    /// (docs/export.md)
    ImportAdapter(ImportAdapterArgs),
    /// Rank the whole catalogue for every user and score the ranking
    Eval(EvalArgs),
    /// Train and evaluate a recommender of another kind, to compare with (docs/baselines.md)
    Baseline(BaselineArgs),
    /// Continue a prompt with the trained model; --seed seeds only the sampling
    Generate(GenerateArgs),
    /// Recommend items to a user, after a history, or by a description; one, a file of them, or line by
    /// line (docs/recommend.md)
    Recommend(RecommendArgs),
    /// Recommend over HTTP, with a page to try it; SIGHUP reloads the run (docs/serve.md)
    Serve(ServeArgs),
    /// Write the trained model to a folder that works without the run and the dataset (docs/export.md)
    Export(ExportArgs),
    /// Do what is not done yet: index, both training stages, evaluation beside a SASRec and neighbours of items
    Run,
    /// Train variants of the configuration with several seeds and compare them (docs/ablations.md)
    Ablate(AblateArgs),
    /// Write runs and ablations as one page: curves, results with tests, wins and losses, example users
    /// (docs/report.md)
    Report(ReportArgs),
    /// Print the resolved configuration
    Config,
    /// Print the completions of a shell, to be sourced by it
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write a manual page for each command
    Man {
        /// The folder
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Time the engines on random input
    Bench {
        #[command(subcommand)]
        command: BenchCommand,
    },
}
