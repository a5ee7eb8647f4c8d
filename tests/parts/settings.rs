//! Every setting at its bounds: what the checks let through also ends a job.
//!
//! The base is noise: what is tested is that nothing after the checks can refuse a setting.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::small::model;
use sapwood::block::Block;
use sapwood::learner::{Engines, Material, Outcome, Plan, adapt};
use sapwood::ports::Memory;
use sapwood::settings::{Home, Kind, Overrides, Row, rows};
use sapwood::state::State;
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::sync::Arc;

fn material(tokens_max: usize) -> Material {
    let block = |i: u32| {
        let length = tokens_max.min(9) as u32;
        let tokens: Vec<u32> = (0..length).map(|t| 10 + (3 * i + t) % 20).collect();
        Block { learn: tokens.iter().map(|_| true).collect(), tokens, bytes: 8, domain: 0 }
    };
    let blocks = |range: std::ops::Range<u32>| range.map(block).collect();
    let (train, valid, general) = (blocks(0..6), blocks(6..8), blocks(8..9));
    let (name, key, start) = ("numbers".to_owned(), "numbers".to_owned(), Vec::new());
    Material { name, key, hash: [1; 32], train, valid, general, start }
}

/// What a small job says of itself; a value of a row comes on top.
fn wishes(row: &Row, value: &Value) -> Overrides {
    let mut said = json!({
        "iters": 2, "batch-size": 1, "replay-batch-size": 2, "max-seq-length": 16,
        "num-layers": 2, "rank": 2, "threads": 1,
    });
    if row.key != "as-published" {
        said["anchor-blocks"] = json!(2);
    }
    if row.key != "replay-bytes" {
        said["replay-blocks"] = json!(4);
    }
    said[row.key] = value.clone();
    serde_json::from_value(said).unwrap()
}

/// The values of a setting that must not surprise anyone: its bounds, or each of its words.
fn values(row: &Row) -> Vec<Value> {
    match row.kind {
        Kind::Switch => vec![json!(true)],
        Kind::Choice(words) => words.iter().map(|(word, _)| json!(word)).collect(),
        Kind::List => vec![json!(["down_proj"])],
        Kind::Signed => vec![json!(-1), json!(1), json!(i64::MAX)],
        Kind::Device => vec![json!("cpu")],
        Kind::Path => Vec::new(),
        Kind::Whole | Kind::Real => {
            match row.expected.as_deref().and_then(|e| e.split_once(" to ")) {
                Some(bounds) => {
                    [bounds.0, bounds.1].map(|word| row.kind.read(word).unwrap()).to_vec()
                }
                None if row.kind == Kind::Real => {
                    vec![json!(0.0), json!(1.0), json!(f64::from(u32::MAX))]
                }
                None => vec![json!(0), json!(u64::MAX)],
            }
        }
    }
}

#[test]
fn what_passes_the_checks_ends_a_job() {
    let place = tempfile::tempdir().unwrap();
    let model = model(place.path());
    let (mut ended, mut refused) = (0, Vec::new());
    // Steps are what a job does, and how many it does is how long it takes.
    for row in rows().into_iter().filter(|row| row.home != Home::Adapt && row.key != "iters") {
        for value in values(&row) {
            let state = Arc::new(Memory::default());
            let mut state = State::open(state).unwrap();
            let engines = |settings| Engines::load(&model, settings);
            let config = sapwood::base::read_config(&model).unwrap();
            let plan = match Plan::new(&config, &state, wishes(&row, &value), false) {
                Ok(plan) => plan,
                Err(error) => {
                    assert!(error.to_string().contains("nothing was started"), "{error}");
                    refused.push(format!("{} {value}", row.key));
                    continue;
                }
            };
            let settings = plan.fit(6, 60, 1);
            let (engines, material) =
                (engines(&settings).unwrap(), material(settings.max_seq_length));
            let mut tell = |_: &_| ControlFlow::Continue(());
            let outcome = adapt(&engines, &mut state, &material, &settings, &mut tell);
            assert!(
                matches!(outcome, Ok(Outcome::Judged { .. })),
                "--{} {value}: {outcome:?}",
                row.key
            );
            ended += 1;
        }
    }
    // The model has fewer positions and fewer layers than settings may name, and a block takes bytes.
    let layers = format!("num-layers {}", i64::MAX);
    assert_eq!(refused, [layers.as_str(), "max-seq-length 4096", "replay-bytes 1"]);
    assert!(ended > 60, "{ended}");
}
