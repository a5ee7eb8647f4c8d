//! Many updates and the global adapter they were learned on, merged as products: `M = G + eta sum(w c U)`.
//!
//! - In: `U = scale B A` of any rank, read one after the other, more than once. Out: for each module the part
//!   of rank R of M, as an adapter; and how much of M it leaves out.
//! - Invariant: the same bytes for the same updates, whatever the order they came in and whatever
//!   processor adds them up. One thread; nothing here is drawn but from the seed.
//! - Never here: the mean of factors, which depends on how each device happened to split its product.

mod product; // thin products, the same bits everywhere
mod dense; //   QR and SVD of a few rows
mod weigh; //   norms, tokens -> what each update counts
mod walk; //    source, plan  -> terms of M; norms
mod exact; //   few terms     -> the best part of rank R
mod sketch; //  many terms    -> nearly that
mod balance; // parts         -> an adapter
mod gram; //    many updates  -> inner products of all pairs
mod robust; //  inner products -> weights that few can move
#[cfg(any(test, feature = "attacks"))]
pub mod attacks; // what hostile devices send
#[cfg(test)]
mod tests;

pub use robust::{ROBUST_UPDATES_MAX, Robust, Told, robust};
pub use walk::norm;
pub use weigh::{Clip, Facts, Rule, Share, by_tokens, parts, shares};

use dense::Rows;
use product::Processor;
use sapwood::adapter::{Adapter, Spec};

/// Above this part of the energy the rank is too small for what was learned.
pub const DROPPED_MAX: f64 = 0.1;

/// Why a merge was refused. Nothing was changed.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum AggregateError {
    /// A weight, or the sum of all.
    #[error("weights: expected finite numbers of at least 0 with a positive sum, got {got}")]
    Weight {
        /// What it is.
        got: f64,
    },
    /// An update of other modules than the rest.
    #[error("an update adapts other linear layers, expected those of the merged adapter")]
    Modules,
    /// A number that is not one, or too large to be written.
    #[error("expected finite numbers that f32 can hold, got others")]
    NotFinite,
    /// More updates than are compared with each other.
    #[error(
        "{got} updates, expected at most {ROBUST_UPDATES_MAX} where each is compared with every other (robust)"
    )]
    Many {
        /// How many.
        got: usize,
    },
    /// The singular values of M were not found.
    #[error("the singular values did not settle, expected numbers far from the limits of f64")]
    Unsettled,
}

/// Where updates are read from, again and again.
pub trait Source {
    /// Why one cannot be read.
    type Error: From<AggregateError>;
    /// The update of that place, the same at every call.
    ///
    /// # Errors
    /// Its own, when the update is gone or another.
    fn read(&mut self, at: usize) -> Result<&Adapter, Self::Error>;
    /// Called now and then while nothing is read for long.
    ///
    /// # Errors
    /// Its own, which ends the merge.
    fn alive(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// What is merged, and into what.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The merged adapter's modules with their ranks R, scale 1.
    pub spec: &'a Spec,
    /// G: what the updates are added to; zero when there is none.
    pub from: Option<&'a Adapter>,
    /// The terms, as [`shares`] orders them.
    pub shares: &'a [Share],
    /// Of the round: what the sketches are drawn from.
    pub seed: [u8; 32],
}

impl Plan<'_> {
    /// Whether all factors are stacked and the result is exact: as long as that takes no more memory
    /// than the sketch of a module and its image.
    pub fn exact(&self) -> bool {
        let rank = |spec: &Spec| spec.modules.iter().map(|module| module.rank).max().unwrap_or(0);
        let updates: usize = self.shares.iter().map(|share| share.rank).sum();
        let held = self.from.map_or(0, |from| rank(&from.spec));
        held + updates <= 2 * (self.rank_max() + sketch::SPARE)
    }

    fn rank_max(&self) -> usize {
        self.spec.modules.iter().map(|module| module.rank).max().unwrap_or(0)
    }
}

/// What came of a merge.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    /// G', scale 1.
    pub adapter: Adapter,
    /// The part of M's energy, the square of its norm, that G' leaves out: exact or within a few per
    /// cent of itself.
    pub dropped: f64,
}

/// The part of rank R of a module's M.
struct Truncated {
    /// `[R, fan_out]`, row p: left singular vector times singular value.
    left: Rows,
    /// `[R, fan_in]`, row p: right singular vector.
    right: Rows,
    /// Largest first; fewer than R where the module has fewer dimensions.
    values: Vec<f64>,
    /// The energy that is left out.
    dropped: f64,
}

/// Merges the updates of a plan.
///
/// # Errors
/// Those of the source; [`AggregateError::Modules`], [`AggregateError::NotFinite`],
/// [`AggregateError::Unsettled`].
pub fn merge<S: Source>(source: &mut S, plan: &Plan<'_>) -> Result<Merged, S::Error> {
    merge_on(Processor::widest(), source, plan)
}

fn merge_on<S: Source>(
    processor: Processor,
    source: &mut S,
    plan: &Plan<'_>,
) -> Result<Merged, S::Error> {
    let parts = truncated(processor, source, plan)?;
    let kept: f64 = parts.iter().flat_map(|part| &part.values).map(|value| value * value).sum();
    // From 0: the sum of nothing is -0 in Rust, and would be printed so.
    let dropped = parts.iter().fold(0.0, |sum, part| sum + part.dropped);
    let energy = kept + dropped;
    let adapter = balance::adapter(&parts, plan.spec)?;
    Ok(Merged { adapter, dropped: if energy > 0.0 { dropped / energy } else { 0.0 } })
}

fn truncated<S: Source>(
    processor: Processor,
    source: &mut S,
    plan: &Plan<'_>,
) -> Result<Vec<Truncated>, S::Error> {
    if plan.exact() {
        exact::merge(processor, source, plan)
    } else {
        sketch::merge(processor, source, plan)
    }
}
