//! What every input must hold to: a function for each way in, called by the fuzzers and by the gate.
//!
//! - In: bytes from anywhere. Out: nothing; a broken promise is a panic, which a fuzzer keeps.
//! - What a promise is stands in the module that makes it: nothing lost, no block that was not
//!   offered, what is written reads back, and always: no panic, memory within `limits`.
//! - Records have a digest that no mutation meets by chance; [`record`] makes it right again, so that
//!   the code behind it is reached.
//! - Never here: the engines. `seeds/` holds small inputs to begin with, made by `tests/seeds.rs`.

#![expect(clippy::unwrap_used, reason = "stopping at the first surprise is what a check is for")]

pub mod adapter;
pub mod bodies;
pub mod book;
pub mod config;
pub mod cursor;
pub mod fleet;
pub mod frames;
pub mod gguf;
pub mod hub;
pub mod inbox;
pub mod manifest;
pub mod onnx;
pub mod record;
pub mod reservoir;
pub mod samples;

/// A check of some bytes.
pub type Check = fn(&[u8]);
/// A name and its bytes.
pub type Seed = (&'static str, Vec<u8>);

/// A way in: its name, its check, and the sound inputs that its seeds are made of.
pub type Target = (&'static str, Check, fn() -> Vec<Seed>);

/// Every way in.
pub const TARGETS: [Target; 16] = [
    ("adapter", adapter::check, adapter::seeds),
    ("bodies", bodies::check, bodies::seeds),
    ("config", config::check, config::seeds),
    ("frames", frames::check, frames::seeds),
    ("fleet_book", book::check, book::seeds),
    ("fleet_messages", fleet::messages, fleet::message_seeds),
    ("fleet_statement", fleet::statement, fleet::statement_seeds),
    ("fleet_trust", fleet::trusted, fleet::trust_seeds),
    ("fleet_update", fleet::update, fleet::update_seeds),
    ("gguf", gguf::check, gguf::seeds),
    ("hub", hub::check, hub::seeds),
    ("inbox", inbox::check, inbox::seeds),
    ("manifest", manifest::check, manifest::seeds),
    ("onnx", onnx::check, onnx::seeds),
    ("reservoir", reservoir::check, reservoir::seeds),
    ("samples", samples::check, samples::seeds),
];
