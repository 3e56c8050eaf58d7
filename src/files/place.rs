//! Folders that are written whole.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Exclusive, remove_dir};
use crate::{Error, Result, invalid};

/// The place of a folder that is written whole: at every moment there is what was there before, or the new one. One
/// process has it at a time.
///
/// A link to a folder stands for that folder. All else happens in `.NAME.llmbs` beside it, which is gone when this is
/// dropped: a lock, the folder that is built, and where the system cannot exchange folders, the one before until the new
/// one stands.
#[derive(Debug)]
pub struct Place {
    dir: PathBuf,
    lock: Option<Exclusive>,
}

impl Place {
    /// Takes the place `dir`. What is there must be empty or, with `force`, hold nothing but files whose names are ours, as
    /// `ours` tells them of the folder that is there: those are what would be replaced.
    ///
    /// # Errors
    /// Another process that has it, a folder that may not be replaced.
    pub fn claim<F: Fn(&str) -> bool>(
        dir: &Path,
        force: bool,
        ours: impl FnOnce(&Path) -> F,
    ) -> Result<Self> {
        let given = dir;
        let Some(name) = dir.file_name() else {
            invalid!("{}: has no name; give a folder of its own", dir.display());
        };
        // Without the slash behind which a link is the folder itself.
        let plain = dir.with_file_name(name);
        let dir = if plain.is_symlink() {
            plain.canonicalize().map_err(Error::io(&plain))?
        } else {
            plain
        };
        let mut place = Self { dir, lock: None };
        // Where there is no folder around it, there is nothing to guard.
        if place.around().exists() {
            place.enter()?;
        }
        // Not before: what stood there may just have been put back.
        check_free(&place.dir, force, &ours(given))?;
        Ok(place)
    }

    /// Builds the folder, `fill` writing into it, and puts it in its place.
    pub fn build<T>(mut self, fill: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        self.enter()?;
        let (new, old) = (self.workshop().join("new"), self.workshop().join("old"));
        super::make_dir(&new)?;
        let filled = fill(&new)?;
        if !exchange(&new, &self.dir) {
            if self.dir.exists() {
                fs::rename(&self.dir, &old).map_err(Error::io(&self.dir))?;
            }
            fs::rename(&new, &self.dir).map_err(Error::io(&self.dir))?;
        }
        Ok(filled)
    }

    /// The folder that it is in.
    fn around(&self) -> &Path {
        match self.dir.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        }
    }

    fn workshop(&self) -> PathBuf {
        let mut name = std::ffi::OsString::from(".");
        name.push(self.dir.file_name().unwrap_or_default());
        name.push(".llmbs");
        self.dir.with_file_name(name)
    }

    /// Locks it, and ends what a process began there that was killed.
    fn enter(&mut self) -> Result<()> {
        if self.lock.is_some() {
            return Ok(());
        }
        let workshop = self.workshop();
        let path = workshop.join("lock");
        let lock = super::in_dir(&workshop, || Exclusive::open(&path))?;
        // One who has just been through with it removes it.
        let Some(lock) = lock.filter(|_| path.exists()) else {
            invalid!(
                "{}: another process is writing it; wait until it is done",
                self.dir.display()
            );
        };
        self.lock = Some(lock);
        let (new, old) = (workshop.join("new"), workshop.join("old"));
        if old.exists() && !self.dir.exists() {
            fs::rename(&old, &self.dir).map_err(Error::io(&self.dir))?;
        }
        remove_dir(&new)?;
        remove_dir(&old)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let workshop = self.workshop();
        let is_whole = self.dir.exists() || !workshop.join("old").exists();
        if self.lock.is_some() && is_whole {
            // What is left there, the next one removes.
            let _ = remove_dir(&workshop);
        }
    }
}

fn check_free(dir: &Path, force: bool, ours: &dyn Fn(&str) -> bool) -> Result<()> {
    let shown = dir.display();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            invalid!("{shown}: is a file; give the name of a folder")
        }
        Err(e) => return Err(Error::io(dir)(e)),
    };
    for entry in entries {
        let name = entry.map_err(Error::io(dir))?.file_name();
        if !name.to_str().is_some_and(ours) {
            let name = name.to_string_lossy();
            invalid!("{shown}: holds {name}, which would be lost; give a folder of its own");
        }
        if !force {
            invalid!("{shown}: is there already; --force replaces it");
        }
    }
    Ok(())
}

/// Exchanges two folders in one step, where both are there and the system can.
#[cfg(target_os = "linux")]
pub(super) fn exchange(one: &Path, other: &Path) -> bool {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).is_ok()
}

#[cfg(not(target_os = "linux"))]
pub(super) fn exchange(_one: &Path, _other: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(dir: &Path, force: bool) -> Result<Place> {
        Place::claim(dir, force, |_| |name: &str| name == "a")
    }

    fn holds(text: &'static str) -> impl Fn(&Path) -> Result<()> {
        move |new| fs::write(new.join("a"), text).map_err(Error::io(new))
    }

    /// Names of all that is in a folder.
    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_folder_is_the_one_before_or_the_new_one() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("around/shop");
        let found = || fs::read_to_string(dir.join("a")).unwrap();
        claim(&dir, false).unwrap().build(holds("one")).unwrap();
        let cut_off = |_: &Path| -> Result<()> { invalid!("cut off") };
        claim(&dir, true).unwrap().build(cut_off).unwrap_err();
        assert_eq!(found(), "one");
        let replaced = claim(&dir, true).unwrap().build(|new| {
            assert_eq!(found(), "one");
            holds("two")(new)
        });
        replaced.unwrap();
        assert_eq!(
            (found(), names(&root.path().join("around"))),
            ("two".into(), vec!["shop".into()])
        );
        claim(&dir, false).unwrap_err();
        Place::claim(&dir, true, |_| |name: &str| name == "b").unwrap_err();
    }

    #[test]
    fn what_a_killed_process_left_is_put_right() {
        let root = tempfile::tempdir().unwrap();
        let (dir, workshop) = (root.path().join("shop"), root.path().join(".shop.llmbs"));
        // Between two renames, where folders cannot be exchanged.
        fs::create_dir_all(workshop.join("old")).unwrap();
        fs::create_dir_all(workshop.join("new/half")).unwrap();
        holds("one")(&workshop.join("old")).unwrap();
        let as_it_stands = |dir: &Path| {
            let found = names(dir);
            move |name: &str| found.iter().any(|f| f == name)
        };
        drop(Place::claim(&dir, true, as_it_stands).unwrap());
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "one");
        assert_eq!(names(root.path()), ["shop"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stands_for_its_folder() {
        let root = tempfile::tempdir().unwrap();
        let (dir, link) = (root.path().join("shop"), root.path().join("link"));
        claim(&dir, false).unwrap().build(holds("one")).unwrap();
        std::os::unix::fs::symlink("shop", &link).unwrap();
        let slash = PathBuf::from(format!("{}/", link.display()));
        let first = claim(&slash, true).unwrap();
        claim(&dir, true).unwrap_err();
        first.build(holds("two")).unwrap();
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "two");
        assert!(link.is_symlink());
        assert_eq!(names(root.path()), ["link", "shop"]);
        fs::remove_dir_all(&dir).unwrap();
        assert!(claim(&link, true).unwrap_err().to_string().contains("link"));
    }

    #[test]
    fn one_process_has_a_place_and_none_has_its_neighbours() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("shop");
        for name in ["shop.new", "shop.old", "shop.tmp"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        let first = claim(&dir, false).unwrap();
        let error = claim(&dir, false).unwrap_err().to_string();
        assert!(error.contains("another process"), "{error}");
        first.build(holds("one")).unwrap();
        // As a shell completes the name of a folder.
        let slash = PathBuf::from(format!("{}/", dir.display()));
        claim(&slash, true).unwrap().build(holds("two")).unwrap();
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "two");
        assert_eq!(names(root.path()), ["shop", "shop.new", "shop.old", "shop.tmp"]);
        for name in ["/", "..", "."] {
            claim(Path::new(name), true).unwrap_err();
        }
    }
}
