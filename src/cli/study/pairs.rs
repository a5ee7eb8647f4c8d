//! What a study says of pairs of domains: what was forgotten of one while another was learned, and whether a
//! barrier, the way gone, or how much there was to learn tells it.
//!
//! - In: the lines between neighbours of a stream. Out: a row a pair, and rank correlations over them.
//! - Never here: what is scored.

use super::super::html::number;
use super::record::Found;
use super::table::{Table, cell, words};
use sapwood::study::{Curve, Space, spearman};

/// An old domain, and a later one that was learned.
pub(super) struct Pair<'a> {
    space: Space,
    /// The domain that had been learned before.
    pub(super) old: &'a str,
    /// The one that was learned then.
    pub(super) new: &'a str,
    /// The barrier of the old domain's loss on the way.
    pub(super) barrier: f64,
    /// By how much its loss rose from end to end.
    pub(super) forgotten: f64,
    /// Frobenius norm of what the weights went.
    pub(super) length: f64,
    /// By how much the new domain's loss fell.
    pub(super) learned: f64,
}

/// The place in the stream of an end of a line: "slow after 3 name" is the third.
pub(super) fn place(end: &str) -> Option<usize> {
    end.split(' ').nth(2)?.parse().ok()
}

/// Every domain that had been learned before each line between neighbours, in both spaces.
pub(super) fn pairs(found: &Found) -> Vec<Pair<'_>> {
    let names = found.matrix.as_ref().map_or(&[][..], |matrix| &matrix.domains);
    let of_line = |curve: &Curve| -> Option<Vec<Pair<'_>>> {
        let [from, to] = [place(&curve.from)?, place(&curve.to)?];
        if to != from + 1 {
            return None;
        }
        let [first, .., last] = &curve.points[..] else { return None };
        let of = |old: usize| -> Option<Pair<'_>> {
            let losses = curve.mean(&[old])?;
            Some(Pair {
                space: curve.space,
                old: names.get(old)?,
                new: names.get(from)?,
                barrier: curve.barrier(&losses),
                forgotten: losses.last()? - losses.first()?,
                length: last.distance,
                learned: first.losses.get(from)? - last.losses.get(from)?,
            })
        };
        (0..from).map(of).collect()
    };
    found.curves.iter().filter_map(of_line).flatten().collect()
}

/// One quantity of a pair.
type Quantity = fn(&Pair<'_>) -> f64;

/// What is asked: does the second rise with the first?
const ASKED: [(&str, Quantity, &str, Quantity); 5] = [
    ("barrier", |pair| pair.barrier, "forgotten", |pair| pair.forgotten),
    ("length", |pair| pair.length, "forgotten", |pair| pair.forgotten),
    ("learned of the new", |pair| pair.learned, "forgotten", |pair| pair.forgotten),
    ("length", |pair| pair.length, "barrier", |pair| pair.barrier),
    ("learned of the new", |pair| pair.learned, "barrier", |pair| pair.barrier),
];

fn rho(found: &Found, space: Space, asked: usize) -> Option<f64> {
    let (_, first, _, second) = ASKED.get(asked)?;
    let all = pairs(found);
    let own = all.iter().filter(|pair| pair.space == space);
    spearman(&own.map(|pair| [first(pair), second(pair)]).collect::<Vec<_>>())
}

/// Whether more is forgotten where a barrier is higher.
pub(super) fn barrier_and_forgotten(found: &Found, space: Space) -> Option<f64> {
    rho(found, space, 0)
}

/// Whether more is forgotten where more was learned.
pub(super) fn learned_and_forgotten(found: &Found, space: Space) -> Option<f64> {
    rho(found, space, 2)
}

/// A row a question and space: how many pairs, how many with a barrier, and the correlation.
pub(super) fn correlations(found: &Found) -> Table {
    let header = words(["of", "and", "space", "pairs", "with a barrier", "Spearman's rho"]);
    let all = pairs(found);
    let mut rows = Vec::new();
    for (asked, (one, _, two, _)) in ASKED.iter().enumerate() {
        for space in Space::ALL {
            let own: Vec<&Pair<'_>> = all.iter().filter(|pair| pair.space == space).collect();
            if own.is_empty() {
                continue;
            }
            let stand = own.iter().filter(|pair| pair.barrier > 0.0).count();
            let rho = rho(found, space, asked).map_or("–".to_owned(), |rho| number(rho, 3));
            let counts = [own.len(), stand].map(|count| count.to_string());
            rows.push(words([one, two, space.name(), &counts[0], &counts[1], &rho]));
        }
    }
    (header, rows)
}

/// A line a pair.
pub(super) fn csv(found: &Found) -> String {
    let mut csv = "old,new,space,barrier,forgotten,length,learned\n".to_owned();
    for pair in pairs(found) {
        csv += &format!(
            "{},{},{},{},{},{},{}\n",
            cell(pair.old),
            cell(pair.new),
            pair.space.name(),
            pair.barrier,
            pair.forgotten,
            pair.length,
            pair.learned
        );
    }
    csv
}
