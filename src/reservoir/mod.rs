//! The reservoir stage.
