//! What a Sapwood device and its fleet server must agree on, and the header of every file we write.
//!
//! - No standard library, and but for `fleet` no allocation: a microcontroller beside the device can
//!   use it too.
//! - Never here: engines, disks, sockets.
#![no_std]

#[cfg(feature = "fleet")]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod limits;
pub mod record;
pub mod frame;
#[cfg(feature = "fleet")]
pub mod fleet;
