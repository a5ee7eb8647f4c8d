//! What the table says of a setting beside its type and its default: who takes it, what it may be.
//!
//! - In: a value, or its text on a command line. Out: the value, or what was expected of it.
//! - Invariant: a range holds no NaN, so a comparison by range refuses that too.

use super::{
    ALL_LINEAR, Activations, Device, EmbeddingLayers, HeadWeights, MatmulPrecision, Schedule,
    TARGET_MODULES,
};
use serde_json::Value;
use std::fmt::{Debug, Display};
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// One setting, for whoever reads it from a command line, a file, or tells of it.
pub struct Row {
    /// Its name as a flag and as a key.
    pub key: &'static str,
    /// Its meaning, in a sentence.
    pub about: &'static str,
    /// Its default as a file says it; none where there is none.
    pub start: Option<String>,
    /// Who chooses it where nobody names it and the default is not taken.
    pub by: Option<&'static str>,
    /// What it may be, in words; none where anything of its kind will do.
    pub expected: Option<String>,
    /// How it is read.
    pub kind: Kind,
    /// Who takes it.
    pub home: Home,
}

/// Who takes a setting; whoever does not refuses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// Everything that learns.
    Learning,
    /// Everything that learns but a device program, which chooses it itself.
    Commands,
    /// What learns into a state folder: `sapwood adapt` and a device program.
    Jobs,
    /// `sapwood adapt` alone.
    Adapt,
}

/// Who reads settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// `sapwood adapt`, and `sapwood doctor` for what it would need.
    Adapt,
    /// `sapwood stream`.
    Stream,
    /// A device program's `[learn]`.
    Device,
}

impl Home {
    /// Whether `reader` does something with the settings that live here.
    pub fn has(self, reader: Reader) -> bool {
        match self {
            Self::Learning => true,
            Self::Commands => reader != Reader::Device,
            Self::Jobs => reader != Reader::Stream,
            Self::Adapt => reader == Reader::Adapt,
        }
    }
}

impl Reader {
    /// What it is called where it refuses a setting.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Adapt => "`sapwood adapt`",
            Self::Stream => "`sapwood stream`, which has no state folder",
            Self::Device => "the device program, which decides that itself",
        }
    }
}

/// How a setting is read from a word of a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number from 0.
    Whole,
    /// A whole number.
    Signed,
    /// A number.
    Real,
    /// Said or not.
    Switch,
    /// A path.
    Path,
    /// Words with commas between.
    List,
    /// One of some words, each with what it stands for.
    Choice(&'static [(&'static str, &'static str)]),
    /// A device.
    Device,
}

impl Kind {
    /// Reads one word as JSON.
    ///
    /// # Errors
    /// What was expected, in words.
    pub fn read(self, word: &str) -> Result<Value, &'static str> {
        let real = || word.parse::<f64>().ok().and_then(serde_json::Number::from_f64);
        match self {
            Self::Whole => {
                word.parse::<u64>().map(Value::from).map_err(|_| "a whole number from 0")
            }
            Self::Signed => word.parse::<i64>().map(Value::from).map_err(|_| "a whole number"),
            Self::Real => real().map(Value::Number).ok_or("a number"),
            Self::Device => match word.parse::<Device>() {
                Ok(device) => Ok(device.to_string().into()),
                Err(_) => Err("auto, cpu, cuda, cuda:N or metal"),
            },
            Self::Switch | Self::Path | Self::List | Self::Choice(_) => Ok(word.into()),
        }
    }
}

/// A type of a setting.
pub(super) trait Typed {
    const KIND: Kind;
}

macro_rules! typed {
    ($($type:ty => $kind:expr,)+) => { $(impl Typed for $type { const KIND: Kind = $kind; })+ };
}

typed! {
    u64 => Kind::Whole,
    usize => Kind::Whole,
    Option<u64> => Kind::Whole,
    i64 => Kind::Signed,
    f64 => Kind::Real,
    bool => Kind::Switch,
    Option<PathBuf> => Kind::Path,
    Vec<String> => Kind::List,
    Schedule => Kind::Choice(Schedule::WORDS),
    EmbeddingLayers => Kind::Choice(EmbeddingLayers::WORDS),
    HeadWeights => Kind::Choice(HeadWeights::WORDS),
    MatmulPrecision => Kind::Choice(MatmulPrecision::WORDS),
    Activations => Kind::Choice(Activations::WORDS),
    Device => Kind::Device,
}

/// What a setting may be.
pub(super) trait Allows<T> {
    /// In words; none: anything.
    fn expected(&self) -> Option<String>;
    /// The value in words, if it may not be.
    fn refused(&self, value: &T) -> Option<String>;
}

/// Anything of its type.
pub(super) struct Any;

impl<T> Allows<T> for Any {
    fn expected(&self) -> Option<String> {
        None
    }

    fn refused(&self, _: &T) -> Option<String> {
        None
    }
}

impl<T: PartialOrd + Display + Debug> Allows<T> for RangeInclusive<T> {
    fn expected(&self) -> Option<String> {
        // Debug, since it writes small numbers as powers of ten.
        let bound = |bound: &T| format!("{bound:?}").trim_end_matches(".0").to_owned();
        Some(format!("{} to {}", bound(self.start()), bound(self.end())))
    }

    fn refused(&self, value: &T) -> Option<String> {
        (!self.contains(value)).then(|| value.to_string())
    }
}

impl<T: PartialOrd + Display + Debug> Allows<Option<T>> for RangeInclusive<T> {
    fn expected(&self) -> Option<String> {
        Allows::<T>::expected(self)
    }

    fn refused(&self, value: &Option<T>) -> Option<String> {
        value.as_ref().and_then(|value| self.refused(value))
    }
}

/// A part of the steps, or whole steps.
pub(super) struct PartOrSteps;

impl Allows<f64> for PartOrSteps {
    fn expected(&self) -> Option<String> {
        Some("a part below 1, or whole steps".to_owned())
    }

    fn refused(&self, &value: &f64) -> Option<String> {
        let steps = 0.0..=super::STEPS_MAX as f64;
        let is_one = steps.contains(&value) && (value < 1.0 || value.fract() == 0.0);
        (!is_one).then(|| value.to_string())
    }
}

/// All layers, or so many.
pub(super) struct AllOrLayers;

impl Allows<i64> for AllOrLayers {
    fn expected(&self) -> Option<String> {
        Some("-1 (all) or at least 1".to_owned())
    }

    fn refused(&self, &value: &i64) -> Option<String> {
        (value != -1 && value < 1).then(|| value.to_string())
    }
}

/// Names of linear layers.
pub(super) struct Modules;

impl Allows<Vec<String>> for Modules {
    fn expected(&self) -> Option<String> {
        Some(format!("{ALL_LINEAR}, or one or more of {}, each once", TARGET_MODULES.join(", ")))
    }

    fn refused(&self, value: &Vec<String>) -> Option<String> {
        let mut names = value.clone();
        names.sort_unstable();
        names.dedup();
        let is_once = names.len() == value.len() && !names.is_empty();
        let is_known = names.iter().all(|name| TARGET_MODULES.contains(&name.as_str()));
        (!is_once || !is_known).then(|| value.join(","))
    }
}
