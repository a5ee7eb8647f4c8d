//! The model over the shipped base: what it writes, and what it keeps of a text.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
use super::*;
use crate::device::Bounds;
use crate::wire;
use sapwood::adapter::Adapter;
use sapwood::intake::{Talk, Turn};
use sapwood::learner::{self, Engines};
use sapwood::settings::Settings;
use sapwood::tokenise::Tokeniser;
use serde_json::{Value, json};
use std::path::Path;

/// The shipped base, which has byte tokens and no chat template.
fn base() -> Snapshot {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/base");
    let engines = Engines::load(&folder, &Settings::default()).unwrap();
    let tokeniser = Tokeniser::open(&folder, engines.base.config().vocab).unwrap();
    let bounds = Bounds { prompt_cache_bytes: 1 << 20, adapters: 2, block_tokens: 64 };
    let served = Arc::new(Served::new(engines, tokeniser, Current::default(), bounds));
    Snapshot::new(&served, served.current())
}

fn prompted(model: &Snapshot, prompt: &Prompt) -> Result<Given, ModelError> {
    model.read(prompt, &how(&json!({"prompt": "a"})))
}

fn how(body: &Value) -> How {
    wire::completion(body.to_string().as_bytes()).unwrap().how
}

fn written(model: &Snapshot, prompt: &str, tokens: usize, seed: u64) -> (Vec<String>, String) {
    let given = prompted(model, &Prompt::Text(prompt.into())).unwrap();
    let body = json!({"prompt": "a", "temperature": if seed == 0 { 0.0 } else { 1.5 }});
    let draw = Draw { how: &how(&body), seed, likeliest: None };
    let mut pieces = Vec::new();
    let mut each = |token: Token<'_>| {
        pieces.push(token.text.to_owned());
        ControlFlow::Continue(())
    };
    let tail = model.write(&given.ids, tokens, draw, &mut each).unwrap().rest;
    (pieces, tail)
}

#[test]
fn a_text_keeps_the_adapter_it_began_with_and_the_next_one_has_the_new() {
    let model = base();
    let alone = written(&model, "The temperature of the", 12, 0).0;
    let spec = learner::spec(model.served.engines.base.config(), &Settings::default()).unwrap();
    let adapter = Adapter { values: vec![0.1; spec.len()], spec };
    let mut adapter = Some(adapter);
    let given = prompted(&model, &Prompt::Text("The temperature of the".into())).unwrap();
    let greedy = how(&json!({"prompt": "a", "temperature": 0}));
    let draw = Draw { how: &greedy, seed: 0, likeliest: None };
    let mut pieces = Vec::new();
    let mut each = |token: Token<'_>| {
        pieces.push(token.text.to_owned());
        if pieces.len() == 3 {
            let (generation, adapter) = (Some(9), adapter.take());
            model.served.swap(Current { generation, adapter, ..Current::default() });
        }
        ControlFlow::Continue(())
    };
    model.write(&given.ids, 12, draw, &mut each).unwrap();
    assert_eq!(pieces, alone);
    let (current, served) = (model.served.current(), model.served.clone());
    let next = Snapshot::new(&served, current);
    assert_eq!(next.generation(), Some(9));
    assert_ne!(written(&next, "The temperature of the", 12, 0).0, alone);
}

/// A prompt is read once: a second turn goes on from the first, unless it is told not to, and nothing is
/// kept of an adapter that has gone.
#[test]
fn what_earlier_texts_read_is_not_read_again() {
    let model = base();
    let first = prompted(&model, &Prompt::Text("The temperature of the".into())).unwrap().ids;
    let write = |model: &Snapshot, ids: &[u32], caches: bool| {
        let how = how(&json!({"prompt": "a", "temperature": 0, "cache_prompt": caches}));
        let (mut pieces, draw) = (Vec::new(), Draw { how: &how, seed: 0, likeliest: None });
        let mut each = |token: Token<'_>| {
            pieces.push(token.text.to_owned());
            ControlFlow::Continue(())
        };
        let cached = model.write(ids, 6, draw, &mut each).unwrap().cached;
        (pieces, cached)
    };
    let (alone, cached) = write(&model, &first, true);
    assert_eq!(cached, 0);
    let said = format!("The temperature of the{} and", alone.concat());
    let second = prompted(&model, &Prompt::Text(said)).unwrap().ids;
    let (unread, cached) = write(&model, &second, false);
    assert_eq!(cached, 0);
    let (again, cached) = write(&model, &second, true);
    assert!(cached >= first.len() && cached < second.len(), "{cached} of {}", second.len());
    assert_eq!((again, write(&model, &first, true)), (unread, (alone, first.len() - 1)));

    // What is in use is another one now; what was under way keeps nothing for it.
    model.served.swap(Current { generation: Some(2), ..Current::default() });
    assert_eq!(model.served.prompts.bytes(), 0);
    write(&model, &first, true);
    assert_eq!(model.served.prompts.bytes(), 0);
    let (current, served) = (model.served.current(), model.served.clone());
    let next = Snapshot::new(&served, current);
    assert_eq!(write(&next, &first, true).1, 0);
    let current = Arc::new(Current::default());
    let bare = Snapshot::new(&model.served, current);
    assert_eq!((write(&bare, &first, true).1, write(&next, &first, true).1), (0, first.len() - 1));
    model.served.swap(Current::default());
    assert_eq!(write(&bare, &first, true).1, first.len() - 1, "the base stays");
}

/// What is told of a text as it is written, and what of the same text when it is read.
#[test]
fn a_text_is_as_likely_when_it_is_read_as_when_it_was_written() {
    let model = base();
    let prompt = prompted(&model, &Prompt::Text("The temperature of the".into())).unwrap().ids;
    let greedy = how(&json!({"prompt": "a", "temperature": 0}));
    let draw = Draw { how: &greedy, seed: 0, likeliest: Some(3) };
    let mut written = Vec::new();
    let mut each = |token: Token<'_>| {
        written.extend(token.scored);
        ControlFlow::Continue(())
    };
    model.write(&prompt, 6, draw, &mut each).unwrap();
    let text: Vec<u8> = written.iter().flat_map(|one| one.token.bytes.clone()).collect();
    let text = String::from_utf8(text).unwrap();
    let whole =
        prompted(&model, &Prompt::Text(format!("The temperature of the{text}"))).unwrap().ids;
    let mut read = Vec::new();
    let mut each = |scored: Scored| {
        read.push(scored);
        ControlFlow::Continue(())
    };
    model.follow(&whole, 3, &mut each).unwrap();
    assert_eq!((read.len(), read[0].token.log), (prompt.len() + 6, None));
    for (written, read) in written.iter().zip(&read[prompt.len()..]) {
        assert_eq!(written.token.bytes, read.token.bytes);
        let logs = [written.token.log.unwrap(), read.token.log.unwrap()];
        assert!((logs[0] - logs[1]).abs() < 1e-3, "{logs:?}");
        assert_eq!(written.token, written.likeliest[0], "greedy takes the likeliest");
        assert!(written.likeliest.is_sorted_by(|a, b| a.log >= b.log));
    }
}

/// The answers of a small base that knows no JSON, to the letter or cut short; greedy and drawn.
#[test]
fn an_answer_fits_its_schema_or_is_the_beginning_of_one_that_does() {
    let model = base();
    let ids = prompted(&model, &Prompt::Text("The temperature of the".into())).unwrap().ids;
    let schema = json!({
        "type": "object", "required": ["room", "celsius"], "additionalProperties": false,
        "properties": {
            "room": {"enum": ["kitchen", "hall", "cellar"]},
            "celsius": {"type": "integer", "minimum": -20, "maximum": 40},
            "notes": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
        },
    });
    let form = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema}});
    for seed in 0..12 {
        let body = json!({"prompt": "a", "response_format": form,
            "temperature": if seed == 0 { 0.0 } else { 1.5 }});
        let how = how(&body);
        model.admits(&how).unwrap();
        let draw = Draw { how: &how, seed, likeliest: None };
        let written = |tokens: usize| {
            let mut text = String::new();
            let mut each = |token: Token<'_>| {
                text.push_str(token.text);
                ControlFlow::Continue(())
            };
            let rest = model.write(&ids, tokens, draw, &mut each).unwrap().rest;
            text + &rest
        };
        let whole = written(200);
        let value: Value = serde_json::from_str(&whole).unwrap();
        // -0 is a whole number too, and none of i64.
        let celsius = value["celsius"].as_f64().unwrap();
        assert!((-20.0..=40.0).contains(&celsius) && celsius.fract() == 0.0, "{whole}");
        assert!(["kitchen", "hall", "cellar"].contains(&value["room"].as_str().unwrap()));
        assert!(value.as_object().unwrap().len() <= 3, "{whole}");
        assert!(whole.starts_with(&written(7)), "{whole}");
    }
    let none = how(&json!({"prompt": "a", "response_format": {"type": "json_object",
        "schema": {"type": "integer", "minimum": 2, "maximum": 1}}}));
    let refused = model.admits(&none).unwrap_err().to_string();
    assert!(refused.starts_with("response_format: the schema cannot be held to"), "{refused}");
}

/// A push of 100 is stronger than anything that the base says.
#[test]
fn what_a_request_says_of_single_tokens_and_of_what_was_said_holds() {
    let model = base();
    let ids = prompted(&model, &Prompt::Text("The temperature of the".into())).unwrap().ids;
    let drawn = |body: Value| {
        let (how, mut count) = (how(&body), 0);
        let mut each = |_: Token<'_>| {
            count += 1;
            ControlFlow::Continue(())
        };
        let draw = Draw { how: &how, seed: 1, likeliest: None };
        model.write(&ids, 12, draw, &mut each).unwrap();
        count
    };
    let end = model.served.engines.base.config().eos[0].to_string();
    assert_eq!(drawn(json!({"prompt": "a", "temperature": 0})), 12);
    let pushed = json!({"prompt": "a", "temperature": 0, "logit_bias": {end: 100}});
    assert_eq!(drawn(pushed), 0);
    let beyond = how(&json!({"prompt": "a", "logit_bias": {"4096": 1}}));
    let refused = model.admits(&beyond).unwrap_err().to_string();
    assert_eq!(refused, "logit_bias: expected token ids below 4096, got 4096");
}

#[test]
fn the_shipped_base_reads_and_writes() {
    let model = base();
    let (pieces, _) = written(&model, "The temperature of the", 12, 0);
    assert_eq!(pieces.len(), 12);
    assert_eq!(written(&model, "The temperature of the", 12, 0).0, pieces);
    // Hot draws reach byte tokens: whatever comes, characters are whole and none stands for half of one.
    for seed in 1..=3 {
        let (pieces, tail) = written(&model, "数据 →", 40, seed);
        assert!(pieces.len() <= 40);
        assert!(!tail.ends_with(char::REPLACEMENT_CHARACTER), "{tail}");
    }

    let ids = prompted(&model, &Prompt::Text("ab".into())).unwrap().ids;
    let again = prompted(&model, &Prompt::Ids(ids.clone())).unwrap();
    assert_eq!((again.ids, again.text.trim()), (ids, "ab"));
    let refused = |prompt: Prompt| prompted(&model, &prompt).err().map(|error| error.to_string());
    let beyond = refused(Prompt::Ids(vec![4_096])).unwrap();
    assert!(beyond.contains("below 4096"), "{beyond}");
    let talk = Talk { turns: vec![Turn::plain("user", "a")], ..Talk::default() };
    let talk = refused(Prompt::Messages(talk)).unwrap();
    assert!(talk.contains("chat template"), "{talk}");
    assert!(refused(Prompt::Ids(Vec::new())).is_some());
}

/// Adapters by name: each reads what it wrote itself and nothing of another, whatever comes in between; what
/// is let go of takes what was kept of its texts with it, and a text under way is written to its end.
#[test]
fn adapters_by_name_share_no_prompt_and_a_text_keeps_its_own() {
    let model = base();
    let spec = learner::spec(model.served.engines.base.config(), &Settings::default()).unwrap();
    let read = |value: f32| {
        let values = (0..spec.len()).map(|at| value * (at % 7) as f32).collect();
        let adapter = Some(Adapter { spec: spec.clone(), values });
        Ok::<_, ()>(Current { adapter, ..Current::default() })
    };
    let named = |name: &str, value: f32| {
        Snapshot::new(&model.served, model.served.named(name, || read(value)).unwrap())
    };
    let ids = prompted(&model, &Prompt::Text("The temperature of the".into())).unwrap().ids;
    let write = |model: &Snapshot, caches: bool| {
        let body = json!({"prompt": "a", "temperature": 0, "cache_prompt": caches});
        let how = how(&body);
        let (mut logs, draw) = (Vec::new(), Draw { how: &how, seed: 0, likeliest: Some(0) });
        let mut each = |token: Token<'_>| {
            logs.push(token.scored.unwrap().token.log.unwrap());
            ControlFlow::Continue(())
        };
        let cached = model.write(&ids, 6, draw, &mut each).unwrap().cached;
        (logs, cached)
    };
    // What a prompt is read in changes the last bits; another adapter changes more.
    let same = |one: &[f32], other: &[f32]| {
        one.len() == other.len() && one.iter().zip(other).all(|(a, b)| (a - b).abs() < 1e-4)
    };
    let alone = [("a", 0.02), ("b", 0.1)].map(|(name, value)| write(&named(name, value), false).0);
    let bare = Snapshot::new(&model.served, Arc::default());
    let without = write(&bare, false).0;
    let pairs = [(&alone[0], &alone[1]), (&alone[0], &without), (&alone[1], &without)];
    assert!(pairs.iter().all(|(one, other)| !same(one, other)), "{alone:?} {without:?}");
    for turn in 0..3 {
        for (at, (name, value)) in [("a", 0.02), ("b", 0.1)].into_iter().enumerate() {
            let (logs, cached) = write(&named(name, value), true);
            let known = if turn == 0 { 0 } else { ids.len() - 1 };
            assert!(same(&logs, &alone[at]) && cached == known, "{name}, turn {turn}: {cached}");
        }
        assert!(same(&write(&bare, true).0, &without), "turn {turn}");
    }

    // Two are held: a third takes the place of the one that was of no use for longest.
    let first = named("a", 0.02);
    let before = model.served.prompts.bytes();
    named("c", 0.05);
    assert!(model.served.prompts.bytes() < before, "what b wrote is gone");
    assert_eq!(write(&named("a", 0.02), true).1, ids.len() - 1);
    named("b", 0.1);
    named("c", 0.05);
    assert_eq!(
        write(&first, true),
        (alone[0].clone(), 0),
        "it is held by who has it, and by nobody else"
    );
    assert_eq!(
        write(&named("a", 0.02), true),
        (alone[0].clone(), 0),
        "read again, it is another one"
    );
    assert_eq!(model.served.shelved(), (2 * spec.len() as u64, 0));
}

/// The scorer is that of `sapwood eval`: an adapter of zeros is the bare base to the last bit.
#[test]
fn two_adapters_are_scored_on_the_same_blocks_until_somebody_stops_them() {
    use super::super::scoring;
    let model = base();
    let spec = learner::spec(model.served.engines.base.config(), &Settings::default()).unwrap();
    let of = |value: f32| {
        let values = (0..spec.len()).map(|at| value * (at % 7) as f32).collect();
        Current { adapter: Some(Adapter { spec: spec.clone(), values }), ..Current::default() }
    };
    let texts = ["The temperature of the water is 4 degrees.".to_owned(), "No.".repeat(200)];
    let going = &mut || ControlFlow::Continue(());
    let bare = Current::default();
    let [base, zero] = scoring::texts(&model.served, [&bare, &of(0.0)], &texts, going).unwrap();
    assert!(base.bytes > 600 && base == zero, "{base:?} {zero:?}");
    let [again, other] = scoring::texts(&model.served, [&bare, &of(0.02)], &texts, going).unwrap();
    assert_eq!(base, again);
    assert!((other.nats - base.nats).abs() > 1e-3 && other.bytes == base.bytes);
    let mut left = 2;
    let stops = &mut || {
        left -= 1;
        if left < 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let stopped = scoring::texts(&model.served, [&bare, &bare], &texts, stops);
    assert!(matches!(stopped, Err(ModelError::Late)));
    let none = scoring::blocks(&model.served, [&bare, &bare], &[], going);
    assert!(matches!(none, Err(ModelError::NoText)));
}
