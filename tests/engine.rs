//! What needs the engine: one program of tests, for each would be linked with all that the engine needs.

mod common;
mod parts;
