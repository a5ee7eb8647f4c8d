//! The merge stage.
