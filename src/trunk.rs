//! The trunk stage.
