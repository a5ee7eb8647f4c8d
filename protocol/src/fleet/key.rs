//! Ed25519: the door to `ed25519_dalek`.
//!
//! - In: a seed that the caller drew, messages. Out: signatures, and whether one holds.
//! - Strict: keys of small order and signatures in a second form are refused (RFC 8032, section 8.4).
//! - Never here: chance, files. A secret is wiped when it goes, and is never printed.

use super::id::{DeviceId, FleetId, PublicKey, Signature};
use alloc::vec::Vec;
use core::fmt;
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};

/// A key that signs.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// The key of 32 bytes that nobody can guess.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// What others check its signatures with.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs a message; the same message gets the same signature.
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the secret of {}", self.public())
    }
}

impl PublicKey {
    /// Whether a signature of this message holds; bytes that are no key have none.
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        VerifyingKey::from_bytes(&self.0)
            .is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
    }
}

/// What a new key signs to take the place of a device's old one, whose signature is the request's: so
/// nobody gives a device a key that is not his.
pub fn replacement(fleet: FleetId, device: DeviceId, new: &PublicKey) -> Vec<u8> {
    [&b"sapwood-key-v1\n"[..], &fleet.0, &device.0, &new.0].concat()
}
