//! The sync against a server that speaks the protocol, and misbehaves where a test says so.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::memory::files;

mod server;
mod rig;
mod round;
mod owner;
mod moved;
mod recalled;
mod wrong;
mod cuts;
mod real;
