//! Frames to samples and back, without any device.
//!
//! - In: frames in order, as a decoder hands them on. Out: one sample for each that came whole.
//! - The way back is for trying a line: samples of a file become what a controller would send.
//! - Bounded: a sample longer than [`FRAME_SAMPLE_BYTES_MAX`] is let go of while it comes.

use sapwood::intake::{self, Example, IntakeError, LineProblem};
use sapwood::settings::LINE_BYTES_MAX;
use sapwood_protocol::frame::{Body, EncodeError, Field, Frame, Place, Sample, SendError, Sender};
use sapwood_protocol::limits::FRAME_SAMPLE_BYTES_MAX;
use std::io::{self, BufRead, Read, Write};

/// Why a sample that arrived whole is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// Bytes that are no text.
    #[error("expected UTF-8, got another byte at {at}")]
    Encoding {
        /// Index of the byte.
        at: usize,
    },
    /// Nothing to learn.
    #[error("expected text that is not blank, got {bytes} bytes")]
    Blank {
        /// Its bytes.
        bytes: usize,
    },
    /// Too many parts.
    #[error("expected at most {FRAME_SAMPLE_BYTES_MAX} bytes of text, got more")]
    Long,
    /// A text and a prompt in one sample, or a completion before its prompt.
    #[error("expected parts of one text, or of a prompt and then of its completion; got a mixture")]
    Mixed,
}

/// A sample whose last frame has come.
#[derive(Debug, PartialEq, Eq)]
pub struct Whole {
    /// Session of that frame.
    pub session: u32,
    /// Its number.
    pub sequence: u32,
    /// The sample.
    pub sample: Result<intake::Sample, SampleError>,
}

/// Joins the parts of samples.
#[derive(Debug, Default)]
pub struct Assembler {
    /// The field of the last part.
    field: Option<Field>,
    /// A text, or a prompt.
    first: Vec<u8>,
    completion: Vec<u8>,
    problem: Option<SampleError>,
}

impl Assembler {
    /// Takes in the next frame; a sample when it was the last of one.
    pub fn join(&mut self, frame: &Frame<'_>) -> Option<Whole> {
        let sample = match frame.body {
            Body::Answer(_) => return None,
            Body::Text(bytes) => text(bytes),
            Body::Completion { prompt, completion } => pair(prompt, completion),
            Body::Part { place, field, bytes } => {
                if place == Place::First {
                    *self = Self::default();
                }
                self.add(field, bytes);
                if place != Place::Last {
                    return None;
                }
                std::mem::take(self).sample()
            }
        };
        Some(Whole { session: frame.session, sequence: frame.sequence, sample })
    }

    fn add(&mut self, field: Field, bytes: &[u8]) {
        let follows = matches!(
            (self.field, field),
            (None, Field::Text | Field::Prompt)
                | (Some(Field::Text), Field::Text)
                | (Some(Field::Prompt), Field::Prompt | Field::Completion)
                | (None | Some(Field::Completion), Field::Completion)
        );
        self.field = Some(field);
        if !follows {
            self.problem.get_or_insert(SampleError::Mixed);
        }
        if self.first.len() + self.completion.len() + bytes.len() > FRAME_SAMPLE_BYTES_MAX {
            self.problem.get_or_insert(SampleError::Long);
        }
        if self.problem.is_none() {
            let text =
                if field == Field::Completion { &mut self.completion } else { &mut self.first };
            text.extend_from_slice(bytes);
        }
    }

    fn sample(self) -> Result<intake::Sample, SampleError> {
        match (self.problem, self.field) {
            (Some(problem), _) => Err(problem),
            (None, Some(Field::Text)) => text(&self.first),
            (None, _) => pair(&self.first, &self.completion),
        }
    }
}

fn text(bytes: &[u8]) -> Result<intake::Sample, SampleError> {
    intake::Sample::text(spoken(bytes)?).map_err(|_| SampleError::Long)
}

/// A prompt may be empty; what is to be said may not.
fn pair(prompt: &[u8], completion: &[u8]) -> Result<intake::Sample, SampleError> {
    let (prompt, completion) = (utf8(prompt)?, spoken(completion)?);
    intake::Sample::completion(prompt, completion).map_err(|_| SampleError::Long)
}

fn utf8(bytes: &[u8]) -> Result<&str, SampleError> {
    std::str::from_utf8(bytes).map_err(|error| SampleError::Encoding { at: error.valid_up_to() })
}

fn spoken(bytes: &[u8]) -> Result<&str, SampleError> {
    let blank = SampleError::Blank { bytes: bytes.len() };
    utf8(bytes).and_then(|text| if text.trim().is_empty() { Err(blank) } else { Ok(text) })
}

/// Why lines were not made frames of; those before were.
#[derive(Debug, thiserror::Error)]
pub enum FramesError {
    /// Standard input, or what is in its place.
    #[error("cannot read line {line}: {source}")]
    Read {
        /// Number of the line, from 1.
        line: usize,
        /// What the system said.
        source: io::Error,
    },
    /// Not a sample.
    #[error("line {line}: {problem}")]
    Line {
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: LineProblem,
    },
    /// A sample that frames do not carry.
    #[error(
        "line {line}: a frame carries text, or prompt and completion; got another kind of sample"
    )]
    Kind {
        /// Number of the line, from 1.
        line: usize,
    },
    /// A sample that fits no frame.
    #[error("line {line}: {source}")]
    Encode {
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        source: EncodeError,
    },
    /// The line, or what is in its place.
    #[error("cannot send line {line}: {source}")]
    Send {
        /// Number of the line, from 1.
        line: usize,
        /// What the system said.
        source: io::Error,
    },
}

/// Makes frames of JSON lines, as a controller with a buffer of `frame_bytes` would; a zero byte comes
/// first, so that noise on the line costs no frame. How many samples there were.
///
/// # Errors
/// [`FramesError`] with the number of the line.
pub fn encode_lines(
    mut input: impl BufRead,
    output: &mut impl Write,
    session: u32,
    frame_bytes: usize,
) -> Result<u64, FramesError> {
    let (mut sender, mut buffer) = (Sender::new(session), vec![0; frame_bytes.min(1 << 16)]);
    let (mut bytes, mut samples) = (Vec::new(), 0);
    output.write_all(&[0]).map_err(|source| FramesError::Send { line: 0, source })?;
    for line in 1.. {
        bytes.clear();
        let mut one = input.by_ref().take(LINE_BYTES_MAX + 1);
        let read = one.read_until(b'\n', &mut bytes);
        if read.map_err(|source| FramesError::Read { line, source })? == 0 {
            break;
        }
        let text = String::from_utf8_lossy(&bytes);
        for example in examples(&text, line)? {
            send(&example, &mut sender, (&mut buffer, output), line)?;
            samples += 1;
        }
    }
    output.flush().map_err(|source| FramesError::Send { line: 0, source })?;
    Ok(samples)
}

/// None for a blank line, one otherwise.
fn examples(text: &str, line: usize) -> Result<Vec<Example>, FramesError> {
    intake::lines(text, "line").map_err(|error| match error {
        IntakeError::Line { problem, .. } => FramesError::Line { line, problem },
        other => FramesError::Read { line, source: io::Error::other(other) },
    })
}

fn send(
    example: &Example,
    sender: &mut Sender,
    (buffer, output): (&mut [u8], &mut impl Write),
    line: usize,
) -> Result<(), FramesError> {
    let sample = match example {
        Example::Text(text) => Sample::Text(text),
        Example::Completion { prompt, completion } => Sample::Completion { prompt, completion },
        Example::Messages(_) | Example::Choice(_) => return Err(FramesError::Kind { line }),
    };
    match sender.send(sample, buffer, |frame| output.write_all(frame)) {
        Ok(_) => Ok(()),
        Err(SendError::Encode(source)) => Err(FramesError::Encode { line, source }),
        Err(SendError::Line(source)) => Err(FramesError::Send { line, source }),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use sapwood_protocol::frame::Decoder;
    use serde_json::json;

    fn joined(parts: &[(Place, Field, &[u8])]) -> Result<String, SampleError> {
        let mut assembler = Assembler::default();
        let mut last = None;
        for &(place, field, bytes) in parts {
            let body = Body::Part { place, field, bytes };
            last = assembler.join(&Frame { session: 1, sequence: 2, body });
        }
        last.unwrap().sample.map(|sample| sample.line().to_owned())
    }

    #[test]
    fn lines_survive_the_way_to_frames_and_back_whatever_the_buffer() {
        let lines = [
            json!({ "text": "Öl \"80\" °C\nline\u{0}two 🙂".repeat(50) }).to_string(),
            json!({ "prompt": "why? ".repeat(90), "completion": "because 🙂" }).to_string(),
            json!({ "text": "short" }).to_string(),
        ];
        for size in [32, 64, 256, 4096] {
            let mut frames = Vec::new();
            let text = lines.join("\n\n");
            assert_eq!(encode_lines(text.as_bytes(), &mut frames, 5, size).unwrap(), 3);
            let (mut decoder, mut assembler) = (Decoder::<4096>::default(), Assembler::default());
            let (mut input, mut got) = (&frames[..], Vec::new());
            while let Some(found) = decoder.next(&mut input) {
                got.extend(assembler.join(&found.unwrap()));
            }
            let got: Vec<_> = got.into_iter().map(|whole| whole.sample.unwrap()).collect();
            let sent = intake::lines(&text, "test").unwrap();
            assert_eq!(
                got.iter().map(|one| one.example().clone()).collect::<Vec<_>>(),
                sent,
                "buffer of {size}"
            );
        }
    }

    #[test]
    fn what_is_no_sample_is_refused_by_name() {
        use Field::{Completion, Prompt, Text};
        use Place::{First, Last, Middle};
        let cut = joined(&[(First, Text, b"\xc3"), (Last, Text, b"\xa4")]);
        assert_eq!(cut, Ok(r#"{"text":"ä"}"#.to_owned()));
        let pair = joined(&[(First, Completion, b"a"), (Last, Completion, b"b")]);
        assert!(pair.is_ok_and(|line| line.contains(r#""prompt":"""#)));
        let broken = joined(&[(First, Text, b"ab"), (Last, Text, b"\xff")]);
        assert_eq!(broken, Err(SampleError::Encoding { at: 2 }));
        let blank = joined(&[(First, Prompt, b"why?"), (Last, Prompt, b"")]);
        assert_eq!(blank, Err(SampleError::Blank { bytes: 0 }));
        let mixed = joined(&[(First, Completion, b"a"), (Last, Prompt, b"b")]);
        assert_eq!(mixed, Err(SampleError::Mixed));
        let piece = [b'x'; 4000];
        let mut long = vec![(Middle, Text, &piece[..]); 17];
        long[0].0 = First;
        long[16].0 = Last;
        assert_eq!(joined(&long), Err(SampleError::Long));
    }

    #[test]
    fn a_line_that_frames_do_not_carry_is_named() {
        let refusal = |text: &str, size| {
            encode_lines(text.as_bytes(), &mut Vec::new(), 1, size).unwrap_err().to_string()
        };
        assert!(refusal("{\"text\":\"a\"}\n{\"txt\":1}", 256).starts_with("line 2: expected keys"));
        let turns = r#"{"messages":[{"role":"user","content":"a"}]}"#;
        assert!(refusal(turns, 256).contains("line 1: a frame carries text"));
        assert!(refusal(r#"{"text":""}"#, 256).contains("expected 1 to 65536"));
        assert!(refusal(r#"{"text":"a"}"#, 8).contains("buffer of 8 bytes"));
    }
}
