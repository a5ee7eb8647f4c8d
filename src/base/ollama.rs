//! Ollama's store: which GGUF file a name stands for.
//!
//! - In: the store's folder and a name, `[HOST/][USER/]NAME[:TAG]`. Out: the file, and what else the manifest
//!   has that a base does not take over.
//! - Never here: what is in the file; Ollama's templates, which are in Go's language.
//!
//! Source: <https://github.com/ollama/ollama/tree/main/types/model>, and its folders
//! `manifests/HOST/USER/NAME/TAG` and `blobs/sha256-...`.

use super::BaseError;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

const HOST: &str = "registry.ollama.ai";
const USER: &str = "library";
const TAG: &str = "latest";
/// What the kinds of layers begin with.
const KIND: &str = "application/vnd.ollama.image.";
/// Most bytes of a manifest: some hundred a layer.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
/// Models that a refusal names one by one.
const NAMED_MAX: usize = 40;
/// Bytes of a model that are hashed at a time.
const SOME: usize = 1 << 18;

/// A model of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The GGUF file.
    pub path: PathBuf,
    /// Its SHA-256, in hexadecimal digits.
    pub sha256: String,
    /// Layers beside it, by their kinds: `template`, `params`, `system`, `license`.
    pub others: BTreeSet<String>,
}

/// A name in full.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    host: String,
    user: String,
    model: String,
    tag: String,
}

impl Name {
    fn parse(text: &str) -> Option<Self> {
        let (path, tag) = match text.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (text, TAG),
        };
        let parts: Vec<&str> = path.split('/').collect();
        let (host, user, model) = match parts[..] {
            [model] => (HOST, USER, model),
            [user, model] => (HOST, user, model),
            [host, user, model] => (host, user, model),
            _ => return None,
        };
        let is_part = |part: &str, more: &str| {
            let is_letter = |letter: char| letter.is_ascii_alphanumeric() || more.contains(letter);
            !part.is_empty() && !part.starts_with(['.', '-']) && part.chars().all(is_letter)
        };
        let fits =
            is_part(host, "-_.:") && [user, model, tag].iter().all(|part| is_part(part, "-_."));
        let owned = |part: &str| part.to_owned();
        fits.then(|| Self {
            host: owned(host),
            user: owned(user),
            model: owned(model),
            tag: owned(tag),
        })
    }

    fn manifest(&self, store: &Path) -> PathBuf {
        let Self { host, user, model, tag } = self;
        ["manifests", host, user, model, tag]
            .iter()
            .fold(store.to_owned(), |path, part| path.join(part))
    }
}

impl fmt::Display for Name {
    /// As Ollama lists it: without what goes without saying.
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, user, model, tag } = self;
        match (host == HOST, user == USER) {
            (true, true) => write!(to, "{model}:{tag}"),
            (true, false) => write!(to, "{user}/{model}:{tag}"),
            (false, _) => write!(to, "{host}/{user}/{model}:{tag}"),
        }
    }
}

#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
    digest: String,
    size: u64,
}

/// Where the store is: where `OLLAMA_MODELS` says, else where Ollama keeps it for a user, else for a service.
pub fn store(models: Option<PathBuf>, home: Option<PathBuf>) -> PathBuf {
    let service = PathBuf::from("/usr/share/ollama/.ollama/models");
    let own = home.map(|home| home.join(".ollama/models"));
    match (models, own) {
        (Some(models), _) => models,
        (None, Some(own)) if own.join("manifests").exists() || !service.exists() => own,
        _ => service,
    }
}

/// The file that a name stands for.
/// # Errors
/// [`BaseError::OllamaName`], [`BaseError::OllamaAbsent`], [`BaseError::OllamaManifest`],
/// [`BaseError::Read`].
pub fn find(store: &Path, name: &str) -> Result<Found, BaseError> {
    let Some(name) = Name::parse(name) else {
        let name = name.chars().filter(|letter| !letter.is_control()).take(120).collect();
        return Err(BaseError::OllamaName { name });
    };
    let path = name.manifest(store);
    let bytes = match read(&path) {
        Ok(bytes) => bytes,
        Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => {
            let (store, there) = (store.to_owned(), there(store));
            return Err(BaseError::OllamaAbsent { store, name: name.to_string(), there });
        }
        Err(source) => return Err(BaseError::Read { path, source }),
    };
    let wrong = |what: String| BaseError::OllamaManifest { path: path.clone(), what };
    let (model, others) = layers(&bytes).map_err(wrong)?;
    let hex = model.digest["sha256:".len()..].to_ascii_lowercase();
    let blobs = store.join("blobs");
    // Older programs wrote the digest as it is.
    let blob = [format!("sha256-{hex}"), format!("sha256:{hex}")].map(|name| blobs.join(name));
    let Some(blob) = blob.iter().find(|blob| blob.is_file()).cloned() else {
        return Err(wrong(format!(
            "its model is blob sha256-{hex}, which the store does not have; `ollama pull {name}` fetches it"
        )));
    };
    let failed = |source| BaseError::Read { path: blob.clone(), source };
    let (size, length) = (model.size, fs::metadata(&blob).map_err(failed)?.len());
    if length != size {
        return Err(wrong(format!("its model has {size} bytes, blob sha256-{hex} has {length}")));
    }
    let sha256 = digest(&blob).map_err(failed)?;
    if sha256 != hex {
        return Err(wrong(format!(
            "blob sha256-{hex} is damaged, its bytes have sha256 {sha256}; remove it, and `ollama pull {name}` fetches it"
        )));
    }
    Ok(Found { path: blob, sha256, others })
}

/// The layer with the model, and the kinds of the others.
fn layers(bytes: &[u8]) -> Result<(Layer, BTreeSet<String>), String> {
    let Manifest { layers } =
        serde_json::from_slice(bytes).map_err(|error| format!("it is no manifest: {error}"))?;
    let (mut models, mut others) = (Vec::new(), BTreeSet::new());
    for layer in layers {
        let Some(kind) = layer.media_type.strip_prefix(KIND) else { continue };
        match kind {
            "model" => models.push(layer),
            // Ollama computes with it folded in; the file alone is another model.
            "adapter" => return Err("it has an adapter beside its model: expected a model alone; export what its Modelfile says FROM, then name the adapter with --adapter-path".to_owned()),
            "tensor" => return Err("it keeps its tensors apart, in Ollama's own way: expected a GGUF file".to_owned()),
            kind => {
                let plain = kind.chars().filter(char::is_ascii_alphanumeric).take(20);
                others.insert(plain.collect());
            }
        }
    }
    if models.len() != 1 {
        return Err(format!("it has {} models, expected one", models.len()));
    }
    let model = models.remove(0);
    let hex = model.digest.strip_prefix("sha256:");
    let is_hash = |hex: &str| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    match hex.is_some_and(is_hash) {
        true => Ok((model, others)),
        false => Err("the digest of its model is no sha256".to_owned()),
    }
}

/// The SHA-256 of a file.
fn digest(path: &Path) -> io::Result<String> {
    let (mut file, mut buffer, mut hash) =
        (fs::File::open(path)?, vec![0; SOME], Sha256::default());
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            got => hash.update(&buffer[..got]),
        }
    }
    let mut digits = String::new();
    for byte in hash.finalize() {
        // Writing to a string cannot fail.
        let _ = write!(digits, "{byte:02x}");
    }
    Ok(digits)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MANIFEST_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The models of a store, in words.
fn there(store: &Path) -> String {
    let mut names = Vec::new();
    for host in inside(&store.join("manifests")) {
        for user in inside(&host) {
            for model in inside(&user) {
                for tag in inside(&model) {
                    let last = |path: &Path| {
                        path.file_name()
                            .map(|name| name.to_string_lossy().into_owned())
                            .unwrap_or_default()
                    };
                    let [host, user, model, tag] =
                        [&host, &user, &model, &tag].map(|path| last(path));
                    names.push(Name { host, user, model, tag }.to_string());
                }
            }
        }
    }
    names.sort();
    let more = names.len().saturating_sub(NAMED_MAX);
    match names.len() {
        0 => "it holds none; OLLAMA_MODELS names another store".to_owned(),
        _ if more == 0 => format!("expected one of {}", names.join(", ")),
        _ => format!("expected one of {} and {more} more", names[..NAMED_MAX].join(", ")),
    }
}

/// What a folder holds; nothing where it cannot be read.
fn inside(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).map(|all| all.flatten().map(|entry| entry.path()).collect());
    entries.unwrap_or_default()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    /// Of the four letters `GGUF`. Oracle: `sha256sum` of coreutils.
    const DIGEST: &str = "b83633aa785344791618f2fddf131b010ea04912a60430760b070bad293f65bd";

    fn layer(kind: &str, size: usize) -> String {
        format!("{{\"mediaType\":\"{KIND}{kind}\",\"digest\":\"sha256:{DIGEST}\",\"size\":{size}}}")
    }

    /// A store with these manifests, all of one blob.
    fn store(manifests: &[(&str, String)]) -> tempfile::TempDir {
        let store = tempfile::tempdir().unwrap();
        fs::create_dir(store.path().join("blobs")).unwrap();
        fs::write(store.path().join("blobs").join(format!("sha256-{DIGEST}")), b"GGUF").unwrap();
        for (place, layers) in manifests {
            let path = store.path().join("manifests").join(place);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{{\"schemaVersion\":2,\"layers\":[{layers}]}}")).unwrap();
        }
        store
    }

    #[test]
    fn a_name_is_found_where_ollama_keeps_it() {
        let whole = [layer("model", 4), layer("template", 9), layer("params", 9)].join(",");
        let store = store(&[
            ("registry.ollama.ai/library/smol/latest", whole.clone()),
            ("registry.ollama.ai/ann/smol/1b-q4_0", whole.clone()),
            ("hf.co/org/Smol-GGUF/Q4_K_M", whole.clone()),
            ("localhost:5000/a/b/c", whole),
        ]);
        for name in [
            "smol",
            "smol:latest",
            "library/smol",
            "ann/smol:1b-q4_0",
            "hf.co/org/Smol-GGUF:Q4_K_M",
            "localhost:5000/a/b:c",
            "registry.ollama.ai/library/smol:latest",
        ] {
            let found = find(store.path(), name).unwrap();
            assert!(found.path.ends_with(format!("blobs/sha256-{DIGEST}")), "{name}");
            assert_eq!(found.others.into_iter().collect::<Vec<_>>(), ["params", "template"]);
        }
        let error = find(store.path(), "llama3").unwrap_err().to_string();
        let there = "has no model llama3:latest: expected one of ann/smol:1b-q4_0, hf.co/org/Smol-GGUF:Q4_K_M, localhost:5000/a/b:c, smol:latest";
        assert!(error.contains(there), "{error}");
        let error = find(&store.path().join("nowhere"), "smol").unwrap_err().to_string();
        assert!(error.contains("holds none; OLLAMA_MODELS"), "{error}");
        for name in [
            "",
            ":",
            "smol:",
            "../x",
            "a/../b",
            "a/b/c/d",
            "/etc/passwd",
            "a b",
            "a:b:c",
            ".x",
            "a\n",
        ] {
            let error = find(store.path(), name).unwrap_err();
            assert!(matches!(error, BaseError::OllamaName { .. }), "{name:?}: {error}");
        }
    }

    #[test]
    fn a_manifest_without_one_whole_model_is_refused() {
        let two = [layer("model", 4), layer("model", 4)].join(",");
        let adapted = [layer("model", 4), layer("adapter", 4)].join(",");
        for (layers, word) in [
            (String::new(), "it has 0 models, expected one"),
            (two, "it has 2 models"),
            (adapted, "it has an adapter beside its model"),
            (layer("tensor", 4), "keeps its tensors apart"),
            (layer("model", 5), "its model has 5 bytes"),
            (layer("model", 4).replace("sha256:b8", "sha256:/../"), "no sha256"),
            (layer("model", 4).replace("sha256:b8", "sha256:é"), "no sha256"),
            (layer("model", 4).replace("sha256:b8", "sha256:ff"), "which the store does not have"),
            ("{}".to_owned(), "it is no manifest"),
        ] {
            let store = store(&[("registry.ollama.ai/library/x/latest", layers)]);
            let error = find(store.path(), "x").unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_damaged_blob_is_told_by_its_hash() {
        let store = store(&[("registry.ollama.ai/library/x/latest", layer("model", 4))]);
        let blob = find(store.path(), "x").unwrap().path;
        fs::write(blob, b"GGUE").unwrap();
        let error = find(store.path(), "x").unwrap_err().to_string();
        assert!(
            error.contains("is damaged") && error.contains("`ollama pull x:latest`"),
            "{error}"
        );
    }

    #[test]
    fn the_store_is_where_the_variable_says_or_at_home() {
        let own = super::store(Some("/m".into()), Some("/u".into()));
        assert_eq!(own, Path::new("/m"));
        let home = tempfile::tempdir().unwrap();
        let own = home.path().join(".ollama/models");
        fs::create_dir_all(own.join("manifests")).unwrap();
        assert_eq!(super::store(None, Some(home.path().to_owned())), own);
    }
}
