//! Names, seeds and nonces that nobody outside can guess.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// A secret of this process and a counter under it.
pub(super) struct Chance {
    key: [u8; 32],
    next: AtomicU64,
}

impl Chance {
    /// The secret comes from the operating system's own generator, or there is none.
    pub(super) fn new() -> Result<Self, getrandom::Error> {
        let mut key = [0; 32];
        getrandom::fill(&mut key)?;
        Ok(Self { key, next: AtomicU64::new(0) })
    }

    fn draw(&self) -> blake3::Hash {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        blake3::keyed_hash(&self.key, &number.to_le_bytes())
    }

    /// 96 bits as text.
    pub(super) fn name(&self) -> String {
        self.draw().as_bytes().iter().take(12).fold(String::new(), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// A seed.
    pub(super) fn seed(&self) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.draw().as_bytes()[..8]);
        u64::from_le_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn no_two_names_are_the_same_in_one_process_or_two() {
        let (one, other) = (Chance::new().unwrap(), Chance::new().unwrap());
        let names = [one.name(), one.name(), other.name(), other.name()];
        assert!(names.iter().all(|name| name.len() == 24));
        assert_eq!(std::collections::BTreeSet::from(names).len(), 4);
    }
}
