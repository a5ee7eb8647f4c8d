//! Bodies of orders about adapters: go back to a generation, compare two models.

use super::fields::{Fields, counted, field, unsupported};
use super::models::named;
use super::{COMPARED_BYTES_MAX, COMPARED_MAX, WireError};
use sapwood::gate::Tally;
use serde_json::{Value, json};

/// Two models to compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// Their names.
    pub models: [String; 2],
    /// The texts to score; what the device holds out when none.
    pub texts: Option<Vec<String>>,
}

fn only(fields: &Fields, own: &[&str]) -> Result<(), WireError> {
    match fields.0.iter().find(|(name, _)| !own.contains(&name.as_str())) {
        Some((name, value)) => Err(unsupported(name, value)),
        None => Ok(()),
    }
}

/// The body of `/v1/rollback`, which may be empty: the generation to go back to, 0 for the bare base; the one
/// before the one in use when none.
///
/// # Errors
/// [`WireError`] names the field.
pub fn rollback(body: &[u8]) -> Result<Option<u64>, WireError> {
    if body.trim_ascii().is_empty() {
        return Ok(None);
    }
    let fields = Fields::read(body)?;
    only(&fields, &["to"])?;
    let expected = "the number of a generation that is kept, or 0 for the bare base";
    let Some(value) = fields.get("to") else { return Ok(None) };
    value.as_u64().map(Some).ok_or_else(|| field("to", expected, value))
}

/// The body of `/v1/compare`.
///
/// # Errors
/// [`WireError`] names the field.
pub fn compare(body: &[u8]) -> Result<Compare, WireError> {
    let fields = Fields::read(body)?;
    only(&fields, &["models", "texts"])?;
    let expected = "a list of the names of two models";
    let models = match fields.get("models").unwrap_or(&Value::Null) {
        Value::Array(list) => match &list[..] {
            [first, second] => [named("models", first)?, named("models", second)?],
            other => return Err(counted("models", expected, other.len())),
        },
        value => return Err(field("models", expected, value)),
    };
    let texts = fields.get("texts").map(texts).transpose()?;
    Ok(Compare { models, texts })
}

fn texts(value: &Value) -> Result<Vec<String>, WireError> {
    let expected = "a list of 1 to 64 texts, none empty, of at most 262144 bytes together";
    let refused = || field("texts", expected, value);
    let list = value.as_array().filter(|list| !list.is_empty()).ok_or_else(refused)?;
    if list.len() > COMPARED_MAX {
        return Err(counted("texts", expected, list.len()));
    }
    let one = |text: &Value| text.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let texts: Vec<String> = list.iter().map(one).collect::<Option<_>>().ok_or_else(refused)?;
    match texts.iter().map(String::len).sum::<usize>() {
        0..=COMPARED_BYTES_MAX => Ok(texts),
        bytes => Err(field("texts", expected, &format!("{bytes} bytes").into())),
    }
}

/// The answer to a comparison: of each model its name, its generation and its score.
pub fn compared(models: [(&str, Option<u64>, &Tally); 2], is_held_out: bool) -> Value {
    let one = |(name, generation, score): (&str, Option<u64>, &Tally)| {
        json!({
            "model": name,
            "generation": generation,
            "bits_per_byte": score.bits_per_byte(),
            "perplexity": score.perplexity(),
            "tokens": score.tokens,
            "bytes": score.bytes,
        })
    };
    let [first, second] = models.map(|(.., score)| score.bits_per_byte());
    json!({
        "object": "comparison",
        "texts": if is_held_out { "held-out" } else { "request" },
        "models": models.map(one),
        // Below 0 where the second model knows the text better.
        "difference": second - first,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn a_rollback_names_a_generation_or_none() {
        for (body, to) in [("", None), (" \n", None), ("{}", None), ("{\"to\":null}", None)] {
            assert_eq!(rollback(body.as_bytes()), Ok(to), "{body}");
        }
        assert_eq!(rollback(b"{\"to\": 0}"), Ok(Some(0)));
        for (body, param) in [
            ("{\"to\":-1}", "to"),
            ("{\"to\":\"3\"}", "to"),
            ("{\"to\":1.5}", "to"),
            ("{\"generation\":3}", "generation"),
        ] {
            assert_eq!(rollback(body.as_bytes()).unwrap_err().param(), Some(param), "{body}");
        }
        assert!(matches!(rollback(b"3"), Err(WireError::Json { .. })));
    }

    #[test]
    fn a_comparison_names_two_models_and_bounds_its_texts() {
        let read = |body: &Value| compare(body.to_string().as_bytes());
        let models = ["sapwood@1", "base"].map(str::to_owned);
        let got = read(&json!({"models": ["sapwood@1", "base"]}));
        assert_eq!(got, Ok(Compare { models: models.clone(), texts: None }));
        let texts = Some(vec!["a".to_owned()]);
        let got = read(&json!({"models": ["sapwood@1", "base"], "texts": ["a"]}));
        assert_eq!(got, Ok(Compare { models, texts }));
        for (part, param) in [
            (json!({"models": ["base"]}), "models"),
            (json!({"models": "base"}), "models"),
            (json!({"models": ["base", ""]}), "models"),
            (json!({"models": ["base", "b".repeat(257)]}), "models"),
            (json!({"models": ["a", "b"], "texts": []}), "texts"),
            (json!({"models": ["a", "b"], "texts": [""]}), "texts"),
            (json!({"models": ["a", "b"], "texts": [1]}), "texts"),
            (json!({"models": ["a", "b"], "texts": vec!["a"; 65]}), "texts"),
            (json!({"models": ["a", "b"], "texts": ["a".repeat(262_145)]}), "texts"),
            (json!({"models": ["a", "b"], "data": "x"}), "data"),
            (json!({}), "models"),
        ] {
            assert_eq!(read(&part).unwrap_err().param(), Some(param), "{part}");
        }
    }
}
