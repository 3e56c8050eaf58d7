//! The command line: parses arguments, runs the library, prints results. Results go to stdout, logs and
//! progress to stderr; exit code 0, 1 for a failure, 2 for usage, 130 or 143 where a signal ended it.

mod ablate;
mod args;
mod baseline;
mod bench;
mod data;
mod device;
mod eval;
mod export;
mod generate;
mod index;
mod init;
mod logging;
mod manual;
mod parquet;
mod progress;
mod recommend;
mod report;
mod run;
mod serve;
mod shared;
mod show;
#[cfg(unix)]
mod signals;
mod switch;
mod text;
mod train;

use std::env;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};

use crate::config::{DEMO, RunConfig, key_of};
use crate::ranks::{self, Ranks};
use crate::run::{CONFIG, MANIFEST, Run, config_of, help, let_go};
use crate::{Error, interrupt};
use args::{Args, Command};
use eval::EvalTask;
use logging::LogFormat;
use progress::Bars;
use show::out;

/// Runs the program on the process's arguments.
pub fn main() -> ExitCode {
    // As long as the program itself, and the threads that open a run for it.
    let args: &'static Args = match Args::of(&env::args_os().collect::<Vec<_>>()) {
        Ok(args) => Box::leak(Box::new(args)),
        Err(e) => return unparsed(&e),
    };
    bound_candle(args.threads);
    let joined = ranks::join();
    let ranks = ranks::world();
    let level = match (args.quiet, args.verbose) {
        // Of what all ranks meet rank 0 tells.
        _ if !ranks.is_first() => "error",
        (true, _) => "warn",
        (false, 0) => "llmbs=info,warn",
        (false, 1) => "llmbs=debug,info",
        (false, _) => "trace",
    };
    start_log(level, args.log_format);
    #[cfg(unix)]
    if let Err(e) = signals::take() {
        tracing::warn!("{e:#}");
    }
    // The ranks end with it.
    let _joined = match joined {
        Ok(joined) => joined,
        Err(e) => {
            show::fault(&e.to_string());
            return ExitCode::FAILURE;
        }
    };
    let outcome = set_threads(args.threads).and_then(|()| match &args.command {
        _ if !ranks.is_first() => {
            let device = device::open(args.device)?;
            Ok(rayon::scope(|_| help(ranks, &device))?)
        }
        Command::Serve(_) if !ranks.is_alone() => Err(anyhow!(
            "requests are answered by one process, and the other ranks would wait at full load: start `llmbs serve` alone"
        )),
        // A thread that waits for connections must not be one of the pool.
        Command::Serve(asked) => serve::run(asked, || {
            let (config, run_dir) = configuration(args)?;
            open(args, &run_dir, config)
        }),
        // From inside the pool, a parallel loop begins without waking another thread first.
        _ => rayon::scope(|_| run(args)),
    });
    let code = match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the results has read enough.
        Err(e) if show::is_closed_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => match (e.downcast_ref(), interrupt::signal()) {
            (Some(Error::Interrupted { .. }), Some(signal)) => {
                show::fault(&format!("{e:#}"));
                u8::try_from(128 + signal).map_or(ExitCode::FAILURE, ExitCode::from)
            }
            _ => return failed(&e, ranks),
        },
    };
    if ranks.is_first()
        && let Err(e) = let_go(ranks)
    {
        return failed(&e.into(), ranks);
    }
    code
}

/// Says what went wrong, and ends the other ranks, which may be waiting for this one.
fn failed(e: &anyhow::Error, ranks: &dyn Ranks) -> ExitCode {
    if ranks.is_alone() {
        show::fault(&format!("{e:#}"));
        return ExitCode::FAILURE;
    }
    if ranks.is_first() {
        show::fault(&format!("{e:#}"));
    } else {
        // What all have met, rank 0 says alone.
        thread::sleep(Duration::from_secs(2));
        show::fault(&format!("rank {}: {e:#}", ranks.rank()));
    }
    ranks.abort(1)
}

fn start_log(level: &str, format: LogFormat) {
    logging::start(level, format, io::stderr().is_terminal(), progress::LogWriter::default);
}

/// Prints the help or the version that was asked for, or what is wrong with the arguments.
fn unparsed(e: &clap::Error) -> ExitCode {
    let words = env::args_os().map(|word| word.to_string_lossy().into_owned());
    if e.use_stderr() && logging::asks_for_json(words) {
        start_log("warn", LogFormat::Json);
        show::fault(e.to_string().trim_start_matches("error: ").trim_end());
    } else {
        let _ = e.print();
    }
    u8::try_from(e.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

fn run(args: &Args) -> anyhow::Result<()> {
    if let Some(done) = without_configuration(args) {
        return done;
    }
    if let Command::Ablate(asked) = &args.command {
        if args.seed.is_some() || args.set.iter().any(|setting| key_of(setting) == "seed") {
            bail!("{}: its `seeds` say what to train with; leave --seed out", asked.spec.display());
        }
        let configure = |set: &[String]| Ok(resolve(args, set)?.0);
        let (device, mut bars) = (device::open(args.device)?, Bars::new(args.quiet));
        return ablate::run(asked, args.run.as_deref(), &configure, &device, &mut bars);
    }
    let (config, run_dir) = configuration(args)?;
    match &args.command {
        Command::Config => out(&config.to_toml()?),
        Command::Data { command } if !command.needs_run() => data::run(command, &config),
        command => {
            let mut run = open(args, &run_dir, config)?;
            let mut bars = Bars::new(args.quiet);
            match command {
                Command::Index(args) => index::run(&mut run, args, &mut bars),
                Command::Train(args) => train::run(&mut run, args, &mut bars),
                Command::ImportAdapter(args) => train::import_adapter(&mut run, args),
                Command::Eval(eval) if eval.task == EvalTask::Text => {
                    text::evaluate(&run, eval, &mut bars)
                }
                Command::Eval(eval) => eval::evaluate(&run, eval, &mut bars),
                Command::Baseline(baseline) => baseline::run(&run, baseline, &mut bars),
                Command::Generate(generate) => generate::run(&run, generate, args.seed),
                Command::Recommend(recommend) => recommend::recommend(&run, recommend, &mut bars),
                Command::Export(export) => export::run(&run, export),
                Command::Run => run::whole(&mut run, &mut bars),
                Command::Data { command } => data::of_run(&run, command),
                Command::Config
                | Command::Init(_)
                | Command::Completions { .. }
                | Command::Man { .. }
                | Command::Serve(_)
                | Command::Bench { .. }
                | Command::Report(_)
                | Command::Ablate(_) => Ok(()),
            }
        }
    }
}

/// Runs the command if it has no use for a configuration, whatever one that is here says.
fn without_configuration(args: &Args) -> Option<anyhow::Result<()>> {
    let run: &dyn Fn() -> anyhow::Result<()> = match &args.command {
        Command::Bench { command } => {
            &|| bench::run(command, args.seed.unwrap_or_default(), args.device)
        }
        Command::Init(asked) => &|| init::run(asked),
        Command::Completions { shell } => &|| manual::completions(*shell),
        Command::Man { out } => &|| manual::pages(out),
        Command::Report(asked) => &|| report::run(asked),
        Command::Data { command } if !command.needs_configuration() => {
            &|| data::without_configuration(command, args.quiet)
        }
        _ => return None,
    };
    let seeds = matches!(args.command, Command::Bench { .. });
    let given = [
        ("--config", args.config.is_some()),
        ("--run", args.run.is_some()),
        ("--set", !args.set.is_empty()),
        ("--seed", args.seed.is_some() && !seeds),
    ];
    Some(match given.into_iter().find(|(_, is_given)| *is_given) {
        Some((flag, _)) => {
            Err(anyhow!("{flag}: this command reads no configuration and no run: leave {flag} out"))
        }
        None => run(),
    })
}

/// The run in `dir`, as the command needs it.
fn open(args: &Args, dir: &Path, config: RunConfig) -> anyhow::Result<Run> {
    let open = if args.command.uses() { Run::open_to_use } else { Run::open };
    Ok(open(dir, config, device::open(args.device)?)?)
}

/// The configuration and run folder that the arguments and the place they are given in lead to.
fn configuration(args: &Args) -> anyhow::Result<(RunConfig, PathBuf)> {
    let (config, name) = resolve(args, &[])?;
    if args.command.before().is_some() && args.run.is_none() {
        bail!("a run that goes on from another is a folder of its own: name it with --run");
    }
    let of_run = args.config.as_deref().and_then(run_of);
    let run_dir = args.run.clone().or(of_run).unwrap_or_else(|| PathBuf::from("runs").join(name));
    config.check()?;
    Ok((config, run_dir))
}

/// The run folder whose own configuration `file` is.
fn run_of(file: &Path) -> Option<PathBuf> {
    let folder = file.parent()?;
    (file.ends_with(CONFIG) && folder.join(MANIFEST).exists()).then(|| match folder.to_str() {
        Some("") => PathBuf::from("."),
        _ => folder.to_path_buf(),
    })
}

/// The configuration, with settings more than those of the arguments, and its name.
fn resolve(args: &Args, set: &[String]) -> crate::Result<(RunConfig, String)> {
    let mut overrides = args.set.clone();
    if let Some(seed) = args.seed.filter(|_| !args.command.draws_by_seed()) {
        overrides.push(format!("seed={seed}"));
    }
    overrides.extend_from_slice(set);
    let of_run = args.run.as_ref().filter(|_| !matches!(args.command, Command::Ablate(_)));
    let of_run = match of_run.filter(|_| args.config.is_none()) {
        Some(dir) => match (config_of(dir)?, args.command.before()) {
            (None, Some(before)) => config_of(before)?,
            (found, _) => found,
        },
        None => None,
    };
    let here = PathBuf::from("llmbs.toml");
    if let (None, Some(of_run), true) = (&args.config, &of_run, here.exists()) {
        tracing::info!(
            "the configuration is {}, not ./llmbs.toml; --config llmbs.toml takes that",
            of_run.display()
        );
    }
    let file = args.config.clone().or(of_run).or_else(|| here.exists().then_some(here));
    let config = match &file {
        Some(path) => RunConfig::load(path, &overrides)?,
        None => RunConfig::parse(DEMO, "configs/demo.toml (embedded)", &overrides)?,
    };
    let name = file.as_ref().and_then(|path| path.file_stem());
    let name = name.map_or_else(|| "demo".into(), |stem| stem.to_string_lossy().into_owned());
    Ok((config, name))
}

/// candle asks the environment, and nothing else, how many threads to use; those wait for each other at full load.
#[expect(unsafe_code, reason = "no other thread may read the environment meanwhile")]
fn bound_candle(threads: Option<u16>) {
    let Some(threads) = threads.filter(|&threads| threads > 0) else { return };
    for name in ["CANDLE_NUM_THREADS", "RAYON_NUM_THREADS"] {
        // SAFETY: the program has just begun, and this thread is its only one.
        unsafe { std::env::set_var(name, threads.to_string()) };
    }
}

fn set_threads(threads: Option<u16>) -> anyhow::Result<()> {
    // 0 stands for as many as there are cores.
    let threads = threads.map_or(0, usize::from);
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .context("the thread pool could not be started")
}
