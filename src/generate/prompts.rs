//! What the layers keep of texts that ended, for those that begin alike: a prompt is not read twice.
//!
//! - In: texts that ended, by whose adapter wrote them. Out: the one that shares most with a prompt.
//! - Never here: whose numbers are whose; a caller gives an adapter another one when it changes.
//! - Invariant: all of them together take no more bytes than was said, also while one comes in.

use super::Text;
use crate::head::Kept;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A text that was read: its tokens, and what the layers keep of them.
pub struct Read {
    pub(super) ids: Vec<u32>,
    pub(super) kept: Kept,
}

impl Read {
    /// Tokens that a prompt shares with its beginning.
    pub(super) fn shared(&self, prompt: &[u32]) -> usize {
        self.ids.iter().zip(prompt).take_while(|(own, other)| own == other).count()
    }
}

/// Texts that were read, within a bound of bytes; those that were of no use for longest go first.
pub struct Prompts {
    bytes_max: u64,
    /// The one that was used last stands last.
    held: Mutex<Vec<(u64, Arc<Read>)>>,
}

impl Prompts {
    /// None yet; 0 bytes keep none ever.
    pub fn new(bytes_max: u64) -> Self {
        Self { bytes_max, held: Mutex::default() }
    }

    /// Bytes that are taken.
    pub fn bytes(&self) -> u64 {
        bytes(&self.held())
    }

    /// The text of `whose` that shares most tokens with the beginning of a prompt, if any does.
    pub fn find(&self, whose: u64, prompt: &[u32]) -> Option<Arc<Read>> {
        let mut held = self.held();
        let shared = held.iter().enumerate().filter(|(_, (owner, _))| *owner == whose);
        let shared = shared.map(|(at, (_, read))| (read.shared(prompt), at));
        let (_, at) = shared.max().filter(|(shared, _)| *shared > 0)?;
        let found = held.remove(at);
        let read = found.1.clone();
        held.push(found);
        Some(read)
    }

    /// Keeps what `whose` adapter wrote; what it has in common with none goes before it.
    pub fn keep(&self, whose: u64, text: &Text<'_>) {
        let needed = text.kept_bytes();
        if needed > self.bytes_max || text.ids.is_empty() {
            return;
        }
        let mut held = self.held();
        // One that the new text goes on from says nothing more; one that goes on from it says all.
        let same = |owner: u64| owner == whose;
        if held.iter().any(|(owner, read)| same(*owner) && read.ids.starts_with(&text.ids)) {
            return;
        }
        held.retain(|(owner, read)| !(same(*owner) && text.ids.starts_with(&read.ids)));
        let mut taken = bytes(&held);
        let goes = held.iter().take_while(|(_, read)| {
            let is_over = taken + needed > self.bytes_max;
            taken -= if is_over { read.kept.bytes() } else { 0 };
            is_over
        });
        let goes = goes.count();
        held.drain(..goes);
        held.push((whose, Arc::new(text.read())));
    }

    /// Lets go of all that others than `whose` wrote.
    pub fn retain(&self, whose: impl Fn(u64) -> bool) {
        self.held().retain(|(owner, _)| whose(*owner));
    }

    fn held(&self) -> MutexGuard<'_, Vec<(u64, Arc<Read>)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bytes(held: &[(u64, Arc<Read>)]) -> u64 {
    held.iter().map(|(_, read)| read.kept.bytes()).sum()
}
