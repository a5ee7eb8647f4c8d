//! Statements: 136 signed bytes that offer an artifact to a cohort.
//!
//! ```text
//! "sapwood-release\n" 16 | version u16 = 1 | role u8: 1 candidate, 2 release | 0 u8 | 0 u32 | fleet 16 | cohort 32
//! | sequence u64 | issued s u64 | expires s u64 | artifact bytes u64 | artifact 32
//! ```
//! - In: bytes and signatures that may come from anywhere, and what a device knows. Out: a
//!   [`Statement`] that it takes, or why it does not.
//! - Rolling back is a higher sequence that names an older artifact.
//! - Invariant: what is taken was signed for this fleet, cohort and time by who may.

use super::bytes::Fields;
use super::id::{CohortId, FleetId, Hash, PublicKey};
use super::signatures::Signatures;
use super::trust::Trust;
use crate::limits::{FLEET_ADAPTER_BYTES_MAX, FLEET_INTEGER_MAX};

/// Bytes of a statement.
pub const STATEMENT_BYTES: usize = 136;

const MAGIC: [u8; 16] = *b"sapwood-release\n";
const VERSION: u16 = 1;

/// Who speaks in a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// The server's online key, to devices of the lab.
    Candidate = 1,
    /// The release keys, to all.
    Release = 2,
}

/// An artifact offered to a cohort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Who speaks.
    pub role: Role,
    /// In which fleet.
    pub fleet: FleetId,
    /// To whom.
    pub cohort: CohortId,
    /// Number of the statement in its cohort, from 1; it only grows.
    pub sequence: u64,
    /// Since when, seconds since 1970.
    pub issued_s: u64,
    /// From when on it is not taken any more, seconds since 1970.
    pub expires_s: u64,
    /// Bytes of the artifact.
    pub artifact_bytes: u64,
    /// BLAKE3 of the artifact.
    pub artifact: Hash,
}

/// What a device knows when a statement comes.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    /// Whom it trusts, and so its fleet.
    pub trust: &'a Trust,
    /// Its cohort.
    pub cohort: CohortId,
    /// Whether it takes candidates: a device of the lab.
    pub candidates: bool,
    /// The highest sequence that it ever took, 0 before the first.
    pub taken: u64,
    /// The server's time, ms since 1970.
    pub now_ms: u64,
}

/// Why a statement is not taken; what is installed stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// Too few or too many bytes.
    #[error("a statement has {got} bytes, expected {STATEMENT_BYTES}")]
    Length {
        /// Bytes that came.
        got: usize,
    },
    /// Something else.
    #[error("not a statement: expected magic {MAGIC:02x?}, got {got:02x?}")]
    Magic {
        /// Its first bytes.
        got: [u8; 16],
    },
    /// Of a version that this program does not know.
    #[error("a statement has version {got}, expected {VERSION}")]
    Version {
        /// Its version.
        got: u16,
    },
    /// No role that there is.
    #[error("a statement has role {got}, expected 1 (candidate) or 2 (release)")]
    UnknownRole {
        /// Its role.
        got: u8,
    },
    /// Bytes that mean nothing yet are not zero.
    #[error("a statement has {got:02x?} where version {VERSION} has zeros")]
    Reserved {
        /// What stands there.
        got: [u8; 5],
    },
    /// A number outside its range.
    #[error("a statement has {field} {got}, expected {min} to {max}")]
    Number {
        /// Which number.
        field: &'static str,
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
        /// The number.
        got: u64,
    },
    /// Of another fleet.
    #[error("a statement is of fleet {got}, expected {expected}")]
    Fleet {
        /// The own one.
        expected: FleetId,
        /// Its.
        got: FleetId,
    },
    /// To another cohort.
    #[error("a statement is to cohort {got}, expected {expected}")]
    Cohort {
        /// The own one.
        expected: CohortId,
        /// Its.
        got: CohortId,
    },
    /// A candidate, on a device that is not of the lab.
    #[error("a statement offers a candidate; this device takes releases only")]
    Candidate,
    /// The trust statement is too old to say who may sign.
    #[error(
        "trust epoch {epoch} expired at {expires_s} s, now it is {now_s} s: ask for a newer one"
    )]
    TrustExpired {
        /// Its epoch.
        epoch: u64,
        /// When it did.
        expires_s: u64,
        /// The server's time.
        now_s: u64,
    },
    /// Too few signatures hold.
    #[error(
        "{got} signatures of a {role:?} hold, expected {expected} by the keys of trust epoch {epoch}"
    )]
    Signatures {
        /// Who should have signed.
        role: Role,
        /// How many must.
        expected: u8,
        /// How many do.
        got: usize,
        /// Whose keys were asked.
        epoch: u64,
    },
    /// Taken before, or overtaken.
    #[error("a statement has sequence {got}, expected more than {taken}, which was taken before")]
    Sequence {
        /// The highest that was taken.
        taken: u64,
        /// Its.
        got: u64,
    },
    /// Too old.
    #[error("a statement expired at {expires_s} s, now it is {now_s} s")]
    Expired {
        /// When it did.
        expires_s: u64,
        /// The server's time.
        now_s: u64,
    },
}

impl Statement {
    /// Its bytes, which are signed.
    pub fn encode(&self) -> [u8; STATEMENT_BYTES] {
        let mut bytes = [0; STATEMENT_BYTES];
        let (version, role) = (VERSION.to_le_bytes(), [self.role as u8, 0, 0, 0, 0, 0]);
        let numbers = [self.sequence, self.issued_s, self.expires_s, self.artifact_bytes];
        let numbers = numbers.map(u64::to_le_bytes);
        let mut rest = &mut bytes[..];
        for field in [&MAGIC[..], &version, &role, &self.fleet.0, &self.cohort.0]
            .into_iter()
            .chain(numbers.iter().map(|number| &number[..]))
            .chain([&self.artifact.0[..]])
        {
            let (place, after) = rest.split_at_mut(field.len());
            place.copy_from_slice(field);
            rest = after;
        }
        bytes
    }

    /// Reads one; whether it was signed is not known then.
    ///
    /// # Errors
    /// [`StatementError`] says which field is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, StatementError> {
        if bytes.len() != STATEMENT_BYTES {
            return Err(StatementError::Length { got: bytes.len() });
        }
        let mut fields = Fields(bytes);
        let magic = fields.take();
        if magic != MAGIC {
            return Err(StatementError::Magic { got: magic });
        }
        let version = fields.short();
        if version != VERSION {
            return Err(StatementError::Version { got: version });
        }
        let role = match fields.byte() {
            1 => Role::Candidate,
            2 => Role::Release,
            got => return Err(StatementError::UnknownRole { got }),
        };
        let reserved = fields.take();
        if reserved != [0; 5] {
            return Err(StatementError::Reserved { got: reserved });
        }
        let statement = Self {
            role,
            fleet: FleetId(fields.take()),
            cohort: CohortId(fields.take()),
            sequence: fields.long(),
            issued_s: fields.long(),
            expires_s: fields.long(),
            artifact_bytes: fields.long(),
            artifact: Hash(fields.take()),
        };
        statement.check().map(|()| statement)
    }

    /// Whether its numbers are in their ranges; a server asks before it has one signed.
    ///
    /// # Errors
    /// [`StatementError::Number`].
    pub fn check(&self) -> Result<(), StatementError> {
        for (field, got, min, max) in [
            ("sequence", self.sequence, 1, FLEET_INTEGER_MAX),
            ("issued", self.issued_s, 0, FLEET_INTEGER_MAX - 1),
            ("expires", self.expires_s, self.issued_s.saturating_add(1), FLEET_INTEGER_MAX),
            ("artifact bytes", self.artifact_bytes, 1, FLEET_ADAPTER_BYTES_MAX),
        ] {
            if !(min..=max).contains(&got) {
                return Err(StatementError::Number { field, min, max, got });
            }
        }
        Ok(())
    }

    /// Whether who may speak in this role has signed the statement.
    ///
    /// # Errors
    /// [`StatementError::Fleet`], [`StatementError::TrustExpired`], [`StatementError::Signatures`].
    pub fn signed(
        &self,
        signatures: &Signatures,
        trust: &Trust,
        now_ms: u64,
    ) -> Result<(), StatementError> {
        let (epoch, now_s) = (trust.epoch, now_ms / 1000);
        if self.fleet != trust.fleet {
            return Err(StatementError::Fleet { expected: trust.fleet, got: self.fleet });
        }
        if now_s >= trust.expires_s {
            return Err(StatementError::TrustExpired { epoch, expires_s: trust.expires_s, now_s });
        }
        let (keys, expected): (&[PublicKey], u8) = match self.role {
            Role::Candidate => (core::slice::from_ref(&trust.online), 1),
            Role::Release => (&trust.release, trust.release_threshold),
        };
        let got = signatures.held(&self.encode(), keys);
        if got < usize::from(expected) {
            return Err(StatementError::Signatures { role: self.role, expected, got, epoch });
        }
        Ok(())
    }
}

impl Standing<'_> {
    /// Takes a statement: fleet and cohort are its own, the role is one it accepts, enough keys signed,
    /// the sequence is new, and by the server's time it has not expired.
    ///
    /// # Errors
    /// [`StatementError`] says what does not hold; what is installed stays.
    pub fn take(&self, bytes: &[u8], signatures: &Signatures) -> Result<Statement, StatementError> {
        let statement = Statement::decode(bytes)?;
        statement.signed(signatures, self.trust, self.now_ms)?;
        if statement.cohort != self.cohort {
            return Err(StatementError::Cohort { expected: self.cohort, got: statement.cohort });
        }
        if statement.role == Role::Candidate && !self.candidates {
            return Err(StatementError::Candidate);
        }
        if statement.sequence <= self.taken {
            return Err(StatementError::Sequence { taken: self.taken, got: statement.sequence });
        }
        let now_s = self.now_ms / 1000;
        if now_s >= statement.expires_s {
            return Err(StatementError::Expired { expires_s: statement.expires_s, now_s });
        }
        Ok(statement)
    }
}

const _: () = assert!(
    16 + 2 + 1 + 5 + 16 + 32 + 4 * 8 + 32 == STATEMENT_BYTES,
    "the fields of a statement are as long as it is"
);
