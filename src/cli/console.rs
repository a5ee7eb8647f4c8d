//! The terminal: tables and progress for people, one line of JSON per event for programs.
//!
//! - Standard output carries results; progress and warnings go to standard error.
//! - The clock is read here alone: tokens per second and time left are for the reader's eye.
#![expect(
    clippy::disallowed_methods,
    reason = "this file is the door to the clock of the terminal"
)]

use indicatif::{ProgressBar, ProgressStyle};
use sapwood::learner::{Event, Score, Text, Who};
use sapwood_protocol::fleet::message::told;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use std::time::Instant;

/// Seconds between two lines about bytes that come.
const LINE_S: f64 = 10.0;

/// One line on standard error: what went wrong, and what that came from.
pub(crate) fn complain(error: &anyhow::Error) {
    // A closed standard error leaves nobody to tell.
    let _ = writeln!(io::stderr(), "error: {}", told(error.chain()));
}

/// Where a command says what it does.
pub(crate) struct Console {
    json: bool,
    bar: Option<ProgressBar>,
    since: Instant,
    /// Steps that were done at `since`.
    steps: u64,
    coming: Coming,
}

/// Bytes that are on their way.
#[derive(Default)]
struct Coming {
    all: u64,
    done: u64,
    /// Those that a line told of last, and when.
    told: u64,
    at: Option<Instant>,
}

impl Console {
    /// A console for people, or with `json` for programs.
    pub(crate) fn new(json: bool) -> Self {
        Self { json, bar: None, since: Instant::now(), steps: 0, coming: Coming::default() }
    }

    /// Whether a program reads.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// One line of text for people; nothing for programs.
    pub(crate) fn line(&self, text: &str) -> io::Result<()> {
        match (self.json, &self.bar) {
            (true, _) => Ok(()),
            (false, Some(bar)) => bar.suspend(|| writeln!(io::stdout(), "{text}")),
            (false, None) => writeln!(io::stdout(), "{text}"),
        }
    }

    /// A result: JSON for programs, else `text`.
    pub(crate) fn result(&self, value: &impl Serialize, text: &str) -> io::Result<()> {
        if self.json {
            return self.object(value);
        }
        match &self.bar {
            Some(bar) => bar.suspend(|| writeln!(io::stdout(), "{}", text.trim_end())),
            None => writeln!(io::stdout(), "{}", text.trim_end()),
        }
    }

    fn object(&self, value: &impl Serialize) -> io::Result<()> {
        let line = serde_json::to_string(value).map_err(io::Error::other)?;
        let mut out = io::stdout().lock();
        writeln!(out, "{line}")?;
        out.flush()
    }

    /// A warning, on standard error.
    pub(crate) fn warn(&self, message: &str) -> io::Result<()> {
        match &self.bar {
            Some(bar) => bar.suspend(|| writeln!(io::stderr(), "warning: {message}")),
            None => writeln!(io::stderr(), "warning: {message}"),
        }
    }

    /// Tells of an event of a job.
    pub(crate) fn event(&mut self, event: &Event) -> io::Result<()> {
        if self.json && *event != Event::Pulse {
            return self.object(event);
        }
        match event {
            Event::Warning { message } => self.warn(message),
            Event::Writing { texts } => self.line(&format!(
                "the base writes {texts} texts of its own to be held to; the state folder keeps them"
            )),
            Event::Ready { iters, step, .. } => {
                self.line(&ready(event))?;
                self.begin(*step, *iters);
                Ok(())
            }
            Event::Step { step, iters, tokens, .. } => {
                let seconds = self.since.elapsed().as_secs_f64();
                let done = step.saturating_sub(std::mem::replace(&mut self.steps, *step));
                self.since = Instant::now();
                let text = progress(event, *tokens as f64 / seconds.max(1e-9));
                match &self.bar {
                    Some(bar) => {
                        bar.set_position(*step);
                        bar.set_message(text);
                        Ok(())
                    }
                    None => {
                        let seconds = seconds / done.max(1) as f64;
                        let left = left(seconds * iters.saturating_sub(*step) as f64);
                        writeln!(io::stderr(), "{text} · {left} left")
                    }
                }
            }
            Event::Scores { step: 0, scores } if scores.iter().all(|s| s.text != Text::New) => {
                self.line(&table(scores))
            }
            Event::Scores { step, scores } => self.line(&format!("step {step}\n{}", table(scores))),
            Event::Plateau { step, best } => self.line(&format!(
                "step {step}: new text gains no more (best at step {best}); the job ends early"
            )),
            Event::Best { step } => {
                self.line(&format!("the slow learner of step {step} was the best: it is judged"))
            }
            Event::Installing { sequence, ranks: [global, own], blocks, held_out } => {
                self.line(&format!(
                    "global adapter {sequence}: rank {global} under an own part of rank {own}, fitted on \
                     {blocks} blocks of its own; {} blocks of earlier domains and {} of general text to \
                     judge by",
                    held_out[0], held_out[1]
                ))
            }
            Event::Refitted { ridge, steps: 0 } => {
                self.line(&format!("own ranks fitted again with ridge {ridge}"))
            }
            Event::Refitted { steps, .. } => {
                self.line(&format!("and {steps} steps on the reservoir"))
            }
            Event::Checkpoint { .. } | Event::Pulse => Ok(()),
            Event::Stopped { step } => {
                self.end();
                self.line(&format!("stopped at step {step}; go on with --resume"))
            }
            Event::Verdict { reason, generation, .. } => {
                self.end();
                let generation = generation.map_or("none".to_owned(), |number| number.to_string());
                self.line(&format!("{reason}\ngeneration in use: {generation}"))
            }
        }
    }

    /// So many bytes will come.
    pub(crate) fn expect_bytes(&mut self, all: u64) {
        self.coming = Coming { all, ..Coming::default() };
        if all > 0 && !self.json && io::stderr().is_terminal() {
            self.show(all, "{bar:24} {bytes}/{total_bytes} {msg} · {eta} left");
        }
    }

    /// A file of them begins.
    pub(crate) fn file(&mut self, name: &str, length: u64) -> io::Result<()> {
        self.coming.at.get_or_insert_with(Instant::now);
        match &self.bar {
            _ if self.json => Ok(()),
            Some(bar) => {
                bar.set_message(name.to_owned());
                Ok(())
            }
            None => writeln!(io::stderr(), "{name}: {}", bytes(length)),
        }
    }

    /// More of them came.
    pub(crate) fn gained(&mut self, count: u64) -> io::Result<()> {
        let Coming { all, done, told, at } = &mut self.coming;
        // What a server sends again counts once.
        *done = done.saturating_add(count).min(*all);
        if let Some(bar) = &self.bar {
            bar.set_position(*done);
            return Ok(());
        }
        let seconds = at.get_or_insert_with(Instant::now).elapsed().as_secs_f64();
        if self.json || seconds < LINE_S {
            return Ok(());
        }
        let rate = (*done - *told) as f64 / seconds;
        let left = left((*all - *done) as f64 / rate.max(1.0));
        (*told, *at) = (*done, Some(Instant::now()));
        let (part, rate) = (*done as f64 * 100.0 / (*all).max(1) as f64, bytes(rate as u64));
        writeln!(io::stderr(), "{part:.0} % of {} · {rate}/s · {left} left", bytes(*all))
    }

    fn show(&mut self, all: u64, template: &str) {
        let bar = ProgressBar::new(all);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        self.bar = Some(bar);
    }

    fn begin(&mut self, step: u64, iters: u64) {
        self.since = Instant::now();
        self.steps = step;
        if !io::stderr().is_terminal() {
            return;
        }
        self.show(iters, "{bar:24} {pos}/{len} {msg} · {eta} left");
        if let Some(bar) = &self.bar {
            bar.set_position(step);
        }
    }

    /// No bar is shown any more.
    pub(crate) fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.end();
    }
}

/// Seconds as a person reads them, as a bar shows them.
fn left(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds.div_ceil(60)),
        _ => format!("{}h {}m", seconds / 3_600, seconds % 3_600 / 60),
    }
}

/// Bytes as a person reads them.
pub(crate) fn bytes(count: u64) -> String {
    match count {
        0..10_000 => format!("{count} B"),
        10_000..10_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.1} GB", count as f64 / 1e9),
    }
}

fn ready(event: &Event) -> String {
    let Event::Ready { domain, parameters, trained, device, blocks, held_out, memory, .. } = event
    else {
        return String::new();
    };
    format!(
        "{domain}: {blocks} blocks to learn, {} held out; {trained} of {parameters} parameters \
         learn on {device}; memory needed: about {}",
        held_out[0],
        bytes(memory.total())
    )
}

fn progress(event: &Event, tokens_per_second: f64) -> String {
    let Event::Step { step, iters, loss, fresh, replay, embedding, anchor, .. } = event else {
        return String::new();
    };
    let optional = |name: &str, value: &Option<f32>| {
        value.map_or(String::new(), |value| format!(" {name} {value:.4}"))
    };
    let memory =
        super::host::resident_bytes().map_or(String::new(), |count| format!(" · {}", bytes(count)));
    format!(
        "step {step}/{iters} loss {loss:.4} fresh {fresh:.4}{}{}{} · {tokens_per_second:.0} tokens/s{memory}",
        optional("replay", replay),
        optional("distance", embedding),
        optional("anchor", anchor),
    )
}

/// Bits per byte, a row a text, a column a learner.
pub(crate) fn table(scores: &[Score]) -> String {
    let mut text = format!(
        "  {:<10}{:>10}{:>10}{:>10}   bits per byte, lower is better\n",
        "", "before", "fast", "slow"
    );
    for kind in Text::ALL {
        let of =
            |who: Who| scores.iter().find(|s| s.text == kind && s.who == who && s.domain.is_none());
        let cell =
            |who| of(who).map_or("-".to_owned(), |score| format!("{:.4}", score.bits_per_byte));
        if scores.iter().all(|score| score.text != kind) {
            continue;
        }
        let name = match kind {
            Text::New => "new",
            Text::Old => "old",
            Text::General => "general",
        };
        text += &format!(
            "  {name:<10}{:>10}{:>10}{:>10}\n",
            cell(Who::Before),
            cell(Who::Fast),
            cell(Who::Slow)
        );
    }
    text.trim_end().to_owned()
}
