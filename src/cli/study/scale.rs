//! Studies side by side: the same questions of bases of several sizes, methods or seeds.
//!
//! - In: folders of studies. Out: a row a study of everything that it found, on one page.
//! - Never here: learning or scoring. What a study has not found is a dash.

use super::super::args::Scale;
use super::super::console::Console;
use super::super::html::{self, Html, number};
use super::record::Found;
use super::table::{Table, text, words};
use super::{page, pairs};
use sapwood::study::{Curve, Space};
use std::path::Path;

/// Puts studies side by side.
pub(super) fn run(args: &Scale, console: &Console) -> anyhow::Result<()> {
    html::check_place("--out", &args.out)?;
    let read = |folder: &Path| anyhow::Ok((folder.display().to_string(), Found::read(folder)?));
    let mut studies: Vec<(String, Found)> =
        args.studies.iter().map(|folder| read(folder)).collect::<anyhow::Result<_>>()?;
    // The smallest first; what is unknown last, and otherwise as they were named.
    studies.sort_by_key(|(_, found)| found.parameters.unwrap_or(u64::MAX));
    let mut page = Html::new("Studies side by side");
    for part in [streams, ways, memory] {
        let (title, told, (header, rows)) = part(&studies);
        page.heading(title);
        page.paragraph(told);
        let titles: Vec<&str> = header.iter().map(String::as_str).collect();
        page.table(1, &titles, rows.iter().map(|row| (false, row.clone())));
        console.line(&format!("{title}\n{}\n", text(&header, &rows)))?;
    }
    html::write("--out", &args.out, &page.finish())?;
    console.line(&format!("written: {}", args.out.display()))?;
    Ok(())
}

/// A title, what it means, and a table.
type Part = (&'static str, &'static str, Table);

fn or_dash(value: Option<f64>, digits: usize) -> String {
    number(value.unwrap_or(f64::NAN), digits)
}

/// What was learned and forgotten.
fn streams(studies: &[(String, Found)]) -> Part {
    let header =
        ["study", "parameters", "method", "domains", "ACC", "LA", "forgetting", "general %"];
    let row = |(name, found): &(String, Found)| {
        let metrics = found.matrix.as_ref().and_then(|matrix| matrix.metrics().ok());
        let of = metrics.as_ref();
        let parameters = found.parameters.map_or("–".to_owned(), |count| count.to_string());
        let domains = found.domains().to_string();
        let mut row = words([name, &parameters, found.method(), &domains]);
        row.push(or_dash(of.map(|metrics| metrics.acc), 4));
        row.push(or_dash(of.map(|metrics| metrics.la), 4));
        row.push(or_dash(of.map(|metrics| metrics.forgetting), 4));
        row.push(or_dash(of.and_then(|metrics| metrics.general), 2));
        row
    };
    (
        "The streams",
        "Bits per byte over all domains at the end (ACC), just learned (LA), lost since (forgetting), and \
         by how much general text rose.",
        (words(header), studies.iter().map(row).collect()),
    )
}

/// What kind of line it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    Neighbours,
    Learners,
    Whole,
}

fn line(curve: &Curve) -> Option<Line> {
    let [from, to] = [pairs::place(&curve.from)?, pairs::place(&curve.to)?];
    Some(match to.checked_sub(from)? {
        0 => Line::Learners,
        1 => Line::Neighbours,
        _ => Line::Whole,
    })
}

/// What lies between the adapters.
fn ways(studies: &[(String, Found)]) -> Part {
    let header = [
        "study",
        "space",
        "neighbours: old",
        "new",
        "all",
        "first to last: all",
        "fast to slow: best at",
        "pairs: barrier and forgotten",
        "learned and forgotten",
    ];
    let rows = |(name, found): &(String, Found)| {
        Space::ALL.map(|space| {
            let of = |wanted: Line| {
                let own = found.curves.iter().filter(move |curve| curve.space == space);
                own.filter(move |curve| line(curve) == Some(wanted))
            };
            let highest = |wanted: Line, group: usize| {
                let barrier = |curve: &Curve| {
                    let groups = page::groups(curve, found.domains())?;
                    Some(curve.barrier(&curve.mean(&groups[group].1)?))
                };
                of(wanted).filter_map(barrier).reduce(f64::max)
            };
            let best: Vec<f64> = of(Line::Learners)
                .filter_map(|curve| {
                    let groups = page::groups(curve, found.domains())?;
                    curve.best(&curve.mean(&groups[2].1)?).map(|(at, _)| at)
                })
                .collect();
            let mean = (!best.is_empty()).then(|| best.iter().sum::<f64>() / best.len() as f64);
            let mut row = words([name, space.name()]);
            row.extend([0, 1, 2].map(|group| or_dash(highest(Line::Neighbours, group), 4)));
            row.push(or_dash(highest(Line::Whole, 2), 4));
            row.push(or_dash(mean, 2));
            row.extend(pairs::predictions(found, space).map(|rho| or_dash(rho, 3)));
            row
        })
    };
    (
        "Along straight lines",
        "The highest barrier of any line in bits per byte, where on the way from fast to slow all domains \
         together lose least, and rank correlations over pairs of an old domain and the next one that was \
         learned.",
        (words(header), studies.iter().flat_map(rows).collect()),
    )
}

/// How alike texts are seen, and how much history is enough.
fn memory(studies: &[(String, Found)]) -> Part {
    let header =
        ["study", "CKA, lowest layer", "highest", "history for 50 %", "80 %", "95 %", "of blocks"];
    let row = |(name, found): &(String, Found)| {
        let least = |of: fn(&[f64]) -> Option<&f64>| {
            found.similarities.iter().filter_map(|one| of(&one.mean).copied()).reduce(f64::min)
        };
        let mut row = words([name]);
        row.extend([least(<[f64]>::first), least(<[f64]>::last)].map(|cka| or_dash(cka, 3)));
        let (enough, most) = page::enough(found);
        row.extend(enough.map(|blocks| or_dash(blocks, 0)));
        row.push(or_dash(most, 0));
        row
    };
    (
        "What stays",
        "Least linear CKA over domains of the mean of a block's tokens, in the lowest and the highest layer \
         that learns, and the least reservoir for a part of what the best one gains.",
        (words(header), studies.iter().map(row).collect()),
    )
}
