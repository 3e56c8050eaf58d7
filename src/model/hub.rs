//! Backbones from the Hugging Face hub, through the same local cache that Python uses.

use std::path::{Path, PathBuf};

use hf_hub::{HFClient, HFError, HFRepositorySync, split_id};

use super::checkpoint::shard_names;
use crate::{Error, Result};

/// Files beside the weights that a checkpoint may lack.
const OPTIONAL: [&str; 2] = ["tokenizer_config.json", "generation_config.json"];

/// Downloads what a backbone needs of the repository `id` (`owner/name`) unless the cache has it,
/// and returns the folder.
///
/// With `HF_HUB_OFFLINE` set, only the cache is used.
pub(super) fn fetch(id: &str) -> Result<PathBuf> {
    let offline = std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| is_true(&value));
    let client = HFClient::new().map_err(|e| Error::Invalid(format!("hub: {e}")))?;
    fetch_with(client, id, offline)
}

/// As Hugging Face reads its switches.
fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
}

fn fetch_with(client: HFClient, id: &str, offline: bool) -> Result<PathBuf> {
    let cache = client.cache_dir().to_path_buf();
    let (owner, name) = split_id(id);
    let failed = |file: &str, e: HFError| Error::Invalid(message(id, file, &e, offline, &cache));

    let client = hf_hub::HFClientSync::from_inner(client).map_err(|e| failed("client", e))?;
    let repository = client.model(owner, name);
    let config =
        get(&repository, "config.json", None, offline).map_err(|e| failed("config.json", e))?;
    let Some(folder) = config.parent() else {
        return Err(Error::Invalid(format!("{id}: {} is in no folder", config.display())));
    };
    // The folder is named after the commit: everything else comes from that one, whatever is pushed
    // to the repository meanwhile.
    let commit = folder.file_name().and_then(|name| name.to_str());
    let get = |file: &str| get(&repository, file, commit, offline);

    get("tokenizer.json").map_err(|e| failed("tokenizer.json", e))?;
    for file in OPTIONAL {
        match get(file) {
            Err(e) if !is_absent(&e) => return Err(failed(file, e)),
            _ => {}
        }
    }
    let single = "model.safetensors";
    match get(single) {
        Ok(_) => {}
        Err(e) if is_absent(&e) => {
            let index = "model.safetensors.index.json";
            // Where neither exists, the single file is the one to name.
            let index = get(index).map_err(|_| failed(single, e))?;
            for shard in shard_names(&index)? {
                get(&shard).map_err(|e| failed(&shard, e))?;
            }
        }
        Err(e) => return Err(failed(single, e)),
    }
    Ok(folder.to_path_buf())
}

fn get(
    repository: &HFRepositorySync<hf_hub::RepoTypeModel>,
    file: &str,
    commit: Option<&str>,
    offline: bool,
) -> std::result::Result<PathBuf, HFError> {
    if !offline {
        tracing::info!("fetching {file} of {}/{}", repository.owner(), repository.name());
    }
    repository
        .download_file()
        .filename(file)
        .maybe_revision(commit)
        .local_files_only(offline)
        .send()
}

fn is_absent(e: &HFError) -> bool {
    matches!(e, HFError::EntryNotFound { .. } | HFError::LocalEntryNotFound { .. })
}

/// One line that names the repository, the file, the cause and the way out.
fn message(id: &str, file: &str, e: &HFError, offline: bool, cache: &Path) -> String {
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
    let cache = cache.display();
    if offline {
        format!(
            "hub repository {id}: {file} is not in the cache at {cache} and HF_HUB_OFFLINE is set; \
             fetch it once with network access, or give a local folder or GGUF file"
        )
    } else {
        format!(
            "hub repository {id}: cannot fetch {file} ({cause}); check the name and the network, \
             set HF_TOKEN for a gated repository, or give a local folder or GGUF file"
        )
    }
}

#[cfg(test)]
mod tests {
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

    fn client(cache: &Path) -> HFClient {
        // Nothing listens on the discard port.
        HFClient::builder()
            .cache_dir(cache)
            .endpoint("http://127.0.0.1:9")
            .retry_max_attempts(0)
            .build()
            .unwrap()
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
        let error = fetch_with(client(incomplete.path()), "owner/name", true).unwrap_err();
        assert!(error.to_string().contains("part-2.safetensors is not in the cache"), "{error}");

        files.push(("part-2.safetensors", ""));
        let complete = cache(&files);
        let folder = fetch_with(client(complete.path()), "owner/name", true).unwrap();
        assert!(folder.ends_with(COMMIT), "{}", folder.display());
    }

    #[test]
    fn offline_an_absent_repository_is_one_clear_error() {
        let empty = tempfile::tempdir().unwrap();
        let error = fetch_with(client(empty.path()), "owner/other", true).unwrap_err().to_string();
        assert!(error.contains("owner/other: config.json is not in the cache"), "{error}");
        assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
    }

    #[test]
    fn a_failed_connection_names_the_repository() {
        let empty = tempfile::tempdir().unwrap();
        let error = fetch_with(client(empty.path()), "owner/other", false).unwrap_err().to_string();
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
