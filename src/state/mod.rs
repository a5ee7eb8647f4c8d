//! The state stage.
