//! The worker: one job at a time over the resident base, and what others may ask of it.
