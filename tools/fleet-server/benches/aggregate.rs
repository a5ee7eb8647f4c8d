//! A round of many uploads, merged: seconds and memory.
//!
//! `cargo bench -p fleet-server --bench aggregate -- 2000`, or `-- 2000 robust`. An upload has the shape of Llama-3.2-1B, rank 8
//! on q, k, v and o of all 16 layers, in f16: 1.70 million numbers, made of a seed whenever it is read.
//! The peer on the same machine: `tools/fleet-server/benches/aggregate.py`.
#![expect(clippy::unwrap_used, reason = "a benchmark may stop at the first surprise")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use fleet_server::aggregate::{
    AggregateError, Clip, Facts, Plan, Source, merge, norm, robust, shares,
};
use half::f16;
use half::slice::HalfFloatSliceExt;
use sapwood::adapter::{Adapter, Spec, Strength, Target};
use sapwood::base::Config;
use std::time::{Duration, Instant};

const RANK: usize = 8;
const GLOBAL_RANK: usize = 16;

/// The uploads, and how long they took to make and to decode.
struct Uploads {
    adapter: Adapter,
    wire: Vec<f16>,
    /// Numbers that are in every upload.
    common: Vec<f32>,
    making: Duration,
    decoding: Duration,
}

/// A well mixed word of a number (Steele, Lea and Flood 2014).
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Numbers in ±1.
fn noise(seed: u64, numbers: &mut [f32]) {
    for (at, four) in numbers.chunks_mut(4).enumerate() {
        let word = mixed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(at as u64));
        for (lane, number) in four.iter_mut().enumerate() {
            *number = f32::from((word >> (16 * lane)) as i16) / 32_768.0;
        }
    }
}

fn spec(rank: usize) -> Spec {
    let json = r#"{"model_type": "llama", "num_hidden_layers": 16, "hidden_size": 2048,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
        "intermediate_size": 8192, "vocab_size": 128256}"#;
    let config = Config::parse(json, None).unwrap();
    let targets = [Target::Q, Target::K, Target::V, Target::O];
    Spec::uniform(&config, 0..16, &targets, Strength { rank, alpha: rank as f32 })
}

impl Uploads {
    fn new() -> Self {
        let spec = spec(RANK);
        let mut common = vec![0.0; spec.len()];
        noise(u64::MAX, &mut common);
        let (values, wire) = (vec![0.0; spec.len()], vec![f16::ZERO; spec.len()]);
        let adapter = Adapter { spec, values };
        Self { adapter, wire, common, making: Duration::ZERO, decoding: Duration::ZERO }
    }
}

impl Source for Uploads {
    type Error = AggregateError;

    fn read(&mut self, at: usize) -> Result<&Adapter, AggregateError> {
        let start = Instant::now();
        noise(at as u64, &mut self.adapter.values);
        for (own, common) in self.adapter.values.iter_mut().zip(&self.common) {
            *own = 0.02 * (*own + common);
        }
        self.wire.convert_from_f32_slice(&self.adapter.values);
        self.making += start.elapsed();
        let start = Instant::now();
        self.wire.convert_to_f32_slice(&mut self.adapter.values);
        self.decoding += start.elapsed();
        Ok(&self.adapter)
    }
}

/// The most memory that this process ever had, MB.
fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    let kb = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kb.unwrap_or(f64::NAN) / 1024.0
}

/// Gives the uploads the weights of the robust rule, and says what that took.
fn weigh(uploads: &mut Uploads, facts: &mut Vec<Facts>, spec: &Spec) {
    let (start, making) = (Instant::now(), uploads.making);
    let robust = robust(uploads, spec, facts, [0; 32]).unwrap();
    let spent = (start.elapsed() + making - uploads.making).as_secs_f64();
    println!("robust: {spent:.1} s, decoding included, peak {:.0} MB; {}", peak_mb(), robust.told);
    *facts = robust.facts;
}

fn main() {
    let count = std::env::args().filter_map(|word| word.parse().ok()).next().unwrap_or(20);
    let mut uploads = Uploads::new();
    let mut from = Adapter { spec: spec(GLOBAL_RANK), values: vec![] };
    from.values = vec![0.0; from.spec.len()];
    noise(7, &mut from.values);
    from.values.iter_mut().for_each(|number| *number *= 0.02);

    let start = Instant::now();
    let facts = |at| {
        let norm = norm(uploads.read(at).unwrap()).unwrap();
        let hash = [mixed(at as u64).to_le_bytes(); 4].concat().try_into().unwrap();
        Facts { at, hash, norm, rank: RANK, weight: 1.0 }
    };
    let mut facts: Vec<Facts> = (0..count).map(facts).collect();
    let norms = start.elapsed() - uploads.making - uploads.decoding;
    if std::env::args().any(|word| word == "robust") {
        weigh(&mut uploads, &mut facts, &from.spec);
    }
    let shares = shares(&facts, Clip::Median, 1.0).unwrap();
    let spec = from.spec.clone();
    let plan = Plan { spec: &spec, from: Some(&from), shares: &shares, seed: [0; 32] };
    let merged = merge(&mut uploads, &plan).unwrap();
    let all = start.elapsed() - uploads.making;

    let digest: f64 = merged.adapter.values.iter().map(|number| f64::from(number.abs())).sum();
    println!(
        "| uploads | s | of it norms | of it decoding | ms an upload | making them, s | peak MB |"
    );
    println!("|---|---|---|---|---|---|---|");
    println!(
        "| {count} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.0} |",
        all.as_secs_f64(),
        norms.as_secs_f64(),
        uploads.decoding.as_secs_f64(),
        1e3 * all.as_secs_f64() / count as f64,
        uploads.making.as_secs_f64(),
        peak_mb()
    );
    println!("dropped {:.4}, sum of sizes {digest:.6}", merged.dropped);
}
