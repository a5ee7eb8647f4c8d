//! The fault campaign: cuts the power, fails the disk and flips bits under a device's life.
//!
//! - In: a seed and how much of it. Out: what was tried, and every state that broke a promise.
//! - The promises are those of `state`, `reservoir` and `inbox`: a restart finds what was confirmed
//!   last or what was in flight, never a mixture; nothing acknowledged is lost; nothing wrong is
//!   taken for right; a life goes on from there as if nothing had been.
//! - Never here: a real disk, an engine. The learner is a stand-in whose numbers depend on every
//!   step before, so that a mixture shows.

pub mod cuts; //    power cuts, at every step, in recovery too
pub mod errors; //  EIO and ENOSPC at every operation
pub mod flawed; //  disks that break their promise, which the campaign must find
pub mod fleet; //   the same for a life in a fleet
pub mod flips; //   flipped bits, files cut short, made longer, exchanged
pub mod life; //    what a device does to its disk
pub mod look; //    what a restart finds
pub mod place; //   where a state lies in the campaign, in one line
pub mod plan; //    which life a seed stands for
pub mod reference; // the life without faults, and what may be found of it when
pub mod tally; //   what was tried, what was found
