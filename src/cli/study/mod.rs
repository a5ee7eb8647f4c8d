//! `sapwood study`: what lies between the adapters that a stream leaves, and how alike they see a text.

mod record;
mod table;
mod pairs;
mod page;
mod scale;
mod sweep;

use super::args::{Cka, Connectivity, Plane as PlaneArgs, Studied, Study};
use super::console::Console;
use super::stream::{bar, domains, engines};
use anyhow::Context;
use record::{Key, OwnTexts, Plane as Scored, Record, Role, Similarity};
use sapwood::adapter::Adapter;
use sapwood::learner::{Engines, Stream, own_texts};
use sapwood::settings::{Reader, Settings};
use sapwood::study::{Plane, Space, along, cka};
use serde_json::json;
use std::ops::ControlFlow;

/// Fewest points of a line: both ends and one between them.
const POINTS_MIN: usize = 3;
/// Most of them.
const POINTS_MAX: usize = 1_001;

/// Most points of the side of a plane's grid.
const SIDE_MAX: usize = 101;
/// How far a plane's grid reaches beyond the three adapters, in parts of their extent.
const BEYOND: f64 = 0.25;

/// Runs one part of the study, over a stream that is learned once.
pub(crate) fn run(study: &Study, console: &Console) -> anyhow::Result<()> {
    match study {
        Study::Connectivity(args) => {
            anyhow::ensure!(
                (POINTS_MIN..=POINTS_MAX).contains(&args.points),
                "--points: expected {POINTS_MIN} to {POINTS_MAX}, got {}; nothing was started",
                args.points
            );
            over(&args.studied, console, |bench, prepared| {
                learn(&args.studied, prepared, bench)?;
                connectivity(args, bench, console)
            })
        }
        Study::Cka(args) => {
            anyhow::ensure!(
                args.blocks > 3,
                "--blocks: expected more than 3, got {}; nothing was started",
                args.blocks
            );
            over(&args.studied, console, |bench, prepared| {
                learn(&args.studied, prepared, bench)?;
                similarities(args, bench, console)
            })
        }
        Study::Plane(args) => {
            anyhow::ensure!(
                (POINTS_MIN..=SIDE_MAX).contains(&args.side),
                "--side: expected {POINTS_MIN} to {SIDE_MAX}, got {}; nothing was started",
                args.side
            );
            anyhow::ensure!(
                args.studied.met.domains.len() > 2,
                "expected at least three domains for a plane; nothing was started"
            );
            over(&args.studied, console, |bench, prepared| {
                learn(&args.studied, prepared, bench)?;
                plane(args, bench, console)
            })
        }
        Study::Sweep(args) => {
            sweep::check(args)?;
            check_seeds(args.seeds)?;
            over(&args.studied, console, |bench, prepared| sweep::sweep(args, prepared, bench))
        }
        Study::Scale(args) => scale::run(args, console),
        Study::History(args) => {
            anyhow::ensure!(
                !args.blocks.is_empty() && !args.blocks.contains(&0),
                "--blocks: expected numbers above 0; nothing was started"
            );
            check_seeds(args.seeds)?;
            over(&args.studied, console, |bench, prepared| sweep::history(args, prepared, bench))
        }
    }
}

/// What the parts of a study need: the stream, and what was found in it.
struct Bench<'a> {
    engines: &'a Engines,
    stream: Stream<'a>,
    names: &'a [String],
    record: Record,
}

/// What a study was asked to do.
struct Prepared<'a> {
    settings: Settings,
    has_own_texts: bool,
    console: &'a Console,
}

fn check_seeds(seeds: u64) -> anyhow::Result<()> {
    anyhow::ensure!(seeds > 0, "--seeds: expected at least 1, got 0; nothing was started");
    Ok(())
}

/// Loads everything, works with it, and writes what was found.
fn over(
    args: &Studied,
    console: &Console,
    work: impl FnOnce(&mut Bench<'_>, &Prepared<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let settings = super::settings(super::wishes(&args.learn, Reader::Stream)?)?;
    super::stream::check(args.met.eval_blocks, &settings)?;
    anyhow::ensure!(
        args.method.joint().is_none(),
        "--method: expected one that learns domain after domain, got {}; nothing was started",
        args.method.word()
    );
    let (engines, tokeniser) = engines(&settings, console)?;
    let mut domains = domains(&args.met, &settings, &tokeniser, console)?;
    anyhow::ensure!(domains.names.len() > 1, "expected at least two domains; nothing was started");
    let applied = args.method.apply(&settings);
    let mut written = OwnTexts::of(&args.out)?;
    if applied.own_texts() > 0 {
        let (opening, state) = (tokeniser.opening(), Some(&mut written.state));
        domains.own = own_texts(&engines, &opening, &applied, state, &mut || Ok(()))?.to_vec();
    }
    let key = Key::new(engines.base.hash(), args.method, &settings, &domains)?;
    let parameters = engines.base.config().parameters();
    let record = Record::open(&args.out, key, parameters)?;
    record.keep_own_texts(&written)?;
    super::html::check_place("--out", &record.at(page::REPORT))?;
    let stream = Stream::new(&engines, &domains, super::stream::HIDDEN_BYTES_MAX)?;
    let mut bench = Bench { engines: &engines, stream, names: &domains.names, record };
    let has_own_texts = !domains.own.is_empty();
    work(&mut bench, &Prepared { settings, has_own_texts, console })?;
    page::write(&bench.record)?;
    console.line(&format!("written: {}", bench.record.at(page::REPORT).display()))?;
    Ok(())
}

/// Learns what is left of the stream; after each domain it keeps what both learners were, and how to go on.
fn learn(args: &Studied, prepared: &Prepared<'_>, bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let Prepared { settings, console, .. } = prepared;
    let Bench { engines, stream, names, record } = bench;
    let count = names.len();
    if record.found.matrix.as_ref().is_some_and(|matrix| matrix.rows.len() == count) {
        return Ok(console.line("the stream was learned before: its adapters are taken")?);
    }
    let rest = record.rest(engines, args.method, settings, console)?;
    let from = rest.zip(record.found.matrix.take());
    let done = from.as_ref().map_or(0, |(rest, _)| rest.domains());
    let told = if done == 0 { String::new() } else { format!("; {done} were learned before") };
    console.line(&format!("learns {count} domains, {} steps each{told}", settings.iters))?;
    let bar = bar(settings.iters * (count - done) as u64, console, args.method, settings.seed);
    let mut kept = Ok(());
    let matrix = stream.follow(
        args.method,
        settings,
        from,
        |domain, report| {
            bar.set_message(format!("{domain} loss {:.3}", report.step.losses.fresh));
            bar.inc(1);
        },
        |matrix, halt| {
            kept = record.keep(matrix, halt, engines);
            if kept.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        },
    )?;
    bar.finish_and_clear();
    kept?;
    let event = json!({ "event": "learned", "before": done, "matrix": matrix });
    console.result(&event, &table(&matrix))?;
    record.found.matrix = Some(matrix);
    record.save()?;
    record.end_stream()
}

fn table(matrix: &sapwood::gate::Matrix) -> String {
    let row = |row: &Vec<f64>| row.iter().map(|score| format!("{score:>9.4}")).collect::<String>();
    let rows = matrix.domains.iter().zip(&matrix.rows);
    let rows: Vec<String> = rows.map(|(name, own)| format!("{}  after {name}", row(own))).collect();
    format!("bits per byte of each domain\n{}  before\n{}", row(&matrix.before), rows.join("\n"))
}

/// A moment of the stream: a learner after a domain.
type Moment = (Role, usize);

/// The lines that are scored: between neighbours, between fast and slow, from the first to the last.
fn lines(domains: usize) -> Vec<[Moment; 2]> {
    let slow = |at| (Role::Slow, at);
    let neighbours = (1..domains).map(|at| [slow(at - 1), slow(at)]);
    let learners = (0..domains).map(|at| [(Role::Fast, at), slow(at)]);
    let whole = (domains > 2).then(|| [slow(0), slow(domains - 1)]);
    neighbours.chain(learners).chain(whole).collect()
}

/// Scores the lines between the adapters of the stream.
fn connectivity(
    args: &Connectivity,
    bench: &mut Bench<'_>,
    console: &Console,
) -> anyhow::Result<()> {
    let config = bench.engines.base.config();
    let title = |(role, at): Moment| format!("{} after {}", role.name(), moment(bench.names, at));
    let all: Vec<([String; 2], [Moment; 2], Space)> = lines(bench.names.len())
        .into_iter()
        .flat_map(|ends| Space::ALL.map(|space| (ends.map(title), ends, space)))
        .collect();
    let is_left = |(names, _, space): &&([String; 2], _, Space)| {
        !bench.record.has([&names[0], &names[1]], *space, args.points)
    };
    let left: Vec<_> = all.iter().filter(is_left).collect();
    console.line(&format!(
        "scores {} lines at {} points; {} of {} are there already",
        left.len(),
        args.points,
        all.len() - left.len(),
        all.len()
    ))?;
    let bar = bar((left.len() * args.points) as u64, console, args.studied.method, 0);
    for (names, ends, space) in left {
        let read = |(role, at): Moment| bench.record.adapter(at, role, config);
        let adapters: [Adapter; 2] = [read(ends[0])?, read(ends[1])?];
        let named = [(&*names[0], &adapters[0]), (&*names[1], &adapters[1])];
        bar.set_message(format!("{} to {}", names[0], names[1]));
        let stream = &bench.stream;
        let score = |adapter: &Adapter| -> anyhow::Result<(Vec<f64>, Option<f64>)> {
            bar.inc(1);
            Ok(stream.scores(Some(adapter))?)
        };
        let curve = along(*space, named, args.points, score)?;
        if console.json() {
            console.result(&json!({ "event": "line", "curve": curve }), "")?;
        }
        bench.record.add(curve);
        bench.record.save()?;
    }
    bar.finish_and_clear();
    let (header, rows) = page::barriers(&bench.record.found);
    console.line(&table::text(&header, &rows))?;
    let (header, rows) = pairs::correlations(&bench.record.found);
    console.line(&format!("\nover pairs of domains\n{}", table::text(&header, &rows)))?;
    Ok(())
}

/// Scores the plane through three of the stream's slow adapters.
fn plane(args: &PlaneArgs, bench: &mut Bench<'_>, console: &Console) -> anyhow::Result<()> {
    let (config, last) = (bench.engines.base.config(), bench.names.len() - 1);
    let moments = [0, last / 2, last];
    let [first, second, third] = moments.map(|at| bench.record.adapter(at, Role::Slow, config));
    let adapters = [first?, second?, third?];
    let plane = Plane::through([&adapters[0], &adapters[1], &adapters[2]])?;
    let names = moments.map(|at| format!("after {}", moment(bench.names, at)));
    let grid = plane.grid(args.side, BEYOND);
    let mut scored = match bench.record.found.plane.take() {
        Some(scored) if scored.side == args.side => scored,
        _ => Scored { names, places: plane.places(), side: args.side, points: Vec::new() },
    };
    let done = scored.points.len();
    console.line(&format!("scores {} adapters; {done} are there already", grid.len() - done))?;
    let bar = bar((grid.len() - done) as u64, console, args.studied.method, 0);
    for place in grid.into_iter().skip(done) {
        let (losses, _) = bench.stream.scores(Some(&plane.at(place)))?;
        scored.points.push((place, losses));
        // Row by row: the record is written whole each time.
        if scored.points.len() % args.side == 0 {
            bench.record.found.plane = Some(scored.clone());
            bench.record.save()?;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if console.json() && done < scored.points.len() {
        console.result(&json!({ "event": "plane", "plane": scored }), "")?;
    }
    bench.record.found.plane = Some(scored);
    Ok(())
}

/// A domain with its place in the stream: it may be met twice.
fn moment(names: &[String], at: usize) -> String {
    format!("{} {}", at + 1, names.get(at).map_or("", String::as_str))
}

/// Compares how the layers saw each domain's text when it had just been learned, and at the end.
fn similarities(args: &Cka, bench: &mut Bench<'_>, console: &Console) -> anyhow::Result<()> {
    let config = bench.engines.base.config();
    let last = bench.names.len() - 1;
    let end = bench.record.adapter(last, Role::Slow, config)?;
    let mut found = Vec::new();
    for at in 0..last {
        let then = bench.record.adapter(at, Role::Slow, config)?;
        let [before, after] =
            [&then, &end].map(|adapter| bench.stream.features(at, Some(adapter), args.blocks));
        let (before, after) = (before?, after?);
        let mut similarity = Similarity {
            domain: moment(bench.names, at),
            layers: Vec::new(),
            mean: Vec::new(),
            last: Vec::new(),
            blocks: before.first().map_or(0, |seen| seen.mean.rows()),
        };
        for (before, after) in before.iter().zip(&after) {
            let told = || format!("layer {} of {}", before.layer, similarity.domain);
            similarity.layers.push(before.layer);
            similarity.mean.push(cka(&before.mean, &after.mean).with_context(told)?);
            similarity.last.push(cka(&before.last, &after.last).with_context(told)?);
        }
        if console.json() {
            console.result(&json!({ "event": "cka", "similarity": similarity }), "")?;
        }
        found.push(similarity);
    }
    bench.record.found.similarities = found;
    bench.record.save()?;
    let (header, rows) = page::alike(&bench.record.found);
    console.line(&table::text(&header, &rows))?;
    Ok(())
}
