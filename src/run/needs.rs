//! Disk and memory that work is about to take, compared with what is there before it begins.

use std::fs;
use std::path::Path;

use super::Run;
use crate::embed::TrainingBytes;
use crate::{Result, invalid};

/// Bytes of memory that any work takes, as measured: code that runs for the first time, what the allocator keeps.
pub(super) const ANY_WORK: u64 = 24 << 20;

/// What a piece of work takes, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// Memory, on top of what the process holds.
    pub(super) memory: u64,
    /// Room on the disk of the run folder, on top of what its files hold.
    pub(super) disk: u64,
}

impl From<TrainingBytes> for Needs {
    fn from(TrainingBytes { memory, disk }: TrainingBytes) -> Self {
        Self { memory: ANY_WORK + memory, disk }
    }
}

impl Run {
    /// Says what `what` takes where there may not be enough of it; `reused` are bytes of files that it replaces.
    ///
    /// # Errors
    /// If the disk has not enough room. Memory is warned of: what the system can still make room for is not known.
    pub(super) fn afford(&self, what: &str, needs: Needs, reused: u64) -> Result<()> {
        let room = free_disk_bytes(&self.dir).map(|free| free + reused);
        check_disk(&self.dir, what, needs.disk, room)?;
        let (memory, disk) = (mb(needs.memory), mb(needs.disk));
        match free_memory_bytes() {
            Some(free) if needs.memory > free => tracing::warn!(
                "{what} takes about {memory} of memory, and {} are free: the system may kill it",
                mb(free)
            ),
            _ => tracing::debug!(
                "{what} takes about {memory} of memory, beside {} held, and {disk} of disk",
                mb(memory_bytes())
            ),
        }
        Ok(())
    }
}

/// Bytes in words.
fn mb(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}

fn check_disk(dir: &Path, what: &str, needed: u64, room: Option<u64>) -> Result<()> {
    if let Some(room) = room.filter(|room| needed > *room) {
        invalid!(
            "{}: {what} takes up to {} of disk there, and {} are free; make room, or choose another folder with --run",
            dir.display(),
            mb(needed),
            mb(room)
        );
    }
    Ok(())
}

/// Bytes of all files below `dir`.
pub(super) fn bytes_below(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_below(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// Bytes that can be written below `dir`, where the system says it.
#[cfg(unix)]
fn free_disk_bytes(dir: &Path) -> Option<u64> {
    let there = dir.ancestors().find(|place| place.exists() && !place.as_os_str().is_empty());
    let found = rustix::fs::statvfs(there.unwrap_or(Path::new("."))).ok()?;
    Some(found.f_bavail * found.f_frsize)
}

#[cfg(not(unix))]
fn free_disk_bytes(_dir: &Path) -> Option<u64> {
    None
}

/// Memory that this process can still take, in bytes, where the system says it: what is free, and no more than the
/// control group of the process leaves.
pub fn free_memory_bytes() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let free = line.split_whitespace().next()?.parse::<u64>().ok()? * 1024;
    let of_group = |name: &str| {
        let text = fs::read_to_string(Path::new("/sys/fs/cgroup").join(name)).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let left = of_group("memory.max").zip(of_group("memory.current"));
    Some(left.map_or(free, |(most, now)| free.min(most.saturating_sub(now))))
}

/// Memory that this process holds, in bytes; 0 where the system does not say.
pub(super) fn memory_bytes() -> u64 {
    of_process("VmRSS:")
}

/// The most memory this process has held, in bytes; 0 where the system does not say.
pub fn peak_memory_bytes() -> u64 {
    of_process("VmHWM:")
}

fn of_process(entry: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(entry));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_room_is_told_with_what_is_needed() {
        let dir = Path::new("runs/demo");
        check_disk(dir, "stage initial", 5, Some(5)).unwrap();
        check_disk(dir, "stage initial", 5, None).unwrap();
        let error = check_disk(dir, "stage initial", 3_200_000_000, Some(1_100_000_000));
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("runs/demo: stage initial takes up to 3200.00 MB"), "{error}");
        assert!(error.contains("1100.00 MB are free"), "{error}");
    }

    #[test]
    fn what_a_folder_holds_is_counted_below_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("inner")).unwrap();
        fs::write(dir.path().join("a"), [0; 3]).unwrap();
        fs::write(dir.path().join("inner/b"), [0; 4]).unwrap();
        assert_eq!(bytes_below(dir.path()), 7);
        assert_eq!(bytes_below(&dir.path().join("missing")), 0);
        #[cfg(unix)]
        assert!(free_disk_bytes(&dir.path().join("not/yet/there")).unwrap() > 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_that_is_held_counts() {
        let before = memory_bytes();
        let held = vec![1u8; 64 << 20];
        assert!(held.iter().map(|&b| u64::from(b)).sum::<u64>() == 64 << 20);
        assert!(memory_bytes() >= before + (32 << 20) && peak_memory_bytes() >= memory_bytes());
        assert!(free_memory_bytes().unwrap() > 0);
    }
}
