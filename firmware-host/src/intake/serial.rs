//! Frames from a serial device, a named pipe or a growing file, and answers where there is a way back.
//!
//! - In: bytes. Out: samples to the sink, several together when they come fast; answers when they are
//!   durable.
//! - A device that goes away is opened again, less and less often. One that is no terminal hears no
//!   answers: there, what finds no room is held, nothing more is read, and the writer has to wait.
//! - A file is read from its beginning each time the program starts; the inbox knows what it had.
//! - Invariant: "accepted" is sent only for what the sink has made durable.

use super::frames::{Assembler, Whole};
use super::{BATCH_BYTES, BATCH_SAMPLES_MAX, Context, Counters, Outcome, count, offer};
use crate::config::Serial;
use rustix::fs::OFlags;
use rustix::termios::{self, ControlModes, OptionalActions};
use sapwood::inbox::{InboxError, Receipt};
use sapwood::intake::Sample;
use sapwood_protocol::frame::{Answer, Body, Counts, Decoder, Dropped, Frame, encode};
use sapwood_protocol::limits::FRAME_ANSWER_BYTES_MAX;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

/// How long samples are gathered before they are made durable together.
const GATHER: Duration = Duration::from_millis(200);
/// Waits between two looks at a silent line: at 115200 baud 580 bytes come in the longest.
const SILENCE: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(50)];
/// Waits before a device is opened again.
const REOPEN: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(30)];
/// Wait before what found no room is offered again.
const FULL: Duration = Duration::from_secs(1);

/// Shortest time between two lines of the log about refused samples.
const TELL: Duration = Duration::from_secs(10);

/// Bytes read at once.
const CHUNK_BYTES: usize = 4096;
/// Silent looks after which a line is asked whether it is still the one at its path.
const LOOKS: u32 = 100;

/// Starts reading a line; the thread ends when the context says so.
///
/// # Errors
/// The system's, when it gives no thread. A line that cannot be opened is no error: it may come.
pub fn start<F>(line: Serial, context: Context, mut sink: F) -> io::Result<JoinHandle<Option<()>>>
where
    F: FnMut(&[&Sample]) -> Result<Receipt, InboxError> + Send + 'static,
{
    let supervisor = context.supervisor.clone();
    let run = move || {
        let (mut receiver, mut wait) = (Receiver::default(), REOPEN[0]);
        while !context.stopped() {
            let heard = receiver.heard;
            let ended = Line::open(&line).and_then(|mut open| {
                tracing::info!(line = %line.path.display(), answers = open.answers, "line opened");
                open.serve(&mut receiver, &context, &mut sink)
            });
            if receiver.heard > heard {
                wait = REOPEN[0];
            }
            if let Err(error) = ended {
                let (path, again_seconds) = (line.path.display(), wait.as_secs_f64());
                tracing::warn!(line = %path, %error, again_seconds, "no serial line");
            }
            context.pause(wait);
            wait = (2 * wait).min(REOPEN[1]);
        }
    };
    supervisor.start("serial", run)
}

/// An open line.
struct Line {
    file: File,
    path: PathBuf,
    terminal: bool,
    answers: bool,
}

impl Line {
    fn open(serial: &Serial) -> io::Result<Self> {
        let kind = std::fs::metadata(&serial.path)?.file_type();
        if kind.is_dir() || kind.is_socket() || kind.is_block_device() {
            let expected = "expected a serial device, a named pipe or a file";
            return Err(io::Error::new(ErrorKind::InvalidInput, expected));
        }
        let mut options = OpenOptions::new();
        // Without waiting for a carrier or for a writer, and never as the terminal of this process.
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        options.read(true).custom_flags(flags.bits() as i32);
        let both = kind.is_char_device().then(|| options.clone().write(true).open(&serial.path));
        let (file, writes) = match both {
            Some(Ok(file)) => (file, true),
            _ => (options.open(&serial.path)?, false),
        };
        let terminal = termios::isatty(&file);
        if terminal {
            raw(&file, serial.baud)?;
        }
        Ok(Self { file, path: serial.path.clone(), terminal, answers: terminal && writes })
    }

    /// Reads until the line goes away or the program ends.
    fn serve(
        &mut self,
        receiver: &mut Receiver,
        context: &Context,
        sink: &mut impl FnMut(&[&Sample]) -> Result<Receipt, InboxError>,
    ) -> io::Result<()> {
        let (mut chunk, mut silence, mut looks, mut full) =
            ([0; CHUNK_BYTES], SILENCE[0], 0, false);
        // What was cut when the line went away last is no beginning of what comes now.
        receiver.receive(&[0], context.clock.elapsed(), &context.counters);
        loop {
            let read = if full { Ok(0) } else { self.read(&mut chunk) };
            let bytes = *read.as_ref().unwrap_or(&0);
            let now = context.clock.elapsed();
            receiver.receive(&chunk[..bytes], now, &context.counters);
            let ends = read.is_err() || context.stopped();
            if full || ends || receiver.due(now) {
                full = receiver.flush(sink, !self.answers, &context.counters);
            }
            self.answer(&mut receiver.answers);
            receiver.refused.tell(now, ends);
            if ends {
                count(&context.counters.full, receiver.waiting.len() as u64);
                receiver.waiting.clear();
                return read.map(drop);
            }
            (silence, looks) = match bytes {
                0 => ((2 * silence).min(SILENCE[1]), looks + 1),
                _ => (SILENCE[0], 0),
            };
            if looks >= LOOKS && !full {
                looks = 0;
                self.still_there()?;
            }
            if full {
                context.pause(FULL);
            } else if bytes == 0 {
                std::thread::park_timeout(silence);
            }
        }
    }

    /// Bytes read; 0 when there are none now.
    fn read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        match self.file.read(chunk) {
            Ok(0) if self.terminal => Err(io::Error::other("the device has gone")),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(0)
            }
            read => read,
        }
    }

    /// A pipe or a file that was put in the place of the open one says nothing by itself.
    fn still_there(&mut self) -> io::Result<()> {
        let (named, open) = (std::fs::metadata(&self.path)?, self.file.metadata()?);
        let same = (named.dev(), named.ino()) == (open.dev(), open.ino());
        let shrunk = open.is_file() && self.file.stream_position()? > open.len();
        if same && !shrunk { Ok(()) } else { Err(io::Error::other("another has taken its place")) }
    }

    /// Sends what there is to say. Who does not hear it sends the sample again.
    fn answer(&mut self, answers: &mut Vec<u8>) {
        if self.answers && !answers.is_empty() {
            // An answer that was cut before ends here.
            answers.insert(0, 0);
            if let Err(error) = self.file.write_all(answers) {
                tracing::debug!(line = %self.path.display(), %error, "answers were not sent");
            }
        }
        answers.clear();
    }
}

/// Eight bits, no parity, no flow control, nothing changed on the way.
fn raw(file: &File, baud: Option<u32>) -> io::Result<()> {
    let mut modes = termios::tcgetattr(file)?;
    modes.make_raw();
    modes.control_modes |= ControlModes::CREAD | ControlModes::CLOCAL;
    modes.control_modes -= ControlModes::CRTSCTS | ControlModes::CSTOPB;
    if let Some(baud) = baud {
        modes.set_speed(baud)?;
    }
    Ok(termios::tcsetattr(file, OptionalActions::Now, &modes)?)
}

/// A sample on its way to the sink.
struct Waiting {
    session: u32,
    sequence: u32,
    sample: Sample,
}

/// What came over a line and is not yet durable.
#[derive(Default)]
struct Receiver {
    decoder: Box<Decoder>,
    assembler: Assembler,
    waiting: Vec<Waiting>,
    /// Bytes of JSON that wait.
    bytes: usize,
    /// When the oldest of them came.
    since: Duration,
    answers: Vec<u8>,
    /// Bytes that ever came.
    heard: u64,
    refused: Refused,
}

/// Samples refused since that was told last: a flood of them is one line every [`TELL`].
#[derive(Default)]
struct Refused {
    count: u64,
    first: String,
    told: Option<Duration>,
}

impl Refused {
    fn add(&mut self, why: String) {
        if self.count == 0 {
            self.first = why;
        }
        self.count += 1;
    }

    /// Whether there is something to tell, and it is time; `last` when there is no later.
    fn due(&self, now: Duration, last: bool) -> bool {
        let rested = self.told.is_none_or(|told| now.saturating_sub(told) >= TELL);
        self.count > 0 && (rested || last)
    }

    fn tell(&mut self, now: Duration, last: bool) {
        if self.due(now, last) {
            let (count, first) = (self.count, &self.first);
            tracing::warn!(count, first, "framed samples refused");
            *self = Self { told: Some(now), ..Self::default() };
        }
    }
}

impl Receiver {
    fn receive(&mut self, mut chunk: &[u8], now: Duration, counters: &Counters) {
        self.heard += chunk.iter().filter(|&&byte| byte != 0).count() as u64;
        let before = self.decoder.counts();
        while let Some(found) = self.decoder.next(&mut chunk) {
            let whole = match found {
                Ok(frame) => self.assembler.join(&frame),
                Err(dropped) => {
                    tracing::debug!(%dropped, "frame dropped");
                    if let Dropped::Unbegun { session, sequence, last: true } = dropped {
                        answer(&mut self.answers, session, sequence, Answer::Full);
                    }
                    None
                }
            };
            let Some(Whole { session, sequence, sample }) = whole else { continue };
            match sample {
                Ok(sample) => {
                    if self.waiting.is_empty() {
                        self.since = now;
                    }
                    self.bytes += sample.line().len();
                    self.waiting.push(Waiting { session, sequence, sample });
                }
                Err(error) => {
                    self.refused.add(format!("session {session}, {sequence}: {error}"));
                    count(&counters.refused, 1);
                    answer(&mut self.answers, session, sequence, Answer::Refused);
                }
            }
        }
        report(before, self.decoder.counts(), counters);
    }

    fn due(&self, now: Duration) -> bool {
        let many = self.waiting.len() >= BATCH_SAMPLES_MAX || self.bytes >= BATCH_BYTES;
        !self.waiting.is_empty() && (many || now.saturating_sub(self.since) >= GATHER)
    }

    /// Makes durable what waits; with `hold`, what finds no room goes on waiting. Whether some does.
    fn flush(
        &mut self,
        sink: &mut impl FnMut(&[&Sample]) -> Result<Receipt, InboxError>,
        hold: bool,
        counters: &Counters,
    ) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        let samples: Vec<&Sample> = self.waiting.iter().map(|one| &one.sample).collect();
        let outcomes = offer(&samples, sink);
        for (sample, outcome) in std::mem::take(&mut self.waiting).into_iter().zip(outcomes) {
            let said = match outcome {
                Outcome::Durable => Answer::Accepted,
                Outcome::Full if hold => {
                    self.waiting.push(sample);
                    continue;
                }
                Outcome::Full => {
                    count(&counters.full, 1);
                    Answer::Full
                }
                Outcome::Refused(error) => {
                    let (session, sequence) = (sample.session, sample.sequence);
                    self.refused.add(format!("session {session}, {sequence}: {error}"));
                    count(&counters.refused, 1);
                    Answer::Refused
                }
            };
            answer(&mut self.answers, sample.session, sample.sequence, said);
        }
        self.bytes = self.waiting.iter().map(|one| one.sample.line().len()).sum();
        !self.waiting.is_empty()
    }
}

fn answer(answers: &mut Vec<u8>, session: u32, sequence: u32, answer: Answer) {
    let mut buffer = [0; FRAME_ANSWER_BYTES_MAX];
    let frame = Frame { session, sequence, body: Body::Answer(answer) };
    // The limits hold an answer of any numbers.
    answers.extend_from_slice(encode(&frame, &mut buffer).unwrap_or_default());
}

fn report(before: Counts, after: Counts, counters: &Counters) {
    count(&counters.frames, after.frames - before.frames);
    count(&counters.frames_dropped, after.dropped() - before.dropped());
    count(&counters.frames_missing, after.missing - before.missing);
    if before.version == 0 && after.version > 0 {
        tracing::warn!("a controller sends frames of another version; they are dropped");
    }
}

#[cfg(test)]
mod tests;
