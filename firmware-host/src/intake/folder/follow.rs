//! JSON lines that are followed: whole lines are taken in as they come, the last one when its file is quiet.
//!
//! - A file that has become shorter than what was taken begins anew; the inbox drops what it has.
//! - A file that has moved is followed on through its handle: who writes it need not know.
//! - Bounded: [`FILES_MAX`] moved files, each for [`PATIENCE`] after its last line.

use super::pieces::{self, Refusals};
use super::{BATCH_BYTES, BATCH_SAMPLES_MAX, Context, Outcome, Tried, count, offer};
use sapwood::inbox::{InboxError, Receipt};
use sapwood::intake::Sample;
use sapwood_protocol::limits::INBOX_BATCH_BYTES_MAX;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// Bytes read at once, unless one line is longer.
const CHUNK_BYTES: usize = 1 << 20;
/// Bytes by which a file without a telling name is known.
const HEAD_BYTES: usize = 64 << 10;
/// Moved files that are followed on.
const FILES_MAX: usize = 64;
/// How long, after the last line that came.
const PATIENCE: Duration = Duration::from_secs(24 * 3_600);

/// How far a file of lines is taken in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lines {
    /// Bytes done with.
    offset: u64,
    /// Lines done with.
    number: usize,
    /// Samples that are durable.
    taken: usize,
    refusals: Refusals,
}

/// Where a try ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// All that is whole is taken in.
    Taken,
    /// There is no room for the rest, or the program ends.
    Full,
    /// What follows is no line.
    Endless(String),
}

/// Whether a file holds JSON lines: by its name, or by its first line.
pub(super) fn is_lines(name: &OsStr, file: &File) -> io::Result<bool> {
    let ending = Path::new(name).extension().unwrap_or_default();
    if ["jsonl", "ndjson"].iter().any(|json| ending.eq_ignore_ascii_case(json)) {
        return Ok(true);
    }
    let head = read(file, 0, HEAD_BYTES)?;
    let text = String::from_utf8_lossy(&head);
    let first = text.trim_start_matches('\u{feff}').lines().map(str::trim).find(|l| !l.is_empty());
    let whole = |line: &&str| serde_json::from_str::<serde_json::Value>(line).is_ok();
    Ok(first.filter(|line| line.starts_with('{')).filter(whole).is_some())
}

fn read(file: &File, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let mut chunk = vec![0; bytes];
    let mut filled = 0;
    while filled < bytes {
        match file.read_at(&mut chunk[filled..], offset + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    chunk.truncate(filled);
    Ok(chunk)
}

impl Lines {
    /// Takes in the lines that are whole, and with `last` what stands behind the last line end.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn take(
        &mut self,
        file: &File,
        last: bool,
        context: &Context,
        sink: &mut impl FnMut(&[&Sample]) -> Result<Receipt, InboxError>,
    ) -> io::Result<End> {
        if file.metadata()?.len() < self.offset {
            *self = Self::default();
        }
        let before = self.refusals.count;
        let end = self.read_on(file, last, context, sink);
        count(&context.counters.refused, (self.refusals.count - before) as u64);
        end
    }

    fn read_on(
        &mut self,
        file: &File,
        last: bool,
        context: &Context,
        sink: &mut impl FnMut(&[&Sample]) -> Result<Receipt, InboxError>,
    ) -> io::Result<End> {
        let mut bytes_max = CHUNK_BYTES;
        loop {
            let chunk = read(file, self.offset, bytes_max)?;
            let ended = chunk.len() < bytes_max;
            let whole = match chunk.iter().rposition(|byte| *byte == b'\n') {
                Some(at) => at + 1,
                None if ended && last => chunk.len(),
                None if ended => return Ok(End::Taken),
                None if bytes_max as u64 > INBOX_BATCH_BYTES_MAX => {
                    let number = self.number + 1;
                    let most = INBOX_BATCH_BYTES_MAX;
                    return Ok(End::Endless(format!("line {number}: longer than {most} bytes")));
                }
                None => {
                    bytes_max *= 2;
                    continue;
                }
            };
            let whole = if ended && last { chunk.len() } else { whole };
            match self.offer(&chunk[..whole], context, sink) {
                End::Taken if whole > 0 && !(ended && whole == chunk.len()) => {}
                end => return Ok(end),
            }
            bytes_max = CHUNK_BYTES;
        }
    }

    /// Offers whole lines, batch after batch.
    fn offer(
        &mut self,
        bytes: &[u8],
        context: &Context,
        sink: &mut impl FnMut(&[&Sample]) -> Result<Receipt, InboxError>,
    ) -> End {
        let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').peekable();
        while lines.peek().is_some() {
            if context.stopped() {
                return End::Full;
            }
            let mut batch = Batch::default();
            while batch.samples.len() < BATCH_SAMPLES_MAX && batch.sample_bytes < BATCH_BYTES {
                let Some(line) = lines.next() else { break };
                let number = self.number + batch.lines + 1;
                batch.add(line, number);
            }
            if let Some(end) = self.send(&batch, sink) {
                return end;
            }
        }
        End::Taken
    }

    /// Sends a batch; where that ends the try, how.
    fn send(
        &mut self,
        batch: &Batch,
        sink: &mut impl FnMut(&[&Sample]) -> Result<Receipt, InboxError>,
    ) -> Option<End> {
        let samples: Vec<&Sample> = batch.samples.iter().map(|(_, sample)| sample).collect();
        let outcomes = if samples.is_empty() { Vec::new() } else { offer(&samples, sink) };
        // The same samples are offered again, and those that were taken are known.
        if outcomes.contains(&Outcome::Full) {
            return Some(End::Full);
        }
        for (outcome, (number, _)) in outcomes.into_iter().zip(&batch.samples) {
            match outcome {
                Outcome::Refused(why) => self.refusals.add(format!("line {number}: {why}")),
                _ => self.taken += 1,
            }
        }
        self.refusals.join(batch.refusals.clone());
        self.number += batch.lines;
        self.offset += batch.bytes;
        None
    }

    /// Bytes done with.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// What becomes of a file that is quiet and read to its end.
    pub(super) fn verdict(&self) -> Tried {
        match &self.refusals.first {
            None if self.taken == 0 => {
                let why = "expected text, got nothing but blanks".into();
                Tried::Refused(why, Some(self.clone()))
            }
            None => Tried::Taken(Some(self.clone())),
            Some(first) => {
                let (taken, all) = (self.taken, self.taken + self.refusals.count);
                let why = format!("{first}; {taken} of its {all} samples are taken in");
                Tried::Refused(why, Some(self.clone()))
            }
        }
    }
}

/// Lines that are offered together.
#[derive(Default)]
struct Batch {
    samples: Vec<(usize, Sample)>,
    sample_bytes: usize,
    refusals: Refusals,
    lines: usize,
    bytes: u64,
}

impl Batch {
    /// Adds a line, as a sample or as one that is none.
    fn add(&mut self, line: &[u8], number: usize) {
        match sample(line, number == 1) {
            Ok(Some(sample)) => {
                self.sample_bytes += sample.line().len();
                self.samples.push((number, sample));
            }
            Ok(None) => {}
            Err(problem) => self.refusals.add(format!("line {number}: {problem}")),
        }
        self.lines += 1;
        self.bytes += line.len() as u64;
    }
}

fn sample(line: &[u8], is_first: bool) -> Result<Option<Sample>, String> {
    if line.contains(&0) {
        return Err("expected UTF-8 text, got a NUL byte".into());
    }
    let text = std::str::from_utf8(line);
    let text = text.map_err(|_| "expected UTF-8 text, got a byte that is not UTF-8".to_owned())?;
    pieces::line(if is_first { text.trim_start_matches('\u{feff}') } else { text })
}

/// A file that has moved, and may still be written.
struct Moved {
    name: OsString,
    file: File,
    lines: Lines,
    /// When its last line came.
    since: Duration,
}

/// Follows files that have moved.
#[derive(Default)]
pub(super) struct Follower(VecDeque<Moved>);

impl Follower {
    pub(super) fn add(&mut self, name: OsString, file: File, lines: Lines, now: Duration) {
        if self.0.len() >= FILES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Moved { name, file, lines, since: now });
    }

    /// The files, each with how far it is taken in.
    pub(super) fn files(&self) -> impl Iterator<Item = (&File, &Lines)> {
        self.0.iter().map(|moved| (&moved.file, &moved.lines))
    }

    /// Takes in what came to them; whether the inbox was full before the end.
    pub(super) fn look(
        &mut self,
        now: Duration,
        context: &Context,
        sink: &mut impl FnMut(&[&Sample]) -> Result<Receipt, InboxError>,
    ) -> bool {
        let mut full = false;
        self.0.retain_mut(|moved| {
            let before = moved.lines.taken;
            let grown = moved.file.metadata().is_ok_and(|found| found.len() != moved.lines.offset);
            if !grown || full {
                return now.saturating_sub(moved.since) < PATIENCE;
            }
            let ended = moved.lines.take(&moved.file, false, context, sink);
            full = matches!(ended, Ok(End::Full));
            if moved.lines.taken > before {
                let (file, samples) = (moved.name.display(), moved.lines.taken - before);
                tracing::info!(%file, samples, "more came to a file that was put away");
                moved.since = now;
            }
            // One that cannot be read, or whose line has no end, is not read again and again.
            let goes_on = matches!(ended, Ok(End::Taken | End::Full));
            goes_on && now.saturating_sub(moved.since) < PATIENCE
        });
        full
    }
}
