//! What is acknowledged stays, what is learned goes, what does not fit is refused.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::*;
use crate::ports::cut_disk::{CutDisk, Failure, Fault};
use sapwood_protocol::record::crc32c;
use std::io::ErrorKind;

mod aside;

const BOUNDS: Bounds = Bounds { bytes: 1 << 20, samples: 100 };

fn line(number: u64) -> String {
    format!("{{\"text\":\"sample {number}\"}}\n")
}

fn open(disk: &Arc<CutDisk>, learned: u64) -> Inbox {
    Inbox::open(disk.clone(), BOUNDS, learned).unwrap()
}

fn texts(inbox: &Inbox) -> Vec<String> {
    let text = |example: Example| match example {
        Example::Text(text) => text,
        other => format!("{other:?}"),
    };
    inbox.take(u64::MAX).unwrap().samples.into_iter().map(|(_, one)| text(one)).collect()
}

#[test]
fn samples_come_out_in_order_after_a_restart_and_go_when_they_are_learned() {
    let disk = Arc::new(CutDisk::new());
    let mut inbox = open(&disk, 0);
    inbox.offer(&[line(1), line(2)].concat()).unwrap();
    let receipt = inbox.offer(&line(3)).unwrap();
    assert_eq!(receipt, Receipt { accepted: 1, duplicates: 0, last: 3 });
    let mut inbox = open(&Arc::new(disk.after_cut(0)), 0);
    assert_eq!(texts(&inbox), ["sample 1", "sample 2", "sample 3"]);
    assert_eq!([0, 1, 2, 9].map(|most| inbox.reach(most)), [None, Some(1), Some(2), Some(3)]);
    let taken = inbox.take(1).unwrap();
    assert_eq!((taken.samples.len(), taken.through), (1, 1), "a batch may be taken in part");
    inbox.forget(1).unwrap();
    assert_eq!((inbox.reach(1), inbox.take(2).unwrap().samples[0].0), (Some(2), 2));
    inbox.forget(2).unwrap();
    assert_eq!((texts(&inbox), inbox.waiting().samples), (vec!["sample 3".to_owned()], 1));
    inbox.forget(3).unwrap();
    assert_eq!(inbox.offer(&line(4)).unwrap().last, 4, "numbers go on");
}

#[test]
fn a_sample_that_is_sent_again_is_dropped_before_and_after_it_was_learned() {
    let disk = Arc::new(CutDisk::new());
    let mut inbox = open(&disk, 0);
    let both = [line(1), line(2), line(1)].concat();
    assert_eq!(inbox.offer(&both).unwrap(), Receipt { accepted: 2, duplicates: 1, last: 2 });
    inbox.forget(2).unwrap();
    let mut inbox = open(&Arc::new(disk.after_cut(0)), 2);
    assert_eq!(inbox.offer(&both).unwrap(), Receipt { accepted: 0, duplicates: 3, last: 2 });
    let spaced = "{ \"text\" : \"sample 2\", \"id\": 7 }";
    assert_eq!(inbox.offer(spaced).unwrap().duplicates, 1, "what it says counts, not its bytes");
    assert_eq!(inbox.offer(&line(3)).unwrap().last, 3);
}

#[test]
fn a_bad_line_refuses_its_whole_batch() {
    let mut inbox = open(&Arc::new(CutDisk::new()), 0);
    let said = inbox.offer(&(line(1) + "{\"txt\":1}\n")).unwrap_err().to_string();
    assert!(said.contains("line 2") && said.contains("nothing of the batch"), "{said}");
    assert!(matches!(inbox.offer(" \n\n"), Err(InboxError::Empty)));
    assert_eq!(inbox.waiting(), Waiting::default());
}

#[test]
fn a_full_inbox_refuses_and_takes_again_when_a_job_has_learned() {
    let mut inbox = open(&Arc::new(CutDisk::new()), 0);
    for number in 1..=BOUNDS.samples {
        inbox.offer(&line(number)).unwrap();
    }
    assert!(matches!(inbox.offer(&line(0)), Err(InboxError::Full { samples: 100, .. })));
    assert_eq!(inbox.offer(&line(5)).unwrap().duplicates, 1, "what is there needs no room");
    inbox.forget(1).unwrap();
    assert_eq!(inbox.offer(&line(0)).unwrap().last, 101);
    let large = format!("{{\"text\":\"{}\"}}", "x".repeat(BOUNDS.bytes as usize));
    assert!(matches!(inbox.offer(&large), Err(InboxError::Large { .. })));
}

#[test]
fn a_job_meets_the_same_samples_after_a_cut_however_many_came_since() {
    let disk = Arc::new(CutDisk::new());
    let mut inbox = open(&disk, 0);
    inbox.offer(&[line(1), line(2)].concat()).unwrap();
    let job = Job { through: 2, attempts: 1, step: 7, suspect: 0 };
    inbox.begin(job).unwrap();
    inbox.offer(&line(3)).unwrap();
    let mut inbox = open(&Arc::new(disk.after_cut(0)), 0);
    assert_eq!(inbox.job(), Some(job));
    assert_eq!(inbox.take(job.through).unwrap().samples.len(), 2);
    inbox.forget(2).unwrap();
    assert_eq!((inbox.job(), texts(&inbox)), (None, vec!["sample 3".to_owned()]));
}

/// Every operation of a short life is cut, fails once or meets a full disk.
#[test]
fn what_was_acknowledged_is_there_whatever_the_disk_does() {
    let life = |inbox: &mut Inbox, acknowledged: &mut Vec<String>| -> Result<(), InboxError> {
        for number in 1..=6 {
            inbox.offer(&line(number))?;
            acknowledged.push(format!("sample {number}"));
            if number == 4 {
                inbox.begin(Job { through: 2, ..Job::default() })?;
                inbox.forget(2)?;
            }
        }
        Ok(())
    };
    let operations = {
        let disk = Arc::new(CutDisk::new());
        let mut inbox = open(&disk, 0);
        disk.set(None);
        life(&mut inbox, &mut Vec::new()).unwrap();
        disk.operations()
    };
    assert!(operations > 20, "{operations}");
    let faults =
        |at| [Fault::Cut(at), Fault::Once(at, Failure::Kind(ErrorKind::Other)), Fault::Full(at)];
    for fault in (0..operations).flat_map(faults) {
        let disk = Arc::new(CutDisk::new());
        let (mut inbox, mut acknowledged) = (open(&disk, 0), Vec::new());
        disk.set(Some(fault));
        let _ = life(&mut inbox, &mut acknowledged);
        disk.set(None);
        for luck in 0..8 {
            // Nothing of it was learned by a commit: the caller's number says what is gone.
            let learned = if acknowledged.len() >= 4 { 2 } else { 0 };
            let after = Arc::new(disk.after_cut(luck));
            let mut inbox = open(&after, learned);
            let there = texts(&inbox);
            let wanted = acknowledged.iter().skip(learned as usize);
            assert!(wanted.clone().all(|text| there.contains(text)), "{fault:?} {luck}: {there:?}");
            assert_eq!(inbox.found().lost_samples, 0, "{fault:?} {luck}");
            let last = inbox.offer(&line(99)).unwrap().last;
            let again = open(&Arc::new(after.after_cut(0)), learned);
            assert_eq!(texts(&again).last().unwrap(), "sample 99", "{fault:?} {luck} {last}");
        }
    }
}

/// A cut while learned samples go: their hashes are there before their segment is gone.
#[test]
fn what_was_learned_is_known_wherever_a_cut_falls_while_it_goes() {
    for at in 0..12 {
        let disk = Arc::new(CutDisk::new());
        let mut inbox = open(&disk, 0);
        inbox.offer(&[line(1), line(2)].concat()).unwrap();
        disk.set(Some(Fault::Cut(at)));
        let _ = inbox.forget(2);
        disk.set(None);
        for luck in 0..8 {
            let mut after = open(&Arc::new(disk.after_cut(luck)), 2);
            assert_eq!(after.offer(&line(1)).unwrap().duplicates, 1, "operation {at}, {luck}");
        }
    }
}

#[test]
fn a_write_that_failed_half_way_leaves_nothing_that_is_taken_for_a_sample() {
    let disk = Arc::new(CutDisk::new());
    let mut inbox = open(&disk, 0);
    inbox.offer(&line(1)).unwrap();
    disk.set(Some(Fault::Full(0)));
    assert!(matches!(inbox.offer(&line(2)), Err(InboxError::Storage(error)) if error.is_full()));
    disk.set(None);
    // The failed write did reach the disk after all, as one that was torn late may.
    disk.damage("inbox/1", |bytes| bytes.extend(segment::encode(2, &line(2))));
    inbox.offer(&line(3)).unwrap();
    assert_eq!(texts(&open(&disk, 0)), ["sample 1", "sample 3"]);
}

#[test]
fn damage_is_counted_and_costs_its_batch_alone() {
    let disk = Arc::new(CutDisk::new());
    let mut inbox = open(&disk, 0);
    for number in 1..=3 {
        inbox.offer(&line(number)).unwrap();
    }
    let bytes = segment::encode(2, &line(2)).len();
    disk.damage("inbox/1", |all| all[bytes + 70] ^= 1);
    let taken = inbox.take(9).unwrap();
    assert_eq!((taken.samples.len(), taken.lost), (2, 1), "noticed when it is read");
    disk.set(Some(Fault::Once(0, Failure::Eio)));
    assert_eq!(inbox.take(9).unwrap(), taken, "one error of the disk is not the last word");
    disk.set(None);
    let inbox = open(&disk, 0);
    assert_eq!(texts(&inbox), ["sample 1", "sample 3"]);
    let found = Found { passed_over_bytes: bytes as u64, lost_samples: 1, ..Found::default() };
    assert_eq!(inbox.found(), found);
}

/// As a later version would have written them: sound, and not ours.
#[test]
fn a_file_of_a_later_version_is_refused_by_name_and_left_as_it_is() {
    let disk = Arc::new(CutDisk::new());
    let mut inbox = open(&disk, 0);
    inbox.offer(&[line(1), line(2)].concat()).unwrap();
    inbox.set_aside(1, "why").unwrap();
    inbox.forget(1).unwrap();
    inbox.begin(Job { through: 2, attempts: 1, ..Job::default() }).unwrap();
    disk.write(SEEN, &Seen::default().encode(3)).unwrap();
    for path in ["inbox/1", SEEN, job::JOB, "inbox/aside/1"] {
        let newer = Arc::new(disk.copy());
        newer.damage(path, |bytes| {
            bytes[8] += 1;
            let sum = crc32c(&bytes[..60]);
            bytes[60..64].copy_from_slice(&sum.to_le_bytes());
        });
        let before = newer.copy();
        let said = Inbox::open(newer.clone(), BOUNDS, 1).err().unwrap().to_string();
        assert!(said.starts_with(path) && said.contains("nothing was changed"), "{said}");
        assert!(said.contains("format version") && said.contains("this program reads"), "{said}");
        for path in before.paths() {
            assert_eq!(before.read(&path).unwrap(), newer.read(&path).unwrap(), "{path}");
        }
    }
}

#[test]
fn a_damaged_segment_is_kept_and_none_of_its_numbers_comes_again() {
    let disk = Arc::new(CutDisk::new());
    open(&disk, 0).offer(&[line(1), line(2), line(3)].concat()).unwrap();
    disk.damage("inbox/1", |bytes| bytes[80] ^= 1);
    let bytes = disk.read("inbox/1").unwrap();
    let mut inbox = open(&disk, 0);
    assert_eq!((inbox.found().damaged_samples, inbox.waiting().samples), (3, 0));
    assert_eq!(inbox.offer(&line(9)).unwrap().last, 4);
    let after = Arc::new(disk.after_cut(0));
    assert_eq!(after.read("inbox/damaged/1-4").unwrap(), bytes);
    assert_eq!(open(&after, 0).found(), Found::default(), "told once");
}

#[test]
fn damage_to_what_it_remembers_is_reported() {
    let disk = Arc::new(CutDisk::new());
    let mut inbox = open(&disk, 0);
    inbox.offer(&line(1)).unwrap();
    inbox.begin(Job { through: 1, attempts: 1, ..Job::default() }).unwrap();
    assert!(disk.damage("inbox/job", |bytes| bytes[70] ^= 1));
    assert_eq!(open(&disk, 0).found(), Found { job_lost: true, ..Found::default() });
    inbox.forget(1).unwrap();
    assert_eq!(open(&disk, 1).found(), Found::default());
    assert!(disk.damage("inbox/seen", |bytes| bytes[70] ^= 1));
    assert!(open(&disk, 1).found().memory_lost);
}

#[test]
fn the_largest_batch_comes_back_and_a_longer_file_is_not_even_read() {
    let (disk, learned) = (Arc::new(CutDisk::new()), 0);
    let bounds = Bounds { bytes: u64::MAX, samples: 100 };
    let mut inbox = Inbox::open(disk.clone(), bounds, learned).unwrap();
    let long = |bytes: usize| format!("{{\"text\":\"{}\"}}", "x".repeat(bytes - 11));
    let half = INBOX_BATCH_BYTES_MAX as usize / 2;
    let most = [long(half), long(half - 1)].join("\n");
    assert_eq!(most.len() as u64, INBOX_BATCH_BYTES_MAX);
    inbox.offer(&most).unwrap();
    let inbox = Inbox::open(disk.clone(), bounds, learned).unwrap();
    assert_eq!((inbox.found(), inbox.waiting().samples), (Found::default(), 2));
    let longer = vec![0; SEGMENT_BYTES_MAX as usize + 1];
    disk.write("inbox/1", &longer).unwrap();
    disk.write(SEEN, &longer).unwrap();
    let mut inbox = Inbox::open(disk, bounds, learned).unwrap();
    assert_eq!(inbox.found().passed_over_bytes, longer.len() as u64);
    assert!(inbox.offer(&line(3)).unwrap().last > 2, "no number comes twice");
}

#[test]
fn a_sample_without_a_number_is_refused() {
    let disk = Arc::new(CutDisk::new());
    let mut inbox = open(&disk, COUNT_MAX - 1);
    let two = [line(1), line(2)].concat();
    assert!(matches!(inbox.offer(&two), Err(InboxError::Full { .. })));
    assert_eq!(inbox.offer(&line(1)).unwrap().last, COUNT_MAX);
    assert!(matches!(inbox.offer(&line(2)), Err(InboxError::Full { .. })));
    assert_eq!(texts(&open(&disk, COUNT_MAX - 1)), ["sample 1"]);
}
