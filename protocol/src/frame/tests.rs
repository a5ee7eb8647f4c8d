//! Frames against golden bytes, damage, loss and every way to cut a stream.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

extern crate std;

use super::*;
use crate::limits::{FRAME_ANSWER_BYTES_MAX, FRAME_PAYLOAD_BYTES_MAX, FRAME_SAMPLE_BYTES_MAX};
use std::string::{String, ToString};
use std::vec::Vec;
use std::{format, vec};

const GOLDEN: &str = include_str!("../../../tests/golden/frames/frames.txt");
const TEXT: Body<'static> = Body::Text(b"valve 3 opened");

fn golden(name: &str) -> Vec<u8> {
    let line = GOLDEN.lines().find(|line| line.split(' ').next() == Some(name)).unwrap();
    let hex = line.split(' ').nth(1).unwrap();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn line(session: u32, sequence: u32, body: Body<'_>) -> Vec<u8> {
    let mut buffer = [0; FRAME_BYTES_MAX];
    encode(&Frame { session, sequence, body }, &mut buffer).unwrap().to_vec()
}

fn part(place: Place, bytes: &[u8]) -> Body<'_> {
    Body::Part { place, field: Field::Text, bytes }
}

/// What a decoder says of chunks: the text of each frame, or why there is none.
fn heard<'a>(decoder: &mut Decoder, chunks: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    let mut said = Vec::new();
    for mut chunk in chunks {
        while let Some(found) = decoder.next(&mut chunk) {
            said.push(match found {
                Ok(frame) => format!("{} {:?}", frame.sequence, frame.body),
                Err(dropped) => dropped.to_string(),
            });
        }
    }
    said
}

fn hear(bytes: &[u8]) -> (Vec<String>, Counts) {
    let mut decoder = Decoder::default();
    (heard(&mut decoder, std::iter::once(bytes)), decoder.counts())
}

/// Oracle: `tools/golden/frames.py` (cobs 1.2.2, crc32c 2.9).
#[test]
fn frames_are_the_bytes_that_other_packages_make_of_them() {
    let (xs, runs) = (vec![b'x'; 4000], vec![b'y'; 250]);
    let completion = Body::Completion { prompt: b"status?", completion: b"ok" };
    let piece = |place, field, bytes| Body::Part { place, field, bytes };
    let mut cases = vec![
        ("text".to_string(), 7, 0, TEXT),
        ("text_with_umlaut".into(), 7, 1, Body::Text("Öl 80 °C".as_bytes())),
        ("zeros".into(), 0, 0, Body::Text(&[0; 600])),
        ("long".into(), u32::MAX, u32::MAX, Body::Text(&xs)),
        ("completion".into(), 300, 200, completion),
        ("first".into(), 7, 128, piece(Place::First, Field::Prompt, b"what")),
        ("middle".into(), 7, 129, piece(Place::Middle, Field::Completion, b"")),
        ("last".into(), 7, 130, piece(Place::Last, Field::Text, b"\xff")),
        ("accepted".into(), 7, 130, Body::Answer(Answer::Accepted)),
        ("full".into(), u32::MAX, u32::MAX, Body::Answer(Answer::Full)),
        ("refused".into(), 7, 16384, Body::Answer(Answer::Refused)),
    ];
    let run = |count: usize| (format!("run_{count}"), 1, 1, Body::Text(&runs[..count]));
    cases.extend((236..250).map(run));
    assert_eq!(cases.len() + 1, GOLDEN.lines().count(), "each golden frame, and the later one");
    for (name, session, sequence, body) in cases {
        let expected = golden(&name);
        // Two forms are right where the last block is full: with and without an empty one after it.
        let ours = line(session, sequence, body);
        let other = [&expected[..expected.len() - 1], &[1, 0]].concat();
        assert!(ours == expected || (name.starts_with("run") && ours == other), "{name}");
        let mut decoder: Decoder = Decoder::default();
        // A part is handed on only after the beginning of its sample.
        let begun = line(session, sequence.wrapping_sub(1), part(Place::First, b""));
        assert!(decoder.next(&mut &begun[..]).is_some_and(|found| found.is_ok()));
        let found = decoder.next(&mut &expected[..]);
        assert_eq!(found, Some(Ok(Frame { session, sequence, body })), "{name}");
    }
}

#[test]
fn a_later_version_is_refused_by_name() {
    let (said, counts) = hear(&golden("later"));
    assert_eq!(said, ["a frame has version 2, this program reads version 1; dropped"]);
    assert_eq!((counts.version, counts.dropped(), counts.missing), (1, 1, 0));
}

#[test]
fn every_flipped_bit_costs_its_frame_and_no_other() {
    let (first, second) = (line(7, 0, TEXT), line(7, 1, Body::Text(b"next")));
    for bit in 0..first.len() * 8 {
        let mut bytes = [&first[..], &second, &line(7, 2, TEXT)].concat();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let (said, counts) = hear(&bytes);
        // A damaged delimiter joins two frames.
        let whole = if bit / 8 + 1 == first.len() { 1 } else { 2 };
        assert_eq!(counts.frames, whole, "bit {bit}: {said:?}");
        assert!(said.last().unwrap().starts_with("2 Text"), "bit {bit}: {said:?}");
    }
}

#[test]
fn however_a_stream_is_cut_its_frames_are_the_same() {
    let mut stream = vec![0, 0, 9, 9, 9, 0];
    (0..20).for_each(|number| stream.extend(line(1, number, Body::Text(&[number as u8; 300]))));
    let (whole, counts) = hear(&stream);
    assert_eq!((counts.frames, counts.damaged, counts.missing), (20, 1, 0));
    for size in [1, 2, 3, 7, 255, 256, 1000] {
        assert_eq!(heard(&mut Decoder::default(), stream.chunks(size)), whole, "chunks of {size}");
    }
}

/// Noise is drawn from a linear congruential generator, seed 1 (Numerical Recipes' constants).
#[test]
fn noise_between_frames_is_dropped_and_counted() {
    let mut state = 1_u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let mut stream = Vec::new();
    for number in 0..500 {
        stream.extend((0..usize::from(noise())).map(|_| noise()));
        stream.push(0);
        stream.extend(line(3, number, TEXT));
    }
    let (_, counts) = hear(&stream);
    assert_eq!((counts.frames, counts.missing), (500, 0));
    assert!(counts.damaged > 400, "{counts:?}");
    assert_eq!(counts.dropped(), counts.damaged);
}

#[test]
fn what_is_too_long_or_of_no_known_form_is_dropped_up_to_its_end() {
    let mut stream = vec![1; 2 * FRAME_PAYLOAD_BYTES_MAX];
    stream.push(0);
    // Kind 9, with a sound checksum.
    let content = [VERSION, 7, 0, 9];
    let sum = crate::record::crc32c(&content).to_le_bytes();
    assert!(sum.iter().all(|&byte| byte != 0));
    stream.extend([3, VERSION, 7, 6, 9]);
    stream.extend(sum);
    stream.push(0);
    stream.extend(line(7, 0, TEXT));
    let (said, counts) = hear(&stream);
    assert_eq!((counts.long, counts.malformed, counts.frames), (1, 1, 1), "{said:?}");
    assert_eq!(counts.dropped(), 2);
}

#[test]
fn a_missing_frame_is_counted_and_ends_the_sample_it_belonged_to() {
    let parts = [(0, Place::First), (1, Place::Middle), (2, Place::Middle), (3, Place::Last)];
    let frames = parts.map(|(number, place)| line(7, number, part(place, b"piece")));
    let after = line(7, 4, TEXT);
    let (said, counts) = hear(&[&frames.concat()[..], &after].concat());
    assert_eq!((said.len(), counts.dropped(), counts.unfinished), (5, 0, 0));

    let (said, counts) = hear(&[&frames[0][..], &frames[2], &frames[3], &after].concat());
    assert_eq!(counts, Counts { frames: 2, unbegun: 2, unfinished: 1, missing: 1, ..counts });
    assert!(said[2].contains("frame 3 of session 00000007") && said[3].starts_with("4"));
}

#[test]
fn a_new_session_or_one_that_began_again_misses_nothing() {
    let first = part(Place::First, b"cut");
    let stream = [
        line(7, u32::MAX, TEXT),
        line(7, 0, TEXT),
        line(7, 1, first),
        line(9, 500, TEXT),
        line(9, 0, TEXT),
    ];
    let (_, counts) = hear(&stream.concat());
    assert_eq!(counts, Counts { frames: 5, unfinished: 1, ..Counts::default() });
}

#[test]
fn text_room_is_what_fits_whatever_the_text_is() {
    for size in (0..1030).chain(FRAME_BYTES_MAX - 260..FRAME_BYTES_MAX + 10) {
        let (mut buffer, room) = (vec![0; size], text_room(size));
        if room == 0 {
            continue;
        }
        for byte in [0, 1] {
            let text = vec![byte; room];
            let body = Body::Part { place: Place::First, field: Field::Text, bytes: &text };
            let frame = Frame { session: u32::MAX, sequence: u32::MAX, body };
            assert!(encode(&frame, &mut buffer).is_ok(), "{room} bytes in a buffer of {size}");
        }
    }
    assert_eq!((text_room(32), text_room(256), text_room(1 << 20)), (9, 233, 4000));
}

#[test]
fn what_does_not_fit_is_refused_and_never_cut() {
    let frame = |bytes| Frame { session: 1, sequence: 1, body: Body::Text(bytes) };
    let whole = line(1, 1, TEXT).len();
    for size in 0..whole {
        let mut buffer = vec![0; size];
        let refused = EncodeError::Room { text: 14, got: size };
        assert_eq!(encode(&frame(b"valve 3 opened"), &mut buffer), Err(refused));
    }
    let long = EncodeError::Text { got: 4001, max: 4000 };
    assert_eq!(encode(&frame(&[1; 4001]), &mut [0; 8192]), Err(long));
}

/// A controller with small buffers; the host joins what it sent.
#[test]
fn a_long_sample_arrives_in_parts_from_a_small_buffer() {
    let (prompt, completion) = ("what about the pump? ".repeat(40), "it ran dry. ".repeat(30));
    for size in [32, 64, 256] {
        let (mut sender, mut stream) = (Sender::new(9), vec![0]);
        let mut send = |sample| {
            sender
                .send(sample, &mut vec![0; size], |frame| {
                    assert!(frame.len() <= size);
                    stream.extend(frame);
                    Ok::<_, ()>(())
                })
                .unwrap()
        };
        let last = send(Sample::Completion { prompt: &prompt, completion: &completion });
        assert_eq!(send(Sample::Text("short")), last + 1);
        let (mut decoder, mut texts) = (Decoder::<256>::default(), [Vec::<u8>::new(), Vec::new()]);
        let (mut input, mut ended) = (&stream[..], None);
        while let Some(found) = decoder.next(&mut input) {
            let frame = found.unwrap();
            let Body::Part { place, field, bytes } = frame.body else { break };
            texts[usize::from(field == Field::Completion)].extend(bytes);
            ended = (place == Place::Last).then_some(frame.sequence);
        }
        assert_eq!(ended, Some(last), "buffer of {size}");
        assert_eq!(texts, [prompt.as_bytes(), completion.as_bytes()]);
    }
    let too_long = "x".repeat(FRAME_SAMPLE_BYTES_MAX + 1);
    let mut sender = Sender::new(9);
    for text in ["", &too_long] {
        let refused = sender.send(Sample::Text(text), &mut [0; 64], |_| Ok::<_, ()>(()));
        let max = FRAME_SAMPLE_BYTES_MAX;
        let expected = SendError::Encode(EncodeError::Sample { got: text.len(), max });
        assert_eq!(refused, Err(expected));
    }
}

#[test]
fn a_controller_hears_answers_with_twenty_bytes() {
    for answer in [Answer::Accepted, Answer::Full, Answer::Refused] {
        let frame = Frame { session: u32::MAX, sequence: u32::MAX, body: Body::Answer(answer) };
        let mut buffer = [0; FRAME_ANSWER_BYTES_MAX];
        let mut bytes = encode(&frame, &mut buffer).unwrap();
        assert_eq!(Decoder::<17>::default().next(&mut bytes), Some(Ok(frame)));
    }
}
