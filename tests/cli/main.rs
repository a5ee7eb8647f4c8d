//! The command from outside: the main job end to end, and every refusal a user may meet.
//!
//! Each refusal is one line that names the offender, a non-zero exit, and a state that still works.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod convert;
mod data;
mod fixture;
mod flags;
mod fuse;
mod generate;
mod gguf;
#[cfg(feature = "hub")]
mod hub;
mod install;
mod journey;
mod model;
mod preview;
mod serve;
mod state;
mod stream;
mod study;
