//! What `sapwood export` reads: a folder or a file, a model of the hub, a model of Ollama's.
//!
//! - In: what the user named. Out: where it lies, fetched where it has to be, and where it came from.

use super::console::Console;
use super::host;
use sapwood::base::BaseError;
use sapwood::base::gguf::read_header;
use sapwood::base::ollama;
use sapwood::base::place::{HUB, OLLAMA, is_hub_name};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A model to read.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    /// Where it came from, where that is no path.
    pub(crate) origin: Option<Value>,
}

/// Finds, or fetches, what is named. Only what is no path here already is a name.
pub(crate) fn find(named: &Path, console: &mut Console) -> anyhow::Result<Source> {
    let text = named.to_str().filter(|_| !named.exists()).unwrap_or_default();
    if let Some(name) = text.strip_prefix(HUB) {
        return from_hub(name, console);
    }
    if let Some(name) = text.strip_prefix(OLLAMA) {
        return of_ollama(name, console);
    }
    let path = named.to_owned();
    match named.metadata() {
        Ok(_) => Ok(Source { path, origin: None }),
        Err(_) if is_hub_name(text) => {
            anyhow::bail!("{text} is no folder and no file here; a model of the hub is hf:{text}")
        }
        Err(source) => Err(BaseError::Read { path, source }.into()),
    }
}

/// The GGUF file that Ollama keeps under a name.
fn of_ollama(name: &str, console: &Console) -> anyhow::Result<Source> {
    let folder = |name: &str| host::variable(name).map(PathBuf::from);
    let store = ollama::store(folder("OLLAMA_MODELS"), folder("HOME"));
    let ollama::Found { path, sha256, mut others } = ollama::find(&store, name)?;
    if others.remove("template") {
        let header = read_header(&path)?;
        console.warn(match header.values.contains_key("tokenizer.chat_template") {
            true => "its template for Ollama is in Go's language: the chat template is that of the GGUF file",
            false => "its template for Ollama is in Go's language, and the GGUF file has none: the model has no chat template",
        })?;
    }
    // What changes nothing of what is computed.
    others.retain(|kind| !["license", "readme"].contains(&kind.as_str()));
    if !others.is_empty() {
        let others: Vec<&str> = others.iter().map(String::as_str).collect();
        console.warn(&format!("not taken over of Ollama's model: {}", others.join(", ")))?;
    }
    let origin = json!({ "ollama": name, "sha256": sha256 });
    Ok(Source { path, origin: Some(origin) })
}

#[cfg(not(feature = "hub"))]
fn from_hub(name: &str, _console: &mut Console) -> anyhow::Result<Source> {
    anyhow::bail!(
        "hf:{name}: this program was built without the feature `hub`; expected a folder or a file"
    )
}

#[cfg(feature = "hub")]
use from_hub::from_hub;

#[cfg(feature = "hub")]
mod from_hub {
    use super::super::console::{Console, bytes};
    use super::super::host;
    use super::Source;
    use sapwood::base::origin::REPO;
    use sapwood::base::read_config;
    use sapwood_hub::{Event, Name, Repo, Settings};
    use serde_json::json;

    /// Fetches a model, its configuration first: what is not computed here is refused before its weights
    /// come.
    pub(super) fn from_hub(name: &str, console: &mut Console) -> anyhow::Result<Source> {
        let name = Name::parse(name)?;
        let settings = Settings::read(&host::variable)?;
        let mut repo = Repo::open(name.clone(), &settings, &mut |event| tell(event, console))?;
        let mut plan = None;
        let small = repo.small(&mut |event| {
            if let Event::Plan { files, bytes, cached, .. } = event {
                plan = Some((files, bytes, cached));
            }
            tell(event, console);
        })?;
        let (files, fetched, cached) = plan.unwrap_or_default();
        let about = json!({
            "event": "fetch", "repo": name.repo, "revision": name.revision, "commit": repo.commit(),
            "files": files, "bytes": fetched, "cached_bytes": cached,
        });
        let text = format!(
            "{name} is commit {}; files: {files}, {} to fetch, {} in {}",
            repo.commit(),
            bytes(fetched),
            bytes(cached),
            settings.cache.display()
        );
        console.result(&about, &text)?;
        if let Some(folder) = small {
            read_config(&folder)?;
        }
        let path = repo.weights(&mut |event| tell(event, console))?;
        console.end();
        let origin = json!({ REPO: name.repo, "revision": name.revision, "commit": repo.commit() });
        Ok(Source { path, origin: Some(origin) })
    }

    fn tell(event: Event<'_>, console: &mut Console) {
        // Nobody is left to tell where the terminal is gone; what is fetched does not depend on it.
        let _ = match event {
            Event::Plan { bytes, .. } => {
                console.expect_bytes(bytes);
                Ok(())
            }
            Event::File { name, bytes } => console.file(name, bytes),
            Event::Gained(bytes) => console.gained(bytes),
            Event::Note(text) => console.warn(&text),
        };
    }
}
