//! The signature of a call: four headers, checked before the body is read.
//!
//! ```text
//! "sapwood-request-v1\n" 19 | fleet 16 | device 16 | time u64 | u16 length, method | u16 length, path and query
//! | body length u64 | BLAKE3(body) 32                                                little-endian
//! ```
//! - In: a call and a key, or headers as they came. Out: the headers, or a [`Claim`] that was verified.
//! - A claim holds for its length and digest; whoever reads the body compares it with them
//!   ([`Claim::covers`]).
//! - Never here: clocks; the server's time is an argument, as is the key that a device is known by.

use super::code::Code;
use super::id::{DeviceId, FleetId, Hash, IdError, PublicKey, Signature};
use super::key::SecretKey;
use crate::limits::{
    FLEET_CLOCK_MS_MAX, FLEET_INTEGER_MAX, FLEET_METHOD_BYTES_MAX, FLEET_PATH_BYTES_MAX,
};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// The headers: who asks, when (decimal, ms since 1970), the digest of the body, and the signature; the
/// rest in lower-case hexadecimal digits.
pub const HEADERS: [&str; 4] =
    ["sapwood-device", "sapwood-time", "sapwood-digest", "sapwood-signature"];

const MAGIC: &[u8; 19] = b"sapwood-request-v1\n";

/// What a call is, beside who makes it and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call<'a> {
    /// The fleet that is asked.
    pub fleet: FleetId,
    /// `GET`, `POST`, `PUT`.
    pub method: &'a str,
    /// Path and query as they stand in the request's line.
    pub path: &'a str,
    /// Bytes of the body, as `Content-Length` says.
    pub body_bytes: u64,
}

/// What the headers claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Who asks.
    pub device: DeviceId,
    /// When, by the device's count, ms since 1970.
    pub time_ms: u64,
    /// BLAKE3 of the body.
    pub digest: Hash,
    /// Of all of it.
    pub signature: Signature,
}

/// Why a call is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A header is not there.
    #[error("the request has no header {name}, expected it once")]
    Missing {
        /// Its name.
        name: &'static str,
    },
    /// A header is not what it should be.
    #[error("header {name}: {problem}")]
    Header {
        /// Its name.
        name: &'static str,
        /// What is wrong.
        problem: IdError,
    },
    /// A time that is no number of milliseconds.
    #[error("header sapwood-time: expected milliseconds since 1970 in decimal digits below 2^53")]
    Time,
    /// A method or a path that is not signed.
    #[error("the request's {what} has {got} bytes, expected at most {max}")]
    Long {
        /// Method or path.
        what: &'static str,
        /// Its bytes.
        got: usize,
        /// Most bytes.
        max: usize,
    },
    /// The device's time is too far from the server's.
    #[error(
        "the request's time is {got_ms}, expected within {FLEET_CLOCK_MS_MAX} ms of {now_ms}: sign \
         again with the server's time"
    )]
    Clock {
        /// The time in the request.
        got_ms: u64,
        /// The server's.
        now_ms: u64,
    },
    /// The key does not give the signature.
    #[error("the signature of device {device} does not hold for this request; nothing was done")]
    Signature {
        /// Who is said to have signed.
        device: DeviceId,
    },
    /// A device enrols under a name that is not its key's.
    #[error("header sapwood-device: {got}, expected {expected}, which the key in the body gives")]
    Device {
        /// What the key gives.
        expected: DeviceId,
        /// What the header says.
        got: DeviceId,
    },
    /// The body is another.
    #[error(
        "the body has {got_bytes} bytes with BLAKE3 {got}, expected {expected_bytes} with {expected}"
    )]
    Body {
        /// What was signed.
        expected: Hash,
        /// Bytes that were signed.
        expected_bytes: u64,
        /// What came.
        got: Hash,
        /// Bytes that came.
        got_bytes: u64,
    },
}

impl RequestError {
    /// What the server answers.
    pub fn code(&self) -> Code {
        match self {
            Self::Clock { .. } => Code::Clock,
            Self::Signature { .. } | Self::Device { .. } | Self::Body { .. } => Code::Signature,
            Self::Missing { .. } | Self::Header { .. } | Self::Time | Self::Long { .. } => {
                Code::Malformed
            }
        }
    }
}

impl Call<'_> {
    /// The bytes that are signed.
    ///
    /// # Errors
    /// [`RequestError::Long`].
    pub(super) fn signed(
        &self,
        device: DeviceId,
        time_ms: u64,
        digest: Hash,
    ) -> Result<Vec<u8>, RequestError> {
        let mut bytes = [&MAGIC[..], &self.fleet.0, &device.0, &time_ms.to_le_bytes()].concat();
        for (what, text, max) in [
            ("method", self.method, FLEET_METHOD_BYTES_MAX),
            ("path", self.path, FLEET_PATH_BYTES_MAX),
        ] {
            let got = text.len();
            let length = u16::try_from(got).ok().filter(|_| got <= max);
            let length = length.ok_or(RequestError::Long { what, got, max })?;
            bytes.extend(length.to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes.extend(self.body_bytes.to_le_bytes());
        bytes.extend(digest.0);
        Ok(bytes)
    }

    /// Signs the call of a device at a time.
    ///
    /// - `digest`: BLAKE3 of the body, of no bytes where there is none.
    /// # Errors
    /// [`RequestError::Long`].
    pub fn sign(
        &self,
        key: &SecretKey,
        device: DeviceId,
        time_ms: u64,
        digest: Hash,
    ) -> Result<Claim, RequestError> {
        let signature = key.sign(&self.signed(device, time_ms, digest)?);
        Ok(Claim { device, time_ms, digest, signature })
    }
}

impl Claim {
    /// The headers' values, in the order of [`HEADERS`].
    pub fn values(&self) -> [String; 4] {
        let Self { device, time_ms, digest, signature } = self;
        [device.to_string(), time_ms.to_string(), digest.to_string(), signature.to_string()]
    }

    /// Reads the headers' values, in the order of [`HEADERS`]: what is not there, or there twice, is
    /// `None`.
    ///
    /// # Errors
    /// [`RequestError::Missing`], [`RequestError::Header`], [`RequestError::Time`].
    pub fn read(values: [Option<&str>; 4]) -> Result<Self, RequestError> {
        let there = |at: usize| values[at].ok_or(RequestError::Missing { name: HEADERS[at] });
        let wrong = |at: usize| move |problem| RequestError::Header { name: HEADERS[at], problem };
        Ok(Self {
            device: there(0)?.parse().map_err(wrong(0))?,
            time_ms: decimal(there(1)?).ok_or(RequestError::Time)?,
            digest: there(2)?.parse().map_err(wrong(2))?,
            signature: there(3)?.parse().map_err(wrong(3))?,
        })
    }

    /// Whether the device that is known by `key` makes this call now.
    ///
    /// # Errors
    /// [`RequestError::Clock`], [`RequestError::Long`], [`RequestError::Signature`].
    pub fn verify(
        &self,
        call: &Call<'_>,
        key: &PublicKey,
        now_ms: u64,
    ) -> Result<(), RequestError> {
        if self.time_ms.abs_diff(now_ms) > FLEET_CLOCK_MS_MAX {
            return Err(RequestError::Clock { got_ms: self.time_ms, now_ms });
        }
        let signed = call.signed(self.device, self.time_ms, self.digest)?;
        match key.verifies(&signed, &self.signature) {
            true => Ok(()),
            false => Err(RequestError::Signature { device: self.device }),
        }
    }

    /// Whether a body is the one that was signed.
    ///
    /// # Errors
    /// [`RequestError::Body`].
    pub fn covers(&self, call: &Call<'_>, got_bytes: u64, got: Hash) -> Result<(), RequestError> {
        let (expected, expected_bytes) = (self.digest, call.body_bytes);
        match (got, got_bytes) == (expected, expected_bytes) {
            true => Ok(()),
            false => Err(RequestError::Body { expected, expected_bytes, got, got_bytes }),
        }
    }

    /// Whether a device that enrols with `key` calls itself by its name. Later its key may have been
    /// replaced; its name stays.
    ///
    /// # Errors
    /// [`RequestError::Device`].
    pub fn enrols(&self, key: &PublicKey) -> Result<(), RequestError> {
        let (expected, got) = (key.device(), self.device);
        if expected == got { Ok(()) } else { Err(RequestError::Device { expected, got }) }
    }
}

/// A number in decimal digits in its only form: below 2^53, without sign, spaces or zeros in front.
pub(super) fn decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = text.parse().ok()?;
    let first = text.starts_with('0') && text.len() > 1;
    (plain && !first && number <= FLEET_INTEGER_MAX).then_some(number)
}
