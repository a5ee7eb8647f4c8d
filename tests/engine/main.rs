//! What needs the engine: one program of tests, for each would be linked with all that the engine needs.

#[path = "../common/mod.rs"]
mod common;
mod adapters;
mod blocks;
mod constrain;
mod families;
mod generate;
mod install;
mod resume;
mod settings;
mod step;
mod study;
