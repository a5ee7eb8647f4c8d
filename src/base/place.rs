//! What stands where a model folder is expected: such a folder, or a model that has to become one first.
//!
//! - In: what a user named. Out: nothing, or the way from there to a model folder.

use super::{BaseError, gguf};
use std::path::Path;

/// What names a model of the hub begins with.
pub const HUB: &str = "hf:";
/// What names a model of Ollama's begins with.
pub const OLLAMA: &str = "ollama:";

/// Refuses what is a model, and no model folder yet; what is neither is left to whoever reads it.
/// # Errors
/// [`BaseError::NoModelFolder`].
pub fn expect_folder(place: &Path) -> Result<(), BaseError> {
    let Some((what, before)) = elsewhere(place) else { return Ok(()) };
    let path = place.display().to_string();
    let source_name = format!("{before}{path}");
    Err(BaseError::NoModelFolder { path, what, source_name })
}

/// What a place is instead, and what an export wants before its name.
fn elsewhere(place: &Path) -> Option<(&'static str, &'static str)> {
    let is_named = place.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
    if place.is_file() && (is_named || gguf::is_gguf(place)) {
        return Some(("is a GGUF file", ""));
    }
    if place.is_dir() {
        let has = |name: &str| place.join(name).exists();
        let is_hf = has("config.json") && !has("model.onnx");
        let stored = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"];
        return (is_hf && stored.iter().any(|name| has(name)))
            .then_some(("is a Hugging Face folder", ""));
    }
    let text = place.to_str().filter(|_| !place.exists())?;
    if text.starts_with(HUB) {
        return Some(("is a name of the hub", ""));
    }
    if text.starts_with(OLLAMA) {
        return Some(("is a name of Ollama's", ""));
    }
    if is_named {
        return Some(("is no folder here and reads as a GGUF file", ""));
    }
    let is_absent = place.parent().is_none_or(|parent| !parent.exists());
    (is_hub_name(text) && is_absent)
        .then_some(("is no folder here and reads as a name of the hub", HUB))
}

/// Whether a text could be ORG/NAME, as the hub has it.
pub fn is_hub_name(text: &str) -> bool {
    let is_name = |part: &str| {
        let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        !part.is_empty() && !part.starts_with('.') && part.chars().all(is_letter)
    };
    text.split('/').count() == 2 && text.split('/').all(is_name)
}
