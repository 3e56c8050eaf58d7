//! What each stage does.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::Error;

mod adapter;
pub(super) mod anneal;
pub(super) mod index;
pub(super) mod initial;
mod teacher;

/// The files of a model's folder.
pub(super) const FOLDER: [&str; 5] = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// The SASRec of z^b, in the folder of the index.
const SASREC: &str = "sasrec/model.safetensors";

/// The error of a training that `[train.NAME]` sets up, with what to do where it has diverged.
pub(super) fn with_remedy(name: &str, error: Error) -> Error {
    match error {
        Error::Diverged { what, learning_rate } => Error::Invalid(format!(
            "{name}: {what}: the training has diverged; give the command again with a lower \
             train.{name}.learning-rate (it is {learning_rate:e}): it goes on from the state saved last, or begins \
             again with --force"
        )),
        other => other,
    }
}

/// What a stage, or a part of one, made.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// Files, relative to the run folder, or of a part to the folder that it was given.
    pub(super) files: Vec<PathBuf>,
    /// Figures of the result by name.
    pub(super) figures: Map<String, Value>,
}

impl Made {
    /// These files, without figures.
    fn of<P: AsRef<Path>>(files: impl IntoIterator<Item = P>) -> Self {
        let files = files.into_iter().map(|file| file.as_ref().to_path_buf()).collect();
        Self { files, figures: Map::new() }
    }

    /// Adds a figure.
    fn tell(&mut self, name: &str, figure: impl Into<Value>) {
        self.figures.insert(name.into(), figure.into());
    }

    /// Adds what a part made.
    fn take(&mut self, part: Self) {
        self.files.extend(part.files);
        self.figures.extend(part.figures);
    }

    /// The same with files relative to the folder that `folder` lies in.
    fn within(self, folder: &str) -> Self {
        let files = self.files.iter().map(|file| Path::new(folder).join(file)).collect();
        Self { files, ..self }
    }
}
