//! The enrolment link: all that a device must be told of its fleet.
//!
//! ```text
//! sapwood+https://host[:port]/#fleet=..&token=..&trust=..&pin=..
//! ```
//! - In: a line that a person pasted. Out: its parts; and a link again.
//! - What stands after `#` is never sent to a server. `token` and `pin` may be missing; parts of other
//!   names are passed over.
//! - Invariant: a link that was read gives the same parts when it is written and read again.

use super::id::{FleetId, Hash, IdError};
use crate::limits::{FLEET_PATH_BYTES_MAX, FLEET_TOKEN_BYTES_MAX};
use alloc::string::{String, ToString};
use core::fmt;
use core::str::FromStr;

const SCHEME: &str = "sapwood+https://";

/// Where a fleet is, and how it is known.
#[derive(Clone, PartialEq, Eq)]
pub struct Link {
    /// Host and port, as in an address.
    pub host: String,
    /// The fleet.
    pub fleet: FleetId,
    /// What lets a device in without an operator's word.
    pub token: Option<String>,
    /// BLAKE3 of the first trust statement.
    pub trust: Hash,
    /// BLAKE3 of the server's public key (SubjectPublicKeyInfo), where no authority speaks for it.
    pub pin: Option<Hash>,
}

/// Why a line is no enrolment link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// It begins otherwise.
    #[error("not an enrolment link: expected {SCHEME}HOST/#fleet=..&trust=..")]
    Form,
    /// Longer than any that a server gives.
    #[error("an enrolment link has {got} bytes, expected at most {FLEET_PATH_BYTES_MAX}")]
    Long {
        /// Its bytes.
        got: usize,
    },
    /// A host with other characters.
    #[error("an enrolment link's host has {got:?}, expected letters, digits, and . - : [ ]")]
    Host {
        /// The character.
        got: char,
    },
    /// A part is not there, or twice.
    #[error("an enrolment link has {got} parts `{part}`, expected {expected}")]
    Part {
        /// Its name.
        part: &'static str,
        /// How often it may be there.
        expected: &'static str,
        /// How often it is.
        got: usize,
    },
    /// A part is not what it should be.
    #[error("an enrolment link's part `{part}`: {problem}")]
    Name {
        /// Its name.
        part: &'static str,
        /// What is wrong.
        problem: IdError,
    },
    /// A token that no server gives.
    #[error(
        "an enrolment link's token: expected 1 to {FLEET_TOKEN_BYTES_MAX} letters, digits, and - _ ."
    )]
    Token,
}

impl FromStr for Link {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        if text.len() > FLEET_PATH_BYTES_MAX {
            return Err(LinkError::Long { got: text.len() });
        }
        let rest = text.strip_prefix(SCHEME).ok_or(LinkError::Form)?;
        let (host, parts) = rest.split_once("/#").ok_or(LinkError::Form)?;
        let allowed = |letter: &char| letter.is_ascii_alphanumeric() || ".-:[]".contains(*letter);
        if let Some(got) = host.chars().find(|letter| !allowed(letter)) {
            return Err(LinkError::Host { got });
        }
        if host.is_empty() {
            return Err(LinkError::Form);
        }
        let needed = |part| {
            one(parts, part)
                .and_then(|found| found.ok_or(LinkError::Part { part, expected: "1", got: 0 }))
        };
        let wrong = |part| move |problem| LinkError::Name { part, problem };
        Ok(Self {
            host: host.to_string(),
            fleet: needed("fleet")?.parse().map_err(wrong("fleet"))?,
            token: one(parts, "token")?.map(token).transpose()?,
            trust: needed("trust")?.parse().map_err(wrong("trust"))?,
            pin: one(parts, "pin")?.map(str::parse).transpose().map_err(wrong("pin"))?,
        })
    }
}

/// The value of a part that may be there once.
fn one<'a>(parts: &'a str, part: &'static str) -> Result<Option<&'a str>, LinkError> {
    let pairs = parts.split('&').filter_map(|pair| pair.split_once('='));
    let mut values = pairs.filter(|(name, _)| *name == part).map(|(_, value)| value);
    let first = values.next();
    match values.count() {
        0 => Ok(first),
        more => Err(LinkError::Part { part, expected: "1 at most", got: 1 + more }),
    }
}

/// Only characters that stand for themselves wherever a link is pasted.
fn token(text: &str) -> Result<String, LinkError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let fits = (1..=FLEET_TOKEN_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain);
    if fits { Ok(text.to_string()) } else { Err(LinkError::Token) }
}

impl fmt::Display for Link {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, fleet, token, trust, pin } = self;
        write!(formatter, "{SCHEME}{host}/#fleet={fleet}")?;
        if let Some(token) = token {
            write!(formatter, "&token={token}")?;
        }
        write!(formatter, "&trust={trust}")?;
        pin.as_ref().map_or(Ok(()), |pin| write!(formatter, "&pin={pin}"))
    }
}

impl fmt::Debug for Link {
    // The token is a secret, and this goes to logs.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the link to fleet {} at {}", self.fleet, self.host)
    }
}
