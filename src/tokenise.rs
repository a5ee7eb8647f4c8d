//! The tokenise stage.
