//! Bytes of a serial line: frames, noise, and samples in parts.
//!
//! - Promises: however a stream is cut into chunks, it says the same; what is counted adds up; a frame
//!   that is read can be written and reads back equal; after any noise and a zero byte the next frame
//!   is found; what a sender cuts into parts comes back whole; a line of JSON made of frames is one
//!   sample, and no longer than a sample may be.

use crate::Seed;
use crate::cursor::{Cursor, edit};
use firmware_host::intake::frames::{Assembler, SampleError, Whole};
use sapwood::intake::{Example, lines};
use sapwood_protocol::frame::{
    Answer, Body, Counts, Decoder, Field, Frame, Place, Sample, Sender, encode,
};
use sapwood_protocol::limits::{FRAME_BYTES_MAX, FRAME_SAMPLE_BYTES_MAX};
use std::convert::Infallible;

/// Most frames of one input.
const FRAMES_MAX: usize = 32;

/// The first byte says what the rest is: a line, frames that are damaged then, or a sample.
pub fn check(bytes: &[u8]) {
    let mut cursor = Cursor(bytes);
    match cursor.byte() % 3 {
        0 => line(cursor.0),
        1 => {
            let mut sent = frames(&mut cursor);
            edit(&mut sent, &mut cursor, 1 << 14);
            line(&sent);
        }
        _ => sample(&mut cursor),
    }
}

/// What a decoder says of a chunk: each frame, or why there is none.
fn hear<const BYTES: usize>(
    decoder: &mut Decoder<BYTES>,
    mut chunk: &[u8],
    said: &mut Vec<String>,
) {
    while let Some(found) = decoder.next(&mut chunk) {
        let Ok(frame) = found else {
            said.push(format!("{:?}", found.err()));
            continue;
        };
        let mut buffer = [0; FRAME_BYTES_MAX];
        let written = encode(&frame, &mut buffer).unwrap();
        let (mut again, mut rest) = (Decoder::<4096>::default(), written);
        let goes_on = matches!(frame.body, Body::Part { place: Place::Middle | Place::Last, .. });
        match again.next(&mut rest) {
            Some(read) => assert!(goes_on || read == Ok(frame), "{read:?} is not {frame:?}"),
            None => unreachable!("a frame without an end: {frame:?}"),
        }
        said.push(format!("{frame:?}"));
    }
}

/// The samples of a line.
fn samples(bytes: &[u8]) -> Vec<Whole> {
    let (mut decoder, mut assembler, mut rest) =
        (Decoder::<4020>::default(), Assembler::default(), bytes);
    let mut samples = Vec::new();
    while let Some(found) = decoder.next(&mut rest) {
        samples.extend(found.ok().and_then(|frame| assembler.join(&frame)));
    }
    samples
}

fn one_sample_each(bytes: &[u8]) {
    for sample in samples(bytes).into_iter().filter_map(|whole| whole.sample.ok()) {
        let line = sample.line();
        let examples = lines(line, "line").unwrap();
        assert!(!line.contains(['\n', '\r']), "{line}");
        assert_eq!(examples, [sample.example().clone()]);
        assert!(examples[0].bytes() <= FRAME_SAMPLE_BYTES_MAX, "{} bytes", examples[0].bytes());
    }
}

fn heard(chunks: &[&[u8]]) -> (Vec<String>, Counts) {
    let (mut decoder, mut said) = (Decoder::<4020>::default(), Vec::new());
    chunks.iter().for_each(|chunk| hear(&mut decoder, chunk, &mut said));
    let counts = decoder.counts();
    assert_eq!(said.len() as u64, counts.frames + counts.dropped());
    (said, counts)
}

fn line(bytes: &[u8]) {
    let whole = heard(&[bytes]);
    let middle = bytes.len() / 2;
    let ends = [bytes.len() / 3, middle, middle];
    let mut rest = bytes;
    let mut chunks: Vec<&[u8]> = Vec::new();
    for end in ends {
        let (chunk, after) = rest.split_at(end.min(rest.len()));
        chunks.push(chunk);
        rest = after;
    }
    chunks.push(rest);
    assert_eq!(heard(&chunks), whole, "cut into {ends:?}");
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(heard(&single), whole, "byte by byte");
    one_sample_each(bytes);
    // A controller's decoder is too small for most frames and must say so, no more.
    hear(&mut Decoder::<17>::default(), bytes, &mut Vec::new());
    let mut buffer = [0; FRAME_BYTES_MAX];
    let next = Frame { session: 1, sequence: 2, body: Body::Text(b"next") };
    let next = encode(&next, &mut buffer).unwrap();
    let (said, _) = heard(&[bytes, &[0], next]);
    assert!(
        said.last().is_some_and(|last| last.contains("Text([110, 101, 120, 116])")),
        "{said:?}"
    );
}

/// Frames one after the other, as the bytes choose them.
fn frames(cursor: &mut Cursor<'_>) -> Vec<u8> {
    let (mut sent, mut sequence) = (Vec::new(), 0_u32);
    for _ in 0..1 + usize::from(cursor.byte()) % FRAMES_MAX {
        let (kind, length) = (cursor.byte(), usize::from(cursor.byte()));
        let (bytes, more) = (cursor.take(length), cursor.take(length / 8));
        let place = [Place::First, Place::Middle, Place::Last][usize::from(kind >> 2) % 3];
        let field = [Field::Text, Field::Prompt, Field::Completion][usize::from(kind >> 4) % 3];
        let body = match kind % 4 {
            0 => Body::Text(bytes),
            1 => Body::Completion { prompt: bytes, completion: more },
            2 => Body::Part { place, field, bytes },
            _ => Body::Answer([Answer::Accepted, Answer::Full, Answer::Refused][length % 3]),
        };
        sequence = sequence.wrapping_add(if kind >= 250 { cursor.number() } else { 1 });
        let mut buffer = [0; FRAME_BYTES_MAX];
        let frame = Frame { session: u32::from(kind >> 6), sequence, body };
        sent.extend_from_slice(encode(&frame, &mut buffer).unwrap());
    }
    sent
}

/// A sample through a sender with a buffer of any size.
fn sample(cursor: &mut Cursor<'_>) {
    let (session, room) = (cursor.number(), usize::from(cursor.byte()) * 16);
    let split = cursor.below(cursor.0.len() + 1);
    let text = String::from_utf8_lossy(cursor.0);
    let mut split = split.min(text.len());
    while !text.is_char_boundary(split) {
        split -= 1;
    }
    let (prompt, completion) = text.split_at(split);
    for sample in [Sample::Text(&text), Sample::Completion { prompt, completion }] {
        let (mut line, mut buffer) = (Vec::new(), vec![0; room]);
        let sent = Sender::new(session).send(sample, &mut buffer, |frame| {
            line.extend_from_slice(frame);
            Ok::<(), Infallible>(())
        });
        if sent.is_err() {
            assert!(line.is_empty(), "a part of a sample was sent");
            continue;
        }
        let (mut decoder, mut rest, mut joined) =
            (Decoder::<4020>::default(), &line[..], Vec::new());
        while let Some(found) = decoder.next(&mut rest) {
            match found.unwrap().body {
                Body::Text(bytes) | Body::Part { bytes, .. } => joined.extend_from_slice(bytes),
                Body::Completion { prompt, completion } => {
                    joined.extend_from_slice(prompt);
                    joined.extend_from_slice(completion);
                }
                Body::Answer(answer) => unreachable!("a sample became an answer: {answer:?}"),
            }
        }
        assert_eq!(joined, text.as_bytes());
        one_sample_each(&line);
        let samples = samples(&line);
        let expected = match sample {
            Sample::Text(text) => Example::Text(text.to_owned()),
            Sample::Completion { prompt, completion } => {
                Example::Completion { prompt: prompt.to_owned(), completion: completion.to_owned() }
            }
        };
        let [Whole { sample, .. }] = samples.as_slice() else { unreachable!("{samples:?}") };
        match sample {
            Ok(sample) => assert_eq!(sample.example(), &expected),
            Err(problem) => assert!(matches!(problem, SampleError::Blank { .. }), "{problem}"),
        }
    }
}

/// A line of frames, the choices that make one, and a long sample.
pub fn seeds() -> Vec<Seed> {
    let choices = [5, 0, 3, b'a', b'b', b'c', 2, 2, b'd', b'e', 6, 2, b'f', 0, 10, 1, b'g', 3, 1];
    let sent = frames(&mut Cursor(&choices));
    let damaged = [&[1][..], &choices, &[0, 0, 0, 0, 0, 4]].concat();
    let text = "valve 3 opened, Öl 80 °C; ".repeat(20);
    vec![
        ("line", [&[0], &sent[..]].concat()),
        ("frames", damaged),
        ("sample", [&[2, 7, 0, 0, 0, 4, 9, 0], text.as_bytes()].concat()),
    ]
}
