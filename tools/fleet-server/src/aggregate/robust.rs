//! Weights that a hostile fifth does not move far: only what each update counts changes, not the sum.
//!
//! - In: inner products of updates, and the votes that each has. Out: what each counts, sum 1.
//! - Compared are directions, K has cosines: what devices learned stands nearly square to each other, and of
//!   such a short one is near to all. Whoever learned nothing has no direction and no vote.
//! - Twins share one vote, and beyond a fifth of all votes have their own: so many cannot all be hostile, and
//!   a crowd whose members are near each other is no copy. Two are twins when their cosine is above 0.98, or
//!   when their squared distance is less than half of what the nearest other is away from a usual update.
//! - Mixing: each update becomes the mean of those nearest to it, all votes but a fifth. Then the geometric
//!   median of the mixed ones by Weiszfeld's steps, all on K; its weights are carried back to the updates.
//! - Never here: the tokens that a device says it learned from. A fifth that claims four medians each would
//!   have half of the votes.
//!
//! Source: Pillutla, Kakade and Harchaoui, arXiv 1912.13445 (geometric median); Allouah et al., arXiv
//! 2302.01772 (nearest-neighbour mixing).

use super::dense::Rows;
use super::gram::gram;
use super::product::{Processor, dot};
use super::weigh::{Clip, Facts, Share, clips, ordered};
use super::{AggregateError, Source};
use sapwood::adapter::Spec;
use serde::Serialize;
use std::fmt;

/// More updates are refused: K has 8 bytes for each pair, 128 MiB.
pub const ROBUST_UPDATES_MAX: usize = 4096;

/// What part of the votes may be hostile.
const HOSTILE: f64 = 0.2;
/// Above this cosine two updates are one that was sent twice,
const TWINS: f64 = 0.98;
/// or below this part of the usual squared distance of two neighbours.
const NEAR_TWINS: f64 = 0.5;
/// Weiszfeld's steps.
const STEPS: usize = 50;
/// Of the largest length: what is nearer is as near.
const NEAR: f64 = 1e-6;
/// Of a vote, and of the largest square: what is smaller is rounding.
const ROUNDING: f64 = 1e-12;

/// Of an equal weight: what is less shows as 0.00, and counts for nothing.
const UNHEARD: f64 = 0.005;

/// What the robust rule says of some updates.
#[derive(Clone, Debug, PartialEq)]
pub struct Robust {
    /// The facts with other weights, in the order of the sum.
    pub facts: Vec<Facts>,
    /// What an operator should know.
    pub told: Told,
}

/// What the robust rule found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Told {
    /// How many updates have a twin with which they share a vote.
    pub twins: u64,
    /// How many count for nothing, or so little that it shows as 0.00.
    pub unheard: u64,
    /// The smallest weight, in parts of an equal one.
    pub least: f64,
    /// The largest.
    pub most: f64,
}

impl fmt::Display for Told {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { twins, unheard, least, most } = self;
        write!(
            to,
            "{twins} have twins, {unheard} count for nothing, weights {least:.2} to {most:.2} of an equal one"
        )
    }
}

/// Other weights for updates that are clipped at the median; their own are the votes that they have.
///
/// - `seed`: of the round; nobody who sends an update may know it.
/// # Errors
/// Those of the source; [`AggregateError::Weight`], [`AggregateError::Many`],
/// [`AggregateError::Modules`], [`AggregateError::NotFinite`].
pub fn robust<S: Source>(
    source: &mut S,
    spec: &Spec,
    facts: &[Facts],
    seed: [u8; 32],
) -> Result<Robust, S::Error> {
    robust_on(Processor::widest(), source, spec, facts, seed)
}

pub(super) fn robust_on<S: Source>(
    processor: Processor,
    source: &mut S,
    spec: &Spec,
    facts: &[Facts],
    seed: [u8; 32],
) -> Result<Robust, S::Error> {
    let (mut facts, sum) = ordered(facts)?;
    let heard = facts.iter().zip(clips(&facts, Clip::Median)).filter(|(one, _)| one.weight > 0.0);
    let heard: Vec<(Facts, f64)> = heard.map(|(one, clip)| (*one, clip)).collect();
    if heard.len() > ROBUST_UPDATES_MAX {
        return Err(AggregateError::Many { got: heard.len() }.into());
    }
    // In parts of the largest length, so that every sketch fits f32.
    let longest = heard.iter().fold(0.0, |most: f64, (one, clip)| most.max(one.norm * clip));
    let longest = if longest > 0.0 { longest } else { 1.0 };
    let share =
        |(one, clip): &(Facts, f64)| Share { at: one.at, rank: one.rank, factor: clip / longest };
    let shares: Vec<Share> = heard.iter().map(share).collect();
    let gram = gram(processor, source, spec, &shares, seed)?;
    let votes: Vec<f64> = heard.iter().map(|(one, _)| one.weight / sum).collect();
    let found = weights(processor, gram, &votes);
    let mut weights = found.weights.iter();
    for one in facts.iter_mut().filter(|one| one.weight > 0.0) {
        one.weight = weights.next().copied().unwrap_or(0.0);
    }
    Ok(Robust { facts, told: told(&found) })
}

fn told(found: &Found) -> Told {
    let even = found.weights.len() as f64;
    let of = |choice: fn(f64, f64) -> f64| found.weights.iter().copied().reduce(choice);
    Told {
        twins: found.twins,
        unheard: found.weights.iter().filter(|weight| even * **weight < UNHEARD).count() as u64,
        least: even * of(f64::min).unwrap_or(0.0),
        most: even * of(f64::max).unwrap_or(0.0),
    }
}

pub(super) struct Found {
    pub(super) weights: Vec<f64>,
    pub(super) twins: u64,
}

/// The weights of updates whose inner products are `gram`; `votes`: positive, sum 1.
pub(super) fn weights(processor: Processor, mut gram: Rows, votes: &[f64]) -> Found {
    processor.run(
        #[inline(always)]
        || {
            let votes = directions(&mut gram, votes);
            let (votes, twins) = shared(&gram, &votes);
            let mixing = Mixing::new(&gram, votes);
            let middle = middle(&gram, &mixing);
            Found { weights: mixing.carried(&middle), twins }
        },
    )
}

/// Makes cosines of inner products. The votes of those that have a direction, sum 1; where nobody has one,
/// all as they were.
#[inline(always)]
fn directions(gram: &mut Rows, votes: &[f64]) -> Vec<f64> {
    let lengths: Vec<f64> = (0..votes.len()).map(|at| gram.row(at)[at].max(0.0).sqrt()).collect();
    for (one, length) in lengths.iter().enumerate() {
        for (inner, other) in gram.row_mut(one).iter_mut().zip(&lengths) {
            let product = length * other;
            *inner = if product > 0.0 { *inner / product } else { 0.0 };
        }
    }
    let vote = |(votes, length): (&f64, &f64)| if *length > 0.0 { *votes } else { 0.0 };
    let heard: Vec<f64> = votes.iter().zip(&lengths).map(vote).collect();
    let sum: f64 = heard.iter().sum();
    if sum > 0.0 { heard.iter().map(|votes| votes / sum).collect() } else { votes.to_vec() }
}

/// The squared distance of a usual update from that which is nearest to it.
#[inline(always)]
fn usual(cosines: &Rows, votes: &[f64]) -> f64 {
    let heard: Vec<usize> = (0..votes.len()).filter(|at| votes[*at] > 0.0).collect();
    let nearest = |one: &usize| {
        let others = heard.iter().filter(|two| *two != one).map(|two| cosines.row(*one)[*two]);
        2.0 - 2.0 * others.fold(-1.0, f64::max)
    };
    let mut nearest: Vec<f64> = heard.iter().map(nearest).collect();
    nearest.sort_unstable_by(f64::total_cmp);
    nearest.get(nearest.len() / 2).copied().unwrap_or(0.0)
}

/// Votes after those of twins are shared, and how many updates have a twin.
#[inline(always)]
fn shared(cosines: &Rows, votes: &[f64]) -> (Vec<f64>, u64) {
    let count = votes.len();
    let near = (2.0 - NEAR_TWINS * usual(cosines, votes)) / 2.0;
    let twins = |one: usize, two: usize| {
        let has_both = votes[one] > 0.0 && votes[two] > 0.0;
        has_both && cosines.row(one)[two] > TWINS.min(near)
    };
    let (mut shared, mut alike) = (votes.to_vec(), 0);
    let mut rest: Vec<usize> = (0..count).collect();
    while let Some(first) = rest.first().copied() {
        // All that are reached from one by twins of twins.
        let (mut group, mut seen) = (vec![first], 0);
        rest.remove(0);
        while let Some(one) = group.get(seen).copied() {
            group.extend(rest.extract_if(.., |two| twins(one, *two)));
            seen += 1;
        }
        let (mut sum, mut most) = (0.0, 0.0_f64);
        group.sort_unstable();
        group.iter().for_each(|one| (sum, most) = (sum + votes[*one], most.max(votes[*one])));
        let kept = if sum > 0.0 { most.max(sum - HOSTILE) / sum } else { 1.0 };
        group.iter().for_each(|one| shared[*one] *= kept.min(1.0));
        alike += if group.len() > 1 { group.len() as u64 } else { 0 };
    }
    (shared, alike)
}

/// The mixed updates, each as what it leaves out of all: a fifth of the votes is shorter to say.
struct Mixing {
    votes: Vec<f64>,
    /// The votes that each takes.
    taken: f64,
    /// For each: the updates that are too far from it, with the votes that it does not take of them.
    left: Vec<Vec<(usize, f64)>>,
}

impl Mixing {
    #[inline(always)]
    fn new(gram: &Rows, votes: Vec<f64>) -> Self {
        let all: f64 = votes.iter().sum();
        // What is left of shared votes may be less than twice a fifth of what there were.
        let taken = (all - HOSTILE).max(all / 2.0);
        let longest = (0..votes.len()).map(|at| gram.row(at)[at]).fold(0.0, f64::max);
        let alike = ROUNDING * longest;
        let far = |one: usize| {
            let row = gram.row(one);
            let square = |two: usize| {
                let square: f64 = row[one] + gram.row(two)[two] - 2.0 * row[two];
                (square.max(0.0), two)
            };
            let mut near: Vec<(f64, usize)> = (0..votes.len()).map(square).collect();
            near.sort_unstable_by(|left, right| {
                left.0.total_cmp(&right.0).then(left.1.cmp(&right.1))
            });
            let (mut room, mut left) = (taken, Vec::new());
            // Those as far away as each other give the same part of their votes: copies of one, and
            // what is clipped where one is zero.
            for tie in near.chunk_by(|left, right| right.0 - left.0 <= alike) {
                let held: f64 = tie.iter().map(|(_, two)| votes[*two]).sum();
                let part = (room / held).min(1.0);
                room = (room - held).max(0.0);
                if part < 1.0 {
                    left.extend(tie.iter().map(|(_, two)| (*two, votes[*two] * (1.0 - part))));
                }
            }
            left
        };
        let left = (0..votes.len()).map(far).collect();
        Self { votes, taken, left }
    }

    /// What each mixed update makes of a number for each update.
    #[inline(always)]
    fn mixed(&self, numbers: &[f64]) -> Vec<f64> {
        let all = dot(&self.votes, numbers);
        let without = |left: &Vec<(usize, f64)>| {
            let far: f64 = left.iter().map(|(at, votes)| votes * numbers[*at]).sum();
            (all - far) / self.taken
        };
        self.left.iter().map(without).collect()
    }

    /// What each update counts when the mixed ones count so much; sum 1.
    #[inline(always)]
    fn carried(&self, weights: &[f64]) -> Vec<f64> {
        let sum: f64 = weights.iter().sum();
        let mut carried: Vec<f64> = self.votes.iter().map(|votes| votes * sum).collect();
        for (left, weight) in self.left.iter().zip(weights) {
            left.iter().for_each(|(at, votes)| carried[*at] -= votes * weight);
        }
        for (carried, votes) in carried.iter_mut().zip(&self.votes) {
            let heard = *carried > ROUNDING * votes * sum;
            *carried = if heard { *carried / (self.taken * sum) } else { 0.0 };
        }
        carried
    }

    /// The squared length of each mixed update.
    #[inline(always)]
    fn squares(&self, gram: &Rows) -> Vec<f64> {
        let along = times(gram, &self.votes);
        let all = dot(&self.votes, &along);
        let square = |left: &Vec<(usize, f64)>| {
            let (mut once, mut twice) = (0.0, 0.0);
            for (one, votes) in left {
                let row = gram.row(*one);
                let inner: f64 = left.iter().map(|(two, other)| other * row[*two]).sum();
                once += votes * along[*one];
                twice += votes * inner;
            }
            ((all - 2.0 * once + twice) / (self.taken * self.taken)).max(0.0)
        };
        self.left.iter().map(square).collect()
    }
}

/// The weights of the mixed updates whose mean is their geometric median.
#[inline(always)]
fn middle(gram: &Rows, mixing: &Mixing) -> Vec<f64> {
    let squares = mixing.squares(gram);
    let longest = squares.iter().fold(0.0, |most: f64, square| most.max(*square)).sqrt();
    let near = (NEAR * longest).max(f64::MIN_POSITIVE);
    let all: f64 = mixing.votes.iter().sum();
    let mut weights: Vec<f64> = mixing.votes.iter().map(|votes| votes / all).collect();
    for _ in 0..STEPS {
        let along = mixing.mixed(&times(gram, &mixing.carried(&weights)));
        let own = dot(&weights, &along);
        for ((weight, votes), (square, along)) in
            weights.iter_mut().zip(&mixing.votes).zip(squares.iter().zip(&along))
        {
            let distance = (square - 2.0 * along + own).max(0.0).sqrt();
            *weight = votes / distance.max(near);
        }
        let sum: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= sum);
    }
    weights
}

#[inline(always)]
fn times(gram: &Rows, numbers: &[f64]) -> Vec<f64> {
    (0..gram.len()).map(|row| dot(gram.row(row), numbers)).collect()
}

#[cfg(test)]
mod tests;
