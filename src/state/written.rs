//! Texts that a base wrote itself, kept so that they are written once in a device's life.
//!
//! - One file, replaced whole, beside what a commit names: without it, or where it does not hold, the texts
//!   are written again.
//! - Invariant: what is read has ids below the vocabulary and lengths within those that were asked for.
//! - Never here: a base, what the texts are for.

use super::publish;
use super::{State, StateError};
use crate::reservoir::record::{self, seal};
use rkyv::{Archive, Deserialize, Serialize};
use sapwood_protocol::record::Kind;

/// The file's name in the state folder.
pub const OWN_TEXTS: &str = "own-texts";

/// Most bytes of the file: thousands of texts of a few hundred tokens.
pub const OWN_TEXTS_BYTES_MAX: u64 = 16 << 20;

/// How texts were asked for: those of another base or another beginning are of no use.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Hash of the base.
    pub base: [u8; 32],
    /// Token ids that every text begins with.
    pub start: Vec<u32>,
    /// Most tokens of a text, those of its beginning among them.
    pub tokens: u32,
}

/// Texts that were written, in the order of their seeds.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// How they were asked for.
    pub asked: Asked,
    /// The first seed that was not tried.
    pub seed: u64,
    /// Token ids of each, its beginning among them.
    pub texts: Vec<Vec<u32>>,
}

impl Written {
    /// Whether these are texts of that kind by a base of so many tokens.
    fn holds(&self, asked: &Asked, vocab: usize) -> bool {
        let is_text = |text: &Vec<u32>| {
            text.len() <= asked.tokens as usize
                && text.len() > asked.start.len()
                && text.starts_with(&asked.start)
                && text.iter().all(|&id| (id as usize) < vocab)
        };
        self.asked == *asked
            && self.seed >= self.texts.len() as u64
            && self.texts.iter().all(is_text)
    }
}

impl State {
    /// The texts that were kept of what is asked for, by a base of `vocab` tokens; none where there are none
    /// or the file does not hold.
    ///
    /// # Errors
    /// [`StateError::Storage`].
    pub fn written(&self, asked: &Asked, vocab: usize) -> Result<Option<Written>, StateError> {
        if self.storage.len(OWN_TEXTS)?.is_none_or(|length| length > OWN_TEXTS_BYTES_MAX) {
            return Ok(None);
        }
        let bytes = self.storage.read(OWN_TEXTS)?;
        let header = record::header(Kind::OwnTexts, &bytes);
        let found = header.and_then(|header| record::open::<Written>(&header, &bytes));
        Ok(found.ok().filter(|written| written.holds(asked, vocab)))
    }

    /// Keeps texts, durably, in place of those that were kept before.
    ///
    /// # Errors
    /// [`StateError::Storage`]: those before stay; [`StateError::Sync`].
    pub fn keep_written(&mut self, written: &Written) -> Result<(), StateError> {
        self.usable()?;
        let record = |source| StateError::Record { path: OWN_TEXTS.to_owned(), source };
        let bytes = seal(Kind::OwnTexts, 0, written).map_err(record)?;
        // More would not be read: nothing is lost but the time to write them again.
        if bytes.len() as u64 > OWN_TEXTS_BYTES_MAX {
            return Ok(());
        }
        let done = publish::file(&*self.storage, "", OWN_TEXTS, &bytes);
        self.note(done)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use crate::ports::{Memory, Storage};
    use std::sync::Arc;

    #[test]
    fn texts_are_read_as_they_were_kept_and_others_are_not() {
        let storage = Arc::new(Memory::default());
        let mut state = State::open(storage.clone()).unwrap();
        let asked = Asked { base: [7; 32], start: vec![1], tokens: 5 };
        assert_eq!(state.written(&asked, 100).unwrap(), None);
        let texts = vec![vec![1, 5, 6], vec![1, 9, 2, 3, 4]];
        let written = Written { asked: asked.clone(), seed: 3, texts };
        state.keep_written(&written).unwrap();
        let state = State::open(storage.clone()).unwrap();
        assert_eq!(state.written(&asked, 100).unwrap(), Some(written.clone()));
        for other in [
            Asked { base: [8; 32], ..asked.clone() },
            Asked { start: vec![2], ..asked.clone() },
            Asked { tokens: 4, ..asked.clone() },
        ] {
            assert_eq!(state.written(&other, 100).unwrap(), None);
        }
        assert_eq!(state.written(&asked, 9).unwrap(), None, "an id beyond the vocabulary");
        let whole = storage.read(OWN_TEXTS).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            storage.write(OWN_TEXTS, &damaged).unwrap();
            let found = state.written(&asked, 100).unwrap();
            // The commit that a record belongs to is of no meaning here.
            assert!(found.is_none() || found.as_ref() == Some(&written), "byte {at}");
            storage.write(OWN_TEXTS, &whole[..at]).unwrap();
            assert_eq!(state.written(&asked, 100).unwrap(), None, "cut at {at}");
        }
    }

    #[test]
    fn texts_that_nobody_wrote_are_refused() {
        let mut state = State::open(Arc::new(Memory::default())).unwrap();
        let asked = Asked { base: [7; 32], start: vec![1], tokens: 3 };
        for (seed, texts) in [
            (0, vec![vec![1, 2]]),
            (1, vec![vec![1]]),
            (1, vec![vec![2, 2]]),
            (1, vec![vec![1, 2, 3, 4]]),
        ] {
            state.keep_written(&Written { asked: asked.clone(), seed, texts }).unwrap();
            assert_eq!(state.written(&asked, 100).unwrap(), None);
        }
    }
}
