//! What a device remembers of its earlier domains besides the reservoir: names, and held-out text.
//!
//! - In: the learner record of the last commit. Out: the same with the new domain added.
//! - The gate judges a new adapter on the held-out text kept here, domain by domain.
//! - Bounded: `HELD_OUT_BYTES_MAX` bytes of blocks, of all that were ever offered each with the same
//!   chance, as in the reservoir: those are kept whose digests are the lowest.
//! - Invariant: a domain's number is its own for ever; no other domain of the state has ever had it.

use crate::block::Block;
use crate::state::{Domain, HeldOutBlock, LearnerRecord};
use std::collections::BTreeMap;

/// Bytes of the held-out blocks that are kept, at five a token: about 100 KB of text.
pub(super) const HELD_OUT_BYTES_MAX: u64 = 128 << 10;
/// Bytes of a token and its label.
pub(super) const TOKEN_BYTES: u64 = 5;
/// Bytes of text below which a domain is judged together with others like it: by so little, chance
/// alone would drop an adapter.
const GROUP_BYTES_MIN: u64 = 2_000;
/// Domains that are known again by their name, the newest.
pub(super) const NAMES_MAX: usize = 1_024;

/// Domains met so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Heritage {
    domains: Vec<Domain>,
    held_out: Vec<Block>,
}

/// Held-out text of a domain, or of several of which little is left.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Group {
    /// What it is called in a verdict.
    pub(super) name: String,
    /// Its blocks.
    pub(super) blocks: Vec<Block>,
}

impl Heritage {
    /// What a record holds.
    pub(super) fn of(record: &LearnerRecord) -> Self {
        Self {
            domains: record.domains.clone(),
            held_out: record.held_out.iter().map(HeldOutBlock::block).collect(),
        }
    }

    /// Writes it into a record.
    pub(super) fn write_to(&self, record: &mut LearnerRecord) {
        record.domains.clone_from(&self.domains);
        record.held_out = self.held_out.iter().map(HeldOutBlock::of).collect();
    }

    /// The domain of that key as it is known, or a new one; `next` is a number that none has had.
    ///
    /// One that an earlier version knew by its name alone is taken for the one of that name.
    pub(super) fn domain(&self, name: &str, key: &str, next: u32) -> Domain {
        let same = |known: &&Domain| match known.key.as_str() {
            "" => known.name == name,
            own => own == key,
        };
        let highest = self.domains.iter().map(|known| known.number).max().unwrap_or(0);
        let number = self.domains.iter().rfind(same).map(|known| known.number);
        let number = number.unwrap_or_else(|| next.max(highest.saturating_add(1)));
        Domain { number, name: name.to_owned(), key: key.to_owned() }
    }

    /// The held-out text of all domains.
    pub(super) fn groups(&self) -> Vec<Group> {
        // No domain has the number 0.
        self.groups_but(&Domain::default())
    }

    /// Held-out blocks of any domain, at most so many.
    pub(super) fn some(&self, most: usize) -> &[Block] {
        &self.held_out[..most.min(self.held_out.len())]
    }

    /// The held-out text of all domains but this one: each with enough of it by itself, the rest
    /// together.
    pub(super) fn groups_but(&self, domain: &Domain) -> Vec<Group> {
        let mut of: BTreeMap<u32, Vec<Block>> = BTreeMap::new();
        for block in self.held_out.iter().filter(|block| block.domain != domain.number) {
            of.entry(block.domain).or_default().push(block.clone());
        }
        let bytes =
            |blocks: &[Block]| blocks.iter().map(|block| u64::from(block.bytes)).sum::<u64>();
        let (mut groups, mut rest, mut count) = (Vec::new(), Vec::new(), 0);
        for (number, blocks) in of {
            if bytes(&blocks) < GROUP_BYTES_MIN {
                rest.extend(blocks);
                count += 1;
                continue;
            }
            let known = self.domains.iter().find(|known| known.number == number);
            let name = known.map_or_else(|| format!("domain {number}"), |known| known.name.clone());
            groups.push(Group { name, blocks });
        }
        if !rest.is_empty() {
            groups.push(Group { name: format!("{count} smaller domains"), blocks: rest });
        }
        groups
    }

    /// The same after `domain` was learned: its held-out text is what was judged by now, and takes its
    /// chance among the rest.
    pub(super) fn with(&self, domain: &Domain, valid: &[Block]) -> Self {
        let number = domain.number;
        let mut domains: Vec<Domain> =
            self.domains.iter().filter(|known| known.number != number).cloned().collect();
        domains.push(domain.clone());
        domains.drain(..domains.len().saturating_sub(NAMES_MAX));
        let own = valid.iter().map(|block| Block { domain: number, ..block.clone() });
        let others = self.held_out.iter().filter(|block| block.domain != number).cloned();
        let mut drawn: Vec<([u8; 32], Block)> =
            others.chain(own).map(|block| (lot(&block), block)).collect();
        drawn.sort_by_key(|(lot, _)| *lot);
        drawn.dedup_by_key(|(lot, _)| *lot);
        let mut bytes = 0;
        let held_out = drawn.into_iter().map(|(_, block)| block).take_while(|block| {
            bytes += TOKEN_BYTES * block.tokens.len() as u64;
            bytes <= HELD_OUT_BYTES_MAX
        });
        Self { domains, held_out: held_out.collect() }
    }
}

/// A block's lot: drawn evenly, and for the same block of a domain always the same.
fn lot(block: &Block) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&block.domain.to_le_bytes());
    for token in &block.tokens {
        hasher.update(&token.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(from: u32, count: usize, length: usize) -> Vec<Block> {
        let block = |i: usize| Block {
            tokens: (0..length as u32).map(|t| from + i as u32 + t).collect(),
            learn: vec![true; length],
            bytes: 4 * length as u32,
            domain: 0,
        };
        (0..count).map(block).collect()
    }

    fn domain(number: u32) -> Domain {
        Domain { number, name: format!("name {number}"), key: format!("/srv/{number}") }
    }

    #[test]
    fn a_domain_is_known_by_its_key_and_a_new_number_was_never_given() {
        let met = Heritage::default().with(&domain(1), &blocks(0, 3, 9)).with(&domain(7), &[]);
        assert_eq!(met.domain("other name", "/srv/7", 9).number, 7);
        assert_eq!(met.domain("name 7", "/srv/elsewhere", 9).number, 9);
        // After a rollback the manifest knows more than the record; before version 5 it knew nothing.
        assert_eq!(met.domain("new", "new", 1).number, 8);
        let known = Domain { key: String::new(), ..domain(3) };
        let old = Heritage { domains: vec![known], ..Heritage::default() };
        assert_eq!(old.domain("name 3", "/srv/3", 9), domain(3));
        assert_eq!(old.with(&domain(3), &[]).domains, [domain(3)]);
    }

    #[test]
    fn a_domain_replaces_its_own_text_and_is_not_judged_as_old() {
        let first = Heritage::default().with(&domain(1), &blocks(0, 3, 200));
        let second = first.with(&domain(2), &blocks(50, 4, 200));
        let groups = second.groups_but(&domain(2));
        assert_eq!((groups.len(), groups[0].blocks.len()), (1, 3));
        assert_eq!(groups[0].name, "name 1");
        let again = second.with(&domain(1), &blocks(900, 2, 200));
        assert_eq!(again.groups_but(&domain(2))[0].blocks.len(), 2);
        assert!(again.groups_but(&domain(9)).iter().all(|group| group.name != "smaller"));
    }

    #[test]
    fn domains_with_little_text_are_judged_together() {
        let many = (1..=6).fold(Heritage::default(), |all, i| {
            all.with(&domain(i), &blocks(100 * i, if i == 6 { 30 } else { 1 }, 20))
        });
        let groups = many.groups_but(&domain(99));
        let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
        assert_eq!(names, ["name 6", "5 smaller domains"]);
        assert_eq!(groups[1].blocks.len(), 5);
    }

    /// Oracle: with the same chance for every block ever offered, as many of the first half of a life
    /// stay as of the second, 820 blocks of 32 tokens in all; 4 standard deviations of that draw.
    #[test]
    fn however_long_a_life_is_its_text_stays_within_bytes_and_is_of_all_of_it() {
        let jobs = 400;
        let life = (1..=jobs)
            .fold(Heritage::default(), |all, i| all.with(&domain(i), &blocks(1_000 * i, 10, 32)));
        let bytes: u64 = life.held_out.iter().map(|block| 5 * block.tokens.len() as u64).sum();
        assert!(bytes <= HELD_OUT_BYTES_MAX && bytes > HELD_OUT_BYTES_MAX - 5 * 32);
        let held = life.held_out.len() as f64;
        let early = life.held_out.iter().filter(|block| block.domain <= jobs / 2).count() as f64;
        let deviation = (held * 0.25 * (1.0 - held / f64::from(10 * jobs))).sqrt();
        assert!((early - held / 2.0).abs() < 4.0 * deviation, "{early} of {held}");
        assert_eq!(life.domains.len(), jobs as usize);
        let more = (jobs + 1..=1_500).fold(life, |all, i| all.with(&domain(i), &[]));
        assert_eq!((more.domains.len(), more.domains[0].number), (NAMES_MAX, 477));
        assert_eq!(more.domain("new", "new", 1_501).number, 1_501);
    }

    #[test]
    fn a_record_gives_back_what_it_was_given() {
        let heritage = Heritage::default().with(&domain(70_000), &blocks(0, 3, 5));
        let mut record = LearnerRecord::default();
        heritage.write_to(&mut record);
        assert_eq!(Heritage::of(&record), heritage);
    }
}
