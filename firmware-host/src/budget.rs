//! What a job may spend, and what it has spent.
