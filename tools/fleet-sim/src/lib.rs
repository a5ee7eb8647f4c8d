//! A fleet of simulated devices against a real server: loads, weather, attacks, rollouts, measured.
//!
//! - Real keys, real TLS, real HTTP; what a device would have learned is made up.
//! - The modules stand in the order of their use; one process has all devices, a task each while they are
//!   awake, a few hundred bytes while they are not.
//! - Never here: an engine, a base, anybody's data.

pub mod time; //    a clock that may run faster
pub mod luck; //    chance that can be drawn again
pub mod shape; //   what devices learn, or send instead
pub mod weather; // what befalls them
pub mod tally; //   what is counted
pub mod device; //  what a device remembers
pub mod line; //    one call
pub mod world; //   what all share
mod act; //         what a device does when it wakes up
mod crowd; //       who is due
pub mod machine; // what it costs
pub mod servers; // the server that is tried
pub mod operator; // rounds and releases
pub mod watch; //   a row a minute
mod plot; //        lines over time
pub mod report; //  files that are left
pub mod run; //     all of it
