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
struct Pair<'a> {
    space: Space,
    /// The domain that had been learned before.
    old: &'a str,
    /// The one that was learned then.
    new: &'a str,
    /// The barrier of the old domain's loss on the way.
    barrier: f64,
    /// By how much its loss rose from end to end.
    forgotten: f64,
    /// Frobenius norm of what the weights went.
    length: f64,
    /// By how much the new domain's loss fell.
    learned: f64,
}

/// The place in the stream of an end of a line: "slow after 3 name" is the third.
pub(super) fn place(end: &str) -> Option<usize> {
    end.split(' ').nth(2)?.parse().ok()
}

/// Every domain that had been learned before each line between neighbours, in both spaces.
fn pairs(found: &Found) -> Vec<Pair<'_>> {
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

const BARRIER: (&str, Quantity) = ("barrier", |pair| pair.barrier);
const FORGOTTEN: (&str, Quantity) = ("forgotten", |pair| pair.forgotten);
const LENGTH: (&str, Quantity) = ("length", |pair| pair.length);
const LEARNED: (&str, Quantity) = ("learned of the new", |pair| pair.learned);

/// What is asked: does the second rise with the first?
const ASKED: [[(&str, Quantity); 2]; 5] = [
    [BARRIER, FORGOTTEN],
    [LENGTH, FORGOTTEN],
    [LEARNED, FORGOTTEN],
    [LENGTH, BARRIER],
    [LEARNED, BARRIER],
];

fn rho(pairs: &[Pair<'_>], space: Space, [first, second]: [(&str, Quantity); 2]) -> Option<f64> {
    let own = pairs.iter().filter(|pair| pair.space == space);
    spearman(&own.map(|pair| [first.1(pair), second.1(pair)]).collect::<Vec<_>>())
}

/// Whether more is forgotten where a barrier is higher, and where more was learned.
pub(super) fn predictions(found: &Found, space: Space) -> [Option<f64>; 2] {
    let all = pairs(found);
    [BARRIER, LEARNED].map(|first| rho(&all, space, [first, FORGOTTEN]))
}

/// A row a question and space: how many pairs, how many with a barrier, and the correlation.
pub(super) fn correlations(found: &Found) -> Table {
    let header = words(["of", "and", "space", "pairs", "with a barrier", "Spearman's rho"]);
    let all = pairs(found);
    let mut rows = Vec::new();
    for asked in ASKED {
        for space in Space::ALL {
            let own = || all.iter().filter(|pair| pair.space == space);
            let counts = [own().count(), own().filter(|pair| pair.barrier > 0.0).count()];
            if counts[0] == 0 {
                continue;
            }
            let rho = rho(&all, space, asked).map_or("–".to_owned(), |rho| number(rho, 3));
            let [pairs, stand] = counts.map(|count| count.to_string());
            rows.push(words([asked[0].0, asked[1].0, space.name(), &pairs, &stand, &rho]));
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
