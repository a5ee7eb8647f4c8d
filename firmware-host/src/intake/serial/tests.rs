//! Lines over real pipes and files, with noise, loss and a full inbox.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::*;
use crate::intake::frames::encode_lines;
use crate::intake::tests::Bench;
use sapwood::intake;
use sapwood_protocol::frame::{Sample, Sender};
use std::sync::atomic::Ordering;

fn frames(samples: std::ops::Range<u32>, session: u32) -> Vec<u8> {
    let lines: String = samples.map(|n| format!("{{\"text\":\"reading {n}\"}}\n")).collect();
    let mut bytes = Vec::new();
    encode_lines(lines.as_bytes(), &mut bytes, session, 256).unwrap();
    bytes
}

fn ends(bench: &Bench, thread: JoinHandle<Option<()>>) {
    bench.context.stop.store(true, Ordering::Relaxed);
    thread.thread().unpark();
    thread.join().unwrap();
}

/// A receiver that was told this much, and the answers once it was flushed.
fn answered(bench: &Bench, bytes: &[u8], hold: bool) -> (bool, Vec<(u32, Answer)>) {
    let mut receiver = Receiver::default();
    receiver.receive(bytes, Duration::ZERO, &bench.context.counters);
    let full = receiver.flush(&mut bench.sink(), hold, &bench.context.counters);
    let (mut decoder, mut input) = (Decoder::<17>::default(), &receiver.answers[..]);
    let mut said = Vec::new();
    while let Some(found) = decoder.next(&mut input) {
        let frame = found.unwrap();
        assert_eq!(frame.session, 9);
        if let Body::Answer(answer) = frame.body {
            said.push((frame.sequence, answer));
        }
    }
    (full, said)
}

#[cfg(target_os = "linux")]
#[test]
fn a_pipe_brings_its_samples_through_noise_and_new_writers() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let bench = Bench::new(1 << 20, 9_999);
    let path = bench.home.path().join("pipe");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let line = Serial { path: path.clone(), baud: Some(115_200) };
    let thread = start(line, bench.context.clone(), bench.sink()).unwrap();
    for writer in 0..3 {
        let mut pipe = OpenOptions::new().write(true).open(&path).unwrap();
        pipe.write_all(b"\xffnoise without an end").unwrap();
        pipe.write_all(&frames(100 * writer..100 * (writer + 1), writer)).unwrap();
        pipe.write_all(b"\x07cut").unwrap();
    }
    bench.until(|bench| bench.texts().len() == 300);
    ends(&bench, thread);
    let texts = bench.texts();
    assert_eq!((texts[0].as_str(), texts[299].as_str()), ("reading 0", "reading 299"));
    let counters = &bench.context.counters;
    assert_eq!(counters.frames.load(Ordering::Relaxed), 300);
    // Before each first frame, the ends of two writers joined; the last cut waits for its end.
    assert_eq!(counters.frames_dropped.load(Ordering::Relaxed), 3);
}

#[test]
fn a_file_that_comes_later_and_grows_is_read_and_nothing_waits_for_room_in_vain() {
    let bench = Bench::new(1 << 20, 10);
    let path = bench.home.path().join("frames");
    let line = Serial { path: path.clone(), baud: None };
    let thread = start(line, bench.context.clone(), bench.sink()).unwrap();
    std::fs::write(&path, frames(0..15, 1)).unwrap();
    bench.until(|bench| bench.texts().len() == 10);
    bench.learn();
    bench.until(|bench| bench.texts().len() == 5);
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(&frames(20..22, 2)).unwrap();
    bench.until(|bench| bench.texts().len() == 7);
    ends(&bench, thread);
    assert_eq!(bench.texts().last().unwrap(), "reading 21");
}

#[test]
fn only_what_is_durable_is_answered_as_accepted() {
    let bench = Bench::new(1 << 20, 2);
    let mut stream = Vec::new();
    let (mut sender, mut buffer) = (Sender::new(9), [0; 64]);
    for text in ["one", " \n", "two", "one", &"three ".repeat(30)] {
        let push = |frame: &[u8]| {
            stream.extend_from_slice(frame);
            Ok::<_, ()>(())
        };
        sender.send(Sample::Text(text), &mut buffer, push).unwrap();
    }
    let (full, said) = answered(&bench, &stream, false);
    use Answer::{Accepted, Full, Refused};
    // The long one has five parts, and no room.
    let expected = [(1, Refused), (0, Accepted), (2, Accepted), (3, Accepted), (8, Full)];
    assert_eq!((full, said), (false, expected.to_vec()));
    assert_eq!(bench.texts(), ["one", "two"]);
    let counters = &bench.context.counters;
    assert_eq!(
        (counters.full.load(Ordering::Relaxed), counters.refused.load(Ordering::Relaxed)),
        (1, 1)
    );
    let (full, said) = answered(&bench, &stream, true);
    assert!(full && said.len() == 4, "held, not answered: {said:?}");
}

#[test]
fn a_sample_with_a_lost_part_is_asked_for_again() {
    let bench = Bench::new(1 << 20, 9);
    let (mut sender, mut parts) = (Sender::new(9), Vec::new());
    let push = |frame: &[u8]| {
        parts.push(frame.to_vec());
        Ok::<_, ()>(())
    };
    sender.send(Sample::Text(&"long ".repeat(30)), &mut [0; 64], push).unwrap();
    assert_eq!(parts.len(), 4);
    parts[1][5] ^= 1;
    let (_, said) = answered(&bench, &parts.concat(), false);
    assert_eq!((said, bench.texts().len()), (vec![(3, Answer::Full)], 0));
}

#[test]
fn samples_are_gathered_for_a_while_or_until_they_are_many() {
    let bench = Bench::new(1 << 20, 9_999);
    let mut receiver = Receiver::default();
    let come = Duration::from_secs(5);
    receiver.receive(&frames(0..2, 1), come, &bench.context.counters);
    assert!(!receiver.due(come) && receiver.due(come + GATHER));
    receiver.receive(&frames(2..BATCH_SAMPLES_MAX as u32, 1), come, &bench.context.counters);
    assert!(receiver.due(come));
    let (mut calls, mut sink) = (0, bench.sink());
    let mut counted = |samples: &[&intake::Sample]| {
        calls += 1;
        sink(samples)
    };
    receiver.flush(&mut counted, false, &bench.context.counters);
    assert_eq!((calls, bench.texts().len()), (1, BATCH_SAMPLES_MAX));
    assert!(!receiver.due(come + GATHER));
}

#[test]
fn a_flood_of_refusals_is_one_line_every_ten_seconds() {
    let mut refused = Refused::default();
    let seconds = Duration::from_secs;
    let mut lines = Vec::new();
    for at in 0..20_000_u64 {
        refused.add(format!("sample {at}"));
        let now = seconds(at / 1_000);
        if refused.due(now, false) {
            lines.push((refused.count, refused.first.clone()));
        }
        refused.tell(now, false);
    }
    let expected = [(1, "sample 0".to_owned()), (10_000, "sample 1".to_owned())];
    assert_eq!(lines, expected);
    assert!(refused.due(seconds(20), true) && refused.count == 9_999);
}
