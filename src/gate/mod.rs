//! The gate stage.
