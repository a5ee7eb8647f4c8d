//! A fleet in memory: what tests and the fault campaign (`tools/faults`) play the sync against.
//!
//! - In: requests over a pipe. Out: answers of a server that checks what devices say, keeps what they
//!   send, and misbehaves as it is told; a clock that is wound by hand.
//! - Never here: TLS, sockets, threads. No device has it.

#![expect(clippy::unwrap_used, reason = "what stands in for a server may stop at a surprise")]

pub mod clock;
pub mod files;
pub mod bad;
pub mod desk;
pub mod office;

pub use bad::Bad;
pub use clock::Wound;
pub use desk::{Desk, NOW_MS, refusal};
pub use office::Office;
