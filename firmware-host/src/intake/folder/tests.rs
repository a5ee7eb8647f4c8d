//! A watched folder on a real disk, look by look.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::*;
use crate::intake::tests::Bench;

use sapwood::inbox::Inbox;
use sapwood::ports::Memory;
use sapwood::ports::cut_disk::{CutDisk, Failure, Fault};
use std::io::Write;
use std::sync::atomic::Ordering;

const PIECE_BYTES: usize = 1024;

fn manner(folder: PathBuf) -> Manner {
    let (every, quiet) = (Duration::from_millis(20), Duration::ZERO);
    Manner { folder, every, quiet, kept: None, piece_bytes: PIECE_BYTES }
}

struct Watched {
    bench: Bench,
    watch: Watch,
    storage: Arc<Memory>,
}

impl Watched {
    fn new(samples: u64) -> Self {
        let (bench, storage) = (Bench::new(1 << 20, samples), Arc::new(Memory::default()));
        let watch = Watch::new(manner(bench.home.path().join("drop")), storage.clone());
        fs::create_dir(&watch.manner.folder).unwrap();
        Self { bench, watch, storage }
    }

    /// The program ends and starts again; what the inbox remembers of samples is gone meanwhile.
    fn restart(&mut self) {
        let manner = self.watch.manner.clone();
        self.watch = Watch::new(manner, self.storage.clone());
        self.bench.forget();
    }

    /// The program begins on this disk, inbox and all.
    fn on(&mut self, disk: &Arc<CutDisk>) {
        let mut inbox = self.bench.inbox.lock().unwrap();
        *inbox = Inbox::open(disk.clone(), inbox.bounds(), 0).unwrap();
        self.watch = Watch::new(self.watch.manner.clone(), disk.clone());
    }

    fn drop(&self, name: &str, bytes: &[u8]) {
        fs::write(self.watch.manner.folder.join(name), bytes).unwrap();
    }

    fn look(&mut self) -> bool {
        self.watch.look(&self.bench.context, &mut self.bench.sink()).unwrap()
    }

    fn names(&self, shelf: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.watch.manner.folder.join(shelf)) else {
            return Vec::new();
        };
        let name = |entry: io::Result<fs::DirEntry>| {
            entry.unwrap().file_name().to_string_lossy().into_owned()
        };
        let mut names: Vec<_> = entries.map(name).collect();
        names.sort();
        names
    }

    fn why(&self, name: &str) -> String {
        let path = self.watch.manner.folder.join("refused").join(format!("{name}.why"));
        fs::read_to_string(path).unwrap()
    }
}

fn lines(samples: std::ops::Range<u32>) -> String {
    samples.map(|number| format!("{{\"text\":\"sample {number}\"}}\n")).collect()
}

#[test]
fn a_file_is_taken_when_it_has_stopped_changing_and_moves_aside() {
    let mut watched = Watched::new(99);
    watched.drop("notes.txt", b"the pump");
    watched.look();
    watched.drop("notes.txt", b"the pump ran dry");
    watched.drop("log.jsonl", lines(0..2).as_bytes());
    watched.look();
    assert_eq!(watched.bench.texts().len(), 0, "both are new or changed");
    watched.look();
    let mut texts = watched.bench.texts();
    texts.sort();
    assert_eq!(texts, ["sample 0", "sample 1", "the pump ran dry"]);
    assert_eq!(watched.names("taken"), ["log.jsonl", "notes.txt"]);
    assert_eq!(watched.names(""), ["taken"]);
    assert_eq!(watched.bench.context.counters.files_taken.load(Ordering::Relaxed), 2);
}

#[test]
fn what_is_hidden_empty_under_way_or_a_folder_is_left_alone() {
    let mut watched = Watched::new(99);
    let names = [".hidden", "a.part", "b.tmp", "c.TMP", "d.txt~", "e.crdownload"];
    names.iter().for_each(|name| watched.drop(name, b"text"));
    watched.drop("empty.txt", b"");
    fs::create_dir(watched.watch.manner.folder.join("folder")).unwrap();
    (0..3).for_each(|_| assert!(!watched.look()));
    assert_eq!((watched.names("").len(), watched.bench.texts().len()), (8, 0));
}

#[test]
fn a_bad_line_costs_itself_alone_and_is_named() {
    let mut watched = Watched::new(99);
    watched.drop("log.jsonl", b"{\"text\":\"a\"}\n{\"txt\":1}\n{\"text\":\"b\"}\n");
    watched.look();
    watched.look();
    assert_eq!(watched.bench.texts(), ["a", "b"]);
    assert_eq!(watched.names("refused"), ["log.jsonl", "log.jsonl.why"]);
    let why = watched.why("log.jsonl");
    assert!(
        why.starts_with("line 2: expected keys")
            && why.ends_with("2 of its 3 samples are taken in\n"),
        "{why}"
    );
    // Mended and dropped in again, only the mended line is new.
    watched.drop("log.jsonl", b"{\"text\":\"a\"}\n{\"text\":\"mended\"}\n{\"text\":\"b\"}\n");
    watched.look();
    watched.look();
    assert_eq!(watched.bench.texts(), ["a", "b", "mended"]);
    assert_eq!(watched.names("taken"), ["log.jsonl"]);
}

#[test]
fn links_binaries_and_huge_files_are_put_aside_with_a_reason() {
    let mut watched = Watched::new(99);
    let secret = watched.bench.home.path().join("secret.txt");
    fs::write(&secret, "do not learn this").unwrap();
    std::os::unix::fs::symlink(&secret, watched.watch.manner.folder.join("link.txt")).unwrap();
    watched.drop("picture.png", b"\x89PNG\0");
    let huge = fs::File::create(watched.watch.manner.folder.join("huge.txt")).unwrap();
    huge.set_len(FILE_BYTES_MAX + 1).unwrap();
    watched.look();
    watched.look();
    assert_eq!(watched.bench.texts().len(), 0);
    assert!(watched.why("link.txt").contains("got a link"));
    assert!(watched.why("picture.png").contains("not UTF-8"));
    assert!(watched.why("huge.txt").contains("expected at most 33554432 bytes"));
    assert!(secret.is_file(), "the link moved, not what it names");
    assert_eq!(watched.bench.context.counters.files_refused.load(Ordering::Relaxed), 3);
}

#[test]
fn a_file_waits_for_room_and_goes_on_where_it_stopped() {
    let mut watched = Watched::new(10);
    watched.drop("many.jsonl", lines(0..25).as_bytes());
    watched.look();
    assert!(watched.look(), "no room for all");
    // What comes after it waits for its turn.
    watched.drop("other.txt", b"other");
    for waiting in [10, 10, 6] {
        assert_eq!(watched.bench.texts().len(), waiting);
        watched.bench.learn();
        watched.look();
        watched.look();
    }
    assert_eq!(watched.names("taken"), ["many.jsonl", "other.txt"]);
}

#[test]
fn a_file_that_was_durable_and_not_moved_gives_nothing_twice() {
    let mut watched = Watched::new(99);
    watched.drop("log.jsonl", lines(0..5).as_bytes());
    watched.bench.inbox.lock().unwrap().offer(&lines(0..5)).unwrap();
    watched.look();
    watched.look();
    assert_eq!((watched.bench.texts().len(), watched.names("taken").len()), (5, 1));
}

#[test]
fn a_file_that_cannot_be_moved_is_taken_once_and_left() {
    let mut watched = Watched::new(99);
    // A file stands where the folder should be.
    watched.drop("taken", b"");
    watched.drop("notes.txt", b"the pump");
    (0..4).for_each(|_| assert!(!watched.look()));
    watched.bench.learn();
    (0..2).for_each(|_| assert!(!watched.look()));
    assert_eq!((watched.bench.texts().len(), watched.names("").len()), (0, 2));
    assert_eq!(watched.bench.context.counters.files_taken.load(Ordering::Relaxed), 1);
}

#[test]
fn a_failing_disk_leaves_the_file_for_later() {
    let mut watched = Watched::new(99);
    watched.drop("notes.txt", b"the pump");
    watched.look();
    let mut broken = |_: &[&Sample]| Err(InboxError::Broken);
    assert!(watched.watch.look(&watched.bench.context, &mut broken).unwrap());
    assert_eq!(watched.names(""), ["notes.txt"]);
    assert!(!watched.look());
    assert_eq!(watched.bench.texts(), ["the pump"]);
}

#[test]
fn the_thread_takes_what_is_dropped_and_ends_when_it_is_told() {
    let watched = Watched::new(99);
    let (manner, context) = (watched.watch.manner.clone(), watched.bench.context.clone());
    let thread = start(manner, watched.storage.clone(), context, watched.bench.sink()).unwrap();
    watched.drop("notes.md", b"# The pump");
    watched.bench.until(|bench| bench.texts() == ["# The pump"]);
    watched.bench.context.stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
}

/// A power cut leaves zeros in a log, a program another encoding: neither costs the lines around it.
#[test]
fn a_line_that_is_no_text_costs_itself_alone_while_its_file_grows() {
    let mut watched = Watched::new(99);
    watched.watch.manner.quiet = Duration::from_secs(3_600);
    let path = watched.watch.manner.folder.join("app.jsonl");
    let mut file = fs::File::options().create(true).append(true).open(&path).unwrap();
    file.write_all(lines(0..2).as_bytes()).unwrap();
    watched.look();
    file.write_all(b"\0\0\0\0\n{\"text\":\"caf\xe9\"}\n").unwrap();
    file.write_all(lines(2..4).as_bytes()).unwrap();
    watched.look();
    assert_eq!(watched.bench.texts().len(), 4);
    assert_eq!(watched.bench.context.counters.refused.load(Ordering::Relaxed), 2);
    watched.watch.manner.quiet = Duration::ZERO;
    (0..2).for_each(|_| assert!(!watched.look()));
    let why = watched.why("app.jsonl");
    assert!(why.starts_with("line 3: expected UTF-8 text, got a NUL byte"), "{why}");
    assert!(why.ends_with("4 of its 6 samples are taken in\n"), "{why}");
}

/// The program holds it open and writes slower than any look.
#[test]
fn lines_are_taken_as_they_come_and_each_once() {
    let mut watched = Watched::new(99);
    watched.watch.manner.quiet = Duration::from_secs(3_600);
    let path = watched.watch.manner.folder.join("app.log");
    let mut file = fs::File::options().create(true).append(true).open(&path).unwrap();
    for number in 0..3 {
        file.write_all(lines(number..number + 1).as_bytes()).unwrap();
        file.write_all(b"{\"text\":\"sam").unwrap();
        (0..3).for_each(|_| assert!(!watched.look()));
        file.write_all(b"ple\"}\n").unwrap();
    }
    watched.look();
    // Renamed, it goes on where it was; cut short, it begins anew and what was there is known.
    fs::rename(&path, watched.watch.manner.folder.join("app.log.1")).unwrap();
    file.write_all(lines(3..4).as_bytes()).unwrap();
    watched.look();
    assert_eq!(watched.bench.texts(), ["sample 0", "sample", "sample 1", "sample 2", "sample 3"]);
    file.set_len(0).unwrap();
    watched.look();
    file.write_all(lines(3..5).as_bytes()).unwrap();
    (0..2).for_each(|_| assert!(!watched.look()));
    assert_eq!(watched.bench.texts().last().unwrap(), "sample 4");
    assert_eq!((watched.bench.texts().len(), watched.names("")), (6, vec!["app.log.1".to_owned()]));
}

#[test]
fn a_line_that_comes_to_a_file_put_away_is_taken_too() {
    let mut watched = Watched::new(99);
    let path = watched.watch.manner.folder.join("log.jsonl");
    let mut file = fs::File::options().create(true).append(true).open(&path).unwrap();
    file.write_all(lines(0..2).as_bytes()).unwrap();
    (0..3).for_each(|_| assert!(!watched.look()));
    assert_eq!(watched.names("taken"), ["log.jsonl"]);
    file.write_all(lines(2..3).as_bytes()).unwrap();
    watched.look();
    assert_eq!(watched.bench.texts().len(), 3);
}

/// More samples may have come in between than the inbox remembers: it must not be asked.
#[test]
fn a_program_that_starts_again_goes_on_where_it_ended() {
    let mut watched = Watched::new(99);
    watched.watch.manner.quiet = Duration::from_secs(3_600);
    let path = watched.watch.manner.folder.join("app.jsonl");
    let mut file = fs::File::options().create(true).append(true).open(&path).unwrap();
    file.write_all(lines(0..3).as_bytes()).unwrap();
    (0..2).for_each(|_| assert!(!watched.look()));
    watched.restart();
    file.write_all(lines(3..5).as_bytes()).unwrap();
    (0..3).for_each(|_| assert!(!watched.look()));
    assert_eq!(watched.bench.texts(), ["sample 3", "sample 4"]);
    // Put away, it is followed on over a start too.
    watched.watch.manner.quiet = Duration::ZERO;
    (0..2).for_each(|_| assert!(!watched.look()));
    assert_eq!(watched.names("taken"), ["app.jsonl"]);
    watched.restart();
    file.write_all(lines(5..6).as_bytes()).unwrap();
    (0..2).for_each(|_| assert!(!watched.look()));
    assert_eq!(watched.bench.texts(), ["sample 5"]);
}

/// A disk that refuses once is asked again, though nothing has come in between.
#[test]
fn how_far_a_file_is_taken_in_is_written_again_after_a_refusal() {
    let mut watched = Watched::new(99);
    watched.watch.manner.quiet = Duration::from_secs(3_600);
    let disk = Arc::new(CutDisk::new());
    watched.watch = Watch::new(watched.watch.manner.clone(), disk.clone());
    watched.drop("app.jsonl", lines(0..2).as_bytes());
    watched.look();
    disk.set(Some(Fault::Once(0, Failure::Eio)));
    watched.look();
    assert_eq!(disk.len(offsets::FILE).unwrap(), None);
    watched.look();
    assert!(disk.len(offsets::FILE).unwrap().is_some());
    let operations = disk.operations();
    watched.look();
    assert_eq!(disk.operations(), operations, "nothing is written where nothing has changed");
}

/// Inbox and offsets lie on one disk; whatever of them is lost, the other makes good.
#[test]
fn a_cut_at_any_operation_loses_no_line_and_takes_none_twice() {
    let mut cuts = 0;
    for luck in 0..6 {
        for at in 0.. {
            let (mut watched, before) = (Watched::new(99), cuts);
            watched.watch.manner.quiet = Duration::from_secs(3_600);
            let mut disk = Arc::new(CutDisk::new());
            watched.on(&disk);
            disk.set(Some(Fault::Cut(at)));
            let path = watched.watch.manner.folder.join("app.jsonl");
            let mut file = fs::File::options().create(true).append(true).open(&path).unwrap();
            for number in 0..3 {
                file.write_all(lines(2 * number..2 * number + 2).as_bytes()).unwrap();
                for _ in 0..2 {
                    watched.look();
                    if disk.is_off() {
                        cuts += 1;
                        disk = Arc::new(disk.after_cut(luck));
                        watched.on(&disk);
                    }
                }
            }
            disk.set(None);
            (0..2).for_each(|_| assert!(!watched.look()));
            let expected: Vec<_> = (0..6).map(|number| format!("sample {number}")).collect();
            assert_eq!(watched.bench.texts(), expected, "cut at operation {at}, luck {luck}");
            if cuts == before {
                break;
            }
        }
    }
    assert!(cuts > 100, "{cuts} cuts");
}

/// One bad line costs itself alone: who holds the file open does not know where it lies now.
#[test]
fn a_line_that_comes_to_a_file_that_was_refused_is_taken_too() {
    let mut watched = Watched::new(99);
    let path = watched.watch.manner.folder.join("log.jsonl");
    let mut file = fs::File::options().create(true).append(true).open(&path).unwrap();
    file.write_all(format!("{}{{\"txt\":1}}\n", lines(0..2)).as_bytes()).unwrap();
    (0..3).for_each(|_| assert!(!watched.look()));
    assert_eq!(watched.names("refused"), ["log.jsonl", "log.jsonl.why"]);
    file.write_all(lines(2..3).as_bytes()).unwrap();
    watched.look();
    assert_eq!(watched.bench.texts().len(), 3);
    watched.restart();
    file.write_all(lines(3..4).as_bytes()).unwrap();
    (0..2).for_each(|_| assert!(!watched.look()));
    assert_eq!(watched.bench.texts(), ["sample 3"]);
}

/// An inode is given again, and a record may be damaged: then a file is read from its beginning.
#[test]
fn another_file_with_a_known_inode_is_another_file() {
    let mut watched = Watched::new(99);
    watched.watch.manner.quiet = Duration::from_secs(3_600);
    watched.drop("app.jsonl", lines(0..2).as_bytes());
    (0..2).for_each(|_| assert!(!watched.look()));
    watched.restart();
    // Written over in place: the same inode, another beginning, longer than what was taken.
    watched.drop("app.jsonl", lines(10..14).as_bytes());
    (0..2).for_each(|_| assert!(!watched.look()));
    assert_eq!(watched.bench.texts().len(), 4);
    for damage in [&b"{"[..], b"{\"version\":2,\"files\":[]}", b"\0\0"] {
        watched.storage.write(offsets::FILE, damage).unwrap();
        watched.restart();
        (0..2).for_each(|_| assert!(!watched.look()));
        assert_eq!(watched.bench.texts().len(), 4);
    }
}

#[test]
fn a_file_that_cannot_be_read_waits_and_one_of_another_kind_of_json_is_refused() {
    let mut watched = Watched::new(99);
    watched.drop("list.json", b"[{\"text\": \"a\"}, {\"text\": \"b\"}]");
    watched.drop("lines.json", lines(0..2).as_bytes());
    (0..2).for_each(|_| assert!(!watched.look()));
    assert_eq!(watched.bench.texts().len(), 2);
    assert!(watched.why("list.json").contains("another kind of JSON"));
    let denied = io::Error::from(ErrorKind::PermissionDenied);
    let stage = later(OsStr::new("a"), &denied, Duration::from_secs(9), AGAIN[0]);
    let expected = Stage::Later(Duration::from_secs(9) + AGAIN[0], 2 * AGAIN[0]);
    assert_eq!(stage, Some(expected), "longer the next time");
}

#[test]
fn a_file_of_the_user_s_is_kept_however_large() {
    let mut watched = Watched::new(99);
    for round in 0..3 {
        let huge = fs::File::create(watched.watch.manner.folder.join("huge.txt")).unwrap();
        huge.set_len((200 << 20) + round).unwrap();
        (0..2).for_each(|_| assert!(!watched.look()));
    }
    let kept = [
        "huge.txt",
        "huge.txt.2",
        "huge.txt.2.why",
        "huge.txt.3",
        "huge.txt.3.why",
        "huge.txt.why",
    ];
    assert_eq!(watched.names("refused"), kept);
}
