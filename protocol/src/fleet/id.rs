//! Names that are bytes: fleets, devices, cohorts, hashes and keys.
//!
//! - In: bytes, or lower-case hexadecimal digits. Out: a type for each kind, so that no two are swapped.
//! - Invariant: one name has one text; upper-case digits, other lengths and spaces are refused.

use super::name::is_hidden;
use crate::limits::FLEET_NAME_BYTES_MAX;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not such a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Too few or too many digits.
    #[error("{what} has {got} characters, expected {expected} lower-case hexadecimal digits")]
    Length {
        /// What the text should name.
        what: &'static str,
        /// Digits of such a name.
        expected: usize,
        /// Characters of the text.
        got: usize,
    },
    /// Another character.
    #[error("{what} has {got:?} at {position}, expected a lower-case hexadecimal digit")]
    Digit {
        /// What the text should name.
        what: &'static str,
        /// Where, from 0.
        position: usize,
        /// The character there.
        got: char,
    },
    /// Half a byte.
    #[error("{what} have {got} characters, expected two lower-case hexadecimal digits a byte")]
    Odd {
        /// What the text should hold.
        what: &'static str,
        /// Characters of the text.
        got: usize,
    },
    /// A cohort's label that is no label.
    #[error("a label has {got} bytes, expected at most {FLEET_NAME_BYTES_MAX}")]
    Label {
        /// Bytes of the label.
        got: usize,
    },
    /// A label of which nobody sees all.
    #[error("a label has {got:?}, expected characters that are seen")]
    Hidden {
        /// The character.
        got: char,
    },
}

/// One digit's value.
fn digit(what: &'static str, position: usize, got: char) -> Result<u8, IdError> {
    match got {
        '0'..='9' | 'a'..='f' => Ok(got.to_digit(16).unwrap_or(0) as u8),
        _ => Err(IdError::Digit { what, position, got }),
    }
}

/// `N` bytes from their digits.
fn parse<const N: usize>(what: &'static str, text: &str) -> Result<[u8; N], IdError> {
    let got = text.chars().count();
    if got != 2 * N {
        return Err(IdError::Length { what, expected: 2 * N, got });
    }
    let mut bytes = [0; N];
    for (at, character) in text.chars().enumerate() {
        bytes[at / 2] = bytes[at / 2] << 4 | digit(what, at, character)?;
    }
    Ok(bytes)
}

/// Reads what is made of digits, without a copy of its text.
struct Digits<T> {
    what: &'static str,
    parse: fn(&str) -> Result<T, IdError>,
}

impl<T> Visitor<'_> for Digits<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} in lower-case hexadecimal digits", self.what)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }
}

macro_rules! in_digits {
    ($name:ident, $what:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, formatter)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Digits { what: $what, parse: str::parse })
            }
        }
    };
}

macro_rules! named_bytes {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(pub [u8; $bytes]);

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse($what, text).map(Self)
            }
        }

        in_digits!($name, $what);
    };
}

named_bytes!(
    /// A fleet: drawn once, when its server is made.
    FleetId, 16, "a fleet"
);
named_bytes!(
    /// A device, by the key that it enrolled with: [`PublicKey::device`].
    DeviceId, 16, "a device"
);
named_bytes!(
    /// Devices whose adapters add up: [`cohort`].
    CohortId, 32, "a cohort"
);
named_bytes!(
    /// BLAKE3 of a file, of a body or of a statement; an artifact is named by it.
    Hash, 32, "a hash"
);
named_bytes!(
    /// An Ed25519 key that signatures are checked with.
    PublicKey, 32, "a public key"
);
named_bytes!(
    /// The first bytes of BLAKE3 of a key: whose signature one is.
    KeyId, 8, "a key's id"
);
named_bytes!(
    /// An Ed25519 signature.
    Signature, 64, "a signature"
);

/// Bytes of any length, in a message in the same digits.
#[derive(Clone, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl FromStr for Bytes {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (what, got) = ("bytes", text.chars().count());
        if got % 2 == 1 {
            return Err(IdError::Odd { what, got });
        }
        let mut bytes = vec![0; got / 2];
        for (at, character) in text.chars().enumerate() {
            bytes[at / 2] = bytes[at / 2] << 4 | digit(what, at, character)?;
        }
        Ok(Self(bytes))
    }
}

in_digits!(Bytes, "bytes");

/// The first `N` bytes of the hash of some parts, one after the other.
pub(super) fn hash<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let mut bytes = [0; N];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

impl Hash {
    /// The hash of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(hash(&[bytes]))
    }
}

impl PublicKey {
    /// The device that enrols with this key.
    pub fn device(&self) -> DeviceId {
        DeviceId(hash(&[b"sapwood-device-v1\n", &self.0]))
    }

    /// What stands beside its signatures.
    pub fn id(&self) -> KeyId {
        KeyId(hash(&[&self.0]))
    }
}

/// Whether an operator may give that label. One that was given before may hold other characters.
///
/// # Errors
/// [`IdError::Label`], [`IdError::Hidden`].
pub fn label(text: &str) -> Result<(), IdError> {
    if text.len() > FLEET_NAME_BYTES_MAX {
        return Err(IdError::Label { got: text.len() });
    }
    text.chars().find(|got| is_hidden(*got)).map_or(Ok(()), |got| Err(IdError::Hidden { got }))
}

/// The cohort of a base, the first adapted layer, the adapted linear layers (a bit each, see
/// [`MODULES`](super::update::MODULES)) and the operator's label.
///
/// # Errors
/// [`IdError::Label`].
pub fn cohort(
    base: &Hash,
    first_layer: u16,
    targets: u8,
    label: &str,
) -> Result<CohortId, IdError> {
    let got = label.len();
    let length = u8::try_from(got).ok().filter(|_| got <= FLEET_NAME_BYTES_MAX);
    let length = length.ok_or(IdError::Label { got })?;
    let layer = first_layer.to_le_bytes();
    let head: &[u8] = b"sapwood-cohort-v1\n";
    Ok(CohortId(hash(&[head, &base.0, &layer, &[targets, length], label.as_bytes()])))
}
