//! The fleet server's arithmetic: what many devices learned, as one adapter.
//!
//! - In: adapters of one base as plain numbers. Out: one.
//! - Never here: an engine, a base, anybody's data.

pub mod aggregate;
