//! Trust statements: which keys speak for a fleet, and how many of them must.
//!
//! ```text
//! "sapwood-trust--\n" 16 | version u16 = 1 | thresholds root u8, release u8 | counts root u8, release u8 | 0 u16
//! | fleet 16 | epoch u64 | expires s u64 | online key 32 | root keys 32 each | release keys 32 each
//! ```
//! - In: bytes and signatures that may come from anywhere. Out: a [`Trust`]; the first is known by its
//!   hash, each later one by the roots of the one before.
//! - An old trust statement may have expired and is still followed to the next; what it trusts is not
//!   taken any more (`statement.rs`).
//! - Invariant: no key id stands twice among the roots or the release keys, and the online key, which
//!   a server holds, is none of them.

use super::bytes::Fields;
use super::id::{FleetId, Hash, PublicKey};
use super::signatures::Signatures;
use crate::limits::{FLEET_INTEGER_MAX, FLEET_KEYS_MAX};
use alloc::vec::Vec;

const MAGIC: [u8; 16] = *b"sapwood-trust--\n";
const VERSION: u16 = 1;
/// Bytes in front of the root keys.
const HEAD_BYTES: usize = 16 + 2 + 2 + 2 + 2 + 16 + 8 + 8 + 32;

/// The keys of a fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// The fleet.
    pub fleet: FleetId,
    /// Number of the statement; it grows.
    pub epoch: u64,
    /// From when on it is not believed, seconds since 1970.
    pub expires_s: u64,
    /// The key of the server, which signs candidates.
    pub online: PublicKey,
    /// The keys that name the next keys.
    pub root: Vec<PublicKey>,
    /// How many of them must.
    pub root_threshold: u8,
    /// The keys that sign releases.
    pub release: Vec<PublicKey>,
    /// How many of them must.
    pub release_threshold: u8,
}

/// Why a trust statement is not believed; the one that was stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Too few or too many bytes for its keys.
    #[error("a trust statement has {got} bytes, expected {expected}")]
    Length {
        /// Bytes of such a statement.
        expected: usize,
        /// Bytes that came.
        got: usize,
    },
    /// Something else.
    #[error("not a trust statement: expected magic {MAGIC:02x?}, got {got:02x?}")]
    Magic {
        /// Its first bytes.
        got: [u8; 16],
    },
    /// Of a version that this program does not know.
    #[error("a trust statement has version {got}, expected {VERSION}")]
    Version {
        /// Its version.
        got: u16,
    },
    /// Bytes that mean nothing yet are not zero.
    #[error("a trust statement has {got:#x} where version {VERSION} has 0")]
    Reserved {
        /// What stands there.
        got: u16,
    },
    /// No keys, or too many.
    #[error("a trust statement has {got} {role} keys, expected 1 to {FLEET_KEYS_MAX}")]
    Count {
        /// Root or release.
        role: &'static str,
        /// How many.
        got: usize,
    },
    /// A threshold that nobody, or everybody without a key, would meet.
    #[error("a trust statement asks for {got} of {count} {role} keys, expected 1 to {count}")]
    Threshold {
        /// Root or release.
        role: &'static str,
        /// How many there are.
        count: usize,
        /// How many it asks for.
        got: u8,
    },
    /// A number from which JSON's readers round, or an epoch of 0.
    #[error("a trust statement has {field} {got}, expected 1 to {FLEET_INTEGER_MAX}")]
    Number {
        /// Which number.
        field: &'static str,
        /// The number.
        got: u64,
    },
    /// One key for two, or the server's among those that it must not have.
    #[error("a trust statement has key {key} twice, expected each {role} key to be another")]
    Twice {
        /// Among which keys.
        role: &'static str,
        /// The key.
        key: PublicKey,
    },
    /// Of another fleet.
    #[error("a trust statement is of fleet {got}, expected {expected}")]
    Fleet {
        /// The own one.
        expected: FleetId,
        /// Its.
        got: FleetId,
    },
    /// Not the one that the device was told of.
    #[error("the first trust statement has BLAKE3 {got}, expected {expected}")]
    First {
        /// What the enrolment link says.
        expected: Hash,
        /// What it is.
        got: Hash,
    },
    /// Older, or the same.
    #[error("a trust statement has epoch {got}, expected more than {newest}; that one stays")]
    Epoch {
        /// The newest that is known.
        newest: u64,
        /// Its.
        got: u64,
    },
    /// Too few signatures hold.
    #[error("{got} signatures of the {which} root keys hold, expected {expected}")]
    Signatures {
        /// Old or new.
        which: &'static str,
        /// How many must.
        expected: u8,
        /// How many do.
        got: usize,
    },
}

impl Trust {
    /// Its bytes, which the roots sign.
    ///
    /// # Errors
    /// [`TrustError`] says which field nobody would take.
    pub fn encode(&self) -> Result<Vec<u8>, TrustError> {
        self.check()?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend([self.root_threshold, self.release_threshold]);
        bytes.extend([self.root.len() as u8, self.release.len() as u8, 0, 0]);
        bytes.extend(self.fleet.0);
        bytes.extend(self.epoch.to_le_bytes());
        bytes.extend(self.expires_s.to_le_bytes());
        bytes.extend(self.online.0);
        self.root.iter().chain(&self.release).for_each(|key| bytes.extend(key.0));
        Ok(bytes)
    }

    /// Reads one; whether it was signed is not known then.
    ///
    /// # Errors
    /// [`TrustError`] says which field is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, TrustError> {
        let (mut fields, got) = (Fields(bytes), bytes.len());
        if got < HEAD_BYTES {
            return Err(TrustError::Length { expected: HEAD_BYTES + 64, got });
        }
        let magic = fields.take();
        if magic != MAGIC {
            return Err(TrustError::Magic { got: magic });
        }
        let version = fields.short();
        if version != VERSION {
            return Err(TrustError::Version { got: version });
        }
        let (root_threshold, release_threshold) = (fields.byte(), fields.byte());
        let (roots, releases) = (usize::from(fields.byte()), usize::from(fields.byte()));
        let reserved = fields.short();
        if reserved != 0 {
            return Err(TrustError::Reserved { got: reserved });
        }
        let expected = HEAD_BYTES + 32 * (roots + releases);
        if got != expected {
            return Err(TrustError::Length { expected, got });
        }
        let (fleet, epoch, expires_s) = (FleetId(fields.take()), fields.long(), fields.long());
        let mut key = || PublicKey(fields.take());
        let online = key();
        let root = (0..roots).map(|_| key()).collect();
        let release = (0..releases).map(|_| key()).collect();
        let trust = Self {
            fleet,
            epoch,
            expires_s,
            online,
            root,
            root_threshold,
            release,
            release_threshold,
        };
        trust.check().map(|()| trust)
    }

    /// Counts, thresholds, numbers, and that no key stands twice.
    fn check(&self) -> Result<(), TrustError> {
        for (role, keys, threshold) in [
            ("root", &self.root, self.root_threshold),
            ("release", &self.release, self.release_threshold),
        ] {
            let count = keys.len();
            if !(1..=FLEET_KEYS_MAX).contains(&count) {
                return Err(TrustError::Count { role, got: count });
            }
            if !(1..=count).contains(&usize::from(threshold)) {
                return Err(TrustError::Threshold { role, count, got: threshold });
            }
            let online = self.online.id();
            for (at, key) in keys.iter().enumerate() {
                let id = key.id();
                if id == online || keys[..at].iter().any(|other| other.id() == id) {
                    return Err(TrustError::Twice { role, key: *key });
                }
            }
        }
        for (field, got) in [("epoch", self.epoch), ("expires", self.expires_s)] {
            if !(1..=FLEET_INTEGER_MAX).contains(&got) {
                return Err(TrustError::Number { field, got });
            }
        }
        Ok(())
    }

    /// The first trust statement of a device: the one whose hash its enrolment link carries, signed by
    /// its own roots.
    ///
    /// # Errors
    /// [`TrustError`] says what does not hold.
    pub fn first(
        bytes: &[u8],
        signatures: &Signatures,
        fleet: FleetId,
        expected: Hash,
    ) -> Result<Self, TrustError> {
        let got = Hash::of(bytes);
        if got != expected {
            return Err(TrustError::First { expected, got });
        }
        let trust = Self::decode(bytes)?;
        same_fleet(fleet, trust.fleet)?;
        trust.signed("own", bytes, signatures)?;
        Ok(trust)
    }

    /// A later trust statement: signed by these roots and by its own.
    ///
    /// # Errors
    /// [`TrustError`] says what does not hold; this trust stays.
    pub fn next(&self, bytes: &[u8], signatures: &Signatures) -> Result<Self, TrustError> {
        let next = Self::decode(bytes)?;
        same_fleet(self.fleet, next.fleet)?;
        if next.epoch <= self.epoch {
            return Err(TrustError::Epoch { newest: self.epoch, got: next.epoch });
        }
        self.signed("old", bytes, signatures)?;
        next.signed("new", bytes, signatures)?;
        Ok(next)
    }

    fn signed(
        &self,
        which: &'static str,
        bytes: &[u8],
        signatures: &Signatures,
    ) -> Result<(), TrustError> {
        let (expected, got) = (self.root_threshold, signatures.held(bytes, &self.root));
        if got < usize::from(expected) {
            return Err(TrustError::Signatures { which, expected, got });
        }
        Ok(())
    }
}

fn same_fleet(expected: FleetId, got: FleetId) -> Result<(), TrustError> {
    if expected == got { Ok(()) } else { Err(TrustError::Fleet { expected, got }) }
}
