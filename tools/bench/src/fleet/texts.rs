//! The text of a fleet: every device has its own part of its domain, a piece of it for each round.
//!
//! - In: folders of domains and of general text. Out: blocks to learn, spans of them, held-out blocks.
//! - Devices take the domains in turn; no block is on two devices, or in two rounds of one.
//! - What a device may judge by (valid) is never what is reported (test).

use anyhow::{Context, Result, ensure};
use sapwood::block::Block;
use sapwood::intake::{self, Example};
use sapwood::learner::Domains;
use sapwood::tokenise::Tokeniser;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Held-out blocks of one kind of text.
#[derive(Clone)]
pub(crate) struct HeldBack {
    /// What a device judges by.
    pub(crate) valid: Vec<Block>,
    /// What is reported.
    pub(crate) test: Vec<Block>,
}

/// Blocks of one domain.
pub(crate) struct Domain {
    pub(crate) train: Vec<Block>,
    pub(crate) held_back: HeldBack,
}

/// What a fleet learns and is scored on.
pub(crate) struct Texts {
    /// Blocks of all devices, side by side.
    pub(crate) blocks: Vec<Block>,
    /// Where the blocks of each device lie, round by round.
    pub(crate) spans: Vec<Vec<Range<usize>>>,
    pub(crate) domains: Vec<HeldBack>,
    pub(crate) general: HeldBack,
}

/// How blocks are cut and how many are kept.
pub(crate) struct Cut<'a> {
    pub(crate) tokeniser: &'a Tokeniser,
    /// Tokens of a block.
    pub(crate) tokens: usize,
    /// Most held-out blocks of a kind.
    pub(crate) held_out: usize,
}

impl Cut<'_> {
    fn blocks(&self, examples: &[Example]) -> Result<Vec<Block>> {
        Ok(self.tokeniser.blocks(examples, self.tokens, false, 0)?.blocks)
    }

    fn held_back(&self, path: &Path, valid: &[Example], test: &[Example]) -> Result<HeldBack> {
        let cut = |examples: &[Example], part: &str| {
            let blocks = Domains::choose(self.blocks(examples)?, self.held_out);
            ensure!(!blocks.is_empty(), "{}: expected {part} text, found none", path.display());
            Ok(blocks)
        };
        Ok(HeldBack { valid: cut(valid, "valid")?, test: cut(test, "test")? })
    }

    /// The domain in a folder.
    pub(crate) fn domain(&self, path: &Path) -> Result<Domain> {
        let data = intake::open(path)?;
        let held_back = self.held_back(path, &data.valid, &data.test)?;
        let train = self.blocks(&data.train);
        let train = train.with_context(|| path.display().to_string())?;
        Ok(Domain { train: Domains::choose(train, usize::MAX), held_back })
    }

    /// General text, which nobody learns.
    pub(crate) fn general(&self, path: &Path) -> Result<HeldBack> {
        let data = intake::open(path)?;
        self.held_back(path, &data.valid, &data.test)
    }
}

/// All domains of some folders.
pub(crate) fn domains(cut: &Cut<'_>, paths: &[PathBuf]) -> Result<Vec<Domain>> {
    paths.iter().map(|path| cut.domain(path)).collect()
}

impl Texts {
    /// Deals the domains out to `devices`, each part in as many pieces as there are `rounds`.
    ///
    /// Another seed gives other parts. Errors where a piece would be empty.
    pub(crate) fn deal(
        domains: &[Domain],
        general: &HeldBack,
        [devices, rounds]: [usize; 2],
        seed: u64,
    ) -> Result<Self> {
        let (mut blocks, mut spans) = (Vec::new(), Vec::new());
        for device in 0..devices {
            let home = device % domains.len();
            let train = &domains[home].train;
            let sharing = (0..devices).filter(|other| other % domains.len() == home).count();
            let pieces = sharing * rounds;
            ensure!(
                train.len() >= pieces,
                "domain {}: expected at least {pieces} blocks to learn, got {}",
                home + 1,
                train.len()
            );
            // Elsewhere for another seed; 7,919 is a prime, so that seeds do not meet soon.
            let turn = (seed as usize).wrapping_mul(7_919) % train.len();
            let piece = |round: usize| {
                let nth = device / domains.len() * rounds + round;
                nth * train.len() / pieces..(nth + 1) * train.len() / pieces
            };
            let mut own = Vec::new();
            for piece in (0..rounds).map(piece) {
                let start = blocks.len();
                let at = piece.map(|at| (at + turn) % train.len());
                let domain = device as u32 + 1;
                blocks.extend(at.map(|at| Block { domain, ..train[at].clone() }));
                own.push(start..blocks.len());
            }
            spans.push(own);
        }
        let domains = domains.iter().map(|domain| domain.held_back.clone()).collect();
        Ok(Self { blocks, spans, domains, general: general.clone() })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use std::collections::BTreeSet;

    fn block(id: u32) -> Block {
        Block { tokens: vec![id], learn: vec![false], bytes: 1, domain: 0 }
    }

    #[test]
    fn no_block_is_dealt_twice_and_none_is_kept_back() {
        let held_back = || HeldBack { valid: vec![block(0)], test: vec![block(0)] };
        let domain = |from: u32, count: u32| Domain {
            train: (from..from + count).map(block).collect(),
            held_back: held_back(),
        };
        let domains = [domain(0, 41), domain(100, 7)];
        for seed in [0, 1, 9] {
            let texts = Texts::deal(&domains, &held_back(), [5, 2], seed).unwrap();
            let ids: Vec<u32> = texts.blocks.iter().map(|block| block.tokens[0]).collect();
            let all: BTreeSet<u32> = (0..41).chain(100..107).collect();
            assert_eq!((ids.len(), ids.iter().copied().collect()), (48, all));
            assert_eq!(texts.spans.concat().iter().map(|span| span.len()).sum::<usize>(), 48);
            for (device, span) in texts
                .spans
                .iter()
                .enumerate()
                .flat_map(|(d, s)| s.iter().map(move |span| (d, span.clone())))
            {
                let home = |id: &u32| (*id >= 100) == (device % 2 == 1);
                assert!(!span.is_empty() && ids[span].iter().all(home));
            }
        }
        assert!(Texts::deal(&domains, &held_back(), [5, 4], 0).is_err(), "7 blocks in 8 pieces");
    }
}
