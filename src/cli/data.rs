//! `sapwood data check`: what a job would read, learn and leave, before it learns anything.
//!
//! - In: data and a model folder. Out: files, counts, and the first samples with what is learned of them.
//! - Invariant: it refuses what `sapwood adapt` refuses of data, by the same words.

use super::args::{Data, DataCheck};
use super::chosen;
use super::console::Console;
use super::host;
use sapwood::base::read_config;
use sapwood::intake::{Dataset, Example, HeldOut};
use sapwood::settings::Settings;
use sapwood::tokenise::{Blocks, Piece, Report, Tokeniser};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fmt::Write;

/// Does what was asked of data.
pub(crate) fn run(action: &Data, console: &Console) -> anyhow::Result<()> {
    let Data::Check(args) = action;
    check(args, console)
}

/// A part of the data as blocks.
struct Part<'d> {
    name: &'static str,
    examples: &'d [Example],
    report: Report,
    warnings: Vec<String>,
}

fn check(args: &DataCheck, console: &Console) -> anyhow::Result<()> {
    let model = chosen::model(args.model.as_ref())?;
    let data = chosen::data(&args.data)?;
    let config = read_config(model)?;
    let length =
        args.max_seq_length.unwrap_or(Settings::default().max_seq_length.min(config.context));
    config.check_length(length)?;
    let settings =
        Settings { mask_prompt: args.mask_prompt, max_seq_length: length, ..Settings::default() };
    settings.check()?;
    let tokeniser = Tokeniser::open(model, config.vocab)?;
    tokeniser.warnings().iter().try_for_each(|warning| console.warn(&warning.to_string()))?;
    chosen::tell_skipped(&data, console)?;
    tell_files(&data, console)?;
    for part in parts(&data, &chosen::name(&args.data), &tokeniser, &settings)? {
        tell_part(&part, console)?;
    }
    tell_twice(&data, console)?;
    for (at, example) in data.train.iter().take(args.show).enumerate() {
        let pieces = tokeniser.pieces(example, length, args.mask_prompt)?;
        tell_sample(at + 1, &pieces, console)?;
    }
    Ok(())
}

/// What a job learns and judges by; refused as a job refuses it.
fn parts<'d>(
    data: &'d Dataset,
    name: &str,
    tokeniser: &Tokeniser,
    settings: &Settings,
) -> anyhow::Result<Vec<Part<'d>>> {
    let (held_out, words) = chosen::held_out(data, name)?;
    let mut parts = Vec::new();
    for (name, examples) in [("train", &data.train[..]), (words, held_out)] {
        let mut warnings = Vec::new();
        let Blocks { report, .. } = chosen::part(tokeniser, examples, settings, name, |text| {
            warnings.push(text.to_owned());
            Ok(())
        })?;
        parts.push(Part { name, examples, report, warnings });
    }
    Ok(parts)
}

fn tell_files(data: &Dataset, console: &Console) -> anyhow::Result<()> {
    for source in &data.sources {
        let (part, kind) = (source.part.word(), source.kind.word());
        let value = json!({
            "event": "file", "path": source.path, "part": part, "kind": kind, "examples": source.examples,
        });
        let text =
            format!("{}: {part}, {kind}, examples: {}", source.path.display(), source.examples);
        console.result(&value, &text)?;
    }
    if let HeldOut::Split { examples, bytes } = data.held_out {
        console.line(&format!("held out from the end: examples: {examples}, {bytes} bytes"))?;
    }
    Ok(())
}

fn tell_part(part: &Part<'_>, console: &Console) -> anyhow::Result<()> {
    let Part { name, examples, report, warnings } = part;
    let count = |is: fn(&Example) -> bool| examples.iter().filter(|example| is(example)).count();
    let kinds = [
        ("texts", count(|example| matches!(example, Example::Text(_)))),
        ("completions", count(|example| matches!(example, Example::Completion { .. }))),
        ("conversations", count(|example| matches!(example, Example::Messages(_)))),
        ("choices", count(|example| matches!(example, Example::Choice(_)))),
    ];
    let value = json!({
        "event": "part", "part": name, "examples": examples.len(),
        "kinds": kinds.iter().map(|(kind, count)| ((*kind).to_owned(), Value::from(*count))).collect::<serde_json::Map<_, _>>(),
        "tokens": report.tokens, "learned": report.labels, "bytes": report.bytes,
        "cut": report.examples_cut, "tokens_cut": report.tokens_dropped,
        "unlabelled": report.examples_unlabelled, "turns_left_out": report.turns_lost,
    });
    let mut text = format!("{name}: ");
    for (kind, count) in kinds.iter().filter(|(_, count)| *count > 0) {
        write!(text, "{count} {kind}, ")?;
    }
    let part = 100.0 * report.labels as f64 / report.tokens.max(1) as f64;
    write!(
        text,
        "{} tokens, of which {} count ({part:.0} %); cut: {} examples, {} tokens; with nothing that counts: {}",
        report.tokens,
        report.labels,
        report.examples_cut,
        report.tokens_dropped,
        report.examples_unlabelled
    )?;
    console.result(&value, &text)?;
    for warning in warnings {
        console.warn(&format!("{name}: {warning}"))?;
    }
    Ok(())
}

/// Examples that stand twice, and those that are learned and judged by.
fn tell_twice(data: &Dataset, console: &Console) -> anyhow::Result<()> {
    let mut seen = HashSet::new();
    let twice =
        data.train.iter().filter(|example| !seen.insert(*example.digest().as_bytes())).count();
    let held_out = data.valid.iter().chain(&data.test);
    let learned = held_out.filter(|example| seen.contains(example.digest().as_bytes())).count();
    let value = json!({ "event": "twice", "train": twice, "held_out": learned });
    let text = format!("twice in train: {twice}; held out and in train too: {learned}");
    Ok(console.result(&value, &text)?)
}

/// A sample, what is learned of it in colour, or between marks where no terminal shows colours.
fn tell_sample(number: usize, pieces: &[Piece], console: &Console) -> anyhow::Result<()> {
    let marks = if host::shows_colours() { ["\u{1b}[32m", "\u{1b}[0m"] } else { ["⟦", "⟧"] };
    let mut text = format!(
        "example {number}, what counts in {}:\n",
        if host::shows_colours() { "green" } else { "⟦ ⟧" }
    );
    for Piece { text: piece, is_learned } in pieces {
        match is_learned {
            true => write!(text, "{}{piece}{}", marks[0], marks[1])?,
            false => text.push_str(piece),
        }
    }
    let pieces: Vec<Value> = pieces
        .iter()
        .map(|piece| json!({ "text": piece.text, "learned": piece.is_learned }))
        .collect();
    Ok(console.result(&json!({ "event": "example", "number": number, "pieces": pieces }), &text)?)
}
