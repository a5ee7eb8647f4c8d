//! Other names of models, for clients that ask for one by a name of their own.
//!
//! - A name stands for a model, never for another such name, and takes the place of none.

use super::ConfigError;
use super::names::{BASE, IN_USE, MODEL_BYTES_MAX, generation_of};
use std::collections::BTreeMap;

/// Names that an operator may give.
const ALIASES_MAX: usize = 64;
const KEY: &str = "serve.aliases";

/// Refuses a name that is none, or takes the place of a model.
pub(super) fn check(aliases: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    if aliases.len() > ALIASES_MAX {
        let expected = format!("at most {ALIASES_MAX} names");
        return Err(ConfigError::range(KEY, expected, aliases.len()));
    }
    let is_name = |name: &str| {
        (1..=MODEL_BYTES_MAX).contains(&name.len())
            && name.trim() == name
            && !name.contains(char::is_control)
    };
    for (name, model) in aliases {
        if let Some(wrong) = [name, model].into_iter().find(|name| !is_name(name)) {
            let expected = format!("names of 1 to {MODEL_BYTES_MAX} bytes on one line");
            return Err(ConfigError::range(KEY, expected, format!("{wrong:?}")));
        }
        if is_own(name) {
            let expected = "other names than those of the models themselves";
            return Err(ConfigError::range(KEY, expected, format!("{name:?}")));
        }
        if aliases.contains_key(model) {
            let expected = "names for models, not for other such names";
            return Err(ConfigError::range(KEY, expected, format!("{name:?} for {model:?}")));
        }
    }
    Ok(())
}

/// Refuses one that stands for what no device has.
pub(super) fn check_device(aliases: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    match aliases.iter().find(|(_, model)| !is_own(model)) {
        Some((name, model)) => {
            let expected = format!("names for `{IN_USE}`, `{BASE}` or a generation, `{IN_USE}@7`");
            Err(ConfigError::range(KEY, expected, format!("{name:?} for {model:?}")))
        }
        None => Ok(()),
    }
}

fn is_own(name: &str) -> bool {
    name == IN_USE || name == BASE || generation_of(IN_USE, name).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aliases(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, model)| ((*name).to_owned(), (*model).to_owned())).collect()
    }

    #[test]
    fn a_name_stands_for_a_model_and_takes_the_place_of_none() {
        let taken = |pairs: &[(&str, &str)]| check(&aliases(pairs)).is_ok();
        assert!(taken(&[("gpt-4o-mini", "sapwood"), ("openai/gpt-4o", "base")]));
        assert!(taken(&[("mine", "any")]), "what is served elsewhere has other names");
        let (long, longest) = ("a".repeat(MODEL_BYTES_MAX + 1), "a".repeat(MODEL_BYTES_MAX));
        assert!(taken(&[(&longest, "base")]));
        for wrong in [
            [("", "base")],
            [("a", "")],
            [(" a", "base")],
            [("a\nb", "base")],
            [("base", "sapwood")],
            [("sapwood", "base")],
            [("sapwood@3", "base")],
            [("a", "a")],
            [(&long, "base")],
        ] {
            assert!(!taken(&wrong), "{wrong:?}");
        }
        assert!(!taken(&[("a", "b"), ("b", "base")]));
        let many: Vec<String> = (0..=ALIASES_MAX).map(|number| format!("n{number}")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|name| (&name[..], "base")).collect();
        assert!(!taken(&many) && taken(&many[1..]));
    }

    #[test]
    fn a_device_has_what_is_in_use_the_base_and_generations() {
        let taken = |model: &str| check_device(&aliases(&[("a", model)])).is_ok();
        assert!(["sapwood", "base", "sapwood@7"].into_iter().all(taken));
        assert!(!["slow", "base@7", "sapwood@x"].into_iter().any(taken));
    }
}
