//! The fault campaign, to come.
