//! `llmbs data samples`: what the model is trained on, as text.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::cli::show;
use crate::run::{Run, TrainingSample};
use crate::{Error, files};

/// How a sample is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// `task`, `prompt` and `response`
    Plain,
    /// `instruction`, `input` and `output`, as LLaMA-Factory reads them
    Alpaca,
}

/// Write an epoch's training samples as JSON lines, for training elsewhere; needs the index
#[derive(Debug, Args)]
pub(in crate::cli) struct SamplesArgs {
    /// Where they go [default: stdout]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// How a sample is written
    #[arg(long, value_enum, default_value_t = Form::Plain)]
    format: Form,
    /// Which epoch of stage initial, from 1: text samples are drawn anew in each
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    epoch: u64,
}

pub(super) fn run(run: &Run, args: &SamplesArgs) -> anyhow::Result<()> {
    let mut count = 0;
    let mut write = |out: &mut dyn Write| -> io::Result<()> {
        let mut failure = None;
        let written = run.training_samples(args.epoch - 1, &mut |sample| {
            count += 1;
            let line = line(&sample, args.format)?;
            out.write_all(line.as_bytes()).map_err(|e| {
                let told = Error::Invalid(e.to_string());
                failure = Some(e);
                told
            })
        });
        match failure {
            Some(e) => Err(e),
            None => written.map_err(io::Error::other),
        }
    };
    match &args.out {
        Some(path) if path.is_dir() => bail!("--out {}: is a folder, not a file", path.display()),
        Some(path) => files::write_with(path, |file| write(file))?,
        None => {
            let mut out = BufWriter::new(io::stdout().lock());
            show::written(write(&mut out).and_then(|()| out.flush()))?;
        }
    }
    tracing::info!("{count} samples");
    Ok(())
}

fn line(sample: &TrainingSample, form: Form) -> crate::Result<String> {
    let line = match form {
        Form::Plain => files::json_line(sample),
        Form::Alpaca => files::json_line(&json!({
            "instruction": sample.prompt, "input": "", "output": sample.response,
        })),
    };
    line.map_err(|e| Error::Invalid(e.to_string()))
}
