//! The settings of learning as flags, made from their table.
//!
//! - In: arguments. Out: [`Overrides`] of the settings that were named, and the configuration file.
//! - Invariant: a flag is there if and only if the command does something with its setting.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser, ValueParser};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use sapwood::settings::{Kind, Overrides, Reader, Row, rows};
use serde_json::{Map, Value};
use std::marker::PhantomData;
use std::path::PathBuf;

/// The name of the file's own flag.
const CONFIG: &str = "config";

/// Whose flags they are.
pub(crate) trait Readers {
    /// The reader.
    const READER: Reader;
}

/// Those of `sapwood adapt`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Adapting;

/// Those of what learns without a state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streaming;

impl Readers for Adapting {
    const READER: Reader = Reader::Adapt;
}

impl Readers for Streaming {
    const READER: Reader = Reader::Stream;
}

/// The settings of learning as flags; each wins over the configuration file.
#[derive(Clone, Debug)]
pub(crate) struct Flags<R> {
    /// Configuration file, TOML with the names of the flags as keys.
    pub config: Option<PathBuf>,
    /// What the flags say.
    pub said: Overrides,
    reader: PhantomData<R>,
}

impl<R: Readers> Flags<R> {
    fn rows() -> impl Iterator<Item = Row> {
        rows().into_iter().filter(|row| row.home.has(R::READER))
    }
}

impl<R: Readers> Args for Flags<R> {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new(CONFIG).short('c').long(CONFIG).value_name("CONFIG");
        let help = "Configuration file, TOML with the names of these flags as keys";
        let file = file.help(help).value_parser(clap::value_parser!(PathBuf));
        Self::rows().fold(command.arg(file), |command, row| command.arg(flag(&row)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<R: Readers> FromArgMatches for Flags<R> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let said: Map<String, Value> = Self::rows()
            .filter_map(|row| Some((row.key.to_owned(), said(&row, matches)?)))
            .collect();
        let said = serde_json::from_value(said.into())
            .map_err(|error| clap::Error::raw(ErrorKind::InvalidValue, error))?;
        let config = matches.get_one::<PathBuf>(CONFIG).cloned();
        Ok(Self { config, said, reader: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let Self { config, said, .. } = Self::from_arg_matches(matches)?;
        self.config = config.or(self.config.take());
        self.said = said.or(std::mem::take(&mut self.said));
        Ok(())
    }
}

/// The flag of a setting.
fn flag(row: &Row) -> Arg {
    let about = row.about.trim_end_matches('.');
    let first = row.start.as_deref().map(|start| start.trim_matches('"'));
    let note = match (row.by, row.kind, first) {
        (Some(by), ..) => format!(" [by {by}]"),
        (None, Kind::Switch, _) | (None, _, None) => String::new(),
        (None, Kind::List, _) => " [all]".to_owned(),
        (None, _, Some(first)) => format!(" [{}]", first.trim_end_matches(".0")),
    };
    let flag = Arg::new(row.key).long(row.key).help(format!("{about}{note}"));
    match row.kind {
        Kind::Switch => flag.action(ArgAction::SetTrue),
        Kind::List => flag.value_name("NAMES").value_delimiter(',').action(ArgAction::Append),
        // A negative number is refused as one, not as a flag that nobody knows.
        Kind::Whole | Kind::Signed => flag.value_name("N").allow_negative_numbers(true),
        Kind::Real => flag.value_name("NUMBER").allow_negative_numbers(true),
        Kind::Path => flag.value_name("PATH"),
        Kind::Choice(_) => flag.value_name("WORD"),
        Kind::Device => flag.value_name("DEVICE"),
    }
    .value_parser(parser(row.kind))
}

/// What reads the words of a flag as JSON.
fn parser(kind: Kind) -> ValueParser {
    match kind {
        Kind::Switch => clap::value_parser!(bool),
        Kind::Choice(words) => {
            let value = |(word, about): &(&'static str, &'static str)| {
                PossibleValue::new(*word).help(about.trim_end_matches('.'))
            };
            PossibleValuesParser::new(words.iter().map(value)).map(Value::from).into()
        }
        _ => ValueParser::new(move |word: &str| {
            kind.read(word).map_err(|expected| format!("expected {expected}"))
        }),
    }
}

/// What was said of a setting.
fn said(row: &Row, matches: &ArgMatches) -> Option<Value> {
    match row.kind {
        Kind::Switch => matches.get_flag(row.key).then_some(Value::Bool(true)),
        Kind::List => {
            let words = matches.get_many::<Value>(row.key)?;
            Some(Value::Array(words.cloned().collect()))
        }
        _ => matches.get_one::<Value>(row.key).cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use sapwood::settings::Settings;

    #[derive(Debug, Parser)]
    #[command(args_override_self = true)]
    struct Adapt {
        #[command(flatten)]
        learn: Flags<Adapting>,
    }

    #[derive(Debug, Parser)]
    struct Stream {
        #[command(flatten)]
        learn: Flags<Streaming>,
    }

    fn said(words: &[&str]) -> Result<Overrides, String> {
        let words = ["sapwood"].iter().chain(words);
        Adapt::try_parse_from(words)
            .map(|adapt| adapt.learn.said)
            .map_err(|error| error.to_string())
    }

    /// What a flag may be, what is one past, and what it says then: the table is the oracle.
    #[test]
    fn every_flag_takes_its_bounds_and_nothing_beyond() -> Result<(), String> {
        let mut tried = 0;
        for row in rows() {
            let flag = format!("--{}", row.key);
            let Some((low, high)) =
                row.expected.as_deref().and_then(|range| range.split_once(" to "))
            else {
                continue;
            };
            let check = |value: &str| {
                // A step of batches with one block each leaves every other bound as it stands.
                let start = Settings { batch_size: 1, ..Settings::default() };
                let settings = start.merge(said(&[&flag, value])?);
                settings.check().map_err(|error| error.to_string())
            };
            check(low).map_err(|error| format!("{flag} {low}: {error}"))?;
            check(high).map_err(|error| format!("{flag} {high}: {error}"))?;
            for bound in [low, high] {
                let number: f64 = bound.parse().map_err(|_| format!("{flag}: {bound}"))?;
                let past = match (bound == low, row.kind == Kind::Whole) {
                    (true, true) => (number - 1.0).to_string(),
                    (false, true) => (number + 1.0).to_string(),
                    (true, false) => (number - 1e-36 - number.abs() / 2.0).to_string(),
                    (false, false) => (number + 1e-9 + number / 1e3).to_string(),
                };
                let refusal = check(&past).err().ok_or_else(|| format!("{flag} {past} passed"))?;
                assert!(refusal.contains(&flag) || refusal.contains("whole"), "{past}: {refusal}");
            }
            assert!(check("x").is_err() && check("").is_err() && check("nan").is_err(), "{flag}");
            tried += 1;
        }
        assert!(tried > 25, "{tried}");
        Ok(())
    }

    #[test]
    fn words_lists_and_switches_come_as_they_are_said() -> Result<(), String> {
        let Overrides { target_modules, resume, lr_schedule, model, device, .. } = said(&[
            "--target-modules",
            "q_proj,v_proj",
            "--resume",
            "--lr-schedule=cosine",
            "--model",
            "a b",
            "--device",
            "cuda",
        ])?;
        let names = ["q_proj", "v_proj"].map(str::to_owned).to_vec();
        assert_eq!((target_modules, resume), (Some(names), Some(true)));
        assert_eq!(lr_schedule, Some(sapwood::settings::Schedule::Cosine));
        assert_eq!(model, Some(Some(PathBuf::from("a b"))));
        assert_eq!(device, Some(sapwood::settings::Device::Cuda(0)));
        assert_eq!(said(&[])?, Overrides::default());
        assert!(said(&["--lr-schedule", "up"]).is_err_and(|error| error.contains("cosine")));
        Ok(())
    }

    /// A stream has no state folder: what is about one is no flag of it.
    #[test]
    fn a_command_has_the_flags_that_it_does_something_with() {
        let tried = |flag| Stream::try_parse_from(["sapwood", flag, "0.5"]);
        assert!(tried("--gate-old").is_err() && tried("--state").is_err());
        assert!(tried("--gamma").is_ok_and(|stream| stream.learn.said.gamma == Some(0.5)));
    }
}
