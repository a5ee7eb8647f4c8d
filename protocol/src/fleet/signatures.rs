//! The signatures beside a statement, and how many of them hold.
//!
//! ```text
//! count u8 | key id 8, signature 64 | ...
//! ```
//! - In: bytes that may come from anywhere. Out: signatures; who signed is found by the key's id.
//! - A signature of a key that is not asked for is passed over: a trust statement carries those of
//!   the old and of the new root.
//! - Invariant: a key counts once, however often it signed.

use super::bytes::Fields;
use super::id::{KeyId, PublicKey, Signature};
use super::key::SecretKey;
use crate::limits::FLEET_SIGNATURES_MAX;
use alloc::vec::Vec;

const ENTRY_BYTES: usize = 8 + 64;

/// The signatures of one statement, in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signatures(Vec<(KeyId, Signature)>);

/// Why bytes are no list of signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignaturesError {
    /// More than a statement can need, or none.
    #[error("a statement has {got} signatures, expected 1 to {FLEET_SIGNATURES_MAX}")]
    Count {
        /// How many there are said to be.
        got: usize,
    },
    /// The bytes end before the last signature, or go on after it.
    #[error("{count} signatures have {got} bytes, expected {expected}")]
    Length {
        /// How many there are said to be.
        count: usize,
        /// Bytes of so many.
        expected: usize,
        /// Bytes that came.
        got: usize,
    },
}

impl Signatures {
    /// Adds the signature of one more key; the second of one key changes nothing.
    ///
    /// # Errors
    /// [`SignaturesError::Count`] when there is no more room.
    pub fn sign(&mut self, key: &SecretKey, statement: &[u8]) -> Result<(), SignaturesError> {
        let id = key.public().id();
        if self.0.iter().any(|(signer, _)| *signer == id) {
            return Ok(());
        }
        if self.0.len() == FLEET_SIGNATURES_MAX {
            return Err(SignaturesError::Count { got: FLEET_SIGNATURES_MAX + 1 });
        }
        self.0.push((id, key.sign(statement)));
        Ok(())
    }

    /// The bytes of them all.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + self.0.len() * ENTRY_BYTES);
        bytes.push(self.0.len() as u8);
        for (key, signature) in &self.0 {
            bytes.extend(key.0);
            bytes.extend(signature.0);
        }
        bytes
    }

    /// Reads them.
    ///
    /// # Errors
    /// [`SignaturesError`] says what is wrong with their number or length.
    pub fn decode(bytes: &[u8]) -> Result<Self, SignaturesError> {
        let mut fields = Fields(bytes);
        let count = usize::from(fields.byte());
        if !(1..=FLEET_SIGNATURES_MAX).contains(&count) {
            return Err(SignaturesError::Count { got: count });
        }
        let (expected, got) = (1 + count * ENTRY_BYTES, bytes.len());
        if got != expected {
            return Err(SignaturesError::Length { count, expected, got });
        }
        let entry = |_| (KeyId(fields.take()), Signature(fields.take()));
        Ok(Self((0..count).map(entry).collect()))
    }

    /// How many of these keys signed the statement.
    pub fn held(&self, statement: &[u8], keys: &[PublicKey]) -> usize {
        let signed = |key: &&PublicKey| {
            let id = key.id();
            let mut own = self.0.iter().filter(|(signer, _)| *signer == id);
            own.any(|(_, signature)| key.verifies(statement, signature))
        };
        keys.iter().filter(signed).count()
    }
}
