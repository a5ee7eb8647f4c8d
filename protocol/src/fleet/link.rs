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
use core::net::{Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

const SCHEME: &str = "sapwood+https://";
/// Bytes of a host's name, and of each of its parts (RFC 1035, 2.3.4).
const HOST_BYTES_MAX: usize = 253;
const HOST_PART_BYTES_MAX: usize = 63;

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
    /// A host that nobody can be reached at.
    #[error(
        "an enrolment link's host: expected a name or an address, that of IPv6 in brackets, and after a \
         colon a port from 1 to 65535"
    )]
    Address,
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
        if !is_address(host) {
            return Err(LinkError::Address);
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

/// A name or an address, and a port.
fn is_address(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let is_port = |port: &str| digits(port) && port.parse().is_ok_and(|port: u16| port > 0);
    let inside = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_host = match inside {
        Some(inside) => inside.parse::<Ipv6Addr>().is_ok(),
        None => is_host_name(host),
    };
    is_host && port.is_none_or(is_port)
}

/// Whether a text is the name of a host, or an address of IPv4.
pub fn is_host_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let is_part = |part: &str| {
        let edge = part.starts_with('-') || part.ends_with('-');
        (1..=HOST_PART_BYTES_MAX).contains(&part.len()) && !edge && part.bytes().all(plain)
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit());
    let fits = text.len() <= HOST_BYTES_MAX && text.split('.').all(is_part);
    // No name ends with a number: such a one is an address.
    fits && (!is_number || text.parse::<Ipv4Addr>().is_ok())
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
