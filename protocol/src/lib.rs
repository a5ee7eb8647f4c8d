//! What a Sapwood device and its fleet server must agree on, and the header of every file we write.
//!
//! - No allocation, no standard library: a microcontroller beside the device can use it too.
//! - Never here: engines, disks, sockets.
#![no_std]

pub mod limits;
pub mod record;
pub mod frame;
