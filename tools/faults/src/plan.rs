//! The plan of a life: rounds of intake and learning, drawn from a seed.
//!
//! - A round can be begun again where it was cut: what it did already is done once.
//! - Samples have numbers from 1 in the order of their first arrival, which are also the inbox's.

use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use sapwood::reservoir::below;
use sapwood_protocol::limits::INSTALL_STARTS_MAX;
use std::collections::BTreeSet;

/// One round: samples come in, a job learns them, the gate speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// Batches that come before the job; a number that came before is a duplicate.
    pub batches: Vec<Vec<u64>>,
    /// A batch that comes after this many steps of the job.
    pub late: Option<(u64, Vec<u64>)>,
    /// The number of the last sample that the job takes.
    pub through: u64,
    /// A sample of the job that is set aside when it begins; it may come again from then on.
    pub aside: Option<u64>,
    /// Steps between two checkpoints.
    pub every: u64,
    /// The process ends at this step of the job and starts again.
    pub restart: Option<u64>,
    /// After that restart the checkpoint is given up.
    pub gives_up: bool,
    /// The generation that the gate lets the job commit; none when it rejects it.
    pub generation: Option<u64>,
    /// The generation is rolled back after it was committed.
    pub rolls_back: bool,
    /// A global adapter that is offered after the job.
    pub offer: Option<Offer>,
    /// The job ends at all; otherwise it is left with its last checkpoint.
    pub ends: bool,
}

/// A global adapter that is offered to the device, and what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Of its statement.
    pub sequence: u64,
    /// Starts of the install that come to nothing before the one that ends it: fewer than there are.
    pub begins: u64,
    /// Starts under trial before it ends; more than there are tries, and its parent returns.
    pub starts: u64,
    /// How it ends.
    pub end: OfferEnd,
}

/// How an offer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfferEnd {
    /// It is as good at the second look.
    Confirmed,
    /// It is not.
    Reverted,
    /// An operator goes back by hand.
    RolledBack,
    /// The gate declines it: there is no trial.
    Declined,
}

/// A plan of `rounds` rounds, the same for the same seed.
pub fn plan(seed: u64, rounds: usize) -> Vec<Round> {
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let (mut given, mut commits, mut taken, mut sequence) = (0, 0, 0, 0);
    let mut aside = BTreeSet::new();
    let mut round = |number: usize| {
        let mut draw = |bound| below(&mut chance, bound);
        let before = given;
        let first = (draw(4) == 0).then_some(taken + 1);
        aside.extend(first);
        let mut batch = |least: u64, draw: &mut dyn FnMut(u64) -> u64| {
            let fresh = least + draw(3);
            let mut samples: Vec<u64> = (given + 1..=given + fresh).collect();
            given += fresh;
            if draw(3) == 0 && given > fresh {
                // One that was set aside would be no duplicate.
                let again = 1 + draw(given - fresh);
                samples.extend((!aside.contains(&again)).then_some(again));
            }
            (samples, given)
        };
        let mut batches = Vec::new();
        let mut through = 0;
        for _ in 0..1 + draw(3) {
            let (samples, last) = batch(1, &mut draw);
            batches.push(samples);
            through = last;
        }
        // The job has at least these steps.
        let steps = through - before;
        let late = (draw(2) == 0).then(|| (draw(steps.min(3)), batch(1, &mut draw).0));
        // The first is kept: everything else needs a generation to stand on.
        let kept = number == 0 || draw(4) > 0;
        commits += u64::from(kept);
        taken = through;
        let generation = kept.then_some(commits);
        let offer = (draw(2) == 0).then(|| {
            sequence += 1;
            let ends =
                [OfferEnd::Confirmed, OfferEnd::Reverted, OfferEnd::RolledBack, OfferEnd::Declined];
            let end = ends[draw(4) as usize];
            commits += u64::from(end != OfferEnd::Declined);
            Offer { sequence, begins: draw(u64::from(INSTALL_STARTS_MAX)), starts: draw(5), end }
        });
        Round {
            batches,
            late,
            through,
            aside: first,
            every: 1 + draw(3),
            restart: (draw(2) == 0).then(|| 1 + draw(4)),
            gives_up: draw(4) == 0,
            generation,
            rolls_back: number > 0 && draw(4) == 0,
            offer,
            ends: true,
        }
    };
    (0..rounds).map(&mut round).collect()
}

/// The same, but its last job is left in the middle, with a checkpoint and samples that wait.
pub fn unfinished(seed: u64, rounds: usize) -> Vec<Round> {
    let mut plan = plan(seed, rounds);
    plan.pop();
    let late = |round: &Round| round.late.clone().map_or_else(Vec::new, |(_, samples)| samples);
    let given = plan.iter().flat_map(|round| [round.batches.concat(), late(round)].concat());
    let next = given.max().unwrap_or(0) + 1;
    plan.push(Round {
        batches: vec![vec![next, next + 1], vec![next + 2, next], vec![next + 3]],
        late: Some((1, vec![next + 4, next + 5])),
        through: next + 3,
        aside: None,
        every: 2,
        restart: None,
        gives_up: false,
        generation: None,
        rolls_back: false,
        offer: None,
        ends: false,
    });
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_stands_for_one_plan_and_plans_hold_everything() {
        assert_eq!(plan(3, 5), plan(3, 5));
        let all: Vec<Round> = (0..20).flat_map(|seed| plan(seed, 5)).collect();
        let some = |is: &dyn Fn(&Round) -> bool| all.iter().any(is) && !all.iter().all(is);
        assert!(some(&|round| round.late.is_some()) && some(&|round| round.restart.is_some()));
        assert!(some(&|round| round.generation.is_none()) && some(&|round| round.rolls_back));
        assert!(some(&|round| round.restart.is_some() && round.gives_up));
        assert!(some(&|round| round.aside.is_some()));
        let offers: Vec<Offer> = all.iter().filter_map(|round| round.offer).collect();
        let has = |is: &dyn Fn(&Offer) -> bool| offers.iter().any(is);
        for end in
            [OfferEnd::Confirmed, OfferEnd::Reverted, OfferEnd::RolledBack, OfferEnd::Declined]
        {
            assert!(has(&|offer| offer.end == end && offer.starts > 0), "{end:?}");
        }
        assert!(has(&|offer| offer.starts > 3 && offer.end != OfferEnd::Declined));
    }
}
