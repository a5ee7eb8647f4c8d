//! The command as a user runs it: what it writes, and that it writes nothing when it refuses.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const NAMES: [&str; 2] = [
    "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
    "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
];

/// A folder of its own for each test, empty.
fn place(test: &str) -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(&place).unwrap();
    place
}

fn config() -> Value {
    json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]})
}

fn meta() -> Value {
    json!({"format_version": 1, "base_hash": "ab".repeat(32), "generation": 3, "steps": 100,
        "role": "slow", "retain": 0.99, "created_by": "sapwood"})
}

/// An adapter whose every number is `number`, A `[2, 3]` and B `[width, 2]`.
fn adapter(folder: &Path, number: f32, width: usize, config: &Value, meta: &Value) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    let numbers = |count: usize| number.to_le_bytes().repeat(count);
    let (a, b) = (numbers(6), numbers(2 * width));
    let views = [
        (NAMES[0], TensorView::new(Dtype::F32, vec![2, 3], &a).unwrap()),
        (NAMES[1], TensorView::new(Dtype::F32, vec![width, 2], &b).unwrap()),
    ];
    let tensors = safetensors::serialize(views, None).unwrap();
    fs::write(folder.join("adapter_model.safetensors"), tensors).unwrap();
    fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    fs::write(folder.join("adapter_meta.json"), meta.to_string()).unwrap();
    folder.to_owned()
}

fn merge(place: &Path, more: &[&str], adapters: &[&Path]) -> Output {
    let out = place.join("out");
    let mut command = Command::new(env!("CARGO_BIN_EXE_fleet-server"));
    command.arg("merge").arg("--out").arg(out).args(more).args(adapters).output().unwrap()
}

/// The one number of every tensor of the merged adapter.
fn number(place: &Path) -> f32 {
    let bytes = fs::read(place.join("out/adapter_model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor(NAMES[0]).unwrap().shape(), [2, 3]);
    let numbers = NAMES.iter().flat_map(|name| file.tensor(name).unwrap().data().to_vec());
    let numbers: Vec<u8> = numbers.collect();
    let numbers: Vec<f32> =
        numbers.as_chunks().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect();
    assert!(numbers.iter().all(|number| *number == numbers[0]));
    numbers[0]
}

#[test]
fn the_mean_is_equal_or_weighted() {
    for (weights, expected) in [(None, 2.5), (Some("3,1"), 1.75), (Some("0,2"), 4.0)] {
        let place = place("mean");
        let mut later = meta();
        later["steps"] = json!(250);
        let mut elsewhere = config();
        elsewhere["base_model_name_or_path"] = json!("a name that only one device knows");
        let one = adapter(&place.join("one"), 1.0, 4, &elsewhere, &meta());
        let two = adapter(&place.join("two"), 4.0, 4, &config(), &later);
        let more: Vec<&str> = weights.map_or_else(Vec::new, |weights| vec!["--weights", weights]);
        let output = merge(&place, &more, &[&one, &two]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(number(&place), expected);
        let text = fs::read(place.join("out/adapter_meta.json")).unwrap();
        let merged: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!((&merged["steps"], &merged["role"]), (&json!(250), &json!("slow")));
        assert_eq!(merged["base_hash"], meta()["base_hash"]);
        let text = fs::read(place.join("out/adapter_config.json")).unwrap();
        let config: Value = serde_json::from_slice(&text).unwrap();
        let name = "base_model_name_or_path";
        assert_eq!((&config[name], &config["r"]), (&elsewhere[name], &json!(2)));
        assert_eq!(fs::read_dir(&place).unwrap().count(), 3, "nothing else is left behind");
    }
}

#[test]
fn adapters_that_do_not_belong_together_are_refused_and_nothing_is_written() {
    let changed = |mut object: Value, field: &str, value: Value| {
        object[field] = value;
        object
    };
    for (reason, width, config, meta) in [
        (
            "expected base abababababab",
            4,
            config(),
            changed(meta(), "base_hash", json!("cd".repeat(32))),
        ),
        ("`role` is \"fast\"", 4, config(), changed(meta(), "role", json!("fast"))),
        ("`format_version` is 2", 4, config(), changed(meta(), "format_version", json!(2))),
        ("expected retain 0.99, got 0.5", 4, config(), changed(meta(), "retain", json!(0.5))),
        ("64 hexadecimal", 4, config(), changed(meta(), "base_hash", json!("é"))),
        ("`lora_alpha` of", 4, changed(config(), "lora_alpha", json!(8)), meta()),
        (
            "expected shape [1, 3], got [2, 3]",
            4,
            changed(config(), "rank_pattern", json!({"q_proj": 1})),
            meta(),
        ),
        ("`use_dora` is", 4, changed(config(), "use_dora", json!(true)), meta()),
        ("not among", 4, changed(config(), "target_modules", json!(["v_proj"])), meta()),
        ("`peft_type` is", 4, changed(config(), "peft_type", json!("IA3")), meta()),
        ("expected shape [4, 2], got [5, 2]", 5, config(), meta()),
    ] {
        let place = place("refused");
        let one = adapter(&place.join("one"), 1.0, 4, &self::config(), &self::meta());
        let two = adapter(&place.join("two"), 1.0, width, &config, &meta);
        let output = merge(&place, &[], &[&one, &two]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(reason), "{reason}: {error}");
        assert!(error.contains("two"), "{error}");
        assert_eq!(fs::read_dir(&place).unwrap().count(), 2, "{reason}");
    }
}

#[test]
fn damaged_or_missing_files_are_refused() {
    let place = place("damaged");
    let one = adapter(&place.join("one"), 1.0, 4, &config(), &meta());
    let two = adapter(&place.join("two"), f32::NAN, 4, &config(), &meta());
    let refusal = |more: &[&str], adapters: &[&Path]| {
        let output = merge(&place, more, adapters);
        assert!(!output.status.success() && !place.join("out").exists());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(refusal(&[], &[&one, &two]).contains("got NaN at position 0"));
    let tensors = two.join("adapter_model.safetensors");
    let whole = fs::read(&tensors).unwrap();
    fs::write(&tensors, &whole[..whole.len() - 1]).unwrap();
    assert!(refusal(&[], &[&one, &two]).contains("damaged"));
    fs::remove_file(two.join("adapter_meta.json")).unwrap();
    assert!(refusal(&[], &[&one, &two]).contains("adapter_meta.json"));
    assert!(refusal(&[], &[&one]).contains("at least two"));
    assert!(refusal(&["--weights", "1"], &[&one, &one]).contains("expected 2"));
    assert!(refusal(&["--weights", "0,0"], &[&one, &one]).contains("positive sum"));
    assert!(refusal(&["--weights", "1,nan"], &[&one, &one]).contains("at least 0"));
}

#[test]
fn a_folder_that_exists_is_not_touched() {
    let place = place("exists");
    let one = adapter(&place.join("one"), 1.0, 4, &config(), &meta());
    fs::create_dir(place.join("out")).unwrap();
    let output = merge(&place, &[], &[&one, &one]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("exists"));
    assert_eq!(fs::read_dir(place.join("out")).unwrap().count(), 0);
}
