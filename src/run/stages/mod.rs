//! What each stage does.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

pub(super) mod anneal;
pub(super) mod index;
pub(super) mod initial;
mod teacher;

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
