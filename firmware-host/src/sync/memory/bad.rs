//! What a server, or the way to it, does wrong.

use sapwood_protocol::fleet::message::Refusal;
use std::time::Duration;

/// How a request is answered instead.
#[derive(Clone, Debug)]
pub enum Bad {
    /// With this status, these headers and these bytes as the whole answer.
    Body(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// As a refusal says.
    Refuse(Refusal),
    /// As usual, but the connection ends after so many bytes of the body.
    Cut(usize),
    /// As usual, but the work is done and no answer comes.
    Silent,
    /// Not at all, for so long.
    Slow(Duration),
    /// The connection ends before anything is done.
    Deaf,
    /// The connection ends when all is done.
    Lost,
    /// The connection ends, and after the next request this one is done.
    Late,
    /// It is done twice, and the second answer goes out.
    Twice,
    /// As the last check-in was answered.
    Old,
}
