//! What simulated devices learn: synthetic updates of a chosen shape, and what hostile devices send instead.
//!
//! - An honest update is a part that all have in common, of length 1, and one of the device's own, so many
//!   times as large. The sign of the common part changes from round to round, so that the global adapter
//!   stays bounded over thousands of them.
//! - Every part is a product of factors at random, half of the rank each; the same seed, the same bytes.
//! - What hostile devices send is of a round of 80 honest and 20 hostile ones, whatever the fleet's size.

use crate::luck::Luck;
use fleet_server::aggregate::attacks::Attack;
use sapwood::adapter::{Adapter, AdapterError, Spec, Strength, Target, wire};
use sapwood_protocol::fleet::id::{CohortId, Hash};
use sapwood_protocol::fleet::message::Facts;
use sapwood_protocol::fleet::update::{Kind, Meta};
use std::ops::Range;

/// How much larger than the common part a device's own is.
const OWN: f64 = 1.5;
/// Honest and hostile devices of the round that attacks are made for.
const ROUND: [u32; 2] = [80, 20];
/// Largest shape for which attacks are made: all of such a round is in memory.
const ATTACKED_MAX: usize = 100_000;

/// The modules of a base that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// What it is called.
    pub name: &'static str,
    layers: usize,
    /// Rank of an update, even.
    rank: usize,
    /// Linear layers with what they read and write.
    places: &'static [(Target, usize, usize)],
}

/// Every shape: a few numbers, some, and as many as Llama-3.2-1B has at rank 8 on q, k, v and o.
pub const SHAPES: [Shape; 3] = [
    Shape { name: "tiny", layers: 2, rank: 4, places: &[(Target::Q, 24, 32), (Target::V, 24, 16)] },
    Shape {
        name: "small",
        layers: 8,
        rank: 8,
        places: &[(Target::Q, 128, 128), (Target::V, 128, 64)],
    },
    Shape {
        name: "llama",
        layers: 16,
        rank: 8,
        places: &[
            (Target::Q, 2048, 2048),
            (Target::K, 2048, 512),
            (Target::V, 2048, 512),
            (Target::O, 2048, 2048),
        ],
    },
];

/// Whose update of which round.
#[derive(Clone, Copy, Debug)]
pub struct Whose {
    /// Of the whole simulation.
    pub seed: u64,
    /// The device.
    pub device: u32,
    /// The round.
    pub round: u64,
}

impl Shape {
    /// The shape of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        SHAPES.into_iter().find(|shape| shape.name == name)
    }

    /// What devices say of it.
    pub fn facts(&self) -> Facts {
        let bit = |target: &Target| Target::ALL.iter().position(|other| other == target);
        let targets = self.places.iter().filter_map(|(target, ..)| bit(target));
        Facts {
            base: Hash::of(self.name.as_bytes()),
            first_layer: 0,
            targets: targets.fold(0, |bits, at| bits | 1 << at),
            rank: self.rank as u32,
        }
    }

    fn spec(&self) -> Spec {
        let strength = Strength { rank: self.rank, alpha: self.rank as f32 };
        Spec::placed(0..self.layers, |_, target| {
            let place = self.places.iter().find(|(other, ..)| *other == target)?;
            Some((strength, (place.1, place.2)))
        })
    }

    /// Numbers of an update.
    pub fn numbers(&self) -> usize {
        self.spec().len()
    }

    /// Whether what hostile devices send can be made of it.
    pub fn is_attackable(&self) -> bool {
        self.numbers() <= ATTACKED_MAX
    }

    /// The file of an update.
    ///
    /// # Errors
    /// [`AdapterError`] where its numbers are too large to be sent.
    pub fn file(
        &self,
        update: &Adapter,
        whose: Whose,
        cohort: CohortId,
        from: Hash,
    ) -> Result<Vec<u8>, AdapterError> {
        let meta = Meta {
            kind: Kind::Update,
            base: self.facts().base,
            cohort,
            from,
            generation: whose.round,
            steps: 40,
            tokens: 1000 + Luck::of(whose.seed, u64::from(whose.device)).draw() % 1000,
        };
        wire::encode(update, &meta)
    }

    /// What a device learned.
    pub fn learned(&self, whose: Whose) -> Adapter {
        let spec = self.spec();
        let mut adapter = Adapter { values: vec![0.0; spec.len()], spec };
        let sign = if whose.round.is_multiple_of(2) { -1.0 } else { 1.0 };
        let seed = |what: u64| Luck::of(whose.seed, what).draw();
        let half = self.rank / 2;
        write(&mut adapter, 0..half, sign, seed(1 << 40));
        write(&mut adapter, half..self.rank, OWN, seed(2 << 40 | u64::from(whose.device)));
        adapter
    }

    /// What hostile devices send in a round; the one of number n sends the n-th, and so on round.
    ///
    /// # Errors
    /// [`AdapterError`] for modules that do not belong together, which those of a shape do.
    pub fn attacks(
        &self,
        attack: Attack,
        seed: u64,
        round: u64,
    ) -> Result<Vec<Adapter>, AdapterError> {
        let learned = |device: u32| self.learned(Whose { seed, device, round });
        let [honest, hostile] = ROUND;
        let honest_ones: Vec<Adapter> = (0..honest).map(learned).collect();
        let hostile_ones: Vec<Adapter> = (honest..honest + hostile).map(learned).collect();
        attack.sent(&honest_ones, &hostile_ones, seed)
    }
}

/// Writes a product of some length into ranks that are free.
fn write(adapter: &mut Adapter, ranks: Range<usize>, length: f64, seed: u64) {
    let Adapter { spec, values } = adapter;
    let cells: usize = spec.modules.iter().map(|module| module.fan_in * module.fan_out).sum();
    // Numbers of deviation 1 give products of this length.
    let scale = (length.abs() / ((cells * ranks.len()) as f64).sqrt()).sqrt() as f32;
    let sign = if length < 0.0 { -scale } else { scale };
    let mut luck = Luck::of(seed, 0);
    for module in &spec.modules {
        let a = &mut values[module.a.clone()];
        let rows = &mut a[ranks.start * module.fan_in..ranks.end * module.fan_in];
        rows.iter_mut().for_each(|number| *number = scale * luck.even());
        let b = &mut values[module.b.clone()];
        for row in b.chunks_exact_mut(module.rank) {
            row[ranks.clone()].iter_mut().for_each(|number| *number = sign * luck.even());
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use fleet_server::aggregate::norm;

    const SOME: Whose = Whose { seed: 7, device: 3, round: 1 };

    fn shape(name: &str) -> Shape {
        Shape::from_name(name).unwrap()
    }

    #[test]
    fn the_largest_has_as_many_numbers_as_it_should() {
        // 16 layers of rank 8: 2 (2048 + 2048) + 2 (2048 + 512) numbers a rank.
        assert_eq!(shape("llama").numbers(), 16 * 8 * (2 * 4096 + 2 * 2560));
        let may: Vec<bool> = SHAPES.iter().map(Shape::is_attackable).collect();
        assert_eq!(may, [true, true, false]);
    }

    #[test]
    fn an_update_is_the_same_again_and_others_differ() {
        let (cohort, from) = (CohortId([1; 32]), Hash([0; 32]));
        let shape = shape("tiny");
        let file = |whose| shape.file(&shape.learned(whose), whose, cohort, from).unwrap();
        assert_eq!(file(SOME), file(SOME));
        assert_ne!(file(SOME), file(Whose { device: 4, ..SOME }));
        assert_ne!(file(SOME), file(Whose { round: 2, ..SOME }));
        assert_eq!((shape.facts().targets, shape.facts().rank), (0b101, 4));
        let header = wire::header(&file(SOME)).unwrap();
        assert_eq!((header.rank, header.meta.cohort), (4, cohort));
    }

    /// Within what numbers at random leave open in 196,608 cells.
    #[test]
    fn an_update_is_as_long_as_it_should_be() {
        let (got, expected) =
            (norm(&shape("small").learned(SOME)).unwrap(), (1.0 + OWN * OWN).sqrt());
        assert!((got - expected).abs() < 0.08 * expected, "{got} {expected}");
    }

    #[test]
    fn every_attack_is_a_file_that_a_server_would_read() {
        let shape = shape("tiny");
        for attack in Attack::ALL {
            let sent = shape.attacks(attack, 7, 1).unwrap();
            assert_eq!(sent.len(), 20);
            let file = shape.file(&sent[3], SOME, CohortId([1; 32]), Hash([0; 32])).unwrap();
            assert!(wire::header(&file).is_ok(), "{}", attack.name());
        }
    }
}
