//! What a study found, as tables, CSV, pictures and one page.

use super::super::html::{self, Html, number};
use super::super::picture::{curves, ground, map};
use super::pairs;
use super::record::{Choice, Found, Plane, Record, Similarity, Swept};
use super::table::{Table, cell, words};
use sapwood::gate::Metrics;
use sapwood::study::{Curve, Space};
use serde_json::Value;

/// The page.
pub(super) const REPORT: &str = "report.html";

/// Writes every file of what was found.
pub(super) fn write(record: &Record) -> anyhow::Result<()> {
    let found = &record.found;
    let mut page = Html::new("What lies between the adapters of a stream");
    add_stream(&mut page, found);
    if !found.curves.is_empty() {
        record.write("connectivity.csv", &lines_csv(found))?;
        page.heading("Along straight lines");
        page.paragraph(
            "A barrier is the most by which the loss on the way is above the straight line between the \
             losses of the ends; the best point is where all domains together lose least. Old: the domains \
             learned before the end of the line; new: the one learned last. Lines of products do not see \
             how a product is split into A and B.",
        );
        add(&mut page, 3, barriers(found));
        for (name, svg) in pictures(found) {
            record.write(&name, &svg)?;
            page.picture(&svg);
        }
        record.write("pairs.csv", &pairs::csv(found))?;
        page.heading("Does a barrier tell what is forgotten?");
        page.paragraph(
            "Rank correlation over pairs of a domain that had been learned and the next one that was: the \
             barrier of the old domain on the line, by how much its loss rose from end to end, how far the \
             weights went, and by how much the new domain's loss fell.",
        );
        add(&mut page, 3, pairs::correlations(found));
    }
    if !found.similarities.is_empty() {
        record.write("cka.csv", &cka_csv(found))?;
        page.heading("How alike the layers see a text when it was just learned, and at the end");
        page.paragraph(
            "Linear CKA of the residual stream after each layer, on held-out text of the domain; 1: alike \
             but for a rotation and a scale. Below 500 blocks it is the estimate without bias. Layers below \
             those that learn are the same and not shown.",
        );
        add(&mut page, 2, alike(found));
        for (title, file, of) in KINDS {
            let svg = heat(title, found, of);
            record.write(file, &svg)?;
            page.picture(&svg);
        }
    }
    if let Some(plane) = &found.plane {
        record.write("plane.csv", &plane_csv(plane, found))?;
        page.heading("The plane through three adapters");
        page.paragraph(
            "Bits per byte over all domains of the stream, between factors: distances are those of A and B. \
             Darker is more.",
        );
        let svg = plane_map(plane);
        record.write("plane.svg", &svg)?;
        page.picture(&svg);
    }
    if !found.swept.is_empty() {
        record.write("sweep.csv", &swept_csv(found)?)?;
        page.heading("Under other settings");
        page.paragraph(
            "Bits per byte over all domains at the end (ACC), just learned (LA) and lost since (forgetting), \
             and by how much general text rose; means over seeds.",
        );
        add(&mut page, 1, swept(found));
        page.heading("What is best for each domain at the end");
        add(&mut page, 2, recommended(found));
        let (header, rows) = history(found);
        if !rows.is_empty() {
            page.heading("How much history is enough");
            page.paragraph(
                "The gain is what the reservoir saves over all domains at the end, beside none; its parts are \
                 of the best one's.",
            );
            add(&mut page, 0, (header, rows));
            let svg = history_curve(found);
            record.write("history.svg", &svg)?;
            page.picture(&svg);
        }
    }
    html::write("--out", &record.at(REPORT), &page.finish())
}

/// Both ways to make one row of a block.
type Kind = fn(&Similarity) -> &Vec<f64>;
const KINDS: [(&str, &str, Kind); 2] = [
    ("CKA of the mean of a block's tokens", "cka-mean.svg", |one| &one.mean),
    ("CKA of a block's last token", "cka-last.svg", |one| &one.last),
];

fn add(page: &mut Html, words: usize, (header, rows): Table) {
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    page.table(words, &header, rows.into_iter().map(|row| (false, row)));
}

fn add_stream(page: &mut Html, found: &Found) {
    let Some(matrix) = &found.matrix else { return };
    page.heading("The stream");
    page.paragraph("Bits per byte of each domain's held-out text, after each domain was learned.");
    let header: Vec<String> =
        std::iter::once("after".to_owned()).chain(matrix.domains.iter().cloned()).collect();
    let names = std::iter::once("nothing").chain(matrix.domains.iter().map(String::as_str));
    let rows =
        names.zip(std::iter::once(&matrix.before).chain(&matrix.rows)).map(|(name, scores)| {
            let scores = scores.iter().map(|score| number(*score, 4));
            std::iter::once(name.to_owned()).chain(scores).collect()
        });
    add(page, 1, (header, rows.collect()));
}

/// Which domains are old, new and all at a line that ends after a domain.
pub(super) fn groups(curve: &Curve, domains: usize) -> Option<[(&'static str, Vec<usize>); 3]> {
    let end = pairs::place(&curve.to)?;
    (1..=domains).contains(&end).then(|| {
        [("old", (0..end - 1).collect()), ("new", vec![end - 1]), ("all", (0..end).collect())]
    })
}

/// A row a line: its barriers, its best point, its length.
pub(super) fn barriers(found: &Found) -> Table {
    let header = words([
        "from",
        "to",
        "space",
        "barrier old",
        "new",
        "all",
        "general",
        "best at",
        "gains",
        "length",
    ]);
    let row = |curve: &Curve| {
        let groups = groups(curve, found.domains())?;
        let barrier = |losses: Option<Vec<f64>>| {
            losses.map_or("–".to_owned(), |losses| number(curve.barrier(&losses), 4))
        };
        let mut row = words([&curve.from, &curve.to, curve.space.name()]);
        row.extend(groups.iter().map(|(_, domains)| barrier(curve.mean(domains))));
        row.push(barrier(curve.general()));
        let best = curve.mean(&groups[2].1).and_then(|losses| curve.best(&losses));
        row.push(best.map_or("–".to_owned(), |(at, _)| number(at, 2)));
        row.push(best.map_or("–".to_owned(), |(_, gain)| number(gain, 4)));
        row.push(number(curve.points.last().map_or(f64::NAN, |point| point.distance), 2));
        Some(row)
    };
    (header, found.curves.iter().filter_map(row).collect())
}

/// A row a domain: CKA of its first, middle and last layer.
pub(super) fn alike(found: &Found) -> Table {
    let layers = found.similarities.first().map_or(&[][..], |one| &one.layers);
    let mut header = words(["domain", "row of a block"]);
    header.extend(layers.iter().map(|layer| format!("layer {layer}")));
    let rows = found.similarities.iter().flat_map(|one| {
        [("mean", &one.mean), ("last token", &one.last)].map(|(kind, values)| {
            let numbers = values.iter().map(|value| number(*value, 4));
            words([&one.domain, kind]).into_iter().chain(numbers).collect()
        })
    });
    (header, rows.collect())
}

fn heat(title: &str, found: &Found, of: Kind) -> String {
    let layers = found.similarities.first().map_or(&[][..], |one| &one.layers);
    let columns: Vec<String> = layers.iter().map(usize::to_string).collect();
    let rows: Vec<(String, Vec<f64>)> =
        found.similarities.iter().map(|one| (one.domain.clone(), of(one).clone())).collect();
    map(title, &columns, &rows)
}

/// A picture a line; that of its products stands beside that of its factors.
fn pictures(found: &Found) -> Vec<(String, String)> {
    let mut pictures = Vec::new();
    let spaces = |first: &Curve| -> Vec<&Curve> {
        let same = |curve: &&Curve| (&curve.from, &curve.to) == (&first.from, &first.to);
        found.curves.iter().filter(same).collect()
    };
    let lines = found.curves.iter().filter(|curve| curve.space == Space::Factors);
    for (index, first) in lines.enumerate() {
        let mut drawn = Vec::new();
        for curve in spaces(first) {
            let Some(groups) = groups(curve, found.domains()) else { continue };
            for (name, domains) in &groups {
                let Some(losses) = curve.mean(domains) else { continue };
                let points = curve.points.iter().zip(losses).map(|(point, loss)| [point.at, loss]);
                drawn.push((format!("{name}, {}", curve.space.name()), points.collect()));
            }
        }
        let title = format!("{} to {}", first.from, first.to);
        let svg = curves(&title, "bits per byte", "part of the way", &drawn);
        pictures.push((format!("line-{}.svg", index + 1), svg));
    }
    pictures
}

fn lines_csv(found: &Found) -> String {
    let mut csv = "from,to,space,at,distance,text,bits_per_byte\n".to_owned();
    let names = found.matrix.as_ref().map_or(&[][..], |matrix| &matrix.domains);
    for curve in &found.curves {
        for point in &curve.points {
            let general = point.general.map(|loss| ("general text", loss));
            let own = names.iter().map(String::as_str).zip(point.losses.iter().copied());
            for (name, loss) in own.chain(general) {
                csv += &format!(
                    "{},{},{},{},{},{},{loss}\n",
                    cell(&curve.from),
                    cell(&curve.to),
                    curve.space.name(),
                    point.at,
                    point.distance,
                    cell(name)
                );
            }
        }
    }
    csv
}

fn cka_csv(found: &Found) -> String {
    let mut csv = "domain,layer,row,blocks,cka\n".to_owned();
    for one in &found.similarities {
        for (kind, values) in [("mean", &one.mean), ("last", &one.last)] {
            for (layer, value) in one.layers.iter().zip(values) {
                csv += &format!("{},{layer},{kind},{},{value}\n", cell(&one.domain), one.blocks);
            }
        }
    }
    csv
}

fn plane_csv(plane: &Plane, found: &Found) -> String {
    let names = found.matrix.as_ref().map_or(&[][..], |matrix| &matrix.domains);
    let mut csv = "x,y,text,bits_per_byte\n".to_owned();
    for ([x, y], losses) in &plane.points {
        for (name, loss) in names.iter().zip(losses) {
            csv += &format!("{x},{y},{},{loss}\n", cell(name));
        }
    }
    csv
}

fn plane_map(plane: &Plane) -> String {
    let points = plane.points.iter().map(|(place, losses)| (*place, mean(losses.iter().copied())));
    let marks = plane.names.iter().map(String::as_str).zip(plane.places);
    ground(
        "All domains on the plane through three adapters",
        plane.side,
        &points.collect::<Vec<_>>(),
        &marks.collect::<Vec<_>>(),
    )
}

/// A choice in words.
pub(super) fn chosen(choice: &Choice) -> String {
    let words: Vec<String> =
        choice.iter().map(|(key, value)| format!("{key} {}", shown(value))).collect();
    if words.is_empty() { "as it stands".to_owned() } else { words.join(", ") }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    sum / f64::from(count)
}

/// Every choice with its runs, in the order in which they came.
fn by_choice(found: &Found) -> Vec<(&Choice, Vec<&Swept>)> {
    let mut all: Vec<(&Choice, Vec<&Swept>)> = Vec::new();
    for one in &found.swept {
        match all.iter_mut().find(|(choice, _)| **choice == one.choice) {
            Some((_, runs)) => runs.push(one),
            None => all.push((&one.choice, vec![one])),
        }
    }
    all
}

/// The mean of a metric over some runs.
fn metric(runs: &[&Swept], of: impl Fn(&Metrics) -> f64) -> f64 {
    mean(runs.iter().map(|run| run.matrix.metrics().map_or(f64::NAN, |metrics| of(&metrics))))
}

/// A row a choice.
pub(super) fn swept(found: &Found) -> Table {
    let header = words(["settings", "seeds", "ACC", "LA", "forgetting", "general %"]);
    let row = |(choice, runs): (&Choice, Vec<&Swept>)| {
        vec![
            chosen(choice),
            runs.len().to_string(),
            number(metric(&runs, |one| one.acc), 4),
            number(metric(&runs, |one| one.la), 4),
            number(metric(&runs, |one| one.forgetting), 4),
            number(metric(&runs, |one| one.general.unwrap_or(f64::NAN)), 2),
        ]
    };
    (header, by_choice(found).into_iter().map(row).collect())
}

/// The one of some choices that has the least loss over all domains at the end.
pub(super) fn least<'c>(found: &Found, choices: &'c [Choice]) -> Option<&'c Choice> {
    let all = by_choice(found);
    let scored = choices.iter().filter_map(|choice| {
        let (_, runs) = all.iter().find(|(one, _)| *one == choice)?;
        Some((choice, metric(runs, |one| one.acc)))
    });
    scored.min_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(choice, _)| choice)
}

/// For each domain and each setting with several values: the mean at the end by value, the best first.
pub(super) fn recommended(found: &Found) -> Table {
    let header = words(["domain", "setting", "best", "others: loss above the best"]);
    let names = found.swept.first().map_or(&[][..], |one| &one.matrix.domains);
    let mut settings: Vec<&String> = found.swept.iter().flat_map(|one| one.choice.keys()).collect();
    settings.sort_unstable();
    settings.dedup();
    let mut rows = Vec::new();
    for (domain, name) in names.iter().enumerate() {
        for setting in &settings {
            let mut values: Vec<&Value> =
                found.swept.iter().filter_map(|one| one.choice.get(*setting)).collect();
            values.dedup();
            let mut scored: Vec<(f64, &Value)> = Vec::new();
            for value in values {
                if scored.iter().any(|(_, other)| *other == value) {
                    continue;
                }
                let runs = found.swept.iter().filter(|one| one.choice.get(*setting) == Some(value));
                let last = runs.filter_map(|one| one.matrix.rows.last()?.get(domain).copied());
                scored.push((mean(last), value));
            }
            scored.sort_by(|one, other| one.0.total_cmp(&other.0));
            let [(best, value), others @ ..] = &scored[..] else { continue };
            if others.is_empty() {
                continue;
            }
            let others: Vec<String> = others
                .iter()
                .map(|(loss, value)| format!("{} +{}", shown(value), number(loss - best, 4)))
                .collect();
            rows.push(words([name, setting, &shown(value), &others.join(", ")]));
        }
    }
    (header, rows)
}

/// Reservoirs by their blocks, 0 for none, with ACC: what was run for its history.
fn remembered(found: &Found) -> Vec<(f64, f64)> {
    let blocks = |choice: &Choice| match (choice.len(), choice.iter().next()?) {
        (1, (key, value)) if key == "replay-blocks" => value.as_f64(),
        (1, (key, value)) if key == "replay-batch-size" && value.as_f64() == Some(0.0) => Some(0.0),
        _ => None,
    };
    let mut all: Vec<(f64, f64)> = by_choice(found)
        .into_iter()
        .filter_map(|(choice, runs)| Some((blocks(choice)?, metric(&runs, |one| one.acc))))
        .collect();
    all.sort_by(|one, other| one.0.total_cmp(&other.0));
    all
}

/// The parts of the gain that are asked after, in percent.
const PARTS: [f64; 3] = [50.0, 80.0, 95.0];

/// Every reservoir with its blocks, ACC and gain beside none, and the most that one gains.
fn gains(found: &Found) -> (Vec<[f64; 3]>, f64) {
    let all = remembered(found);
    let [(0.0, without), _, ..] = all[..] else { return (Vec::new(), 0.0) };
    let all: Vec<_> = all.iter().map(|&(blocks, acc)| [blocks, acc, without - acc]).collect();
    let best = all.iter().map(|[_, _, gain]| *gain).fold(0.0, f64::max);
    (all, best)
}

/// The least reservoir that has each of the parts of the best one's gain, and the largest that was tried.
pub(super) fn enough(found: &Found) -> ([Option<f64>; PARTS.len()], Option<f64>) {
    let (all, best) = gains(found);
    let least = |part: f64| {
        let has = |[blocks, _, gain]: &&[f64; 3]| *blocks > 0.0 && 100.0 * gain >= part * best;
        all.iter().find(has).map(|[blocks, ..]| *blocks)
    };
    (PARTS.map(least), all.last().map(|[blocks, ..]| *blocks))
}

/// A row a reservoir: what it gains, and of which parts of the best one's gain it is the least that has it.
pub(super) fn history(found: &Found) -> Table {
    let header = words(["blocks", "ACC", "gain", "of the best %", "least for"]);
    let ((all, best), (least, _)) = (gains(found), enough(found));
    let row = |[blocks, acc, gain]: &[f64; 3]| {
        let own = PARTS.iter().zip(least).filter(|(_, least)| *least == Some(*blocks));
        let own: Vec<String> = own.map(|(part, _)| format!("{part} %")).collect();
        vec![
            number(*blocks, 0),
            number(*acc, 4),
            number(*gain, 4),
            number(100.0 * gain / best, 1),
            own.join(", "),
        ]
    };
    (header, all.iter().map(row).collect())
}

fn history_curve(found: &Found) -> String {
    let points = remembered(found);
    // Each size is about twice the one before: counted in doublings they stand apart.
    let points = points.iter().map(|(blocks, acc)| [(blocks + 1.0).log2(), *acc]).collect();
    curves(
        "History that is kept, and what is left to lose",
        "bits per byte",
        "log2 (blocks + 1)",
        &[("all domains at the end", points)],
    )
}

fn swept_csv(found: &Found) -> anyhow::Result<String> {
    let mut csv = "settings,seed,acc,la,forgetting,bwt,general\n".to_owned();
    for one in &found.swept {
        let metrics = one.matrix.metrics()?;
        let general = metrics.general.map_or(String::new(), |rise| rise.to_string());
        csv += &format!(
            "{},{},{},{},{},{},{general}\n",
            cell(&chosen(&one.choice)),
            one.seed,
            metrics.acc,
            metrics.la,
            metrics.forgetting,
            metrics.bwt
        );
    }
    Ok(csv)
}
