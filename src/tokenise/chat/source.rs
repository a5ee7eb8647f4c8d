//! What is rewritten in a template before it is compiled, because the engine does not know it.
//!
//! - `{% generation %}` of transformers becomes a filter over what it marks.
//! - `'...' % values` becomes a filter: the engine's `%` is of numbers alone.
//! - A tag is refused that the engine has and Jinja2 does not, or has otherwise.
//! - Invariant: every line stays where it is, so that a refusal names the line of the template.

use minijinja::{Error, ErrorKind};

/// The filter over what `generation` marks.
pub(super) const SAID: &str = "__generation__";
/// The filter that formats as `%` does.
pub(super) const PERCENT: &str = "__percent__";
/// A tag of the engine alone, and one that would change what every expression writes.
const REFUSED_TAGS: [&str; 2] = ["do", "autoescape"];

/// A template that the engine compiles, and whether it marks what the assistant says.
pub(super) struct Source {
    pub(super) text: String,
    pub(super) marks: bool,
}

/// A piece of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'s> {
    Blank(&'s str),
    Text(&'s str),
    Word(&'s str),
    Sign(&'s str),
}

impl<'s> Token<'s> {
    fn text(self) -> &'s str {
        let (Self::Blank(text) | Self::Text(text) | Self::Word(text) | Self::Sign(text)) = self;
        text
    }
}

/// Rewrites a template.
///
/// # Errors
/// A tag that Jinja2 refuses, by its name and line.
pub(super) fn known(template: &str) -> Result<Source, Error> {
    let mut source = Source { text: String::with_capacity(template.len()), marks: false };
    let mut rest = template;
    while let Some(at) = next_tag(rest) {
        let (before, tag) = rest.split_at(at);
        source.text.push_str(before);
        if tag.starts_with("{#") {
            let end = tag.find("#}").map_or(tag.len(), |end| end + 2);
            source.text.push_str(&tag[..end]);
            rest = &tag[end..];
            continue;
        }
        let (open, body) = tag.split_at(2);
        let close = if open == "{%" { "%}" } else { "}}" };
        let (tokens, after) = tokens(body, close);
        let line = 1 + template[..template.len() - tag.len()].matches('\n').count();
        source.text.push_str(open);
        let is_raw = open == "{%" && first_word(&tokens) == Some("raw");
        let written = if open == "{%" { source.tag(&tokens, line)? } else { formatted(&tokens) };
        source.text.push_str(&written);
        rest = after;
        if is_raw {
            let end = end_of_raw(rest);
            source.text.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    source.text.push_str(rest);
    Ok(source)
}

impl Source {
    /// The words of a tag as the engine knows them.
    fn tag(&mut self, tokens: &[Token<'_>], line: usize) -> Result<String, Error> {
        let said = |word: &str| match word {
            "generation" => Some(format!("filter {SAID}")),
            "endgeneration" => Some("endfilter".to_owned()),
            _ => None,
        };
        let word = first_word(tokens).unwrap_or_default();
        if REFUSED_TAGS.contains(&word) {
            let problem = format!("tag {word} is not known (in chat:{line})");
            return Err(Error::new(ErrorKind::SyntaxError, problem));
        }
        let Some(known) = said(word) else { return Ok(formatted(tokens)) };
        self.marks = true;
        let mut written = String::new();
        for token in tokens {
            written.push_str(match token {
                Token::Word(_) => &known,
                other => other.text(),
            });
        }
        Ok(written)
    }
}

/// Where the next tag, expression or comment begins.
fn next_tag(text: &str) -> Option<usize> {
    text.match_indices('{').map(|(at, _)| at).find(|&at| {
        let next = text.as_bytes().get(at + 1);
        next.is_some_and(|next| matches!(next, b'%' | b'{' | b'#'))
    })
}

/// Where the tag `endraw` begins.
fn end_of_raw(text: &str) -> usize {
    let ends = |at: &usize| {
        let tag = text[at + 2..].trim_start_matches(['-', '+']).trim_start();
        tag.starts_with("endraw")
    };
    text.match_indices("{%").map(|(at, _)| at).find(ends).unwrap_or(text.len())
}

fn first_word<'s>(tokens: &[Token<'s>]) -> Option<&'s str> {
    tokens.iter().find_map(|token| if let Token::Word(word) = token { Some(*word) } else { None })
}

/// The tokens of a tag up to its end, which is the last of them, and what follows.
fn tokens<'s>(body: &'s str, close: &str) -> (Vec<Token<'s>>, &'s str) {
    let mut tokens = Vec::new();
    let (mut rest, mut depth) = (body, 0_usize);
    while let Some(first) = rest.chars().next() {
        // A dictionary's own brace may stand before those that end an expression.
        if depth == 0 && rest.starts_with(close) {
            let (end, after) = rest.split_at(close.len());
            tokens.push(Token::Sign(end));
            return (tokens, after);
        }
        let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
        let until =
            |is: &dyn Fn(char) -> bool| rest.find(|letter| !is(letter)).unwrap_or(rest.len());
        let (length, kind): (usize, fn(&'s str) -> Token<'s>) = match first {
            '\'' | '"' => (string_end(rest, first), Token::Text),
            _ if first.is_whitespace() => (until(&char::is_whitespace), Token::Blank),
            _ if is_word(first) => (until(&is_word), Token::Word),
            _ if rest.starts_with("**") || rest.starts_with("//") => (2, Token::Sign),
            _ => (first.len_utf8(), Token::Sign),
        };
        match first {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        let (token, after) = rest.split_at(length);
        tokens.push(kind(token));
        rest = after;
    }
    (tokens, rest)
}

/// Where a string that begins with `mark` ends.
fn string_end(text: &str, mark: char) -> usize {
    let mut is_escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if letter == mark => return at + letter.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// The tokens joined, `'...' % values` as a filter.
fn formatted(tokens: &[Token<'_>]) -> String {
    let mut written = String::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let before = tokens[..at].iter().rev().find(|token| !matches!(token, Token::Blank(_)));
        let is_format = *token == Token::Sign("%") && matches!(before, Some(Token::Text(_)));
        // The sign that ends a tag stands at its end alone.
        let operand = if is_format { operand_end(tokens, at + 1) } else { None };
        if let Some(end) = operand {
            written.push_str(&format!("|{PERCENT}({})", formatted(&tokens[at + 1..end])));
            at = end;
        } else {
            written.push_str(token.text());
            at += 1;
        }
    }
    written
}

/// Where the operand that begins at `from` ends: a name, string, number or bracket with what is attached.
fn operand_end(tokens: &[Token<'_>], from: usize) -> Option<usize> {
    let mut at = from;
    let blank = |at: usize| matches!(tokens.get(at), Some(Token::Blank(_)));
    while blank(at) {
        at += 1;
    }
    at = match tokens.get(at)? {
        Token::Sign("(" | "[" | "{") => bracket_end(tokens, at)?,
        Token::Word(_) | Token::Text(_) => at + 1,
        _ => return None,
    };
    loop {
        match tokens.get(at) {
            Some(Token::Sign("(" | "[")) => at = bracket_end(tokens, at)?,
            Some(Token::Sign(".")) => at += 2,
            _ => return Some(at.min(tokens.len())),
        }
    }
}

fn bracket_end(tokens: &[Token<'_>], from: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(from) {
        match token {
            Token::Sign("(" | "[" | "{") => depth += 1,
            Token::Sign(")" | "]" | "}") => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some(at + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    fn written(template: &str) -> String {
        known(template).unwrap().text.replace(SAID, "G").replace(PERCENT, "P")
    }

    #[test]
    fn only_the_tags_and_signs_that_are_meant_are_rewritten() {
        let cases = [
            ("a{%generation%}b{%-  endgeneration +%}c", "a{%filter G%}b{%-  endfilter +%}c"),
            ("{{ '%s' % a.b[1] ~ c }}", "{{ '%s' |P( a.b[1]) ~ c }}"),
            ("{{ '%s-%d' % (a, f(1)) }}{{ a % 2 }}", "{{ '%s-%d' |P( (a, f(1))) }}{{ a % 2 }}"),
            ("{% set a = '%s' % 'x' %}", "{% set a = '%s' |P( 'x') %}"),
            ("{% set a = 'x' %}", "{% set a = 'x' %}"),
            ("{# '%s' % a {% generation %} #}", "{# '%s' % a {% generation %} #}"),
            (
                "{% raw %}{% generation %}{{ '' % a }}{% endraw %}",
                "{% raw %}{% generation %}{{ '' % a }}{% endraw %}",
            ),
            (
                "{{ '{% generation %}' }}{{ {'a': {'b': 1}} }}",
                "{{ '{% generation %}' }}{{ {'a': {'b': 1}} }}",
            ),
            ("{{ 'it\\'s' }} } {{", "{{ 'it\\'s' }} } {{"),
        ];
        for (template, expected) in cases {
            assert_eq!(written(template), expected);
        }
        assert!(known("{% generation %}").unwrap().marks && !known("generation").unwrap().marks);
        let refusal = known("\n{% do a.b() %}").err().unwrap().to_string();
        assert!(refusal.contains("tag do is not known (in chat:2)"), "{refusal}");
    }
}
