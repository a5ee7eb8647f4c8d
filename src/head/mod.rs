//! The head stage.
