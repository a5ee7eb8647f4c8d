//! The settings stage.
