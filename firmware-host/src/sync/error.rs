//! Why the sync does not go on: what was wrong, what was expected, what still holds.
//!
//! - A folder that cannot be believed, and an exchange that failed. What follows from either is for
//!   `decide`.

use sapwood::ports::StorageError;
use sapwood_connections::TlsError;
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::message::MessageError;
use sapwood_protocol::fleet::request::RequestError;

/// Why the fleet's folder is of no use; what it holds is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk.
    #[error(transparent)]
    Disk(StorageError),
    /// Bytes that this program did not write.
    #[error(
        "the fleet's {file} cannot be believed: {problem}; nothing was changed (`firmware-host fleet leave` \
         forgets it, then join again)"
    )]
    Damaged {
        /// Which file.
        file: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A later program wrote it.
    #[error("the fleet's {file} is of version {got}, expected {expected}; nothing was changed")]
    Version {
        /// Which file.
        file: &'static str,
        /// The version of this program.
        expected: u32,
        /// Its version.
        got: String,
    },
    /// No chance for a key.
    #[error("the system has no randomness to give for a key: {0}; nothing was changed")]
    Chance(getrandom::Error),
}

/// Why a call came to nothing; it may be made again.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// Neither a pin nor a file of authorities.
    #[error(
        "{host} cannot be known: expected a pin in the link, or fleet.ca-file; no connection was made"
    )]
    Unknown {
        /// Who.
        host: String,
    },
    /// A file of authorities that is none.
    #[error("fleet.ca-file: {0}; no connection was made")]
    Authorities(TlsError),
    /// A host that is no host.
    #[error("{host:?} is no host with a port: expected a name or an address")]
    Host {
        /// What it is.
        host: String,
    },
    /// No connection.
    #[error("cannot reach {host}: {problem}")]
    Connect {
        /// Who.
        host: String,
        /// What the system said.
        problem: String,
    },
    /// Somebody else, or nobody who can be known.
    #[error("{host} is not who it should be: {source}; nothing was sent")]
    Tls {
        /// Who was called.
        host: String,
        /// What is wrong.
        source: TlsError,
    },
    /// The connection broke off.
    #[error("the connection broke off: {problem}")]
    Broke {
        /// What the library said.
        problem: String,
    },
    /// Too slow.
    #[error("{what} took longer than {seconds} s")]
    Slow {
        /// What.
        what: &'static str,
        /// How long was waited.
        seconds: u64,
    },
    /// More bytes than may come.
    #[error("the answer is longer than {max} bytes, the most that was expected")]
    Long {
        /// Most bytes.
        max: u64,
    },
    /// An answer that is no message.
    #[error("the server's answer: {0}")]
    Answer(MessageError),
    /// An answer of another kind.
    #[error("the server answered {status} {told}, expected {expected}")]
    Status {
        /// HTTP's number.
        status: u16,
        /// What it said with it.
        told: String,
        /// What was expected.
        expected: &'static str,
    },
    /// The server said no.
    #[error("the server refused ({}): {message}", name(*.code))]
    Refused {
        /// Why, for programs.
        code: Code,
        /// Why, for people.
        message: String,
        /// Seconds after which to ask again.
        retry_after_s: Option<u64>,
        /// The server's time.
        time_ms: Option<u64>,
    },
    /// The request cannot be signed.
    #[error("the request cannot be signed: {0}")]
    Sign(RequestError),
    /// What is sent would be refused.
    #[error("what was to be sent: {0}; nothing was sent")]
    Send(MessageError),
    /// The disk does not take what comes.
    #[error(transparent)]
    Disk(StorageError),
}

/// A code as it stands in JSON.
pub(super) fn name(code: Code) -> String {
    let value = serde_json::to_value(code).unwrap_or_default();
    value.as_str().unwrap_or("unknown").to_owned()
}

impl ExchangeError {
    /// The code of a refusal.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Seconds after which the server will be asked again.
    pub fn retry_after_s(&self) -> Option<u64> {
        match self {
            Self::Refused { retry_after_s, .. } => *retry_after_s,
            _ => None,
        }
    }

    /// Whether nothing of a body can have gone out.
    pub(super) fn is_before_sending(&self) -> bool {
        matches!(
            self,
            Self::Unknown { .. }
                | Self::Authorities(_)
                | Self::Host { .. }
                | Self::Connect { .. }
                | Self::Tls { .. }
                | Self::Sign(_)
                | Self::Send(_)
        )
    }
}

impl From<StorageError> for ExchangeError {
    fn from(error: StorageError) -> Self {
        Self::Disk(error)
    }
}
