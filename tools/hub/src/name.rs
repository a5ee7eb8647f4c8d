//! The name of a model on the hub: repository, perhaps a file of it, revision.
//!
//! - Invariant: no part of it leads out of a folder, and none needs more than percent signs in an address.
//!
//! Source: `validate_repo_id` of `huggingface_hub`.

use crate::error::{HubError, shown};
use std::fmt;

/// What is taken where no revision is named.
const REVISION: &str = "main";
/// Most bytes of a repository's name, as the hub has it.
const REPO_BYTES_MAX: usize = 96;
/// Most bytes of a revision or of a file's name: a part of a path in the cache.
const PART_BYTES_MAX: usize = 200;

/// A name that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// `ORG/NAME`, or `NAME` alone for the oldest ones.
    pub repo: String,
    /// A GGUF file of it.
    pub file: Option<String>,
    /// A branch, a tag or a commit.
    pub revision: String,
}

impl Name {
    /// Reads `ORG/NAME[/FILE.gguf][@REVISION]`, what stands behind `hf:`.
    /// # Errors
    /// [`HubError::Name`].
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let wrong = |what| HubError::Name { text: shown(text), what };
        let (path, revision) = text.rsplit_once('@').unwrap_or((text, REVISION));
        let parts: Vec<&str> = path.splitn(3, '/').collect();
        let (repo, file) = match parts[..] {
            [org, name, file] => (format!("{org}/{name}"), Some(file)),
            _ => (path.to_owned(), None),
        };
        if repo.is_empty() || repo.len() > REPO_BYTES_MAX || !repo.split('/').all(is_part) {
            return Err(wrong(
                "ORG and NAME are letters, digits, '-', '_' and '.', and no more than 96 of them",
            ));
        }
        if !is_path(revision) {
            return Err(wrong("a revision is a branch, a tag or a commit"));
        }
        if file.is_some_and(|file| !is_path(file) || !is_gguf(file)) {
            return Err(wrong("the file of a repository that is named must be a .gguf"));
        }
        Ok(Self { repo, file: file.map(str::to_owned), revision: revision.to_owned() })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "hf:{}", self.repo)?;
        if let Some(file) = &self.file {
            write!(to, "/{file}")?;
        }
        write!(to, "@{}", self.revision)
    }
}

/// Whether a file is GGUF by its name.
pub(crate) fn is_gguf(file: &str) -> bool {
    file.len() > 5 && file.to_ascii_lowercase().ends_with(".gguf")
}

/// Whether a text is a path that stays below where it begins, on any system.
pub fn is_path(text: &str) -> bool {
    let is_plain = |letter: char| !letter.is_control() && !"\\:*?\"<>|".contains(letter);
    let is_step = |part: &str| !part.is_empty() && part != "." && part != "..";
    text.len() <= PART_BYTES_MAX && text.chars().all(is_plain) && text.split('/').all(is_step)
}

/// Whether a text is the name of an organisation or of a model.
fn is_part(text: &str) -> bool {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    let is_edge = |letter: char| "-.".contains(letter);
    !text.is_empty()
        && text.chars().all(is_letter)
        && !text.starts_with(is_edge)
        && !text.ends_with(is_edge)
        && !text.contains("--")
        && !text.contains("..")
        && !text.ends_with(".git")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_repository_perhaps_a_file_and_a_revision() {
        for (text, repo, file, revision) in [
            ("gpt2", "gpt2", None, "main"),
            ("org/model-1.5_b", "org/model-1.5_b", None, "main"),
            ("org/model@v1.0", "org/model", None, "v1.0"),
            ("org/model@refs/pr/3", "org/model", None, "refs/pr/3"),
            ("org/model/q4.gguf", "org/model", Some("q4.gguf"), "main"),
            ("org/model/in/q4 0.GGUF@b", "org/model", Some("in/q4 0.GGUF"), "b"),
        ] {
            let name = Name::parse(text).unwrap();
            assert_eq!(name.repo, repo);
            assert_eq!((name.file.as_deref(), &*name.revision), (file, revision));
        }
    }

    #[test]
    fn what_would_lead_elsewhere_is_no_name() {
        for text in [
            "",
            "/",
            "a/",
            "/a",
            "a//b.gguf",
            "../b",
            "a/..",
            "a/.b",
            "a/b.",
            "a/b--c",
            "a/b.git",
            "a/b c",
            "a/b%2f",
            "a/b?x",
            "a/b#x",
            "å/b",
            "a/b\n",
            "a/b@",
            "a/b@..",
            "a/b@/main",
            "a/b@x/../y",
            "a/b@x\\y",
            "a/b@x\u{7}",
            "a/b/../c.gguf",
            "a/b/c",
            "a/b/.gguf",
            "a/b/c.bin",
            "a/b/c.gguf/",
            "https://x/a",
        ] {
            assert!(Name::parse(text).is_err(), "{text:?}");
        }
        assert!(Name::parse(&format!("a/{}", "b".repeat(95))).is_err());
        assert!(Name::parse(&format!("a/b@{}", "c".repeat(201))).is_err());
    }
}
