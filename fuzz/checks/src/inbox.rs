//! The inbox: batches that come, are taken, let go of and met again after a restart; damaged files.
//!
//! - In: acts, one after the other. A list in memory is the oracle as long as nothing was damaged.
//! - Promises: what was acknowledged is there after a restart, once and in order, until it is let go
//!   of; what was there already is dropped; what is refused changes nothing. After damage: what is
//!   given out was acknowledged, or forged, and no number is given twice.

use crate::Seed;
use crate::cursor::{Cursor, edit};
use crate::record::seal;
use sapwood::inbox::{Bounds, Inbox, InboxError, Job};
use sapwood::intake::{Example, lines};
use sapwood::ports::{Memory, Storage};
use sapwood_protocol::record::Kind;
use std::sync::Arc;

/// Small enough to be full now and then.
const BOUNDS: Bounds = Bounds { bytes: 4000, samples: 24 };
const ACTS_MAX: usize = 48;
/// The longest file that edits make.
const FILE_BYTES_MAX: usize = 1 << 14;

/// What an inbox must know.
struct Device {
    disk: Arc<Memory>,
    inbox: Inbox,
    /// Every sample that was acknowledged, the first of which is number 1.
    known: Vec<Example>,
    learned: u64,
    sound: bool,
    forged: bool,
}

/// Does as the bytes say.
pub fn check(bytes: &[u8]) {
    let (mut cursor, disk) = (Cursor(bytes), Arc::new(Memory::default()));
    let inbox = Inbox::open(disk.clone(), BOUNDS, 0).unwrap();
    let (known, sound, forged) = (Vec::new(), true, false);
    let mut device = Device { disk, inbox, known, learned: 0, sound, forged };
    for _ in 0..ACTS_MAX {
        if cursor.is_empty() {
            break;
        }
        device.act(&mut cursor);
    }
    device.reopen();
    device.look();
}

impl Device {
    fn act(&mut self, cursor: &mut Cursor<'_>) {
        match cursor.byte() % 10 {
            0 | 1 => {
                let few = (0..=cursor.byte() % 3).map(|_| cursor.byte() % 32);
                let text: String = few.map(|n| format!("{{\"text\":\"{n}\"}}\n")).collect();
                self.offer(&text);
            }
            2 => {
                let length = usize::from(cursor.byte());
                self.offer(&String::from_utf8_lossy(cursor.take(length)));
            }
            3 => self.reopen(),
            8 => self.set_aside(cursor),
            9 => self.aside_again(cursor),
            4 => self.forget(u64::from(cursor.byte() % 8)),
            5 => self.begin(cursor),
            6 => self.damage(cursor),
            _ => self.forge(cursor),
        }
        self.look();
    }

    fn offer(&mut self, text: &str) {
        let before = self.inbox.waiting();
        let examples = lines(text, "batch");
        let receipt = match self.inbox.offer(text) {
            Ok(receipt) => receipt,
            Err(error) => {
                assert_eq!(self.inbox.waiting(), before, "{error}");
                let none = examples.as_ref().is_ok_and(Vec::is_empty);
                match error {
                    InboxError::Line(_) => assert!(examples.is_err()),
                    InboxError::Empty => assert!(none),
                    InboxError::Full { .. } | InboxError::Large { .. } => {}
                    other => assert!(!self.sound, "{other}"),
                }
                return;
            }
        };
        let examples = examples.unwrap();
        assert_eq!(receipt.accepted + receipt.duplicates, examples.len() as u64);
        if self.sound {
            let before = self.known.len() as u64;
            for example in examples {
                if !self.known.contains(&example) {
                    self.known.push(example);
                }
            }
            assert_eq!(receipt.accepted, self.known.len() as u64 - before);
            assert_eq!(receipt.last, self.known.len() as u64);
        } else {
            self.known.extend(examples);
        }
    }

    fn reopen(&mut self) {
        self.inbox = Inbox::open(self.disk.clone(), BOUNDS, self.learned).unwrap();
        let found = self.inbox.found();
        let whole = (found.lost_samples, found.passed_over_bytes) == (0, 0);
        assert!(whole || !self.sound, "{found:?}");
    }

    fn forget(&mut self, more: u64) {
        let most = self.known.len() as u64;
        let through = self.learned.saturating_add(more);
        self.learned = if self.sound { through.min(most) } else { through };
        self.inbox.forget(self.learned).unwrap();
    }

    fn begin(&mut self, cursor: &mut Cursor<'_>) {
        let through = self.learned + u64::from(cursor.byte() % 4);
        let suspect = through + u64::from(cursor.byte() % 4);
        let (attempts, step) = (cursor.number(), u64::from(cursor.number()));
        let job = Job { through, attempts, step, suspect };
        self.inbox.begin(job).unwrap();
        assert_eq!(self.inbox.job(), (through > self.learned).then_some(job));
        assert_eq!(self.inbox.suspect(), (suspect > self.learned).then_some(suspect));
    }

    /// Sets the oldest sample aside, as a device does.
    fn set_aside(&mut self, cursor: &mut Cursor<'_>) {
        let Some(number) = self.inbox.reach(1) else { return };
        let reason = String::from_utf8_lossy(cursor.take(5)).into_owned();
        if self.inbox.set_aside(number, &reason).unwrap() {
            self.learned = number;
            self.inbox.forget(number).unwrap();
            let found = self.inbox.look_aside(number).unwrap();
            assert!(found.is_some_and(|found| found.number == number));
        }
        // It may come again from now on, which what is known here does not say.
        (self.sound, self.forged) = (false, true);
    }

    /// Tries one again or drops it.
    fn aside_again(&mut self, cursor: &mut Cursor<'_>) {
        let Some(number) = self.inbox.aside().next() else { return };
        let done = match cursor.byte() % 2 {
            0 => self.inbox.drop_aside(number),
            _ => self.inbox.retry_aside(number),
        };
        assert!(matches!(done, Ok(_) | Err(InboxError::Full { .. })), "{done:?}");
    }

    fn files(&self) -> Vec<String> {
        let named = |folder: &str| {
            let names = self.disk.list(folder).unwrap().into_iter();
            names.map(|name| format!("{folder}/{name}")).collect::<Vec<_>>()
        };
        let all = ["inbox", "inbox/aside", "inbox/damaged"].map(named).concat();
        all.into_iter().filter(|path| self.disk.len(path).unwrap().is_some()).collect()
    }

    fn damage(&mut self, cursor: &mut Cursor<'_>) {
        let files = self.files();
        let Some(path) = files.get(cursor.below(files.len())) else { return };
        let mut bytes = self.disk.read(path).unwrap();
        let length = usize::from(cursor.byte() % 32);
        edit(&mut bytes, &mut Cursor(cursor.take(length)), FILE_BYTES_MAX);
        self.disk.write(path, &bytes).unwrap();
        self.sound = false;
        self.reopen();
    }

    /// A sound record of anybody's making: a batch, hashes, a job or a sample set aside.
    fn forge(&mut self, cursor: &mut Cursor<'_>) {
        let (kind, number) = (cursor.byte(), cursor.byte());
        let generation = match number {
            0..200 => u64::from(number),
            200..250 => u64::from(cursor.number()) << 32,
            _ => u64::MAX - u64::from(250 - number.min(250)),
        };
        let payload = match cursor.byte() % 4 {
            0 => format!("{{\"text\":\"f{number}\"}}\n").repeat(3).into_bytes(),
            _ => {
                let length = usize::from(cursor.byte());
                cursor.take(length).to_vec()
            }
        };
        let (path, bytes) = match kind % 5 {
            0 => ("inbox/seen".to_owned(), seal(Kind::Seen, generation, &payload)),
            1 => ("inbox/job".to_owned(), seal(Kind::Job, generation, &payload)),
            2 => (format!("inbox/{generation}"), seal(Kind::Batch, generation, &payload)),
            3 => (format!("inbox/aside/{generation}"), seal(Kind::Aside, generation, &payload)),
            _ => {
                let path = format!("inbox/{}", cursor.byte() % 8);
                let before = self.disk.read(&path).unwrap_or_default();
                (path, [before, seal(Kind::Batch, generation, &payload)].concat())
            }
        };
        self.disk.write(&path, &bytes).unwrap();
        (self.sound, self.forged) = (false, true);
        self.reopen();
    }

    /// What waits is what was acknowledged and not let go of.
    fn look(&self) {
        let taken = self.inbox.take(u64::MAX).unwrap();
        let examples: Vec<_> = taken.samples.iter().map(|(_, example)| example.clone()).collect();
        assert!(taken.through >= self.learned);
        let waiting = self.inbox.waiting();
        if self.sound {
            let expected = &self.known[self.learned as usize..];
            assert_eq!(examples, expected);
            assert_eq!(waiting.samples, expected.len() as u64);
            assert!(waiting.bytes <= BOUNDS.bytes && waiting.samples <= BOUNDS.samples);
            let most = expected.len() as u64 / 2;
            let through = self.inbox.reach(most).unwrap_or(0);
            assert_eq!(self.inbox.take(through).unwrap().samples, taken.samples[..most as usize]);
        } else if !self.forged {
            let all = examples.iter().all(|example| self.known.contains(example));
            assert!(all, "given out, but never offered");
        }
        let _ = self.inbox.job();
    }
}

/// Batches over restarts, damage, and forged records.
pub fn seeds() -> Vec<Seed> {
    let text = br#"{"text":"x y"}"#;
    let life = [0, 2, 1, 2, 3, 1, 1, 3, 4, 3, 4, 2, 5, 2, 1, 0, 0, 0, 7, 0, 0, 0, 3, 0, 1, 9, 10];
    let damage = [0, 2, 1, 2, 3, 6, 0, 0, 6, 0, 70, 0, 0, 0, 4, 1, 0, 5, 3];
    vec![
        ("life", life.to_vec()),
        ("lines", [&[2, 14], &text[..], &[3, 2, 14], text, &[0, 0, 4]].concat()),
        ("damage", damage.to_vec()),
        ("forged_batch", vec![0, 0, 1, 7, 2, 9, 0, 0, 0, 2]),
        ("forged_seen", vec![0, 0, 1, 7, 0, 255, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 3]),
        ("forged_job", vec![0, 0, 1, 7, 1, 5, 1, 12, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]),
    ]
}
