//! The ways in besides HTTP: a watched folder, serial lines with frames.
