//! `sapwood stream`: domains one after the other, by several methods, and what each forgets.

use super::args::{Met, Stream as Args};
use super::console::Console;
use super::{chosen, host, plot};
use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use sapwood::gate::{Matrix, Report, Run, Split};
use sapwood::intake::Example;
use sapwood::learner::{Domains, Engines, Stream, own_texts};
use sapwood::settings::{Method, Reader, Settings};
use sapwood::tokenise::Tokeniser;
use serde_json::json;
use std::fs;
use std::path::Path;

/// Bytes of hidden states that the runs share.
pub(super) const HIDDEN_BYTES_MAX: usize = 1 << 30;

/// Runs every method under every seed and shows the tables.
pub(crate) fn run(args: &Args, console: &Console) -> anyhow::Result<()> {
    let settings = super::settings(super::wishes(&args.learn, Reader::Stream)?)?;
    check_seeds(args, &settings)?;
    check(args.met.eval_blocks, &settings)?;
    if let Some(out) = &args.out {
        fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    }
    let (engines, tokeniser) = engines(&settings, console)?;
    let mut domains = domains(&args.met, &settings, &tokeniser, console)?;
    let asked = |method: &&Method| args.methods.is_empty() || args.methods.contains(method);
    let methods: Vec<Method> = Method::ALL.iter().filter(asked).copied().collect();
    let mut chosen = methods.iter().map(|method| method.apply(&settings));
    if let Some(settings) = chosen.find(|settings| settings.own_texts() > 0) {
        let own = own_texts(&engines, &tokeniser.opening(), &settings, None, &mut || Ok(()))?;
        domains.own = own.to_vec();
    }
    let mut stream = Stream::new(&engines, &domains, HIDDEN_BYTES_MAX)?;
    let mut report =
        Report { unit: "bits per byte".into(), split: args.met.split.into(), runs: Vec::new() };
    for seed in settings.seed..settings.seed + args.seeds {
        for &method in &methods {
            let settings = Settings { seed, ..settings.clone() };
            let matrix = learn(&mut stream, method, &settings, domains.names.len(), console)?;
            let run = Run { method: method.title().into(), seed, matrix };
            tell(&run, console)?;
            report.runs.push(run);
            if let Some(out) = &args.out {
                write(out, &report)?;
            }
        }
    }
    for run in report.runs.iter().filter(|run| run.seed == settings.seed) {
        let (method, seed, unit) = (&run.method, run.seed, &report.unit);
        console.line(&format!("\n{method} (seed {seed}), {unit}\n{}", run.to_markdown()))?;
    }
    console.line(&report.to_markdown()?)?;
    if console.json() {
        for summary in report.summaries()? {
            let mut value = serde_json::to_value(summary)?;
            value["event"] = "summary".into();
            console.result(&value, "")?;
        }
    }
    Ok(())
}

/// The engines of a stream, and the tokenizer of its base.
pub(super) fn engines(
    settings: &Settings,
    console: &Console,
) -> anyhow::Result<(Engines, Tokeniser)> {
    host::bind_threads(settings.threads, console)?;
    let model = chosen::model(settings.model.as_ref())?;
    let engines = Engines::load_within(model, settings, 0, host::available_bytes())?;
    engines.notices(settings).iter().try_for_each(|notice| console.warn(notice))?;
    let tokeniser = chosen::tokeniser(model, &engines)?;
    Ok((engines, tokeniser))
}

/// Refuses seeds that there are not.
fn check_seeds(args: &Args, settings: &Settings) -> anyhow::Result<()> {
    anyhow::ensure!(args.seeds > 0, "--seeds: expected at least 1, got 0; nothing was started");
    anyhow::ensure!(
        settings.seed.checked_add(args.seeds).is_some(),
        "--seeds: expected so many that the last is a number of 64 bits, got {} from --seed {} on; \
         nothing was started",
        args.seeds,
        settings.seed
    );
    Ok(())
}

/// Refuses what makes no comparison.
pub(super) fn check(eval_blocks: usize, settings: &Settings) -> anyhow::Result<()> {
    let counts = [("eval-blocks", eval_blocks), ("replay-batch-size", settings.replay_batch_size)];
    for (key, count) in counts {
        anyhow::ensure!(count > 0, "--{key}: expected at least 1, got 0; nothing was started");
    }
    let method = "--methods as-published does as the authors' program, next to the others";
    anyhow::ensure!(!settings.as_published, "--as-published: {method}; nothing was started");
    Ok(())
}

/// One method under one seed, with its progress.
fn learn(
    stream: &mut Stream<'_>,
    method: Method,
    settings: &Settings,
    domains: usize,
    console: &Console,
) -> anyhow::Result<Matrix> {
    let steps = settings.iters * domains as u64 * method.joint().unwrap_or(1);
    let bar = bar(steps, console, method, settings.seed);
    let matrix = stream.run(method, settings, |domain, report| {
        bar.set_message(format!("{domain} loss {:.3}", report.step.losses.fresh));
        bar.inc(1);
    })?;
    bar.finish_and_clear();
    Ok(matrix)
}

/// What came of a run.
fn tell(run: &Run, console: &Console) -> anyhow::Result<()> {
    let Run { method, seed, matrix } = run;
    let metrics = matrix.metrics()?;
    let value = json!({
        "event": "run", "method": method, "seed": seed, "matrix": matrix, "metrics": metrics,
    });
    let general = metrics.general.map_or(String::new(), |rise| format!(" general {rise:+.2} %"));
    let learned = match run.is_joint() {
        true => String::new(),
        false => format!(
            " LA {:.4} BWT {:+.4} forgetting {:.4}",
            metrics.la, metrics.bwt, metrics.forgetting
        ),
    };
    let text = format!(
        "{method} seed {seed}: ACC {:.4} last {:.4}{learned}{general}",
        metrics.acc, metrics.last
    );
    console.result(&value, &text).map_err(Into::into)
}

/// The blocks of every domain; each has as many as the job can learn once.
pub(super) fn domains(
    args: &Met,
    settings: &Settings,
    tokeniser: &Tokeniser,
    console: &Console,
) -> anyhow::Result<Domains> {
    let mut domains = Domains::new();
    let batch = settings.batch_size * settings.grad_accumulation_steps;
    let train_max = usize::try_from(settings.iters)?.saturating_mul(batch);
    let cut = |path: &Path, examples: &[Example], part: &str| {
        let name = chosen::name(path);
        let warn = |text: &str| console.warn(&format!("{name}: {text}"));
        let blocks = chosen::blocks(tokeniser, examples, settings, 0, warn);
        blocks.with_context(|| format!("{}, {part}", path.display()))
    };
    for path in &args.domains {
        let data = chosen::data(path)?;
        let mut train = cut(path, &data.train, "to learn")?;
        let scored = match args.split.into() {
            Split::Valid => Domains::hold_back(&mut train, args.eval_blocks),
            Split::Test if data.test.is_empty() => cut(path, &data.valid, "held out")?,
            Split::Test => cut(path, &data.test, "held out")?,
        };
        domains.push(chosen::name(path), train, scored, train_max, args.eval_blocks);
    }
    if let Some(path) = &args.general {
        let general = cut(path, &chosen::to_score(chosen::whole(path)?), "general text")?;
        anyhow::ensure!(!general.is_empty(), "{} gives no block to score", path.display());
        domains.general = Domains::choose(general, args.eval_blocks);
    }
    Ok(domains)
}

pub(super) fn bar(steps: u64, console: &Console, method: Method, seed: u64) -> ProgressBar {
    if console.json() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(steps);
    if let Ok(style) =
        ProgressStyle::with_template("{prefix} {bar:24} {pos}/{len} {msg} {eta} left")
    {
        bar.set_style(style);
    }
    bar.set_prefix(format!("{} seed {seed}", method.title()));
    bar
}

/// All files of a report; each run adds to them, so that a long comparison can be read early.
fn write(out: &Path, report: &Report) -> anyhow::Result<()> {
    let save = |name: &str, text: String| {
        let path = out.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    save("matrix.csv", report.to_csv())?;
    save("stream.json", serde_json::to_string_pretty(report)?)?;
    save("table.md", report.to_markdown()?)?;
    for (name, text) in plot::stream(report)? {
        save(&name, text)?;
    }
    Ok(())
}
