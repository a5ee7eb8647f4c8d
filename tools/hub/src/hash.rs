//! The hash by which the hub knows a file: SHA-256 of a large one, git's SHA-1 of a small one.
//!
//! - In: hexadecimal text. Out: the same, known to be one of the two.

use std::fmt;

/// A hash that was told, and that is also the name of a file in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hash(String);

impl Hash {
    /// Reads what the hub or the cache says: 64 digits are SHA-256, 40 are git's.
    pub fn read(text: &str) -> Option<Self> {
        is_hex(text, &[40, 64]).then(|| Self(text.to_owned()))
    }

    /// SHA-256 alone.
    pub(crate) fn sha256(text: &str) -> Option<Self> {
        is_hex(text, &[64]).then(|| Self(text.to_owned()))
    }

    /// Git's hash of a blob alone.
    pub(crate) fn git(text: &str) -> Option<Self> {
        is_hex(text, &[40]).then(|| Self(text.to_owned()))
    }

    /// Whether it is git's hash of a blob.
    pub fn is_git(&self) -> bool {
        self.0.len() == 40
    }

    /// What a person calls it.
    pub fn kind(&self) -> &'static str {
        if self.is_git() { "git's SHA-1" } else { "SHA-256" }
    }

    /// As it was told.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.0)
    }
}

/// Whether a text is so many small hexadecimal digits.
pub(crate) fn is_hex(text: &str, lengths: &[usize]) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    lengths.contains(&text.len()) && text.bytes().all(is_digit)
}
