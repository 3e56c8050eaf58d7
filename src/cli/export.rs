//! `llmbs export`: what can be typed, and what is printed.

use std::fmt::Write as _;
use std::path::PathBuf;

use candle_core::DType;
use clap::{Args as ClapArgs, ValueEnum};
use serde_json::json;

use super::show;
use crate::files;
use crate::run::{ExportRequest, GgufType, Run, TokenOrder};

#[derive(Debug, ClapArgs)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(super) struct ExportArgs {
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Add the annealing adapter to the model's weights; descriptions (--text) are then answered by it, too
    #[arg(long)]
    merged: bool,
    /// What the model's weights are rounded to [default: as they are]
    #[arg(long)]
    dtype: Option<Rounding>,
    /// The order of the item tokens in the model's vocabulary
    #[arg(long, value_name = "ORDER", default_value = "code")]
    token_order: TokenOrderChoice,
    /// Write the model as one GGUF file for llama.cpp, too: model.gguf, with the adapter only if --merged
    #[arg(long, value_name = "TYPE")]
    gguf: Option<GgufChoice>,
    /// Hand on the users and all that they took, too, for `recommend --user`
    #[arg(long)]
    with_users: bool,
    /// Replace what was exported to the folder before
    #[arg(long)]
    force: bool,
    /// Print the files as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Rounding {
    F32,
    F16,
    Bf16,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TokenOrderChoice {
    /// By level and code: `<a_1>`, `<a_2>`, `<a_10>`
    Code,
    /// By their strings, as LC-Rec adds them: `<a_10>`, `<a_1>`, `<a_2>`
    Lexicographic,
}

impl From<TokenOrderChoice> for TokenOrder {
    fn from(choice: TokenOrderChoice) -> Self {
        match choice {
            TokenOrderChoice::Code => Self::Code,
            TokenOrderChoice::Lexicographic => Self::Lexicographic,
        }
    }
}

impl From<Rounding> for DType {
    fn from(rounding: Rounding) -> Self {
        match rounding {
            Rounding::F32 => Self::F32,
            Rounding::F16 => Self::F16,
            Rounding::Bf16 => Self::BF16,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum GgufChoice {
    /// 16 bits a weight
    F16,
    /// 8 bits and a half a weight
    #[value(name = "q8_0")]
    Q8_0,
}

impl From<GgufChoice> for GgufType {
    fn from(choice: GgufChoice) -> Self {
        match choice {
            GgufChoice::F16 => Self::F16,
            GgufChoice::Q8_0 => Self::Q8_0,
        }
    }
}

pub(super) fn run(run: &Run, args: &ExportArgs) -> anyhow::Result<()> {
    let ExportArgs { out, merged, dtype, token_order, gguf, with_users: users, force, .. } = args;
    let request = ExportRequest {
        out: out.clone(),
        merged: *merged,
        dtype: dtype.map(DType::from),
        token_order: (*token_order).into(),
        gguf: gguf.map(GgufType::from),
        users: *users,
        force: *force,
    };
    let mut files = run.export(&request)?;
    files.sort();
    if args.json {
        return show::json(&json!({ "folder": out, "files": files }));
    }
    let mut text = String::new();
    let mut all = 0;
    for file in &files {
        let bytes = std::fs::metadata(out.join(file)).map_or(0, |found| found.len());
        all += bytes;
        let _ = writeln!(text, "{:>12}  {}", bytes, file.display());
    }
    let _ = writeln!(text, "{all:>12}  bytes in {}", out.display());
    let _ = writeln!(text, "use it with `llmbs recommend --run {}`", files::shell(out));
    show::out(&text)
}
