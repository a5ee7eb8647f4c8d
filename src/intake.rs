//! The intake stage.
