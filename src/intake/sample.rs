//! A sample: an example with the line of JSON that it is kept as.
//!
//! - In: lines of JSON, or the strings of an example. Out: [`Sample`].
//! - Invariant: a sample's line, when it is read, says its example. Nothing makes a sample but what has read
//!   the line or has written it, so that nobody reads it a second time.

use super::{Example, IntakeError, LineProblem, lines};
use crate::settings::LINE_BYTES_MAX;
use serde_json::{Value, json};

/// An example with its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    line: String,
    example: Example,
}

/// Every line of a JSON-lines text as a sample; blank lines count but mean nothing.
///
/// # Errors
/// [`IntakeError::Line`] with `name` and the number of the first line that is no example.
pub fn samples(text: &str, name: &str) -> Result<Vec<Sample>, IntakeError> {
    lines::each(text, name, |line, example| Sample { line: line.trim().to_owned(), example })
}

impl Sample {
    /// A document.
    ///
    /// # Errors
    /// [`LineProblem::Long`].
    pub fn text(text: &str) -> Result<Self, LineProblem> {
        Self::written(&json!({ "text": text }), Example::Text(text.to_owned()))
    }

    /// A prompt and how it goes on.
    ///
    /// # Errors
    /// [`LineProblem::Long`].
    pub fn completion(prompt: &str, completion: &str) -> Result<Self, LineProblem> {
        let line = json!({ "prompt": prompt, "completion": completion });
        let (prompt, completion) = (prompt.to_owned(), completion.to_owned());
        Self::written(&line, Example::Completion { prompt, completion })
    }

    fn written(line: &Value, example: Example) -> Result<Self, LineProblem> {
        let line = line.to_string();
        if line.len() as u64 > LINE_BYTES_MAX {
            return Err(LineProblem::Long { bytes: line.len() });
        }
        Ok(Self { line, example })
    }

    /// Its line, without blanks around it and without its end.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// What it says.
    pub fn example(&self) -> &Example {
        &self.example
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the inbox keeps is the line alone: what is read from it later must be the same example.
    #[test]
    fn a_line_says_its_example_whether_it_was_read_or_written() -> Result<(), IntakeError> {
        let odd = "a \"b\" \\ \u{0}\n\r\u{2028}\u{feff} 🙂 ";
        let read = " {\"text\" : \"a\"}\r\n\n\t{\"prompt\":\r\"b\",\"completion\":\"c\",\"id\":7} \n\
            {\"messages\":[{\"role\":\"user\",\"content\":\"d\"}]}\n\
            {\"prompt\":\"e\",\"choices\":[\"f\",\"g\"],\"answer\":\"g\"}";
        let mut all = samples(read, "a.jsonl")?;
        assert_eq!(all.len(), 4);
        for text in ["", "short", odd] {
            all.extend(Sample::text(text));
            all.extend(Sample::completion(text, odd));
        }
        assert_eq!(all.len(), 10);
        for sample in &all {
            let line = sample.line();
            assert!(!line.contains('\n') && line.trim() == line, "{line:?}");
            assert_eq!(lines::examples(line, "line")?, [sample.example().clone()], "{line:?}");
        }
        Ok(())
    }

    #[test]
    fn a_text_too_long_for_a_line_is_no_sample() {
        // A control character takes six bytes of JSON.
        let text = "\u{1}".repeat(LINE_BYTES_MAX as usize / 6);
        assert!(matches!(Sample::text(&text), Err(LineProblem::Long { .. })));
        assert!(Sample::text(&text[..text.len() - 2]).is_ok());
    }
}
