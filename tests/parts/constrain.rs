//! Whatever is drawn under a schema fits it: random schemas, random texts, and a validator of others.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise")]
#![expect(clippy::disallowed_methods, reason = "what an enemy costs is told by the clock")]

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use sapwood::base::Base;
use sapwood::constrain::{Constrainer, Constraint, Schema};
use sapwood::tokenise::{Spelling, Tokeniser};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/base")
}

/// The tokens of the shipped base.
struct Tokens {
    constrainer: Constrainer,
    spellings: Vec<Spelling>,
    ends: Vec<u32>,
}

impl Tokens {
    fn load() -> Self {
        let base = Base::open(&shipped()).unwrap();
        let (vocab, ends) = (base.config().vocab, base.config().eos.clone());
        let spellings = Tokeniser::open(&shipped(), vocab).unwrap().spellings().unwrap();
        Self { constrainer: Constrainer::new(&spellings, vocab, &ends).unwrap(), spellings, ends }
    }

    fn bytes(&self, id: u32) -> &[u8] {
        match &self.spellings[id as usize] {
            Spelling::Text(bytes) => bytes,
            Spelling::Special(_) | Spelling::None => &[],
        }
    }

    /// Takes any token that a call may go on with; what it stands for.
    fn drawn(&self, constraint: &mut Constraint, chance: &mut Chance) -> &[u8] {
        let mut logits = vec![0.0; self.spellings.len()];
        constraint.mask(&mut logits).unwrap();
        let ids = (0..).zip(&logits).filter(|one| *one.1 == 0.0).map(|one| one.0);
        let allowed: Vec<u32> = ids.collect();
        let id = allowed[chance.below(allowed.len())];
        assert!(!self.ends.contains(&id), "a call does not end before it is whole");
        constraint.take(id).unwrap();
        self.bytes(id)
    }

    /// A text of any allowed tokens, those that end something twice as likely as all others together;
    /// none where it has not ended after `tokens`.
    fn text(&self, schema: &Schema, chance: &mut Chance, tokens: usize) -> Option<String> {
        let mut constraint = self.constrainer.schema(schema).unwrap();
        let mut text = Vec::new();
        for _ in 0..tokens {
            let mut logits = vec![0.0; self.spellings.len()];
            constraint.mask(&mut logits).unwrap();
            let allowed: Vec<u32> =
                (0..).zip(&logits).filter(|one| *one.1 == 0.0).map(|one| one.0).collect();
            let ends = |id: &&u32| {
                self.ends.contains(id)
                    || self.bytes(**id).iter().any(|byte| b"\"]},".contains(byte))
            };
            let closing: Vec<u32> = allowed.iter().filter(ends).copied().collect();
            let some = if closing.is_empty() || chance.below(3) == 0 { &allowed } else { &closing };
            let id = some[chance.below(some.len())];
            if self.ends.contains(&id) {
                return Some(String::from_utf8(text).unwrap());
            }
            text.extend_from_slice(self.bytes(id));
            constraint.take(id).unwrap();
            if constraint.is_over() {
                return Some(String::from_utf8(text).unwrap());
            }
        }
        None
    }
}

/// Text in any tokens that spell it.
fn spelled(tokens: &Tokens, text: &str, chance: &mut Chance) -> Vec<u32> {
    let (mut ids, mut rest) = (Vec::new(), text.as_bytes());
    while !rest.is_empty() {
        let begins =
            |id: &u32| !tokens.bytes(*id).is_empty() && rest.starts_with(tokens.bytes(*id));
        let all: Vec<u32> = (0..tokens.spellings.len() as u32).filter(begins).collect();
        let id = all[chance.below(all.len())];
        ids.push(id);
        rest = &rest[tokens.bytes(id).len()..];
    }
    ids
}

/// Goal: a text is free until it says that a call begins, and what follows fits. Oracle: the crate
/// jsonschema. Seed 7.
#[test]
fn a_text_is_held_from_where_it_says_that_a_call_begins() {
    let tokens = Tokens::load();
    let schema = json!({
        "type": "object", "required": ["name", "arguments"], "additionalProperties": false,
        "properties": {"name": {"const": "f"}, "arguments": {"type": "object", "required": ["a"],
            "additionalProperties": false, "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}}}},
    });
    let judge = jsonschema::validator_for(&schema).unwrap();
    let read = Schema::read(&schema).unwrap();
    let mut chance = Chance(ChaCha8Rng::seed_from_u64(7));
    let texts = [
        ("<call>", "The hall < is <call cold.\n<call>"),
        // One token of blanks at most, or those that the token of what follows begins with.
        ("<call>", "<call>\n{\"na"),
        ("", " \n{ \"name\""),
        ("", "{\"name\": \"f\""),
    ];
    let mut ended = 0;
    for (marker, said) in texts.repeat(10) {
        let mut constraint = tokens.constrainer.schema(&read).unwrap().after(marker);
        let mut text = Vec::new();
        for id in spelled(&tokens, said, &mut chance) {
            let mut logits = vec![0.0; tokens.spellings.len()];
            constraint.mask(&mut logits).unwrap();
            assert_eq!(logits[id as usize], 0.0, "{:?} after {:?}", tokens.bytes(id), text);
            constraint.take(id).unwrap();
            text.extend_from_slice(tokens.bytes(id));
            assert!(!constraint.is_over());
        }
        for _ in 0..60 {
            text.extend_from_slice(tokens.drawn(&mut constraint, &mut chance));
            if constraint.is_over() {
                let text = String::from_utf8(text.clone()).unwrap();
                let call: Value = serde_json::from_str(&text[text.find('{').unwrap()..]).unwrap();
                assert!(judge.is_valid(&call), "{text}");
                ended += 1;
                break;
            }
        }
    }
    assert!(ended > 30, "{ended} of 40 calls ended");
}

/// Goal: after a call that fits the text is free, may end, and is held anew from where it says that another call
/// begins. Oracle: the crate jsonschema. Seed 8.
#[test]
fn a_text_that_may_call_again_is_held_anew_each_time() {
    let tokens = Tokens::load();
    let schema = json!({"type": "object", "required": ["name"], "additionalProperties": false,
        "properties": {"name": {"enum": ["f", "g"]}}});
    let judge = jsonschema::validator_for(&schema).unwrap();
    let read = Schema::read(&schema).unwrap();
    let mut chance = Chance(ChaCha8Rng::seed_from_u64(8));
    for _ in 0..10 {
        let made = tokens.constrainer.schema(&read).unwrap();
        let mut constraint = made.again_after("<call>").after("<call>");
        let mut text = Vec::new();
        for said in ["A < b.<call>", "\n</call>\n<call>", "</call> and <call>"] {
            for id in spelled(&tokens, said, &mut chance) {
                let mut logits = vec![0.0; tokens.spellings.len()];
                constraint.mask(&mut logits).unwrap();
                assert_eq!(logits[id as usize], 0.0, "{:?} after {:?}", tokens.bytes(id), text);
                assert_eq!(logits[tokens.ends[0] as usize], 0.0, "what is free may end");
                constraint.take(id).unwrap();
            }
            text.clear();
            let call = |text: &[u8]| serde_json::from_slice::<Value>(text.trim_ascii_start());
            while call(&text).is_err() {
                text.extend_from_slice(tokens.drawn(&mut constraint, &mut chance));
                assert!(text.len() < 400, "{}", String::from_utf8_lossy(&text));
            }
            assert!(judge.is_valid(&call(&text).unwrap()));
        }
        assert!(!constraint.is_over());
    }
}

#[test]
fn a_token_that_begins_a_call_in_a_way_that_does_not_fit_is_none() {
    let tokens = Tokens::load();
    let read = Schema::read(&json!({"type": "object", "additionalProperties": false})).unwrap();
    let mut chance = Chance(ChaCha8Rng::seed_from_u64(1));
    let mut constraint = tokens.constrainer.schema(&read).unwrap().after("e");
    let mut logits = vec![0.0; tokens.spellings.len()];
    constraint.mask(&mut logits).unwrap();
    let begins = |id: &usize| tokens.bytes(*id as u32).contains(&b'e');
    let ids = (0..logits.len()).filter(begins);
    for id in ids {
        let bytes = tokens.bytes(id as u32);
        let rest = &bytes[bytes.iter().position(|byte| *byte == b'e').unwrap() + 1..];
        let fits = rest.iter().all(u8::is_ascii_whitespace);
        assert_eq!(logits[id] == 0.0, fits, "{:?}", String::from_utf8_lossy(bytes));
    }
    for id in spelled(&tokens, "th", &mut chance) {
        assert_eq!(logits[id as usize], 0.0);
        constraint.take(id).unwrap();
    }
    assert_eq!(logits[tokens.ends[0] as usize], 0.0, "a text that is free may end");
}

struct Chance(ChaCha8Rng);

impl Chance {
    fn below(&mut self, count: usize) -> usize {
        (self.0.next_u64() % count as u64) as usize
    }

    fn some(&mut self) -> bool {
        self.below(2) == 0
    }
}

/// A random schema of what is supported; `depth` is how much deeper it may become.
fn schema(chance: &mut Chance, depth: usize) -> Value {
    match chance.below(if depth == 0 { 9 } else { 14 }) {
        0 => json!({"type": "boolean"}),
        1 => json!({"type": ["null", "integer"], "minimum": chance.below(9), "maximum": 1_000}),
        2 => json!({"type": "integer", "minimum": -(chance.below(99) as i64)}),
        3 => json!({"type": "number", "exclusiveMinimum": -1.5, "maximum": chance.below(40)}),
        4 => {
            json!({"type": "integer", "multipleOf": 1 + chance.below(7), "minimum": 0, "maximum": 500})
        }
        5 => json!({"enum": ["a", "b\"c", 7, null, true, [1, "x"], {"k": "é"}, -2.5]}),
        6 => json!({"const": chance.below(100)}),
        7 => {
            let least = chance.below(3);
            json!({"type": "string", "minLength": least, "maxLength": least + chance.below(9)})
        }
        8 => {
            let formats = ["date", "time", "ipv4", "uuid", "email", "hostname"];
            let patterns = ["^[a-z]{1,4}$", "^\\d+-\\w?$", "x", "^(ab|c)*$"];
            match chance.some() {
                true => json!({"type": "string", "format": formats[chance.below(6)]}),
                false => {
                    json!({"type": "string", "pattern": patterns[chance.below(4)], "maxLength": 20})
                }
            }
        }
        9 | 10 => object(chance, depth),
        11 => {
            let least = chance.below(3);
            let items = schema(chance, depth - 1);
            json!({"type": "array", "items": items, "minItems": least, "maxItems": least + chance.below(3)})
        }
        12 => {
            let (first, second) = (schema(chance, depth - 1), schema(chance, depth - 1));
            json!({"type": "array", "prefixItems": [first, second], "items": false, "minItems": 2})
        }
        _ => json!({"anyOf": [schema(chance, depth - 1), schema(chance, depth - 1)]}),
    }
}

fn object(chance: &mut Chance, depth: usize) -> Value {
    let names = ["a", "b c", "d\"e", "é", "", "long_name_of_a_field"];
    let mut properties = Map::new();
    for _ in 0..chance.below(5) {
        properties.insert(names[chance.below(6)].to_owned(), schema(chance, depth - 1));
    }
    let required: Vec<String> = properties.keys().filter(|_| chance.some()).cloned().collect();
    let others = match chance.below(3) {
        0 => json!(false),
        1 => schema(chance, depth - 1),
        _ => json!(true),
    };
    json!({
        "type": "object", "properties": properties, "required": required,
        "additionalProperties": others,
    })
}

/// Goal: every text that ended fits. Oracle: the crate jsonschema, which shares nothing with what
/// constrains. Seed 14.
#[test]
fn every_text_that_has_ended_fits_its_schema() {
    let tokens = Tokens::load();
    let mut chance = Chance(ChaCha8Rng::seed_from_u64(14));
    let (mut ended, mut tried) = (0, 0);
    for _ in 0..150 {
        let given = schema(&mut chance, 3);
        let read = Schema::read(&given).unwrap_or_else(|error| panic!("{error}: {given}"));
        let judge = jsonschema::options().should_validate_formats(true).build(&given).unwrap();
        for _ in 0..4 {
            tried += 1;
            let Some(text) = tokens.text(&read, &mut chance, 400) else { continue };
            let value: Value =
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert!(judge.is_valid(&value), "{text}\ndoes not fit {given}");
            ended += 1;
        }
    }
    assert!(ended * 10 > tried * 9, "{ended} of {tried} texts ended");
}

#[test]
fn without_a_constraint_hardly_a_text_would_fit() {
    let judge = jsonschema::validator_for(&json!({"type": "object"})).unwrap();
    let text = "The temperature of the room";
    assert!(serde_json::from_str::<Value>(text).is_err() && !judge.is_valid(&json!(text)));
}

#[test]
fn a_schema_that_calls_itself_gives_trees_that_fit() {
    let tokens = Tokens::load();
    let tree = json!({"$ref": "#/$defs/tree", "$defs": {"tree": {
        "type": "object", "required": ["leaf"], "additionalProperties": false,
        "properties": {"leaf": {"type": "integer"}, "next": {"$ref": "#/$defs/tree"}},
    }}});
    let judge = jsonschema::validator_for(&tree).unwrap();
    let read = Schema::read(&tree).unwrap();
    let mut chance = Chance(ChaCha8Rng::seed_from_u64(3));
    let texts = (0..20).filter_map(|_| tokens.text(&read, &mut chance, 300));
    let values: Vec<Value> = texts.map(|text| serde_json::from_str(&text).unwrap()).collect();
    assert!(values.len() > 10 && values.iter().all(|value| judge.is_valid(value)));
    assert!(values.iter().any(|value| value.get("next").is_some()), "{values:?}");
}

#[test]
fn a_schema_that_nothing_fits_or_that_is_not_compiled_is_refused() {
    let tokens = Tokens::load();
    for given in [
        json!({"type": "object", "properties": {"a": false}, "required": ["a"]}),
        json!({"type": "integer", "minimum": 5, "maximum": 4}),
        json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}),
        json!({"type": "string", "pattern": "(?=a)b"}),
        json!({"type": "string", "pattern": "("}),
        json!(false),
    ] {
        let read = Schema::read(&given).unwrap();
        let error = tokens.constrainer.schema(&read).err().map(|error| error.to_string());
        assert!(error.is_some_and(|said| said.len() < 500), "{given}");
    }
}

/// What an enemy's schema costs: seconds at most, whether it is taken or not, in a build that is not
/// optimised much.
#[test]
fn a_schema_from_an_enemy_costs_little() {
    let tokens = Tokens::load();
    let nested = "(".repeat(80) + "a" + &"{1,9})".repeat(29);
    let choices: Vec<Value> =
        (0..60).map(|at| json!({"pattern": format!("^.*{at}.*x.{{{at}}}$")})).collect();
    let wide = json!({"type": "object", "properties": (0..900).map(|at| (at.to_string(),
        json!({"type": "integer"}))).collect::<Map<_, _>>()});
    let ways: Vec<Value> =
        (0..8).map(|_| json!({"anyOf": vec![json!({"type": "object"}); 8]})).collect();
    for given in [
        json!({"type": "string", "pattern": nested}),
        json!({"type": "string", "pattern": "^(((a?){50}){50}){50}$"}),
        json!({"type": "string", "pattern": "^(.*a.*b.*){60}$"}),
        json!({"type": "string", "minLength": 9_999, "maxLength": 10_000}),
        json!({"type": "string", "allOf": choices}),
        json!({"allOf": ways}),
        json!({"type": "array", "minItems": 1_000, "items": {"type": "array", "minItems": 1_000}}),
        wide,
    ] {
        let begun = Instant::now();
        if let Ok(read) = Schema::read(&given)
            && let Ok(mut constraint) = tokens.constrainer.schema(&read)
        {
            for _ in 0..20 {
                let mut logits = vec![0.0; tokens.spellings.len()];
                if constraint.mask(&mut logits).is_err() {
                    break;
                }
                let id = logits.iter().position(|logit| *logit == 0.0).unwrap();
                if constraint.take(id as u32).is_err() || constraint.is_over() {
                    break;
                }
            }
        }
        let taken = begun.elapsed();
        assert!(
            taken < Duration::from_secs(10),
            "{taken:?}: {}",
            &given.to_string()[..80.min(given.to_string().len())]
        );
    }
}
