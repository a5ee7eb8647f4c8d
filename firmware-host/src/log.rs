//! Logs: every line one event with its fields, on standard error, in the form its reader wants.
//!
//! - A terminal gets text with the time of day; a file or a pipe gets one JSON object a line.
//! - Under systemd the journal keeps time and levels: lines carry `<n>` in front, as sd-daemon(3)
//!   has it, and no time of their own.
//! - Fields have the same names everywhere: `job`, `step`, `reason`, `generation`.
//! - A line that cannot be written, because its reader has gone or the disk is full, is counted and given
//!   up: nobody stops for the log's sake. A panic is an event as well, and is counted.
//! - Never here: standard output, which belongs to results.
//! - Invariant: no event takes more than one line, and no control character reaches the reader.

use std::fmt;
use std::io::{self, ErrorKind, IsTerminal};
use std::panic::{self, PanicHookInfo};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{self, Format as Formatter, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Words for a person.
    Text,
    /// One object for a program.
    Json,
}

/// A second start: one program has one log.
#[derive(Debug, thiserror::Error)]
#[error("the log was started before: expected one start; the first one goes on")]
pub struct LogError;

/// Events that could not be written.
static LINES_LOST: AtomicU64 = AtomicU64::new(0);
/// Panics of any thread.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// Events of this process that nobody could be told.
pub fn lines_lost() -> u64 {
    LINES_LOST.load(Ordering::Relaxed)
}

/// Panics of this process, whichever thread's.
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Starts the log of this process on standard error, with events of `level` and graver.
///
/// Without a format, text goes to terminals and to the journal, JSON elsewhere.
///
/// # Errors
/// [`LogError`] when it was started before.
pub fn start(format: Option<Format>, level: Level) -> Result<(), LogError> {
    let journal = to_journal();
    let text = journal || io::stderr().is_terminal();
    let format = format.unwrap_or(if text { Format::Text } else { Format::Json });
    let subscriber = subscriber(format, journal, level, || Lenient(io::stderr()));
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError)?;
    panic::set_hook(Box::new(note_panic));
    Ok(())
}

/// A panic as an event; whoever watches over its thread knows what it means.
fn note_panic(panic: &PanicHookInfo<'_>) {
    PANICS.fetch_add(1, Ordering::Relaxed);
    let (thread, place) = (thread::current(), panic.location().map(ToString::to_string));
    let reason = panic.payload_as_str().unwrap_or_default();
    tracing::error!(thread = thread.name(), place, reason, "a thread broke off");
}

/// Writes to `.0`, and counts what it does not take.
struct Lenient<W>(W);

impl<W: io::Write> io::Write for Lenient<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.write(bytes) {
            Err(error) if error.kind() != ErrorKind::Interrupted => {
                LINES_LOST.fetch_add(1, Ordering::Relaxed);
                Ok(bytes.len())
            }
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Whether standard error is the journal's: the variable outlives a redirection, its numbers tell.
#[expect(clippy::disallowed_methods, reason = "systemd says where its journal is in a variable")]
fn to_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    match rustix::fs::fstat(io::stderr()) {
        Ok(stat) => named == format!("{}:{}", stat.st_dev, stat.st_ino),
        Err(_) => false,
    }
}

fn subscriber<W>(
    format: Format,
    journal: bool,
    level: Level,
    into: W,
) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_max_level(level).with_writer(into);
    // It would tell standard error, which is where the event did not go.
    let builder = builder.log_internal_errors(false);
    let base = Formatter::default().with_target(false).with_ansi(false);
    match (format, journal) {
        (Format::Text, false) => {
            Box::new(builder.event_format(OneLine { journal, inner: base }).finish())
        }
        (Format::Text, true) => {
            let inner = base.without_time().with_level(false);
            Box::new(builder.event_format(OneLine { journal, inner }).finish())
        }
        (Format::Json, false) => {
            let inner = base.json().flatten_event(true);
            let fields = builder.fmt_fields(format::JsonFields::new());
            Box::new(fields.event_format(OneLine { journal, inner }).finish())
        }
        (Format::Json, true) => {
            let inner = base.json().flatten_event(true).without_time();
            let fields = builder.fmt_fields(format::JsonFields::new());
            Box::new(fields.event_format(OneLine { journal, inner }).finish())
        }
    }
}

/// Keeps an event on one line, with its priority in front where the journal reads.
struct OneLine<F> {
    journal: bool,
    inner: F,
}

impl<S, N, F> FormatEvent<S, N> for OneLine<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.inner.format_event(context, Writer::new(&mut line), event)?;
        if self.journal {
            write!(writer, "<{}>", priority(*event.metadata().level()))?;
        }
        for letter in line.trim().chars() {
            writer.write_char(if letter.is_control() { ' ' } else { letter })?;
        }
        writeln!(writer)
    }
}

/// The priority of syslog(3), which the journal keeps.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use std::sync::{Arc, Mutex};
    use tracing::{debug, info, warn};

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What three events of different levels become, of which one tries to be two lines.
    fn written(format: Format, journal: bool) -> Vec<String> {
        let page = Page::default();
        let into = page.clone();
        let log = subscriber(format, journal, Level::INFO, move || into.clone());
        tracing::subscriber::with_default(log, || {
            info!(job = 3, step = 12, "checkpoint");
            warn!(reason = %"hot\n<3>forged\u{1b}[2J", generation = 2, "job stopped");
            debug!("below the level");
        });
        let bytes = page.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(String::from).collect()
    }

    #[test]
    fn the_journal_gets_a_priority_and_no_time() {
        let lines = written(Format::Text, true);
        assert_eq!(lines[0], "<6>checkpoint job=3 step=12");
        assert!(lines[1].starts_with("<4>job stopped reason=hot"), "{}", lines[1]);
        assert!(written(Format::Json, true)[1].starts_with("<4>{"));
    }

    #[test]
    fn an_event_is_one_line_whatever_its_fields_hold() {
        for (format, journal) in
            [(Format::Text, true), (Format::Text, false), (Format::Json, false)]
        {
            let lines = written(format, journal);
            assert_eq!(lines.len(), 2, "{lines:?}");
            assert!(!lines.concat().contains(char::is_control), "{lines:?}");
        }
    }

    /// A disk that is full.
    struct Full;

    impl io::Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(ErrorKind::StorageFull.into())
        }
    }

    #[test]
    fn a_line_that_cannot_be_written_is_counted_and_given_up() {
        let before = lines_lost();
        let log = subscriber(Format::Json, false, Level::INFO, || Lenient(Full));
        tracing::subscriber::with_default(log, || (0..3).for_each(|step| info!(step, "lost")));
        assert_eq!(lines_lost() - before, 3);
    }

    #[test]
    fn a_program_reads_fields_under_their_names() {
        let lines = written(Format::Json, false);
        let event: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!((&event["message"], &event["level"]), (&"checkpoint".into(), &"INFO".into()));
        assert_eq!((&event["job"], &event["step"]), (&3.into(), &12.into()));
        assert!(event["timestamp"].is_string());
    }

    #[test]
    fn a_person_reads_the_time_and_the_level() {
        let lines = written(Format::Text, false);
        assert!(lines[0].contains(" INFO checkpoint job=3 step=12"), "{}", lines[0]);
        assert!(lines[0].starts_with("20"), "{}", lines[0]);
    }
}
