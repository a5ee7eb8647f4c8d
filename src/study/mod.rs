//! The study: what lies between the adapters that a stream leaves, and how alike they see the same text.
//!
//! - In: adapters, a way to score them, features. Out: curves, barriers, similarities, correlations; plain
//!   numbers.
//! - Never here: engines, files, plots.

mod path;
mod curve;
mod plane;
mod cka;
mod rank;

pub use cka::{Features, cka};
pub use curve::{Curve, Point, along};
pub use path::{Space, between};
pub use plane::Plane;
pub use rank::spearman;

use crate::adapter::AdapterError;

/// What can go wrong in a study.
#[derive(Debug, thiserror::Error)]
pub enum StudyError {
    /// The adapters are not of one base, or not of the same layers.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// Factors of other shapes have no path between them.
    #[error(
        "the adapters have factors of other shapes: expected the same ranks, scales and layers of both"
    )]
    Shapes,
    /// Three adapters that span no plane.
    #[error("the three adapters lie on one line: expected three that span a plane")]
    Line,
    /// Features that cannot be compared.
    #[error(
        "features of {first} and {second} rows: expected the same number, and more than {least}"
    )]
    Rows {
        /// Rows of the first.
        first: usize,
        /// Rows of the second.
        second: usize,
        /// So many are too few.
        least: usize,
    },
}
