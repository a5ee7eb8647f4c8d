//! `adapter_config.json`: which modules PEFT would adapt, and how strongly.
//!
//! - In: the bytes of the file. Out: a checked [`Lora`], asked by a module's full name.
//! - A setting that changes what the adapted model computes is honoured or refused by name; one
//!   unknown here passes only while it is empty (null, false, "", [], {}).
//! - Source: PEFT 0.21, `LoraConfig`, `check_target_module_exists` and `get_pattern_key`.

use super::pattern::Patterns;
use crate::adapter::{AdapterError, Module, Spec, Strength, Target};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;

/// Settings that do not change what a loaded adapter computes.
const WITHOUT_EFFECT: [&str; 16] = [
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
    "velora_config",
];

/// Ways to start that leave the base's weights alone; the others, as PiSSA, change them.
const PLAIN_STARTS: [&str; 3] = ["gaussian", "orthogonal", "eva"];

/// The file as written by PEFT; a missing field takes PEFT's default.
#[derive(Deserialize)]
struct Raw {
    peft_type: Option<String>,
    r: Option<u64>,
    lora_alpha: Option<f64>,
    target_modules: Option<Names>,
    exclude_modules: Option<Names>,
    layers_to_transform: Option<Layers>,
    layers_pattern: Option<Names>,
    rank_pattern: Option<Ordered<u64>>,
    alpha_pattern: Option<Ordered<f64>>,
    use_rslora: Option<bool>,
    bias: Option<Value>,
    init_lora_weights: Option<Value>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// One regular expression, or a list of names.
#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Layers {
    One(u64),
    Many(BTreeSet<u64>),
}

/// An object's entries in the order of the file: PEFT takes the first pattern that matches.
struct Ordered<T>(Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Ordered<T>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of patterns and numbers")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Ordered(entries))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

/// A plain LoRA configuration whose every setting is understood.
pub(super) struct Lora {
    /// How the configuration calls the modules.
    pub(super) names: super::Names,
    rank: u64,
    alpha: f64,
    /// Scale by `alpha / sqrt(rank)` instead of `alpha / rank` (arXiv 2312.03732).
    stabilised: bool,
    ranks: Table<u64>,
    alphas: Table<f64>,
    targets: Choice,
    excluded: Option<Choice>,
    /// `layers_to_transform`; none means every layer.
    layers: Option<BTreeSet<u64>>,
    /// `layers_pattern`, the name before a layer's number; none means any.
    layer_names: Option<Patterns>,
}

/// Patterns, and the number that each gives to the modules it matches first.
struct Table<T> {
    patterns: Patterns,
    numbers: Vec<T>,
}

enum Choice {
    /// `all-linear`: every linear layer but the output's.
    Every,
    Matching(Patterns),
    Named(BTreeSet<String>),
}

impl Lora {
    /// Reads the file and refuses what is not plain LoRA.
    pub(super) fn parse(json: &[u8], names: super::Names) -> Result<Self, AdapterError> {
        let raw: Raw = serde_json::from_slice(json).map_err(AdapterError::Config)?;
        refuse(&raw)?;
        let targets = match raw.target_modules {
            None => return Err(unsupported("target_modules", "null", "a list or a pattern")),
            Some(Names::One(all)) if all.eq_ignore_ascii_case("all-linear") => Choice::Every,
            Some(names) => Choice::from_names("target_modules", names)?,
        };
        let excluded = match raw.exclude_modules {
            None => None,
            Some(Names::One(none)) if none.is_empty() => None,
            Some(names) => Some(Choice::from_names("exclude_modules", names)?),
        };
        let layers = raw.layers_to_transform.map(|layers| match layers {
            Layers::One(layer) => BTreeSet::from([layer]),
            Layers::Many(layers) => layers,
        });
        Ok(Self {
            names,
            rank: raw.r.unwrap_or(8),
            alpha: raw.lora_alpha.unwrap_or(8.0),
            stabilised: raw.use_rslora.unwrap_or(false),
            ranks: Table::read("rank_pattern", raw.rank_pattern)?,
            alphas: Table::read("alpha_pattern", raw.alpha_pattern)?,
            targets,
            excluded,
            layers: layers.filter(|layers| !layers.is_empty()),
            layer_names: layer_names(raw.layers_pattern)?,
        })
    }

    /// Whether PEFT would adapt this module.
    pub(super) fn targets(&self, layer: usize, target: Target) -> bool {
        let module = self.names.full(layer, target);
        if self.excluded.as_ref().is_some_and(|excluded| excluded.contains(&module))
            || !self.targets.contains(&module)
        {
            return false;
        }
        // PEFT looks at the layer's number for listed names only.
        match (&self.targets, &self.layers) {
            (Choice::Named(_), Some(layers)) => {
                let named = |names: &Patterns| names.first(&module).is_some();
                layers.contains(&(layer as u64)) && self.layer_names.as_ref().is_none_or(named)
            }
            _ => true,
        }
    }

    /// Rank and `scale * rank` of a module, scale being what PEFT multiplies `B A` by.
    pub(super) fn strength(&self, layer: usize, target: Target) -> Result<Strength, AdapterError> {
        let module = self.names.full(layer, target);
        let rank = self.ranks.first(&module).unwrap_or(self.rank);
        let alpha = self.alphas.first(&module).unwrap_or(self.alpha);
        let refuse = |expected| {
            Err(AdapterError::Strength { module: module.clone(), rank, alpha, expected })
        };
        let Ok(whole) = u32::try_from(rank) else { return refuse("expected rank below 2^32") };
        if whole == 0 {
            return refuse("expected rank of at least 1");
        }
        let factor = if self.stabilised { f64::from(whole).sqrt() } else { 1.0 };
        let scaled = (alpha * factor) as f32;
        if !scaled.is_finite() {
            return refuse("expected alpha within f32");
        }
        Ok(Strength { rank: whole as usize, alpha: scaled })
    }
}

impl Choice {
    fn from_names(field: &'static str, names: Names) -> Result<Self, AdapterError> {
        Ok(match names {
            Names::One(text) => Self::Matching(parse(field, &[text], str::to_owned)?),
            Names::Many(names) => Self::Named(names.into_iter().collect()),
        })
    }

    fn contains(&self, module: &str) -> bool {
        match self {
            Self::Every => true,
            Self::Matching(pattern) => pattern.first(module).is_some(),
            // A listed name is the module's whole name or its last parts.
            Self::Named(names) => {
                names.contains(module)
                    || module.match_indices('.').any(|(dot, _)| names.contains(&module[dot + 1..]))
            }
        }
    }
}

/// Refuses every setting that would make the model compute something else than plain LoRA.
fn refuse(raw: &Raw) -> Result<(), AdapterError> {
    match raw.peft_type.as_deref() {
        Some("LORA") => {}
        other => {
            let got = other.map_or_else(|| "missing".to_owned(), |kind| format!("\"{kind}\""));
            return Err(unsupported("peft_type", &got, "\"LORA\""));
        }
    }
    if let Some(bias) = &raw.bias
        && bias != "none"
    {
        return Err(unsupported("bias", &bias.to_string(), "\"none\""));
    }
    if let Some(start) = &raw.init_lora_weights
        && !start.is_boolean()
        && !start.as_str().is_some_and(|name| PLAIN_STARTS.contains(&name))
    {
        let expected = "true, false, \"gaussian\", \"orthogonal\" or \"eva\": \
                        others change the base's weights";
        return Err(unsupported("init_lora_weights", &start.to_string(), expected));
    }
    for (field, value) in &raw.rest {
        if !WITHOUT_EFFECT.contains(&field.as_str()) && !is_empty(value) {
            let expected = "nothing: only plain LoRA on the decoder's linear layers is read";
            return Err(unsupported(field, &value.to_string(), expected));
        }
    }
    Ok(())
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

impl<T: Copy> Table<T> {
    fn read(field: &'static str, entries: Option<Ordered<T>>) -> Result<Self, AdapterError> {
        let entries = entries.map_or_else(Vec::new, |entries| entries.0);
        let (keys, numbers): (Vec<String>, Vec<T>) = entries.into_iter().unzip();
        let patterns = parse(field, &keys, |key| format!(r"(.*\.)?({key})$"))?;
        Ok(Self { patterns, numbers })
    }

    fn first(&self, module: &str) -> Option<T> {
        self.patterns.first(module).and_then(|place| self.numbers.get(place).copied())
    }
}

/// What PEFT looks for in front of the only number that a module's name has.
fn layer_names(names: Option<Names>) -> Result<Option<Patterns>, AdapterError> {
    let names = match names {
        None => return Ok(None),
        Some(Names::One(name)) if name.is_empty() => return Ok(None),
        Some(Names::One(name)) => vec![name],
        Some(Names::Many(names)) if names.is_empty() => return Ok(None),
        Some(Names::Many(names)) => names,
    };
    parse("layers_pattern", &names, |name| format!(r"(?:^|.*\.){name}\.(\d+)\..*")).map(Some)
}

/// Checked patterns of the texts in `field`, each put where PEFT puts it.
fn parse(
    field: &'static str,
    written: &[String],
    place: impl Fn(&str) -> String,
) -> Result<Patterns, AdapterError> {
    let texts: Vec<String> = written.iter().map(|text| place(text)).collect();
    Patterns::parse(&texts).map_err(|(at, reason)| {
        let pattern = short(written.get(at).map_or("", String::as_str));
        AdapterError::Pattern { field, pattern, reason }
    })
}

fn unsupported(field: &str, got: &str, expected: &'static str) -> AdapterError {
    AdapterError::Unsupported { field: short(field), got: short(got), expected }
}

/// At most 120 characters of a text that a stranger wrote, on one line.
pub(super) fn short(text: &str) -> String {
    let mut line = String::new();
    for letter in text.chars().take(120) {
        // Quotes are harmless, and JSON is full of them.
        match letter {
            '"' | '\'' | '\\' => line.push(letter),
            _ => line.extend(letter.escape_debug()),
        }
    }
    if text.chars().nth(120).is_some() {
        line.push('…');
    }
    line
}

/// What PEFT would load the base from, as `adapter_config.json` says; empty where it says nothing.
///
/// # Errors
/// [`AdapterError::Config`] when the file is not JSON, or the name no text.
pub fn base_name(json: &[u8]) -> Result<String, AdapterError> {
    #[derive(Deserialize)]
    struct Named {
        base_model_name_or_path: Option<String>,
    }
    let named: Named = serde_json::from_slice(json).map_err(AdapterError::Config)?;
    Ok(named.base_model_name_or_path.unwrap_or_default())
}

/// The full name of a module that is written.
fn full_name(layer: usize, target: Target) -> String {
    super::Names::Apart.full(layer, target)
}

/// The file as we write it: PEFT's fields, in a fixed order.
#[derive(Serialize)]
struct Written {
    task_type: &'static str,
    peft_type: &'static str,
    base_model_name_or_path: String,
    inference_mode: bool,
    r: usize,
    lora_alpha: Number,
    lora_dropout: f32,
    target_modules: BTreeSet<String>,
    layers_to_transform: Option<BTreeSet<usize>>,
    layers_pattern: Option<&'static str>,
    rank_pattern: BTreeMap<String, usize>,
    alpha_pattern: BTreeMap<String, Number>,
    bias: &'static str,
    fan_in_fan_out: bool,
    init_lora_weights: bool,
    modules_to_save: Option<Vec<String>>,
    use_dora: bool,
    use_rslora: bool,
}

/// Whole numbers without a decimal point, as PEFT writes its alphas.
#[derive(Serialize, Clone, Copy, PartialEq)]
#[serde(untagged)]
enum Number {
    Whole(i64),
    Real(f32),
}

/// The configuration that makes PEFT adapt exactly the modules of `spec`.
///
/// # Errors
/// [`AdapterError::Empty`] when there is none: PEFT refuses such a file.
pub(super) fn write(spec: &Spec, base: &str) -> Result<Vec<u8>, AdapterError> {
    let Some(usual) = spec.modules.first() else { return Err(AdapterError::Empty) };
    let (target_modules, layers_to_transform) = named(spec);
    let mut written = Written {
        task_type: "CAUSAL_LM",
        peft_type: "LORA",
        base_model_name_or_path: base.to_owned(),
        inference_mode: true,
        r: usual.rank,
        lora_alpha: alpha(usual),
        lora_dropout: 0.0,
        target_modules,
        layers_pattern: layers_to_transform.as_ref().map(|_| "layers"),
        layers_to_transform,
        rank_pattern: BTreeMap::new(),
        alpha_pattern: BTreeMap::new(),
        bias: "none",
        fan_in_fan_out: false,
        init_lora_weights: true,
        modules_to_save: None,
        use_dora: false,
        use_rslora: false,
    };
    for module in &spec.modules {
        if module.rank != usual.rank {
            written.rank_pattern.insert(full_name(module.layer, module.target), module.rank);
        }
        if alpha(module) != written.lora_alpha {
            written.alpha_pattern.insert(full_name(module.layer, module.target), alpha(module));
        }
    }
    let mut json = serde_json::to_vec_pretty(&written).map_err(AdapterError::Config)?;
    json.push(b'\n');
    Ok(json)
}

/// Short names and their layers where all chosen layers have the same targets, else full names.
fn named(spec: &Spec) -> (BTreeSet<String>, Option<BTreeSet<usize>>) {
    let layers: BTreeSet<usize> = spec.modules.iter().map(|module| module.layer).collect();
    let targets: BTreeSet<Target> = spec.modules.iter().map(|module| module.target).collect();
    if layers.len() * targets.len() == spec.modules.len() {
        return (targets.iter().map(|target| target.name().to_owned()).collect(), Some(layers));
    }
    (spec.modules.iter().map(|module| full_name(module.layer, module.target)).collect(), None)
}

/// The alpha from which `alpha / rank` in f32 is the module's scale again.
fn alpha(module: &Module) -> Number {
    let exact = f64::from(module.scale) * module.rank as f64;
    let whole = exact.round();
    if whole.abs() < 1e6 && whole as f32 / module.rank as f32 == module.scale {
        return Number::Whole(whole as i64);
    }
    let near = exact as f32;
    let candidates = [near, near.next_up(), near.next_down()];
    let exact = candidates.into_iter().find(|alpha| alpha / module.rank as f32 == module.scale);
    Number::Real(exact.unwrap_or(near))
}
