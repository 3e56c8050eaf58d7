//! Files that are whole or absent: everything is written beside its place, then renamed into it.

mod exclusive;
mod place;

use std::fs::{self, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Component, Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::error::plain;
use crate::{Error, Result, invalid};

pub use exclusive::Exclusive;
pub use place::Place;

/// Whether `name` is that of a file in a folder, and no path. What a foreign file names must be.
pub fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let first = parts.next();
    first == Some(Component::Normal(name.as_ref()))
        && parts.next().is_none()
        && !name.contains(['\\', ':', '\0'])
}

/// Refuses a file of the foreign folder `dir` that is a link to somewhere outside of it; what is not
/// there is left to the one who reads it.
///
/// The hub's own cache is made of links: `snapshots/COMMIT/NAME` leads to `blobs/DIGEST` beside it.
pub fn check_inside(dir: &Path, path: &Path) -> Result<()> {
    let (Ok(folder), Ok(real)) = (dir.canonicalize(), path.canonicalize()) else { return Ok(()) };
    let snapshots = folder.parent().filter(|parent| parent.ends_with("snapshots"));
    let blobs = snapshots.and_then(Path::parent);
    let blobs = blobs.and_then(|repository| repository.join("blobs").canonicalize().ok());
    if !real.starts_with(&folder) && !blobs.is_some_and(|blobs| real.starts_with(blobs)) {
        invalid!(
            "{}: leads out of its folder, to {}; put the file itself there",
            path.display(),
            real.display()
        );
    }
    Ok(())
}

/// How often a folder is made again that another process has removed.
const MOST_TRIES: usize = 1000;

/// Makes a folder and those it lies in.
pub fn make_dir(dir: &Path) -> Result<()> {
    in_dir(dir, || Ok(()))
}

/// What `work` makes in the folder `dir`, which is made before. Another process may remove that, or one it lies in, as
/// long as it is empty (`unfinished` in a run folder): then both are done again.
pub fn in_dir<T>(dir: &Path, work: impl Fn() -> Result<T>) -> Result<T> {
    let mut tries = 0;
    loop {
        let made = fs::create_dir_all(dir).map_err(Error::io(dir)).and_then(|()| work());
        match made {
            // The second where it went between being found there and being looked at.
            Err(Error::Io { cause, .. })
                if tries < MOST_TRIES
                    && matches!(
                        cause.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists
                    ) =>
            {
                tries += 1;
            }
            made => return made,
        }
    }
}

/// `path` with `ending` after its name.
pub fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(ending);
    path.with_file_name(name)
}

/// What the names of files end with that are written before they are renamed into place.
pub const TEMPORARY: &str = ".tmp";

/// Where `path` is written before it is renamed into place, by whoever writes it alone.
pub fn temporary(path: &Path) -> PathBuf {
    beside(path, TEMPORARY)
}

/// An empty file to write `path` to before it is renamed into place, which nobody else writes to as long as it is open:
/// [`temporary`], or another where somebody has that.
fn open_beside(path: &Path) -> io::Result<(PathBuf, fs::File)> {
    let mut name = temporary(path);
    let mut others = (1..).map(|number| beside(path, &format!(".{number}{TEMPORARY}")));
    loop {
        // What a killed process left is taken over.
        match fs::File::options().write(true).create(true).truncate(false).open(&name) {
            // What somebody else has left.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied && name.exists() => {}
            open => {
                let file = open?;
                // A file system without locks has none to wait for.
                let is_free = !matches!(file.try_lock(), Err(TryLockError::WouldBlock));
                // Whoever had it may just have renamed it into place.
                if is_free && is_at(&file, &name)? {
                    file.set_len(0)?;
                    return Ok((name, file));
                }
            }
        }
        name = others.next().unwrap_or(name);
    }
}

/// Whether `file` is what has the name `path`, and no link leads there.
#[cfg(unix)]
fn is_at(file: &fs::File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let place = |of: fs::Metadata| (of.dev(), of.ino());
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        there => Ok(place(there?) == place(file.metadata()?)),
    }
}

#[cfg(not(unix))]
fn is_at(_file: &fs::File, _path: &Path) -> io::Result<bool> {
    Ok(true)
}

/// What `path` stands for where it is a link, to a file or to where none is yet.
fn led_to(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| match fs::read_link(path) {
        Ok(target) => path.parent().unwrap_or(Path::new("")).join(target),
        Err(_) => path.to_path_buf(),
    })
}

/// Whether what `path` leads to is written to as it is: a pipe, a device, or a file that is open already.
fn is_stream(path: &Path, there: Option<&fs::Metadata>) -> bool {
    let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
    let is_of_system = |folder: &Path| folder == Path::new("/dev") || folder.starts_with("/proc");
    there.is_some_and(|there| {
        !there.is_dir() && (!there.is_file() || folder.as_deref().is_some_and(is_of_system))
    })
}

/// Writes a file through `fill`, then renames it into place; creates the parent folder.
///
/// A link stands for the file that it leads to, and a file that is replaced leaves its permissions to the new one. A pipe
/// or a device is written to as it is.
pub fn write_with(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<fs::File>) -> io::Result<()>,
) -> Result<()> {
    if let Some(parent) = path.parent() {
        make_dir(parent)?;
    }
    replace_with(path, fill).map_err(Error::io(path))
}

/// [`write_with`] for a folder that is there, with the system's error as it is: for modules that have
/// an error of their own.
pub(crate) fn replace_with(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<fs::File>) -> io::Result<()>,
) -> io::Result<()> {
    let there = fs::metadata(path).ok();
    if is_stream(path, there.as_ref()) {
        let mut stream = BufWriter::new(fs::File::options().append(true).open(path)?);
        fill(&mut stream)?;
        return stream.flush();
    }
    let path = &led_to(path);
    let (temporary, file) = open_beside(path)?;
    // Nobody else's until it is in its place, or gone.
    let held = file.try_clone()?;
    let filled = (|| {
        if let Some(there) = &there {
            held.set_permissions(there.permissions())?;
        }
        let mut file = BufWriter::new(file);
        fill(&mut file)?;
        file.into_inner()?.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if filled.is_err() {
        // What went wrong is worth telling, and not that this does, too.
        let _ = remove_there(&temporary);
    }
    filled
}

/// Copies a file, whole or not at all; creates the parent folder.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut source = fs::File::open(from).map_err(Error::io(from))?;
    write_with(to, |file| std::io::copy(&mut source, file).map(drop))
}

/// Writes `bytes` as the whole of a file.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file| file.write_all(bytes))
}

/// Writes `value` as indented JSON.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|e| Error::Invalid(format!("{}: {e}", path.display())))?;
    text.push(b'\n');
    write(path, &text)
}

/// Writes each of `values` as JSON on a line of its own.
pub fn write_json_lines<T: Serialize>(path: &Path, values: &[T]) -> Result<()> {
    write_with(path, |file| {
        for value in values {
            file.write_all(json_line(value)?.as_bytes())?;
        }
        Ok(())
    })
}

/// `value` as JSON on a line of its own, its end included.
///
/// The line and paragraph separators of Unicode are escaped: some readers end a line at them.
pub fn json_line(value: &impl Serialize) -> serde_json::Result<String> {
    let text = serde_json::to_string(value)?;
    Ok(text.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029") + "\n")
}

/// Reads a file with JSON on every line; an error names the file, the line and what is wrong.
pub fn read_json_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = read_text(path)?;
    let read = |(i, line)| {
        serde_json::from_str(line)
            .map_err(|e| Error::Invalid(format!("{}:{}: {}", path.display(), i + 1, plain(e))))
    };
    text.lines().enumerate().map(read).collect()
}

/// Reads a JSON file; an error names the file, the line and what is wrong.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = read_text(path)?;
    match serde_json::from_str(&text) {
        Ok(value) => Ok(value),
        Err(e) => invalid!("{}:{}: {}", path.display(), e.line(), plain(e)),
    }
}

/// Reads a text, without its byte order mark; an error names the file and says how to make UTF-8 of it.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    text_of(bytes).map_err(|what| Error::Invalid(format!("{}: {what}", path.display())))
}

/// A file's bytes without their byte order mark; else that they are UTF-16.
pub(crate) fn without_mark(mut bytes: Vec<u8>) -> std::result::Result<Vec<u8>, String> {
    if bytes.starts_with(&[0xef, 0xbb, 0xbf]) {
        bytes.drain(..3);
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err("is UTF-16; make it UTF-8: iconv -f UTF-16 -t UTF-8".into());
    }
    Ok(bytes)
}

/// A file's bytes as text, without their byte order mark; else what is wrong with them.
pub(crate) fn text_of(bytes: Vec<u8>) -> std::result::Result<String, String> {
    utf_8_of(without_mark(bytes)?)
}

/// A file's bytes as text, every one of them; else what is wrong with them.
pub(crate) fn utf_8_of(bytes: Vec<u8>) -> std::result::Result<String, String> {
    let line = |at: usize, bytes: &[u8]| memchr::memchr_iter(b'\n', &bytes[..at]).count() + 1;
    // No JSON, no TOML and no list of ids has one.
    if let Some(at) = memchr::memchr(0, &bytes) {
        return Err(format!(
            "line {} has a zero byte, so it is no UTF-8 text (UTF-16 without its mark, or binary); \
             make it UTF-8: iconv -f UTF-16LE -t UTF-8",
            line(at, &bytes)
        ));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        format!("line {} is no UTF-8; make the file UTF-8", line(at, e.as_bytes()))
    })
}

/// The SHA-256 of a file's bytes, in hexadecimal.
pub fn digest(path: &Path) -> Result<String> {
    let mut file = fs::File::open(path).map_err(Error::io(path))?;
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash).map_err(Error::io(path))?;
    Ok(format!("{:x}", hash.finalize()))
}

/// The SHA-256 of `bytes`, in hexadecimal.
pub fn digest_of(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// Where the folder that `dir` replaces is kept until `dir` stands.
pub fn replaced(dir: &Path) -> PathBuf {
    beside(dir, ".old")
}

/// Puts the finished folder `new` in the place of `dir`, which is kept until `new` stands there.
pub fn replace_dir(new: &Path, dir: &Path) -> Result<()> {
    let old = replaced(dir);
    remove_dir(&old)?;
    if let Some(parent) = dir.parent() {
        make_dir(parent)?;
    }
    if dir.exists() {
        fs::rename(dir, &old).map_err(Error::io(dir))?;
    }
    fs::rename(new, dir).map_err(Error::io(dir))?;
    remove_dir(&old)
}

/// Puts the finished folder `new` in the place of `dir`, in one step where the system can; what stood there may then be
/// at `new`.
pub fn exchange_dir(new: &Path, dir: &Path) -> Result<()> {
    if place::exchange(new, dir) { Ok(()) } else { replace_dir(new, dir) }
}

/// A path as a word of a shell.
pub fn shell(path: &Path) -> String {
    let path = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+,:=@%".contains(c);
    if !path.is_empty() && path.chars().all(is_plain) {
        return path;
    }
    format!("'{}'", path.replace('\'', r"'\''"))
}

/// Removes a file, if it is there.
pub fn remove(path: &Path) -> Result<()> {
    remove_there(path).map_err(Error::io(path))
}

/// [`remove`] with the system's error as it is: for modules that have an error of their own.
pub(crate) fn remove_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Removes a folder, if it is there.
pub fn remove_dir(dir: &Path) -> Result<()> {
    if dir.exists() { fs::remove_dir_all(dir).map_err(Error::io(dir)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_folder_is_made_though_another_removes_empty_ones() {
        let dir = tempfile::tempdir().unwrap();
        let above = dir.path().join("above");
        let (inside, is_over) = (above.join("inside"), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let _ = fs::remove_dir(&above);
                    // As often as it likes, but for a moment in which a file can be made.
                    std::thread::sleep(Duration::from_micros(10));
                }
            });
            let made = (0..2000).try_for_each(|_| {
                make_dir(&inside)?;
                fs::remove_dir(&inside).map_err(Error::io(&inside))?;
                let path = above.join("file");
                in_dir(&above, || fs::write(&path, "").map_err(Error::io(&path)))?;
                remove(&path)
            });
            is_over.store(true, Ordering::Relaxed);
            made.unwrap();
        });
    }

    #[test]
    fn a_file_that_could_not_be_filled_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write(&path, b"one").unwrap();
        write_with(&path, |_| Err(io::Error::other("no more"))).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn one_of_those_that_write_a_file_at_once_has_written_it_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::thread::scope(|scope| {
            for writer in 0..4u8 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..50 {
                        let text = vec![writer; 50_000 + usize::from(writer)];
                        write_with(path, |file| {
                            text.chunks(100).try_for_each(|part| file.write_all(part))
                        })
                        .unwrap();
                        let found = fs::read(path).unwrap();
                        assert!(found.iter().all(|byte| *byte == found[0]));
                        assert_eq!(found.len(), 50_000 + usize::from(found[0]));
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn what_is_written_leaves_links_permissions_and_pipes_as_they_are() {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};

        let dir = tempfile::tempdir().unwrap();
        let [file, link, pipe] = ["file", "link", "pipe"].map(|name| dir.path().join(name));
        write(&file, b"one").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        symlink("file", &link).unwrap();
        write(&link, b"two").unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_file(&file).unwrap();
        write(&link, b"three").unwrap();
        assert_eq!((fs::read(&file).unwrap(), link.is_symlink()), (b"three".to_vec(), true));

        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o600.into()).unwrap();
        std::thread::scope(|scope| {
            let read = scope.spawn(|| fs::read(&pipe));
            write(&pipe, b"three").unwrap();
            assert_eq!(read.join().unwrap().unwrap(), b"three");
        });
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_line_of_json_has_no_other_end() {
        let text = "a\u{2028}b\u{2029}c\nd \u{85}";
        let line = json_line(&text).unwrap();
        assert_eq!(line, "\"a\\u2028b\\u2029c\\nd \u{85}\"\n");
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
    }

    #[test]
    fn a_text_is_utf_8_with_or_without_its_mark() {
        let utf16 =
            |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        assert_eq!(text_of("\u{feff}{}".into()).unwrap(), "{}");
        let marked = text_of(utf16("\u{feff}{}")).unwrap_err();
        assert!(marked.contains("is UTF-16") && marked.contains("iconv"), "{marked}");
        let bare = text_of(utf16("{}\n")).unwrap_err();
        assert!(bare.starts_with("line 1 has a zero byte") && bare.contains("iconv"), "{bare}");
        let latin = text_of(b"a\nb\n\xe4".to_vec()).unwrap_err();
        assert!(latin.starts_with("line 3 is no UTF-8"), "{latin}");
    }

    #[test]
    fn plain_names_are_no_paths() {
        for name in ["model.safetensors", "model-00001-of-00002.safetensors", "..x", ".hidden"] {
            assert!(is_plain_name(name), "{name}");
        }
        let paths =
            ["", ".", "..", "../a", "/etc/passwd", "a/b", "a/", "./a", "a\\b", "C:a", "a\0b"];
        for name in paths {
            assert!(!is_plain_name(name), "{name:?}");
        }
    }
}
