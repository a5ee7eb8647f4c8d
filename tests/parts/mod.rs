//! What needs the engine, by what it is about.

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
