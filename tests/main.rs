//! All tests of the crate from outside, in one program: linking does not dominate.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

mod ablate;
mod baseline;
mod cli;
mod decoding;
mod demo_index;
mod embeddings;
mod exported;
mod following;
mod golden;
mod hostile;
mod import;
mod index_commands;
mod index_methods;
mod index_properties;
mod llama;
mod logging;
#[cfg(feature = "mpi")]
mod ranks;
mod recommend;
mod report;
#[cfg(unix)]
mod serve;
mod shop;
#[cfg(unix)]
mod signals;
mod splits;
mod teachers;
mod tensorboard;
mod text;
mod tidy;
mod training;
#[cfg(unix)]
mod unfinished;
