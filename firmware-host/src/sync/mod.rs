//! The device's side of a fleet: check in, lend what was learned, fetch what others learned.
//!
//! ```text
//! learner view, clock -> decide -> exchange -> server        check-in, upload, report
//!                                     |
//!            learner <- install <- verify <- statement, artifact
//! ```
//! - In: what the learner says of itself, orders of an operator. Out: calls to one server, and files for
//!   the learner that are whole, signed for this device and newer than any before.
//! - It has a folder of its own (`store`) and never touches the state folder.
//! - A call may be made twice and an answer may be lost: what must not happen twice stands in the book
//!   before it happens.
//! - Never here: learning, adapters as numbers, samples. Nothing of a text leaves the device.
//! - Invariant: numbers of check-ins and sequences only grow; for one artifact the same bytes go out.

mod error;
mod learner;
mod sealed;
mod key;
mod book;
mod store;
mod time;
mod exchange;
mod world;
mod fetch;
mod verify;
mod decide;
mod trouble;
mod member;
mod talk;
mod errand;
mod turn;
mod orders;
#[cfg(any(test, feature = "faults"))]
pub mod memory;
#[cfg(test)]
mod tests;

pub use book::{Book, Day, Pending, Refused, Sent};
pub use error::{ExchangeError, StoreError};
pub use exchange::Network;
pub use learner::{Learner, Offered, Part, View};
pub use orders::{Fleet, FleetError, Life, Order, check, enlist, leave, look, start};
pub use store::Store;
pub use world::World;
