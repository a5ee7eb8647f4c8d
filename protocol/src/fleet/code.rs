//! What errors are called: a closed set, each with its HTTP status.

use serde::{Deserialize, Serialize};

/// Why a call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// No message of the expected form, or a field outside its range.
    Malformed,
    /// The signature does not hold.
    Signature,
    /// The device's time is too far off; the answer has the server's.
    Clock,
    /// Nobody enrolled under this name.
    UnknownDevice,
    /// An operator has not accepted the device yet.
    Pending,
    /// An operator, or a counter that ran back, stopped the device for now.
    Suspended,
    /// An operator refused the device, or its token is not one.
    Rejected,
    /// The round did not ask this device.
    NotInvited,
    /// There is no such path, round or artifact.
    NotFound,
    /// This device sent another update against the same artifact.
    AlreadyUploaded,
    /// The update is against an artifact that is not the round's.
    Stale,
    /// The round takes no more.
    RoundClosed,
    /// The device was taken out of the fleet.
    Retired,
    /// More bytes than may come.
    TooLarge,
    /// The file is no adapter of the cohort.
    Adapter,
    /// The message is of another version of the protocol.
    Protocol,
    /// Too many calls from there.
    TooMany,
    /// No room, or a fault that passes.
    Unavailable,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 18] = [
        Self::Malformed,
        Self::Signature,
        Self::Clock,
        Self::UnknownDevice,
        Self::Pending,
        Self::Suspended,
        Self::Rejected,
        Self::NotInvited,
        Self::NotFound,
        Self::AlreadyUploaded,
        Self::Stale,
        Self::RoundClosed,
        Self::Retired,
        Self::TooLarge,
        Self::Adapter,
        Self::Protocol,
        Self::TooMany,
        Self::Unavailable,
    ];

    /// The status that the answer has.
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::Signature | Self::Clock | Self::UnknownDevice => 401,
            Self::Pending | Self::Suspended | Self::Rejected | Self::NotInvited => 403,
            Self::NotFound => 404,
            Self::AlreadyUploaded | Self::Stale => 409,
            Self::RoundClosed | Self::Retired => 410,
            Self::TooLarge => 413,
            Self::Adapter => 422,
            Self::Protocol => 426,
            Self::TooMany => 429,
            Self::Unavailable => 503,
        }
    }

    /// Whether the answer says after how long to ask again.
    pub const fn waits(self) -> bool {
        matches!(self, Self::TooMany | Self::Unavailable)
    }
}
