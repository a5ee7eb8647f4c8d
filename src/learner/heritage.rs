//! What a device remembers of its earlier domains besides the reservoir: names, and held-out text.
//!
//! - In: the learner record of the last commit. Out: the same with the new domain added.
//! - The gate judges a new adapter on the held-out blocks of every domain kept here.
//! - Bounded: `BLOCKS_MAX` blocks a domain, `DOMAINS_MAX` domains with text, the oldest goes first.
//! - Invariant: a domain's tag is its place among the names, from 1; it never changes.

use crate::block::Block;
use crate::state::{HeldOutBlock, LearnerRecord};
use std::collections::BTreeSet;

/// Held-out blocks kept of a domain.
const BLOCKS_MAX: usize = 32;
/// Domains whose held-out blocks are kept.
const DOMAINS_MAX: usize = 32;
/// Names kept; domains beyond share the last tag.
const NAMES_MAX: usize = 1_024;

/// Domains met so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Heritage {
    names: Vec<String>,
    held_out: Vec<Block>,
}

impl Heritage {
    /// What a record holds.
    pub(super) fn of(record: &LearnerRecord) -> Self {
        Self {
            names: record.domains.clone(),
            held_out: record.held_out.iter().map(HeldOutBlock::block).collect(),
        }
    }

    /// Writes it into a record.
    pub(super) fn write_to(&self, record: &mut LearnerRecord) {
        record.domains.clone_from(&self.names);
        record.held_out = self.held_out.iter().map(HeldOutBlock::of).collect();
    }

    /// The tag of a domain, known or to come.
    pub(super) fn tag(&self, name: &str) -> u16 {
        let known = self.names.iter().position(|known| known == name);
        (known.unwrap_or(self.names.len()).min(NAMES_MAX - 1) + 1) as u16
    }

    /// The held-out blocks of all domains but this one.
    pub(super) fn blocks_but(&self, name: &str) -> Vec<Block> {
        let own = self.tag(name);
        self.held_out.iter().filter(|block| block.domain != own).cloned().collect()
    }

    /// The same with this domain's held-out blocks, spread over what was given, as the newest.
    pub(super) fn with(&self, name: &str, valid: &[Block]) -> Self {
        let domain = self.tag(name);
        let mut names = self.names.clone();
        if names.len() < usize::from(domain) {
            names.push(name.to_owned());
        }
        let mut held_out = self.blocks_but(name);
        let step = valid.len().div_ceil(BLOCKS_MAX).max(1);
        let chosen = valid.iter().step_by(step).cloned();
        held_out.extend(chosen.map(|block| Block { domain, ..block }));
        let mut domains: BTreeSet<u16> = BTreeSet::new();
        // From the newest to the oldest: the domains that stay.
        held_out.reverse();
        held_out.retain(|block| {
            domains.contains(&block.domain)
                || (domains.len() < DOMAINS_MAX && domains.insert(block.domain))
        });
        held_out.reverse();
        Self { names, held_out }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(count: usize) -> Vec<Block> {
        let block =
            |i| Block { tokens: vec![i as u32, 2], learn: vec![false, true], bytes: 3, domain: 0 };
        (0..count).map(block).collect()
    }

    #[test]
    fn a_domain_keeps_its_tag_and_replaces_its_own_text() {
        let first = Heritage::default().with("a", &blocks(3)).with("b", &blocks(100));
        assert_eq!((first.tag("a"), first.tag("b"), first.tag("c")), (1, 2, 3));
        assert_eq!(first.blocks_but("b").len(), 3);
        assert!(first.blocks_but("a").len() <= BLOCKS_MAX);
        let again = first.with("a", &blocks(2));
        assert_eq!((again.tag("a"), again.blocks_but("b").len()), (1, 2));
        assert_eq!(again.names, ["a", "b"]);
    }

    #[test]
    fn the_oldest_text_goes_when_there_are_too_many_domains() {
        let many = (0..DOMAINS_MAX + 2)
            .fold(Heritage::default(), |all, i| all.with(&i.to_string(), &blocks(1)));
        assert_eq!(many.held_out.len(), DOMAINS_MAX);
        assert_eq!(many.held_out[0].domain, 3);
    }

    #[test]
    fn a_record_gives_back_what_it_was_given() {
        let heritage = Heritage::default().with("a", &blocks(3));
        let mut record = LearnerRecord::default();
        heritage.write_to(&mut record);
        assert_eq!(Heritage::of(&record), heritage);
    }
}
