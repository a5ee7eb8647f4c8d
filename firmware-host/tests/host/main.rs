//! The device's program and its days: one program of tests, for each would be linked with all of the engine.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise")]

mod commands;
#[cfg(feature = "engine")]
mod day;
mod fleet;
#[cfg(feature = "engine")]
mod generations;
mod kill;
mod owner;
#[cfg(feature = "engine")]
mod place;
mod program;
mod serve;
#[cfg(feature = "engine")]
mod trial;
#[cfg(feature = "engine")]
mod world;
