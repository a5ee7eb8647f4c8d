//! Tests of adapter folders: round trips, what PEFT writes, and what must be refused.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod alone;

use super::*;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use serde_json::{Value, json};

fn config() -> Config {
    let json = r#"{"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6,
        "intermediate_size": 20, "vocab_size": 96}"#;
    Config::parse(json, None).unwrap()
}

fn meta() -> Meta {
    let base_hash = std::array::from_fn(|place| place as u8 * 7);
    Meta { base_hash, generation: 4, steps: 1234, role: Role::Slow, retain: 0.99, global: None }
}

fn random(spec: Spec) -> Adapter {
    let mut chance = ChaCha8Rng::seed_from_u64(7);
    let values = (0..spec.len()).map(|_| chance.next_u32() as f32 / 2e9 - 1.0).collect();
    Adapter { spec, values }
}

fn usual() -> Adapter {
    let strength = Strength { rank: 2, alpha: 4.0 };
    random(Spec::uniform(&config(), 0..3, &[Target::Q, Target::V], strength))
}

/// The three files as bytes, to be changed by a test.
#[derive(Clone)]
struct Folder {
    config: Vec<u8>,
    tensors: Vec<u8>,
    meta: Option<Vec<u8>>,
}

impl Folder {
    fn of(adapter: &Adapter) -> Self {
        let files = write(adapter, &meta(), "base").unwrap();
        assert_eq!(files[0].0, CONFIG_FILE);
        assert_eq!(files[1].0, TENSORS_FILE);
        assert_eq!(files[2].0, META_FILE);
        let [config, tensors, meta] = [0, 1, 2].map(|file| files[file].1.clone());
        Self { config, tensors, meta: Some(meta) }
    }

    fn read(&self) -> Result<(Adapter, Option<Meta>), AdapterError> {
        let meta = self.meta.as_deref();
        super::read(Files { config: &self.config, tensors: &self.tensors, meta }, &config(), None)
    }

    /// With one field of the configuration set.
    fn with(&self, field: &str, value: Value) -> Self {
        let mut config: Value = serde_json::from_slice(&self.config).unwrap();
        config[field] = value;
        Self { config: config.to_string().into_bytes(), ..self.clone() }
    }

    fn refusal(&self) -> String {
        self.read().unwrap_err().to_string()
    }
}

/// The tensors of an adapter in another number format, each changed by `change`.
fn tensors(
    adapter: &Adapter,
    format: Dtype,
    change: impl Fn(&str, Vec<f32>, Vec<usize>) -> Option<(String, Vec<f32>, Vec<usize>)>,
) -> Vec<u8> {
    let bytes = Folder::of(adapter).tensors;
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut changed = Vec::new();
    for (name, view) in file.tensors() {
        let mut numbers = Vec::new();
        widen(&name, &view, &mut numbers).unwrap();
        let Some((name, numbers, shape)) = change(&name, numbers, view.shape().to_vec()) else {
            continue;
        };
        let number = |number: &f32| match format {
            Dtype::F16 => f16::from_f32(*number).to_le_bytes().to_vec(),
            Dtype::BF16 => bf16::from_f32(*number).to_le_bytes().to_vec(),
            Dtype::F64 => f64::from(*number).to_le_bytes().to_vec(),
            _ => number.to_le_bytes().to_vec(),
        };
        changed.push((name, shape, numbers.iter().flat_map(number).collect::<Vec<u8>>()));
    }
    let view = |shape: &Vec<usize>, bytes| TensorView::new(format, shape.clone(), bytes).unwrap();
    let views = changed.iter().map(|(name, shape, bytes)| (name, view(shape, bytes)));
    safetensors::serialize(views, None).unwrap()
}

#[test]
fn what_is_written_reads_back_equal() {
    let config = config();
    let mixed = Spec::from_fn(&config, 1..3, |layer, target| match (layer, target) {
        (1, Target::Q) => Some(Strength { rank: 2, alpha: 4.0 }),
        (2, Target::Q) => Some(Strength { rank: 3, alpha: 4.0 }),
        (2, Target::Down) => Some(Strength { rank: 2, alpha: 0.1 }),
        (2, Target::K) => Some(Strength { rank: 7, alpha: std::f32::consts::PI }),
        _ => None,
    });
    let strength = Strength { rank: 3, alpha: 16.0 };
    for spec in [
        mixed,
        Spec::uniform(&config, 0..3, &Target::ALL, strength),
        Spec::uniform(&config, 2..3, &[Target::Gate], strength),
    ] {
        let adapter = random(spec);
        let (got, got_meta) = Folder::of(&adapter).read().unwrap();
        assert!(got == adapter);
        assert_eq!(got_meta, Some(meta()));
    }
}

#[test]
fn the_same_adapter_is_the_same_bytes() {
    assert_eq!(write(&usual(), &meta(), "x").unwrap(), write(&usual(), &meta(), "x").unwrap());
}

#[test]
fn the_tensors_have_the_names_shapes_and_order_of_peft() {
    let folder = Folder::of(&usual());
    let file = SafeTensors::deserialize(&folder.tensors).unwrap();
    assert_eq!(file.len(), 12);
    let name = "base_model.model.model.layers.2.self_attn.v_proj.lora_";
    assert_eq!(file.tensor(&format!("{name}A.weight")).unwrap().shape(), [2, 16]);
    assert_eq!(file.tensor(&format!("{name}B.weight")).unwrap().shape(), [12, 2]);
    let (_, header) = SafeTensors::read_metadata(&folder.tensors).unwrap();
    assert!(header.offset_keys().is_sorted());
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
}

#[test]
fn half_precision_is_widened_exactly() {
    let adapter = usual();
    for format in [Dtype::F16, Dtype::BF16] {
        let tensors = tensors(&adapter, format, |name, numbers, shape| {
            Some((name.to_owned(), numbers, shape))
        });
        let (got, _) = Folder { tensors, ..Folder::of(&adapter) }.read().unwrap();
        let half = |number: &f32| match format {
            Dtype::F16 => f16::from_f32(*number).to_f32(),
            _ => bf16::from_f32(*number).to_f32(),
        };
        assert!(got.spec == adapter.spec);
        assert!(got.values.iter().eq(&adapter.values.iter().map(half).collect::<Vec<_>>()));
    }
}

#[test]
fn every_way_to_name_the_targets_names_the_same_modules() {
    let folder = Folder::of(&usual());
    let unlisted = folder.with("layers_to_transform", Value::Null);
    for names in [
        json!(["q_proj", "v_proj"]),
        json!(["self_attn.q_proj", "v_proj", "no_such"]),
        json!(".*\\.(q|v)_proj"),
        json!("model\\.layers\\.\\d+\\.self_attn\\.[qv]_proj"),
    ] {
        assert!(unlisted.with("target_modules", names).read().unwrap().0 == usual());
    }
    let excluded = unlisted.with("target_modules", json!("all-linear"));
    let excluded = excluded.with("exclude_modules", json!(".*(k_proj|o_proj|mlp.*)"));
    assert!(excluded.read().unwrap().0 == usual());

    let spec = Spec::uniform(&config(), 1..2, &Target::ALL, Strength { rank: 2, alpha: 4.0 });
    let one = Folder::of(&random(spec));
    assert!(one.with("layers_to_transform", json!(1)).read().is_ok());
    assert!(one.with("layers_pattern", json!(["h", "layers"])).read().is_ok());
    assert!(one.with("layers_pattern", json!("h")).refusal().contains("not among"));
    assert!(one.with("layers_to_transform", json!(2)).refusal().contains("not among"));
}

#[test]
fn the_first_matching_pattern_gives_rank_and_alpha() {
    let plain = usual();
    let folder = Folder::of(&plain).with("r", json!(9));
    let ranks = json!({"layers.*": 2});
    let Value::Object(alphas) = json!({"q_proj": 6, "layers.1.self_attn.v_proj": 0.5}) else {
        unreachable!()
    };
    let (got, _) = folder
        .with("rank_pattern", ranks)
        .with("alpha_pattern", Value::Object(alphas))
        .read()
        .unwrap();
    let scale = |layer, target| got.spec.module(layer, target).unwrap().scale;
    assert_eq!((scale(0, Target::Q), scale(1, Target::Q)), (3.0, 3.0));
    assert_eq!((scale(0, Target::V), scale(1, Target::V)), (2.0, 0.25));
    // The order of the file decides; a sorted map would let "a" win in both.
    for (text, expected) in
        [(r#"{"[q]_proj": 8, ".*": 2}"#, 4.0), (r#"{".*": 2, "[q]_proj": 8}"#, 1.0)]
    {
        let config = String::from_utf8(Folder::of(&plain).config).unwrap();
        let config = config.replace("\"alpha_pattern\": {}", &format!("\"alpha_pattern\": {text}"));
        let ordered = Folder { config: config.into_bytes(), ..Folder::of(&plain) };
        let (got, _) = ordered.read().unwrap();
        assert_eq!(got.spec.module(0, Target::Q).unwrap().scale, expected);
    }
}

#[test]
fn a_stabilised_scale_is_alpha_over_the_root_of_the_rank() {
    let (got, _) = Folder::of(&usual()).with("use_rslora", json!(true)).read().unwrap();
    let expected = 4.0 / 2f32.sqrt();
    // One rounding of alpha * sqrt(rank) and one of the division.
    assert!(got.spec.modules.iter().all(|module| (module.scale / expected - 1.0).abs() < 3e-7));
    let again = Folder::of(&got).read().unwrap().0;
    assert!(again == got, "an alpha that is no whole number must survive writing");
}

#[test]
fn settings_that_change_the_model_are_refused_by_name() {
    let folder = Folder::of(&usual());
    for (field, value) in [
        ("peft_type", json!("IA3")),
        ("use_dora", json!(true)),
        ("modules_to_save", json!(["lm_head"])),
        ("bias", json!("all")),
        ("fan_in_fan_out", json!(true)),
        ("lora_bias", json!(true)),
        ("layer_replication", json!([[0, 2], [1, 3]])),
        ("trainable_token_indices", json!([1, 2])),
        ("megatron_config", json!({"tensor_model_parallel_size": 2})),
        ("alora_invocation_tokens", json!([5])),
        ("target_parameters", json!(["mlp.experts"])),
        ("use_qalora", json!(true)),
        ("arrow_config", json!({"top_k": 2})),
        ("kasa_config", json!({"beta": 1})),
        ("use_bdlora", json!({"nblocks": 2})),
        ("monteclora_config", json!({"num_samples": 2})),
        ("init_lora_weights", json!("pissa")),
        ("next_years_idea", json!(1)),
        ("target_modules", Value::Null),
        ("target_modules", json!("(?!q)v_proj")),
        ("rank_pattern", json!({"(q_proj": 3})),
        ("layers_pattern", json!("[")),
    ] {
        let got = folder.with(field, value).refusal();
        assert!(got.contains(&format!("`{field}`")), "{field}: {got}");
        assert!(!got.contains('\n'));
    }
    for (field, value) in [
        ("layer_replication", Value::Null),
        ("next_years_idea", json!(false)),
        ("init_lora_weights", json!("gaussian")),
        ("lora_dropout", json!(0.1)),
        ("peft_version", json!("0.99")),
        ("task_type", Value::Null),
    ] {
        assert!(folder.with(field, value).read().is_ok(), "{field}");
    }
}

#[test]
fn ranks_and_alphas_that_cannot_be_are_refused() {
    let folder = Folder::of(&usual());
    assert!(folder.with("r", json!(0)).refusal().contains("at least 1"));
    assert!(folder.with("r", json!(-2)).refusal().contains("invalid value"));
    assert!(folder.with("r", json!(u64::MAX)).refusal().contains("below 2^32"));
    assert!(folder.with("lora_alpha", json!(1e300)).refusal().contains("within f32"));
    let got = folder.with("r", json!(4_000_000_000u64)).refusal();
    assert!(got.contains("expected shape [4000000000, 16], got [2, 16]"), "{got}");
}

/// Changes a tensor's name, numbers and shape; false leaves it out.
type Change<'a> = &'a dyn Fn(&mut String, &mut Vec<f32>, &mut Vec<usize>) -> bool;

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let adapter = usual();
    let name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight";
    let refusal = |format, change: Change<'_>| {
        let tensors = tensors(&adapter, format, |here, mut numbers, mut shape| {
            let mut called = here.to_owned();
            let kept = here != name || change(&mut called, &mut numbers, &mut shape);
            kept.then_some((called, numbers, shape))
        });
        Folder { tensors, ..Folder::of(&adapter) }.refusal()
    };
    let missing = refusal(Dtype::F32, &|_, _, _| false);
    assert!(missing.contains(name) && missing.contains("missing"), "{missing}");
    let swapped = refusal(Dtype::F32, &|_, _, shape| {
        shape.reverse();
        true
    });
    assert!(swapped.contains("expected shape [2, 16], got [16, 2]"), "{swapped}");
    for (format, wrong) in [(Dtype::F32, f32::NAN), (Dtype::BF16, f32::INFINITY), (Dtype::F16, 1e6)]
    {
        let got = refusal(format, &|_, numbers, _| {
            numbers[5] = wrong;
            true
        });
        assert!(got.contains(name) && got.contains("position 5"), "{got}");
    }
    let double = refusal(Dtype::F64, &|_, _, _| true);
    assert!(double.contains("got F64"), "{double}");
    for (wrong, reason) in [
        (name.replace("layers.1.", "layers.3."), "expected a layer below 3, got 3"),
        (name.replace("layers.1.", "layers.01."), "unknown tensor"),
        (name.replace("layers.1.", "layers.99999999999999999999."), "unknown tensor"),
        (name.replace("lora_A", "lora_magnitude_vector"), "unknown tensor"),
        (name.replace("model.model.model", "model.model"), "unknown tensor"),
        ("base_model.model.lm_head.weight".to_owned(), "unknown tensor"),
    ] {
        let got = refusal(Dtype::F32, &|called, _, _| {
            called.clone_from(&wrong);
            true
        });
        assert!(got.contains(&wrong) && got.contains(reason), "{got}");
    }
}

#[test]
fn an_adapter_of_another_base_is_refused_with_both_hashes() {
    let Folder { config: json, tensors, meta: record } = Folder::of(&usual());
    let files = Files { config: &json, tensors: &tensors, meta: record.as_deref() };
    assert!(read(files, &config(), Some(meta().base_hash)).is_ok());
    let got = read(files, &config(), Some([0xab; 32])).unwrap_err().to_string();
    assert!(got.contains("00070e151c23") && got.contains("abababababab"), "{got}");
    let unsigned = Files { meta: None, ..files };
    assert_eq!(read(unsigned, &config(), Some([0xab; 32])).unwrap().1, None);
}

#[test]
fn a_meta_that_cannot_be_is_refused() {
    let folder = Folder::of(&usual());
    let record: Value = serde_json::from_slice(folder.meta.as_ref().unwrap()).unwrap();
    for (field, value, reason) in [
        ("format_version", json!(2), "`format_version` is 2"),
        ("base_hash", json!("abc"), "64 hexadecimal digits"),
        ("base_hash", json!("é".repeat(32)), "64 hexadecimal digits"),
        ("retain", json!(1.0), "[0, 1)"),
        ("steps", json!(-1), "damaged"),
        ("role", json!("medium"), "damaged"),
    ] {
        let mut record = record.clone();
        record[field] = value;
        let meta = Some(record.to_string().into_bytes());
        let got = Folder { meta, ..folder.clone() }.refusal();
        assert!(got.contains(reason), "{field}: {got}");
    }
    let mut record = record;
    record["added_later"] = json!(true);
    assert!(Folder { meta: Some(record.to_string().into_bytes()), ..folder }.read().is_ok());
}

#[test]
fn an_adapter_that_cannot_be_written_is_refused() {
    let empty = Adapter { spec: Spec { modules: Vec::new() }, values: Vec::new() };
    assert!(matches!(write(&empty, &meta(), ""), Err(AdapterError::Empty)));
    let mut adapter = usual();
    adapter.values[3] = f32::NAN;
    assert!(matches!(
        write(&adapter, &meta(), ""),
        Err(AdapterError::NotFinite { position: 3, .. })
    ));
    adapter.values.pop();
    assert!(matches!(write(&adapter, &meta(), ""), Err(AdapterError::Length { .. })));
    let never = Meta { retain: f32::NAN, ..meta() };
    assert!(matches!(write(&usual(), &never, ""), Err(AdapterError::MetaField { .. })));
}

/// Whatever the damage, reading ends in an adapter of the right size or in one error.
#[test]
fn damaged_files_never_panic() {
    let whole = Folder::of(&usual());
    let mut chance = ChaCha8Rng::seed_from_u64(11);
    let mut below = |end: usize| chance.next_u32() as usize % end;
    let mut refused = 0;
    for _ in 0..6_000 {
        let mut folder = whole.clone();
        let bytes = match below(4) {
            0 => &mut folder.config,
            1 => folder.meta.as_mut().unwrap(),
            _ => &mut folder.tensors,
        };
        // Most of the tensors' file is numbers, where most damage is lawful: aim at its header.
        let length = bytes.len().min(2_000);
        match below(3) {
            0 => bytes.truncate(below(length)),
            1 => bytes[below(length)] ^= 1 << below(8),
            _ => {
                let (from, to) = (below(length), below(length));
                bytes[to] = bytes[from];
            }
        }
        match folder.read() {
            Ok((adapter, _)) => assert_eq!(adapter.values.len(), adapter.spec.len()),
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().contains('\n'), "{error}");
            }
        }
    }
    assert!(refused > 3_000, "{refused}");
}

/// Oracle: PEFT's `init_lora_weights=True`, `kaiming_uniform_(a=sqrt(5))`: uniform in
/// `±1 / sqrt(fan_in)`, whose variance is `1 / (3 fan_in)`; B zero.
#[test]
fn a_fresh_adapter_has_the_spread_of_peft() {
    let strength = Strength { rank: 256, alpha: 1.0 };
    let spec = Spec::uniform(&config(), 0..3, &[Target::Q, Target::Down], strength);
    let adapter = Adapter::fresh(spec, &mut ChaCha8Rng::seed_from_u64(1));
    for module in &adapter.spec.modules {
        let (a, bound) = (adapter.a(module), 1.0 / (module.fan_in as f64).sqrt());
        let count = a.len() as f64;
        let mean = a.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
        let variance = a.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / count;
        let widest = a.iter().fold(0f32, |widest, x| widest.max(x.abs()));
        // 4,096 numbers or more: five standard errors of the mean and of the variance.
        assert!(mean.abs() < 5.0 * bound / (3.0 * count).sqrt(), "{mean}");
        let spread = variance / (bound * bound / 3.0) - 1.0;
        assert!(spread.abs() < 5.0 * (0.8 / count).sqrt(), "{spread}");
        assert!(f64::from(widest) <= bound && f64::from(widest) > 0.99 * bound);
        assert!(adapter.b(module).iter().all(|x| *x == 0.0));
    }
}

/// A folder of `tests/golden/peft` and the shape of the base it is for.
fn golden(name: &str) -> (Folder, Config) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let base = std::fs::read_to_string(path.join("step/base/config.json")).unwrap();
    let bytes = |file| std::fs::read(path.join("peft").join(name).join(file)).unwrap();
    let config = Config::parse(&base, None).unwrap();
    (Folder { config: bytes(CONFIG_FILE), tensors: bytes(TENSORS_FILE), meta: None }, config)
}

fn read_golden(name: &str) -> Result<Adapter, AdapterError> {
    let (folder, config) = golden(name);
    let files = Files { config: &folder.config, tensors: &folder.tensors, meta: None };
    let (adapter, meta) = read(files, &config, None)?;
    assert_eq!(meta, None);
    let again = Folder::of(&adapter);
    let files = Files { config: &again.config, tensors: &again.tensors, meta: None };
    assert!(read(files, &config, None)?.0 == adapter, "{name} must survive writing");
    Ok(adapter)
}

/// Oracle: `tools/golden/adapters.py` (PEFT 0.21); modules and scales as PEFT computes them.
#[test]
fn what_peft_saves_is_read_with_the_scales_of_peft() {
    let attention = [Target::Q, Target::V];
    let upper = [Target::Q, Target::O, Target::Up];
    for (name, layers, targets, scale) in [
        ("f32", 0..3, &attention[..], 2.0),
        ("rslora", 0..3, &attention[..], 4.0),
        ("f16", 1..3, &Target::ALL[..], 2.0),
        ("bf16", 1..3, &Target::ALL[..], 2.0),
        ("regex", 1..3, &upper[..], 2.0),
    ] {
        let adapter = read_golden(name).unwrap();
        let places = layers.flat_map(|layer| targets.iter().map(move |target| (layer, *target)));
        let got = adapter.spec.modules.iter().map(|module| (module.layer, module.target));
        assert!(got.eq(places), "{name}: {:?}", adapter.spec);
        assert!(
            adapter.spec.modules.iter().all(|module| module.rank == 4 && module.scale == scale)
        );
        assert!(
            adapter.spec.modules.iter().all(|module| adapter.b(module).iter().any(|x| *x != 0.0))
        );
    }
}

#[test]
fn the_patterns_of_peft_give_each_module_its_own_strength() {
    let adapter = read_golden("patterns").unwrap();
    assert_eq!(adapter.spec.modules.len(), 9);
    for module in &adapter.spec.modules {
        let expected = match (module.layer, module.target) {
            (_, Target::Q) => (2, 8.0 / 2.0),
            (_, Target::V) => (4, 16.0 / 4.0),
            (2, Target::Down) => (6, 3.0 / 6.0),
            _ => (4, 8.0 / 4.0),
        };
        assert_eq!((module.rank, module.scale), expected, "{module:?}");
    }
}

#[test]
fn what_is_more_than_lora_is_refused_when_peft_wrote_it() {
    for (name, field) in [("dora", "`use_dora`"), ("modules_to_save", "`modules_to_save`")] {
        let got = read_golden(name).unwrap_err().to_string();
        assert!(got.contains(field), "{got}");
    }
}
