//! What an evaluation has found so far, on disk, so that one that is cut off goes on there.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::data::Split;
use crate::decode::Found;
use crate::eval::{Recommender, SearchLog};
use crate::files::Exclusive;
use crate::run::monitor::with_progress;
use crate::run::unfinished::UNFINISHED;
use crate::run::{Monitor, Run};
use crate::{Error, Result, files, invalid};

/// A file with what decides the evaluation on its first line and a batch on every other, each behind its digest:
/// a line that is cut off or altered ends what is known.
pub(super) struct Journal<T> {
    file: Exclusive,
    path: PathBuf,
    of: PhantomData<T>,
}

impl<T: Serialize + DeserializeOwned> Journal<T> {
    /// The journal of the evaluation `name`, which `settings` decide, and the batches it knows.
    ///
    /// # Errors
    /// If another process is at this evaluation.
    pub(super) fn open(run: &Run, name: &str, settings: &impl Serialize) -> Result<(Self, Vec<T>)> {
        let (dir, path) = (run.dir().join(UNFINISHED), path_of(run, name));
        let Some(file) = files::in_dir(&dir, || Exclusive::open(&path))? else {
            invalid!(
                "{}: another process is at this evaluation; wait until it is done",
                path.display()
            )
        };
        let mut text = Vec::new();
        (&*file).read_to_end(&mut text).map_err(Error::io(&path))?;
        let head = line(settings).map_err(|e| Error::Invalid(e.to_string()))?;
        let (mut known, mut whole) = (Vec::new(), 0);
        if text.starts_with(head.as_bytes()) {
            whole = head.len();
            for line in text[whole..].split_inclusive(|&byte| byte == b'\n') {
                let Some(batch) = read(line) else { break };
                known.push(batch);
                whole += line.len();
            }
        }
        let place = file.set_len(whole as u64).and_then(|()| (&*file).seek(SeekFrom::End(0)));
        place.map_err(Error::io(&path))?;
        let mut journal = Self { file, path, of: PhantomData };
        if whole == 0 {
            journal.write(&head)?;
        }
        Ok((journal, known))
    }

    /// Adds a batch.
    pub(super) fn add(&mut self, batch: &T) -> Result<()> {
        let line = line(batch).map_err(|e| Error::Invalid(e.to_string()))?;
        self.write(&line)
    }

    fn write(&mut self, line: &str) -> Result<()> {
        (&*self.file).write_all(line.as_bytes()).map_err(Error::io(&self.path))
    }

    /// Ends it: its evaluation is kept elsewhere.
    pub(super) fn close(self) -> Result<()> {
        remove(&self.path)
    }

    /// Removes the journal of an evaluation whose process was killed when its result stood; not one that a process
    /// is at.
    pub(super) fn forget(run: &Run, name: &str) -> Result<()> {
        let path = path_of(run, name);
        if !path.exists() {
            // The process may have been killed before it removed the empty folder.
            let _ = path.parent().map(fs::remove_dir);
        } else if matches!(Exclusive::open(&path), Ok(Some(_))) {
            remove(&path)?;
        }
        Ok(())
    }
}

fn path_of(run: &Run, name: &str) -> PathBuf {
    run.dir().join(UNFINISHED).join(format!("{name}.jsonl"))
}

/// Removes a journal, and the folder of it where nothing else is unfinished.
fn remove(path: &Path) -> Result<()> {
    files::remove(path)?;
    let _ = path.parent().map(fs::remove_dir);
    Ok(())
}

/// The first bytes of the SHA-256, a space, the JSON.
fn line(value: &impl Serialize) -> serde_json::Result<String> {
    let json = serde_json::to_string(value)?;
    Ok(format!("{} {json}\n", digest(json.as_bytes())))
}

fn read<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    let (found, json) = line.strip_suffix(b"\n")?.split_at_checked(16)?;
    let json = json.strip_prefix(b" ")?;
    if found != digest(json).as_bytes() {
        return None;
    }
    serde_json::from_slice(json).ok()
}

fn digest(bytes: &[u8]) -> String {
    let mut text = files::digest_of(bytes);
    text.truncate(16);
    text
}

/// What was found for targets, by their positions among the split's.
type Targets = Vec<(usize, Found)>;

/// Writes a search to a journal and shows how far it is.
struct Logged<'a> {
    /// None on a rank that searches for another.
    journal: Option<&'a mut Journal<Targets>>,
    known: Targets,
    done: usize,
    on_batch: &'a mut dyn FnMut(usize),
}

impl SearchLog for Logged<'_> {
    fn known(&mut self) -> Targets {
        std::mem::take(&mut self.known)
    }

    fn add(&mut self, batch: &[(usize, Found)]) -> Result<()> {
        if let Some(journal) = &mut self.journal {
            journal.add(&batch.to_vec())?;
        }
        self.done += batch.len();
        (self.on_batch)(self.done);
        Ok(())
    }
}

/// What the journal of the model at `place` of an evaluation is called.
fn name_of(evaluation: &str, place: usize, split: Split) -> String {
    format!("{evaluation}-model{place}-{split}")
}

/// The searches of an evaluation.
pub(super) struct Searches<'a> {
    run: &'a Run,
    name: String,
    settings: serde_json::Value,
    journals: Vec<Journal<Targets>>,
    /// Targets that were searched for here, and are not from a journal.
    pub(super) searched: usize,
}

impl<'a> Searches<'a> {
    /// Those of the evaluation `name`, which `settings` decide.
    pub(super) fn new(run: &'a Run, name: &str, settings: &impl Serialize) -> Result<Self> {
        let settings = serde_json::to_value(settings);
        let settings = settings.map_err(|e| Error::Invalid(format!("{name}: {e}")))?;
        Ok(Self { run, name: name.into(), settings, journals: Vec::new(), searched: 0 })
    }

    /// What `recommender`, the model at `place` among those that rank, finds for `targets` of `split`.
    pub(super) fn search(
        &mut self,
        place: usize,
        recommender: &Recommender<'_>,
        targets: &[usize],
        split: Split,
        monitor: &mut dyn Monitor,
    ) -> Result<Targets> {
        let name = name_of(&self.name, place, split);
        let mut journal = None;
        let mut known = Vec::new();
        if self.run.ranks.is_first() {
            let (of_run, batches) = Journal::<Targets>::open(self.run, &name, &self.settings)?;
            journal = Some(of_run);
            known = batches.into_iter().flatten().collect();
        }
        let known = self.run.ranks.broadcast_value(known)?;
        let before = known.len();
        if before > 0 {
            tracing::info!("{name}: {before} targets are done already");
        }
        let what = if place == 0 {
            format!("evaluate {}", self.name)
        } else {
            format!("evaluate {}, model {}", self.name, place + 1)
        };
        let protocol = self.run.protocol(split);
        let found =
            with_progress(monitor, &what, targets.len() - before.min(targets.len()), |on_batch| {
                let mut log = Logged { journal: journal.as_mut(), known, done: 0, on_batch };
                recommender.search(self.run.dataset(), targets, protocol, &mut log)
            })?;
        self.searched += targets.len() - before.min(targets.len());
        self.journals.extend(journal);
        Ok(found)
    }

    /// Removes the journals of an evaluation by `models` models whose process was killed when its result stood.
    pub(super) fn forget(run: &Run, name: &str, models: usize) -> Result<()> {
        let all = (0..models)
            .flat_map(|place| [Split::Valid, Split::Test].map(|split| name_of(name, place, split)));
        all.into_iter().try_for_each(|name| Journal::<Targets>::forget(run, &name))
    }

    /// Ends them: what they led to is kept elsewhere.
    pub(super) fn close(self) -> Result<()> {
        self.journals.into_iter().try_for_each(Journal::close)
    }
}
