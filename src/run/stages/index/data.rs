//! The run's own copy of its dataset, so that what was trained can be used whatever becomes of the dataset.

use std::path::Path;

use crate::data::Dataset;
use crate::run::stages::Made;
use crate::run::{DATA, Record, Run, Stage};
use crate::{Result, files, invalid};

/// Copies the files of the dataset folder, of which the synthetic shop has none, into the result of stage `index`.
///
/// # Errors
/// If they are no longer those that the run has read: they may grow by another day at any time.
pub(super) fn keep(run: &Run) -> Result<Made> {
    let Some(from) = &run.config.data.path else { return Ok(Made::default()) };
    let names = Dataset::files(from)?;
    let to = run.result_of(Stage::Index).join(DATA);
    names.iter().try_for_each(|name| files::copy(&from.join(name), &to.join(name)))?;
    let copied = Dataset::load(&to)?.divided(run.config.data.split)?;
    if copied.fingerprint != run.dataset.fingerprint {
        invalid!("{}: has changed since it was read; give the command again", from.display());
    }
    Ok(Made::of(names).within(DATA))
}

/// Whether the run folder `dir` has the copy that stage `index`, of `record`, left there.
pub(in crate::run) fn has_copy(dir: &Path, record: &Record) -> bool {
    let mut copied =
        record.outputs.keys().filter(|name| Path::new(name).starts_with(DATA)).peekable();
    copied.peek().is_some() && copied.all(|name| dir.join(name).exists())
}
