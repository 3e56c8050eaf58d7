//! The crate's error: one transparent wrapper around each module's own.

use std::path::PathBuf;

/// Anything that can go wrong below the command line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A dataset cannot be read or does not fit its own description.
    #[error(transparent)]
    Data(#[from] crate::data::DataError),
    /// An item index cannot be built, read or used.
    #[error(transparent)]
    Index(#[from] crate::index::IndexError),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A file could not be read or written.
    #[error("{path}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said; in the text, so not a `source` that would print it again.
        cause: std::io::Error,
    },
    /// A signal came, and nothing is lost.
    #[error("stopped after {done}, which is saved; {command} goes on from there")]
    Interrupted {
        /// What was done last.
        done: String,
        /// What goes on.
        command: &'static str,
    },
    /// A training of a stage came to values that are not finite.
    #[error("{what}: the training has diverged; its learning rate is {learning_rate:e}")]
    Diverged {
        /// What was not finite, and where.
        what: String,
        /// The peak learning rate.
        learning_rate: f64,
    },
    /// Something the user gave or asked for does not work; the text names the place and the remedy.
    #[error("{0}")]
    Invalid(String),
}

/// The result of everything fallible below the command line.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Io`] at `path`, shaped for `map_err`.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |cause| Error::Io { path, cause }
    }
}

/// Returns early with an [`Error::Invalid`] built from a format string.
#[macro_export]
macro_rules! invalid {
    ($($arg:tt)*) => { return Err($crate::Error::Invalid(format!($($arg)*))) };
}
