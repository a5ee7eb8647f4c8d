//! What no job could take in is kept within bounds, listed, tried again or let go of.

use super::*;
use sapwood_protocol::limits::INBOX_ASIDE_SAMPLES_MAX;

/// Sets a sample aside as a device does: kept first, then let go of by the manifest.
fn aside(inbox: &mut Inbox, number: u64) {
    assert!(inbox.set_aside(number, "two\nlines").unwrap());
    inbox.forget(number).unwrap();
}

#[test]
fn a_sample_that_was_set_aside_is_kept_with_its_reason_and_may_come_again() {
    let disk = Arc::new(CutDisk::new());
    let mut inbox = open(&disk, 0);
    inbox.offer(&[line(1), line(2), line(3)].concat()).unwrap();
    aside(&mut inbox, 1);
    for mut inbox in [open(&Arc::new(disk.after_cut(0)), 1), open(&Arc::new(disk.after_cut(1)), 1)]
    {
        assert_eq!(inbox.aside().collect::<Vec<_>>(), [1]);
        let found = inbox.look_aside(1).unwrap().unwrap();
        assert_eq!((found.reason.as_str(), found.line.as_str()), ("two lines", line(1).trim()));
        assert_eq!(texts(&inbox), ["sample 2", "sample 3"]);
        assert_eq!(inbox.offer(&line(1)).unwrap().accepted, 1, "it may be sent again");
        assert_eq!(inbox.offer(&line(2)).unwrap().duplicates, 1, "what waits may not");
    }
}

#[test]
fn it_is_tried_again_at_the_end_or_let_go_of() {
    let disk = Arc::new(CutDisk::new());
    let mut inbox = open(&disk, 0);
    inbox.offer(&[line(1), line(2), line(3)].concat()).unwrap();
    aside(&mut inbox, 1);
    aside(&mut inbox, 2);
    assert!(inbox.retry_aside(1).unwrap() && inbox.drop_aside(2).unwrap());
    assert!(!inbox.retry_aside(1).unwrap() && !inbox.drop_aside(7).unwrap());
    let inbox = open(&Arc::new(disk.after_cut(0)), 2);
    assert_eq!(
        (inbox.aside().count(), texts(&inbox)),
        (0, vec!["sample 3".into(), "sample 1".into()])
    );
}

#[test]
fn one_that_is_not_let_go_of_yet_waits_and_is_not_listed() {
    let disk = Arc::new(CutDisk::new());
    let mut inbox = open(&disk, 0);
    inbox.offer(&[line(1), line(2)].concat()).unwrap();
    inbox.set_aside(1, "cut off after this").unwrap();
    let mut inbox = open(&Arc::new(disk.after_cut(0)), 0);
    assert_eq!((texts(&inbox).len(), inbox.aside().count()), (2, 0));
    assert!(!inbox.drop_aside(1).unwrap());
    assert!(inbox.set_aside(1, "again").unwrap());
    assert_eq!(inbox.look_aside(1).unwrap().unwrap().reason, "again");
}

#[test]
fn the_oldest_go_when_there_is_no_room_and_damage_is_left_and_counted() {
    let disk = Arc::new(CutDisk::new());
    let bounds = Bounds { bytes: 1 << 20, samples: 2_000 };
    let mut inbox = Inbox::open(disk.clone(), bounds, 0).unwrap();
    let most = INBOX_ASIDE_SAMPLES_MAX as u64;
    inbox.offer(&(1..=most + 2).map(line).collect::<String>()).unwrap();
    (1..=most + 1).for_each(|number| assert!(inbox.set_aside(number, "why").unwrap()));
    inbox.forget(most + 1).unwrap();
    assert_eq!((inbox.aside().next(), inbox.aside().count()), (Some(2), most as usize));
    assert_eq!(inbox.aside_dropped(), 1);
    assert!(disk.damage("inbox/aside/2", |bytes| bytes[70] ^= 1));
    let inbox = Inbox::open(disk.clone(), bounds, most + 1).unwrap();
    assert_eq!((inbox.found().aside_lost, inbox.aside().next()), (1, Some(3)));
    assert!(disk.len("inbox/aside/2").unwrap().is_some(), "it may be read elsewhere");
}

#[test]
fn the_record_of_a_job_stays_while_samples_are_under_suspicion() {
    let disk = Arc::new(CutDisk::new());
    let mut inbox = open(&disk, 0);
    inbox.offer(&[line(1), line(2), line(3)].concat()).unwrap();
    let job = Job { through: 1, attempts: 1, step: 0, suspect: 2 };
    inbox.begin(job).unwrap();
    inbox.forget(1).unwrap();
    let mut inbox = open(&Arc::new(disk.after_cut(0)), 1);
    assert_eq!((inbox.job(), inbox.suspect()), (None, Some(2)));
    inbox.forget(2).unwrap();
    assert_eq!(inbox.suspect(), None);
    assert!(inbox.storage.len(job::JOB).unwrap().is_none());
}
