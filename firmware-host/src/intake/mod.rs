//! The ways in besides HTTP: serial lines and pipes with frames, and a watched folder.
//!
//! - In: bytes and files of other programs. Out: samples to a sink, which makes them durable. Each is read
//!   here and nowhere after.
//! - Each way in is one thread that ends on a flag. It says a sample is taken only after the sink has.
//! - What has no room is never passed over for good where the other side can wait or try again.
//! - Never here: the inbox itself, HTTP, learning.

pub mod frames;
pub mod folder;
pub mod serial;

use crate::clock::Clock;
use crate::status::Counters;
use crate::supervise::Supervisor;
use sapwood::inbox::{InboxError, Receipt};
use sapwood::intake::Sample;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Most samples that are made durable together.
pub const BATCH_SAMPLES_MAX: usize = 256;
/// Bytes of JSON from which on a batch gets no further sample.
pub const BATCH_BYTES: usize = 256 << 10;

/// Longest wait without a look at the flag.
const STOP_LATENCY: Duration = Duration::from_millis(100);

fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

/// What every way in is given.
#[derive(Clone)]
pub struct Context {
    /// Where it counts.
    pub counters: Arc<Counters>,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// Who watches over its thread.
    pub supervisor: Supervisor,
    /// When this is set its thread ends, within about a tenth of a second.
    pub stop: Arc<AtomicBool>,
}

impl Context {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Waits, unless the end comes first.
    fn pause(&self, mut wait: Duration) {
        while !wait.is_zero() && !self.stopped() {
            let slice = wait.min(STOP_LATENCY);
            std::thread::park_timeout(slice);
            wait -= slice;
        }
    }
}

/// What became of a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// It is durable, or was there already.
    Durable,
    /// Not now: no room, or the disk fails.
    Full,
    /// Never.
    Refused(String),
}

/// Offers samples together, and one by one where that fails, so that none fails for another.
fn offer(
    samples: &[&Sample],
    sink: &mut impl FnMut(&[&Sample]) -> Result<Receipt, InboxError>,
) -> Vec<Outcome> {
    match sink(samples) {
        Ok(_) => vec![Outcome::Durable; samples.len()],
        Err(error) if samples.len() == 1 || unable(&error) => {
            vec![outcome(&error); samples.len()]
        }
        Err(_) => each(samples, sink),
    }
}

fn each(
    samples: &[&Sample],
    sink: &mut impl FnMut(&[&Sample]) -> Result<Receipt, InboxError>,
) -> Vec<Outcome> {
    let mut outcomes = Vec::with_capacity(samples.len());
    for sample in samples {
        let found = sink(&[sample]).map_or_else(|error| outcome(&error), |_| Outcome::Durable);
        let full = found == Outcome::Full;
        outcomes.push(found);
        if full {
            // A later sample that is shorter might fit, and would come in before an earlier one.
            outcomes.resize(samples.len(), Outcome::Full);
            break;
        }
    }
    outcomes
}

/// Whether the inbox can take nothing at all.
fn unable(error: &InboxError) -> bool {
    matches!(error, InboxError::Storage(_) | InboxError::Sync(_) | InboxError::Broken)
}

fn outcome(error: &InboxError) -> Outcome {
    match error {
        InboxError::Full { .. } | InboxError::Low { .. } => Outcome::Full,
        error if unable(error) => {
            tracing::warn!(%error, "the inbox takes nothing in");
            Outcome::Full
        }
        error => Outcome::Refused(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use crate::clock::SystemClock;
    use sapwood::inbox::{Bounds, Inbox};
    use sapwood::intake::Example;
    use sapwood::ports::{Disk, Memory};
    use std::sync::Mutex;

    /// The samples of a text.
    pub(super) fn samples(lines: &str) -> Vec<Sample> {
        sapwood::intake::samples(lines, "test").unwrap()
    }

    /// What the sink refuses, as a device refuses what its template cannot write.
    fn refused(example: &Example) -> bool {
        matches!(example, Example::Messages(_))
    }

    /// A real inbox on disk, and a context to run a way in beside it.
    pub(super) struct Bench {
        pub(super) home: tempfile::TempDir,
        pub(super) inbox: Arc<Mutex<Inbox>>,
        pub(super) context: Context,
    }

    impl Bench {
        pub(super) fn new(bytes: u64, samples: u64) -> Self {
            let home = tempfile::tempdir().unwrap();
            let disk = Disk::exclusive(&home.path().join("state")).unwrap();
            let inbox = Inbox::open(Arc::new(disk), Bounds { bytes, samples }, 0).unwrap();
            let context = Context {
                counters: Arc::default(),
                clock: Arc::new(SystemClock::start()),
                supervisor: Supervisor::default(),
                stop: Arc::default(),
            };
            Self { home, inbox: Arc::new(Mutex::new(inbox)), context }
        }

        pub(super) fn sink(&self) -> impl FnMut(&[&Sample]) -> Result<Receipt, InboxError> + use<> {
            let inbox = self.inbox.clone();
            move |samples| {
                let number = samples.iter().position(|one| refused(one.example()));
                match number {
                    None => inbox.lock().unwrap().offer_samples(samples),
                    Some(at) => Err(InboxError::Sample { number: at + 1, source: "no".into() }),
                }
            }
        }

        /// The texts that wait; a prompt and its completion with a bar between.
        pub(super) fn texts(&self) -> Vec<String> {
            let taken = self.inbox.lock().unwrap().take(u64::MAX).unwrap();
            let text = |example: &sapwood::intake::Example| match example {
                sapwood::intake::Example::Text(text) => text.clone(),
                sapwood::intake::Example::Completion { prompt, completion } => {
                    format!("{prompt}|{completion}")
                }
                other => format!("{other:?}"),
            };
            taken.samples.iter().map(|(_, one)| text(one)).collect()
        }

        /// Another inbox, which has never seen a sample.
        pub(super) fn forget(&self) {
            let mut inbox = self.inbox.lock().unwrap();
            let (storage, bounds) = (Arc::new(Memory::default()), inbox.bounds());
            *inbox = Inbox::open(storage, bounds, 0).unwrap();
        }

        /// A job has learned all that waits.
        pub(super) fn learn(&self) {
            let mut inbox = self.inbox.lock().unwrap();
            let through = inbox.take(u64::MAX).unwrap().through;
            inbox.forget(through).unwrap();
        }

        /// Looks again until it holds, for at most ten seconds.
        pub(super) fn until(&self, holds: impl Fn(&Self) -> bool) {
            let end = self.context.clock.elapsed() + Duration::from_secs(10);
            while !holds(self) {
                assert!(self.context.clock.elapsed() < end, "waited for ten seconds");
                std::thread::park_timeout(Duration::from_millis(5));
            }
        }
    }

    #[test]
    fn a_sample_never_fails_for_another_and_order_is_kept() {
        let bench = Bench::new(1 << 20, 3);
        let samples = samples(
            r#"{"text":"a"}
            {"messages":[{"role":"user","content":"no"}]}
            {"text":"b"}
            {"text":"c"}
            {"text":"d"}"#,
        );
        let outcomes = offer(&samples.iter().collect::<Vec<_>>(), &mut bench.sink());
        assert_eq!([&outcomes[0], &outcomes[2], &outcomes[3]], [&Outcome::Durable; 3]);
        assert!(matches!(&outcomes[1], Outcome::Refused(why) if why.starts_with("sample 1: no")));
        assert_eq!(outcomes[4], Outcome::Full);
        assert_eq!(bench.texts(), ["a", "b", "c"]);
    }

    #[test]
    fn a_sample_larger_than_the_whole_inbox_is_refused_and_one_without_room_waits() {
        let bench = Bench::new(400, 99);
        let texts = ["x".repeat(500), "y".repeat(200), "z".repeat(200), "a".to_owned()];
        let samples = texts.map(|text| Sample::text(&text).unwrap());
        let outcomes = offer(&samples.iter().collect::<Vec<_>>(), &mut bench.sink());
        assert!(matches!(&outcomes[0], Outcome::Refused(why) if why.contains("at most 400")));
        assert_eq!(outcomes[1..], [Outcome::Durable, Outcome::Full, Outcome::Full]);
    }
}
