//! Backbones from the Hugging Face hub, through the same local cache that Python uses.

use std::path::PathBuf;

use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};

use super::checkpoint::shard_names;
use crate::{Error, Result};

/// Files beside the weights that a checkpoint may lack.
const OPTIONAL: [&str; 3] =
    ["tokenizer_config.json", "chat_template.jinja", "generation_config.json"];

/// Downloads what a backbone needs of the repository `id` (`owner/name`) unless the cache has it,
/// and returns the folder.
///
/// With `HF_HUB_OFFLINE` set, only the cache is used.
pub(super) fn fetch(id: &str) -> Result<PathBuf> {
    let offline = std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| is_true(&value));
    let mut builder = ApiBuilder::from_env();
    if let Ok(token) = std::env::var("HF_TOKEN") {
        builder = builder.with_token(Some(token));
    }
    fetch_with(builder, Cache::from_env(), id, offline)
}

/// As Hugging Face reads its switches.
fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
}

/// A repository in the cache, and on the hub where that may be asked.
struct Repository<'a> {
    id: &'a str,
    cache: Cache,
    api: Option<Api>,
}

fn fetch_with(builder: ApiBuilder, cache: Cache, id: &str, offline: bool) -> Result<PathBuf> {
    let cached = cache.model(id.to_string()).get("config.json");
    let api = if offline {
        None
    } else {
        let api = builder.with_progress(false).build();
        Some(api.map_err(|e| Error::Invalid(format!("hub: {e}")))?)
    };
    let repository = Repository { id, cache, api };
    let config = match cached {
        Some(config) => config,
        None => repository.download("config.json", "main")?.unwrap_or_default(),
    };
    let commit = config.parent().and_then(|folder| folder.file_name()?.to_str());
    let (Some(folder), Some(commit)) = (config.parent(), commit) else {
        return Err(repository.lacks("config.json"));
    };
    // The folder is named after the commit: everything else comes from that one, whatever is pushed
    // to the repository meanwhile.
    let get = |file: &str| {
        let path = folder.join(file);
        if path.exists() { Ok(Some(path)) } else { repository.download(file, commit) }
    };
    let need = |file: &str| get(file)?.ok_or_else(|| repository.lacks(file));

    need("tokenizer.json")?;
    for file in OPTIONAL {
        get(file)?;
    }
    let single = "model.safetensors";
    if get(single)?.is_none() {
        // Where neither exists, the single file is the one to name.
        let Some(index) = get("model.safetensors.index.json")? else {
            return Err(repository.lacks(single));
        };
        for shard in shard_names(&index)? {
            need(&shard)?;
        }
    }
    Ok(folder.to_path_buf())
}

impl Repository<'_> {
    /// Downloads a file as it is at `revision`; `None` where the repository, or the cache if that is all
    /// there is, does not have it.
    fn download(&self, file: &str, revision: &str) -> Result<Option<PathBuf>> {
        let Some(api) = &self.api else { return Ok(None) };
        tracing::info!("fetching {file} of {}", self.id);
        let repo = Repo::with_revision(self.id.to_string(), RepoType::Model, revision.to_string());
        match api.repo(repo).download(file) {
            Ok(path) => Ok(Some(path)),
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(self.failed(file, &e)),
        }
    }

    fn lacks(&self, file: &str) -> Error {
        let (id, cache) = (self.id, self.cache.path().display());
        Error::Invalid(match self.api {
            None => format!(
                "hub repository {id}: {file} is not in the cache at {cache} and HF_HUB_OFFLINE is \
                 set; fetch it once with network access, or give a local folder or GGUF file"
            ),
            Some(_) => format!(
                "hub repository {id}: there is no {file}, or no such repository; check the name, or \
                 give a local folder or GGUF file"
            ),
        })
    }

    /// One line that names the repository, the file, the cause and the way out.
    fn failed(&self, file: &str, e: &ApiError) -> Error {
        let mut cause = e.to_string();
        let mut source = std::error::Error::source(e);
        while let Some(inner) = source {
            // The outer error often repeats the inner one's text.
            let text = inner.to_string();
            if !cause.contains(&text) {
                cause = format!("{cause}: {text}");
            }
            source = inner.source();
        }
        Error::Invalid(format!(
            "hub repository {}: cannot fetch {file} ({cause}); check the name and the network, \
             set HF_TOKEN for a gated repository, or give a local folder or GGUF file",
            self.id
        ))
    }
}

fn is_absent(e: &ApiError) -> bool {
    matches!(e, ApiError::RequestError(e) if matches!(**e, ureq::Error::StatusCode(404)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A cache that holds `files` of `owner/name`.
    fn cache(files: &[(&str, &str)]) -> tempfile::TempDir {
        let cache = tempfile::tempdir().unwrap();
        let repository = cache.path().join("models--owner--name");
        let snapshot = repository.join("snapshots").join(COMMIT);
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(repository.join("refs")).unwrap();
        std::fs::write(repository.join("refs/main"), COMMIT).unwrap();
        for (file, text) in files {
            std::fs::write(snapshot.join(file), text).unwrap();
        }
        cache
    }

    fn fetch(cache: &Path, id: &str, offline: bool) -> Result<PathBuf> {
        let cache = Cache::new(cache.to_path_buf());
        // Nothing listens on the discard port.
        let builder = ApiBuilder::from_cache(cache.clone())
            .with_endpoint("http://127.0.0.1:9".into())
            .with_retries(0);
        fetch_with(builder, cache, id, offline)
    }

    #[test]
    fn offline_the_cache_alone_is_used() {
        let index = r#"{"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}"#;
        let mut files = vec![
            ("config.json", "{}"),
            ("tokenizer.json", "{}"),
            ("model.safetensors.index.json", index),
            ("part-1.safetensors", ""),
        ];
        let incomplete = cache(&files);
        let error = fetch(incomplete.path(), "owner/name", true).unwrap_err();
        assert!(error.to_string().contains("part-2.safetensors is not in the cache"), "{error}");

        files.push(("part-2.safetensors", ""));
        let complete = cache(&files);
        let folder = fetch(complete.path(), "owner/name", true).unwrap();
        assert!(folder.ends_with(COMMIT), "{}", folder.display());
    }

    #[test]
    fn a_repository_cannot_name_files_outside_of_itself() {
        for shard in ["../../../../stolen.safetensors", "/etc/passwd", "sub/part-1.safetensors"] {
            let index = format!(r#"{{"weight_map": {{"a": "{shard}"}}}}"#);
            let files = [
                ("config.json", "{}"),
                ("tokenizer.json", "{}"),
                ("model.safetensors.index.json", index.as_str()),
            ];
            let error = fetch(cache(&files).path(), "owner/name", true).unwrap_err().to_string();
            assert!(error.contains("no plain file name") && error.contains(shard), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_links_of_the_cache_lead_to_its_own_blobs_alone() {
        use std::os::unix::fs::symlink;
        let cache = cache(&[]);
        let repository = cache.path().join("models--owner--name");
        let snapshot = repository.join("snapshots").join(COMMIT);
        std::fs::create_dir_all(repository.join("blobs")).unwrap();
        std::fs::write(repository.join("blobs/abc"), "").unwrap();
        std::fs::write(cache.path().join("other"), "").unwrap();
        symlink("../../blobs/abc", snapshot.join("model.safetensors")).unwrap();
        symlink("../../../other", snapshot.join("tokenizer.json")).unwrap();
        let check = |name: &str| crate::files::check_inside(&snapshot, &snapshot.join(name));
        check("model.safetensors").unwrap();
        let error = check("tokenizer.json").unwrap_err().to_string();
        assert!(error.contains("leads out of its folder"), "{error}");
    }

    #[test]
    fn offline_an_absent_repository_is_one_clear_error() {
        let empty = tempfile::tempdir().unwrap();
        let error = fetch(empty.path(), "owner/other", true).unwrap_err().to_string();
        assert!(error.contains("owner/other: config.json is not in the cache"), "{error}");
        assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
    }

    #[test]
    fn a_failed_connection_names_the_repository() {
        let empty = tempfile::tempdir().unwrap();
        let error = fetch(empty.path(), "owner/other", false).unwrap_err().to_string();
        assert!(error.contains("owner/other: cannot fetch config.json"), "{error}");
        assert!(error.to_lowercase().contains("connect"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }

    #[test]
    fn the_offline_switch_reads_as_in_python() {
        assert!(is_true("1") && is_true("yes") && is_true("True") && is_true("ON"));
        assert!(!is_true("0") && !is_true("") && !is_true("no"));
    }
}
