//! The train stage.
