//! The learner stage.
