//! One writer a run folder: a lock that the system gives back when its holder ends, however that comes about.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::OnceLock;

use crate::files::Exclusive;
use crate::{Error, Result, files, invalid};

/// The file that is locked; it holds the number of the process that did.
pub(super) const LOCK: &str = ".lock";

/// The right to write to a run folder, once it was taken.
#[derive(Debug, Default)]
pub(super) struct Lock(OnceLock<Exclusive>);

impl Lock {
    /// Takes it for as long as the run is open, and says whether it was not taken before; readers are not kept
    /// out.
    ///
    /// # Errors
    /// Names the process that has it.
    pub(super) fn take(&self, dir: &Path) -> Result<bool> {
        if self.0.get().is_some() {
            return Ok(false);
        }
        files::make_dir(dir)?;
        let path = dir.join(LOCK);
        let Some(file) = Exclusive::open(&path)? else {
            // Nothing stands there between its lock and its number.
            let holder = fs::read_to_string(&path).unwrap_or_default();
            let holder = match holder.trim() {
                "" => "another process".to_string(),
                number => format!("process {number}"),
            };
            invalid!(
                "{}: {holder} is writing to this run; wait until it is done, or choose another folder",
                dir.display()
            );
        };
        let id = format!("{}\n", std::process::id());
        let written = file.set_len(0).and_then(|()| (&*file).write_all(id.as_bytes()));
        written.map_err(Error::io(&path))?;
        let _ = self.0.set(file);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_named_until_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (Lock::default(), Lock::default());
        assert!(first.take(dir.path()).unwrap());
        assert!(!first.take(dir.path()).unwrap());
        let error = second.take(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {} is writing", std::process::id())), "{error}");
        drop(first);
        assert!(second.take(dir.path()).unwrap());
    }
    #[test]
    fn a_copy_of_the_file_in_a_process_that_starts_does_not_keep_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::default();
        assert!(first.take(dir.path()).unwrap());
        let copy = first.0.get().unwrap().try_clone().unwrap();
        drop(first);
        assert!(Lock::default().take(dir.path()).unwrap());
        drop(copy);
    }
}
