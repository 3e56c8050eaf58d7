//! `llmbs generate`: the trained model continues a prompt.

use anyhow::bail;
use clap::Args as ClapArgs;

use super::show::{self, out};
use super::switch::Switch;
use crate::run::{GenerateRequest, Run, Sampling};

#[derive(Debug, ClapArgs)]
pub(super) struct GenerateArgs {
    /// The text to continue; item tokens such as `<a_17>` may stand in it
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// The most tokens to write
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_tokens: usize,
    /// Draw each token from the softmax of the logits / T; 0 takes the likeliest [default: 0]
    #[arg(long, value_name = "T")]
    temperature: Option<f64>,
    /// Draw from this many of the likeliest tokens [default: all]
    #[arg(long, value_name = "K", requires = "temperature")]
    top_k: Option<usize>,
    /// Draw from the likeliest tokens that have this probability together [default: all]
    #[arg(long, value_name = "P", requires = "temperature")]
    top_p: Option<f64>,
    /// With or without the annealing adapter
    #[arg(long, default_value = "off")]
    adapter: Switch,
    /// As JSON, with token ids and why the text ends
    #[arg(long)]
    json: bool,
}

/// Continues the prompt; draws are of `seed`, or of the run's own where there is none.
pub(super) fn run(run: &Run, args: &GenerateArgs, seed: Option<u64>) -> anyhow::Result<()> {
    let sampling = Sampling {
        temperature: args.temperature.unwrap_or(Sampling::GREEDY.temperature),
        top_k: args.top_k,
        top_p: args.top_p.unwrap_or(Sampling::GREEDY.top_p),
    };
    if args.max_tokens == 0 || args.top_k == Some(0) {
        bail!("--max-tokens and --top-k must be at least 1");
    }
    if !(sampling.temperature >= 0.0 && sampling.temperature.is_finite()) {
        bail!("--temperature {} must be a number from 0", sampling.temperature);
    }
    if !(sampling.top_p > 0.0 && sampling.top_p <= 1.0) {
        bail!("--top-p {} must be above 0 and at most 1", sampling.top_p);
    }
    let generated = run.generate(&GenerateRequest {
        prompt: args.prompt.clone(),
        max_tokens: args.max_tokens,
        sampling,
        seed: seed.unwrap_or(run.config().seed),
        adapter: args.adapter == Switch::On,
    })?;
    if args.json { show::json(&generated) } else { out(&(generated.text + "\n")) }
}
