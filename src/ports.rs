//! The ports stage.
