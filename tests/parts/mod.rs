//! What needs the engine, by what it is about.

mod adapters;
mod constrain;
mod conversions;
mod families;
mod generate;
mod install;
mod resume;
mod settings;
mod small;
mod step;
mod study;
