//! What the server promises: one program of tests, for each would be linked with all that the server needs.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise")]

mod blobs;
mod book;
mod bucket;
mod commands;
mod common;
mod failures;
mod flood;
mod guards;
mod hostile;
mod judge;
mod kill;
mod moves;
mod postgres;
mod ready;
mod redo;
mod releases;
mod replicas;
mod rounds;
mod serve;
mod trust;
