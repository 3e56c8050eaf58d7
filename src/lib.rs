//! `llmbs`: a generative recommender in one binary.
//!
//! The modules, in reading order, which is also the order of dependency: a module uses some of those
//! above it, never those below, but for `error`, which wraps what they say (see `docs/architecture.md`).

pub mod error;
pub mod files;
mod guard;
pub mod interrupt;
pub mod ranks;
pub mod rng;
pub mod sealed;

pub mod data;
pub mod export;
pub mod import;
pub mod index;

pub mod ops;

pub mod nn;
pub mod text;

pub mod model;

pub mod decode;
pub mod tasks;

pub mod embed;
pub mod inference;

pub mod eval;
pub mod train;

pub mod config;

pub mod run;

pub mod ablate;

pub mod report;

pub mod bench;

pub mod server;

pub mod cli;

pub use error::{Error, Result};
