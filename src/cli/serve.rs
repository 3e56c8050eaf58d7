//! `llmbs serve`: recommendations over HTTP.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args as ClapArgs;

use super::switch::Switch;
use crate::run::{Run, ServiceOptions};
use crate::{Error, server};

#[derive(Debug, ClapArgs)]
pub(super) struct ServeArgs {
    /// Where to listen; port 0 takes any that is free. Whoever reaches it may ask: there are no passwords
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8080")]
    addr: SocketAddr,
    /// A further host name that requests may use, where the service listens on loopback behind a proxy that passes
    /// host names on; may be given several times
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,
    /// Beam width; at least as many as an answer has items in effect [default: eval.beam of the
    /// configuration]
    #[arg(long, value_name = "N")]
    beam: Option<usize>,
    /// With or without the annealing adapter [default: on for histories if there is one, off for texts]
    #[arg(long)]
    adapter: Option<Switch>,
    /// Recommend by the model and this trained baseline together, as `llmbs eval --fuse` ranks; run that first; may be
    /// given several times
    #[arg(long, value_name = "NAME|FOLDER")]
    fuse: Vec<PathBuf>,
}

/// Serves the run that `open` opens, now and whenever it is to be opened anew.
pub(super) fn run(
    args: &ServeArgs,
    open: impl Fn() -> anyhow::Result<Run> + Send + Sync + 'static,
) -> anyhow::Result<()> {
    let adapter = args.adapter.map(|switch| switch == Switch::On);
    let options = ServiceOptions { beam: args.beam, adapter, fuse: args.fuse.clone() };
    let open = move || open().map_err(|e| Error::Invalid(format!("{e:#}")));
    Ok(server::serve(args.addr, &args.host, options, Arc::new(open))?)
}
