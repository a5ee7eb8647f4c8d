//! The fleet: what a device and the server that merges what devices learned say to each other.
//!
//! - In: keys, facts, bytes that may come from anywhere. Out: the bytes that are signed, statements
//!   and messages whose every field was checked, and the verdict on an adapter's file.
//! - Everything here is a function of its arguments: time and chance come in as numbers.
//! - Never here: sockets, files, states. `protocol/README.md` has the bytes for other languages.
//! - Invariant: what was checked holds its limits; what was verified was signed by who it names.

pub mod id; // hexadecimal digits <-> fleets, devices, cohorts, hashes, keys
pub mod code; // what an error is called, and its HTTP status
pub mod key; // Ed25519
pub mod request; // a call's signature in its headers
pub mod name; // what people call devices and fleets
mod bytes; // fields one after the other
pub mod signatures; // those beside a statement
pub mod trust; // which keys speak for a fleet
pub mod statement; // an artifact offered to a cohort
pub mod message; // JSON
pub mod link; // how a device is told of its fleet
pub mod update; // an adapter's file
pub mod schedule; // when to ask again, and who is first

#[cfg(test)]
mod tests;

/// The version of the protocol, and the only one that this program speaks.
pub const PROTOCOL: u64 = 1;
