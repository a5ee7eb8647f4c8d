//! Tests of adapters on their way: the bytes of another program, round trips, and what must be refused.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise")]
use super::*;
use crate::adapter::compare::diff;
use sapwood_protocol::fleet::id::{CohortId, Hash};
use sapwood_protocol::fleet::update::{Kind, UpdateError};

fn golden(name: &str) -> Vec<u8> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/fleet");
    std::fs::read(folder.join(name)).unwrap()
}

/// q and v of layers 6 and 7 at rank 3, as `wire` of `tools/golden/fleet.py` makes it.
fn adapter() -> Adapter {
    let spec = Spec::placed(6..8, |_, target| {
        let strength = Strength { rank: 3, alpha: 7.5 };
        match target {
            Target::Q => Some((strength, (5, 6))),
            Target::V => Some((strength, (5, 3))),
            _ => None,
        }
    });
    let number = |at: usize| ((at * 37 % 101) as f32 - 50.0) / 64.0;
    let mut values: Vec<f32> = (0..spec.len()).map(number).collect();
    for module in &spec.modules {
        values[module.b.clone()].iter_mut().for_each(|value| *value *= 0.001);
    }
    // A rank that has learned nothing.
    let first = spec.modules[0].clone();
    values[first.b].iter_mut().skip(1).step_by(3).for_each(|value| *value = 0.0);
    Adapter { spec, values }
}

fn meta() -> Meta {
    let [base, from] = [[1; 32], [3; 32]].map(Hash);
    let (cohort, kind) = (CohortId([2; 32]), Kind::Update);
    Meta { kind, base, cohort, from, generation: 12, steps: 340, tokens: 87_040 }
}

fn expected(shape: &Shape) -> Expected<'_> {
    let Meta { kind, base, cohort, from, .. } = meta();
    Expected { kind, base, cohort, from: Some(from), shape, rank_max: 3 }
}

fn refused(bytes: &[u8], expected: &Expected<'_>) -> UpdateError {
    match decode(bytes, expected).unwrap_err() {
        AdapterError::Wire(error) => error,
        other => panic!("{other}"),
    }
}

/// Oracle: numpy's f16 and the safetensors package, `tools/golden/fleet.py`.
#[test]
fn an_adapter_is_written_as_another_program_writes_it() {
    assert_eq!(encode(&adapter(), &meta()).unwrap(), golden("wire.safetensors"));
}

/// Oracle: the file is the safetensors package's, its numbers are eighths.
#[test]
fn another_programs_file_is_read() {
    let bytes = golden("update.safetensors");
    let (header, _) = parts(&bytes).unwrap();
    let own = Expected {
        base: header.meta.base,
        cohort: header.meta.cohort,
        from: None,
        rank_max: 2,
        ..expected(&header.shape)
    };
    let (adapter, read) = decode(&bytes, &own).unwrap();
    assert_eq!((read.meta.steps, read.rank, adapter.spec.len()), (340, 2, 30));
    let eighths = |count: usize| (0..count).map(|at| at as f32 / 8.0);
    let all: Vec<f32> = [8, 8, 8, 6].into_iter().flat_map(eighths).collect();
    assert_eq!(adapter.values, all);
    assert!(adapter.spec.modules.iter().all(|module| (module.rank, module.scale) == (2, 1.0)));
    assert_eq!(shape(&adapter.spec), header.shape);
}

#[test]
fn what_is_read_does_what_was_written() {
    let adapter = adapter();
    let shape = shape(&adapter.spec);
    let (read, header) = decode(&encode(&adapter, &meta()).unwrap(), &expected(&shape)).unwrap();
    assert_eq!(header.meta, meta());
    let relative = diff(&adapter, &read).unwrap().total.relative.unwrap();
    // Two factors of 11 bits.
    assert!(relative < 1.0 / 1024.0, "{relative}");
    // The same numbers again: rows and columns are alike already.
    assert_eq!(encode(&read, &meta()).unwrap(), encode(&adapter, &meta()).unwrap());
}

/// Factors that f16 could not hold by themselves.
#[test]
fn how_a_product_is_split_does_not_matter() {
    let plain = encode(&adapter(), &meta()).unwrap();
    for exponent in [-40, -3, 3, 40] {
        let mut skewed = adapter();
        for module in skewed.spec.modules.clone() {
            skewed.values[module.a].iter_mut().for_each(|value| *value *= power(exponent));
            skewed.values[module.b].iter_mut().for_each(|value| *value *= power(-exponent));
        }
        let shape = shape(&skewed.spec);
        let (read, _) = decode(&encode(&skewed, &meta()).unwrap(), &expected(&shape)).unwrap();
        let (first, _) = decode(&plain, &expected(&shape)).unwrap();
        let module = &read.spec.modules[1];
        assert_eq!((read.a(module), read.b(module)), (first.a(module), first.b(module)));
    }
}

#[test]
fn rows_and_columns_come_out_alike() {
    for ratio in [1e-60, 1e-9, 0.2, 0.5, 1.0, 3.0, 16.0, 1e9, 1e60] {
        let (raised, lowered) = factors(1.0, ratio);
        let after = ratio * f64::from(lowered / raised).powi(2);
        assert!(raised * lowered == 1.0 && (0.25..=4.0).contains(&after), "{ratio}: {after}");
    }
    for long in [1e-60, 0.1, 1.0, 1e60] {
        let alone = long * f64::from(factors(long, 0.0).0).powi(2);
        assert!((0.25..=4.0).contains(&alone) && factors(long, 0.0) == (factors(0.0, long).1, 1.0));
    }
    for (long, wide) in [(0.0, 0.0), (1.0, f64::NAN), (1.0, f64::INFINITY), (1.0, 1e-310)] {
        assert_eq!(factors(long, wide), (1.0, 1.0), "{long} {wide}");
    }
}

#[test]
fn what_others_would_not_take_is_not_written() {
    let told = |adapter: &Adapter, meta: &Meta| encode(adapter, meta).unwrap_err().to_string();
    let mut wild = adapter();
    wild.values[0] = f32::NAN;
    assert!(told(&wild, &meta()).contains("layers.6.self_attn.q_proj.lora_A"), "the tensor");
    let mut large = adapter();
    large.values.iter_mut().for_each(|value| *value *= 1e9);
    assert!(told(&large, &meta()).contains("expected finite numbers, got "));
    let mixed = adapter().spec.modules.into_iter().map(|module| (module.layer, module.target));
    let ranks: Vec<_> = mixed.zip([1, 2, 2, 2]).collect();
    let spec = Spec::placed(6..8, |layer, target| {
        let (_, rank) = *ranks.iter().find(|(place, _)| *place == (layer, target))?;
        Some((Strength { rank, alpha: 1.0 }, (5, 6)))
    });
    let mixed = Adapter { values: vec![0.5; spec.len()], spec };
    assert!(told(&mixed, &meta()).contains("has shape [2, 5], expected [1, 5]"));
    let none = Adapter { spec: Spec { modules: Vec::new() }, values: Vec::new() };
    assert_eq!(told(&none, &meta()), "the file has 0 tensors, expected 2 to 3584");
    let idle = Meta { steps: 0, ..meta() };
    assert!(told(&adapter(), &idle).contains("`steps` is \"0\""));
    let short = Adapter { values: vec![0.0; 3], ..adapter() };
    assert_eq!(told(&short, &meta()), "the adapter holds 3 numbers, expected 114 by its spec");
}

#[test]
fn a_file_that_was_cut_anywhere_is_refused() {
    let (bytes, adapter) = (encode(&adapter(), &meta()).unwrap(), adapter());
    let shape = shape(&adapter.spec);
    for end in 0..bytes.len() {
        refused(&bytes[..end], &expected(&shape));
    }
    refused(&[&bytes[..], &[0]].concat(), &expected(&shape));
    let mut wild = bytes.clone();
    let last = wild.len() - 2;
    wild[last..].copy_from_slice(&f16::NAN.to_le_bytes());
    assert!(matches!(
        refused(&wild, &expected(&shape)),
        UpdateError::NotFinite { position: 8, .. }
    ));
    let foreign = Expected { cohort: CohortId([9; 32]), ..expected(&shape) };
    assert!(matches!(refused(&bytes, &foreign), UpdateError::Other { key: "cohort", .. }));
}
