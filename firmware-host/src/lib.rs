//! The device program around the Sapwood learner: what comes in, when to learn, what is served.
//!
//! The modules stand in the order of the data. Those without `engine` build in a moment and hold no
//! learner: constraints, probes, frames and request bodies are tested and fuzzed alone.

#[cfg(not(unix))]
compile_error!("the device program runs on Linux and macOS: files, sockets and signals are theirs");

pub mod clock; //       the door to time
pub mod config; //      what an operator may choose, and every limit
pub mod probe; //       sysfs, /proc              -> Readings
pub mod constraints; // Readings, time of day     -> what stands in the way of learning
pub mod budget; //      what a job may spend, and what it has spent
pub mod log; //         events, one line each
pub mod supervise; //   threads that must not die in silence
pub mod paused; //      the order to wait, kept across restarts
pub mod hold; //        whether a program has the state folder
pub mod status; //      what the device says of itself
pub mod history; //     the last runs, kept across restarts
pub mod intake; //      folder, serial line       -> inbox
pub mod wire; //        request and response bodies of the HTTP interface
pub mod sync; //        the fleet: what goes to its server, what comes from it
#[cfg(feature = "engine")]
pub mod device; //      the worker: one job at a time, the resident base
pub mod serve; //       HTTP over TCP and a Unix socket
pub mod client; //      the other end of the Unix socket, for the commands
pub mod service; //     systemd, launchd
