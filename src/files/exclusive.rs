//! Files that one process has at a time.

use std::fs::{File, TryLockError};
use std::ops::Deref;
use std::path::Path;

use crate::{Error, Result};

/// A file that nobody else has as such a one, for as long as it is open.
///
/// The lock is given back by name, and not by closing the file alone: a process that is being started holds a copy of
/// every open file for a moment, and the lock with it.
#[derive(Debug)]
pub struct Exclusive(File);

impl Exclusive {
    /// Opens it to read and to write, empty where it was not there; none if somebody has it.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let open = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let file = open.map_err(Error::io(path))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(None),
            // A file system without locks.
            Err(TryLockError::Error(e)) => tracing::debug!("{}: not locked: {e}", path.display()),
            Ok(()) => {}
        }
        Ok(Some(Self(file)))
    }
}

impl Deref for Exclusive {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        // Nothing is lost where this fails: the system gives it back with the last copy.
        let _ = self.0.unlock();
    }
}
