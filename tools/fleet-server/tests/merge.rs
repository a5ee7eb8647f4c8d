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

/// What an adapter folder adds to the weight, `scale B A`, row by row.
fn product(folder: &Path) -> Vec<f64> {
    let config: Value =
        serde_json::from_slice(&fs::read(folder.join("adapter_config.json")).unwrap()).unwrap();
    let bytes = fs::read(folder.join("adapter_model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let [a, b] = NAMES.map(|name| {
        let words = file.tensor(name).unwrap().data().as_chunks().0;
        words.iter().map(|word| f64::from(f32::from_le_bytes(*word))).collect::<Vec<_>>()
    });
    let rank = config["r"].as_u64().unwrap() as usize;
    let scale = config["lora_alpha"].as_f64().unwrap() / rank as f64;
    assert_eq!(file.tensor(NAMES[0]).unwrap().shape(), [rank, a.len() / rank]);
    let (fan_in, fan_out) = (a.len() / rank, b.len() / rank);
    let cell = |at: usize| {
        let (row, column) = (at / fan_in, at % fan_in);
        (0..rank).map(|one| scale * b[row * rank + one] * a[one * fan_in + column]).sum()
    };
    (0..fan_in * fan_out).map(cell).collect()
}

/// Factors in f32: a few units of the last of 24 bits.
fn assert_near(got: &[f64], expected: &[f64]) {
    let largest = expected.iter().fold(0.0_f64, |most, number| most.max(number.abs()));
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() <= 5e-7 * largest, "{got} {expected}");
    }
}

/// An adapter of noise of a rank and alpha of its own.
fn random(folder: &Path, rank: usize, alpha: f64, width: usize, seed: u32) -> PathBuf {
    let config = json!({"peft_type": "LORA", "r": rank, "lora_alpha": alpha,
        "target_modules": ["q_proj"]});
    adapter(folder, 1.0, width, &config, &meta());
    let mut state = seed;
    let mut numbers = |count: usize| -> Vec<u8> {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        (0..count).flat_map(|_| next().to_le_bytes()).collect()
    };
    let (a, b) = (numbers(rank * 40), numbers(width * rank));
    let views = [
        (NAMES[0], TensorView::new(Dtype::F32, vec![rank, 40], &a).unwrap()),
        (NAMES[1], TensorView::new(Dtype::F32, vec![width, rank], &b).unwrap()),
    ];
    let tensors = safetensors::serialize(views, None).unwrap();
    fs::write(folder.join("adapter_model.safetensors"), tensors).unwrap();
    folder.to_owned()
}

#[test]
fn the_mean_is_equal_or_weighted() {
    for (weights, expected) in [(None, 34.0), (Some("3,1"), 19.0), (Some("0,2"), 64.0)] {
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
        // Products of ones are 2 * 2 * 1, of fours 2 * 2 * 16.
        assert_near(&product(&place.join("out")), &[expected; 12]);
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
        ("64 hexadecimal", 4, config(), changed(meta(), "base_hash", json!("é"))),
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

/// How a device averages, how long it learned and on what it stands are its own affair: what adds up is what
/// the weights gain.
#[test]
fn adapters_of_devices_that_learned_otherwise_are_merged() {
    let place = place("otherwise");
    let one = adapter(&place.join("one"), 1.0, 4, &config(), &meta());
    let mut other = meta();
    other["retain"] = json!(0.8409);
    other["steps"] = json!(20);
    other["generation"] = json!(9);
    other["global"] = json!({"ranks": 1, "artifact": "cd".repeat(32), "sequence": 4});
    let two = adapter(&place.join("two"), 4.0, 4, &config(), &other);
    for order in [[&one, &two], [&two, &one]] {
        let _ = fs::remove_dir_all(place.join("out"));
        let output = merge(&place, &[], &order.map(PathBuf::as_path));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_near(&product(&place.join("out")), &[34.0; 12]);
        let text = fs::read(place.join("out/adapter_meta.json")).unwrap();
        let merged: Value = serde_json::from_slice(&text).unwrap();
        // Of the device that has learned longest; the ranks of a global adapter come first in none.
        assert_eq!((&merged["steps"], &merged["generation"]), (&json!(100), &json!(9)));
        assert!((merged["retain"].as_f64().unwrap() - 0.99).abs() < 1e-6, "{merged}");
        assert_eq!(merged.get("global"), None, "{merged}");
    }
}

#[test]
fn an_adapter_that_changes_nothing_or_far_more_than_the_others_is_told_of() {
    let place = place("warned");
    let ones: Vec<PathBuf> =
        (0..4).map(|at| random(&place.join(at.to_string()), 2, 2.0, 24, 7 + at)).collect();
    let none = random(&place.join("none"), 2, 0.0, 24, 20);
    let huge = random(&place.join("huge"), 2, 2e9, 24, 21);
    let with = |last: &Path| {
        let _ = fs::remove_dir_all(place.join("out"));
        let mut all: Vec<&Path> = ones.iter().map(PathBuf::as_path).collect();
        all.push(last);
        let output = merge(&place, &["--rank", "16"], &all);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = with(&none);
    assert!(said.contains("none changes nothing") && said.lines().count() == 1, "{said}");
    let said = with(&huge);
    assert!(said.contains("huge changes ") && said.contains("times as much as"), "{said}");
    assert_eq!(with(&ones[0]), "");
}

#[test]
fn what_a_merge_shows_as_no_weight_it_counts_as_none() {
    let place = place("unheard");
    let common = random(&place.join("common"), 1, 1.0, 24, 1);
    let mut folders: Vec<PathBuf> =
        (0..4).map(|at| blended(&place.join(at.to_string()), &common, true, 100 + at)).collect();
    folders.push(random(&place.join("zero"), 1, 0.0, 24, 9));
    let paths: Vec<&Path> = folders.iter().map(PathBuf::as_path).collect();
    let output = merge(&place, &["--merge", "robust", "--json"], &paths);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let factors = told["updates"].as_array().unwrap().iter();
    let weights: Vec<f64> = factors.map(|one| one["weight"].as_f64().unwrap()).collect();
    let sum: f64 = weights.iter().sum();
    assert!((sum - 5.0).abs() < 1e-9, "in parts of an equal one: {told}");
    let unheard = weights.iter().filter(|weight| format!("{weight:.2}") == "0.00").count();
    assert_eq!(told["robust"]["unheard"], json!(unheard), "{told}");
    assert!(unheard > 0 && told["robust"]["least"].as_f64().unwrap() < 0.005, "{told}");
}

#[test]
fn a_limit_on_a_files_size_ends_a_merge_and_leaves_nothing_behind() {
    let place = place("limited");
    let ones = [1, 2].map(|at| random(&place.join(at.to_string()), 4, 4.0, 400, at));
    let mut shell = Command::new("sh");
    let program = env!("CARGO_BIN_EXE_fleet-server");
    shell.args(["-c", "ulimit -f 1 && exec \"$0\" \"$@\"", program, "merge", "--out"]);
    let output = shell.arg(place.join("out")).args(&ones).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("was not written") && error.lines().count() == 1, "{error}");
    assert_eq!(fs::read_dir(&place).unwrap().count(), 2, "{error}");
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

#[test]
fn the_mean_of_products_has_whatever_rank_it_needs() {
    let place = place("ranks");
    let one = random(&place.join("one"), 4, 8.0, 24, 1);
    let two = random(&place.join("two"), 8, 4.0, 24, 2);
    let three = random(&place.join("three"), 2, 2.0, 24, 3);
    let global = random(&place.join("global"), 6, 6.0, 24, 4);
    let from = global.to_str().unwrap();
    let output = merge(
        &place,
        &["--rank", "20", "--weights", "1,2,1", "--from", from],
        &[&one, &two, &three],
    );
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && error.is_empty(), "{error}");
    let [one, two, three, global] = [&one, &two, &three, &global].map(|folder| product(folder));
    let sum = |at: usize| global[at] + 0.25 * one[at] + 0.5 * two[at] + 0.25 * three[at];
    let expected: Vec<f64> = (0..one.len()).map(sum).collect();
    assert_near(&product(&place.join("out")), &expected);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("3 adapters, rank 20, 0.0 %"), "{said}");
}

#[test]
fn a_rank_that_is_too_small_is_told() {
    let place = place("small");
    let one = random(&place.join("one"), 4, 4.0, 24, 1);
    let two = random(&place.join("two"), 8, 8.0, 24, 2);
    let output = merge(&place, &["--json", "--rank", "3"], &[&one, &two]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let (mean, merged) = ([&one, &two].map(|folder| product(folder)), product(&place.join("out")));
    let square = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|one| one * one).sum::<f64>();
    let mean: Vec<f64> = mean[0].iter().zip(&mean[1]).map(|(one, two)| (one + two) / 2.0).collect();
    let left = square(&mut mean.iter().zip(&merged).map(|(one, two)| one - two));
    let expected = left / square(&mut mean.iter().copied());
    assert!((told["dropped"].as_f64().unwrap() - expected).abs() < 1e-6, "{told} {expected}");
    assert_eq!(told["updates"][1]["factor"], json!(0.5));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("does not fit the rank, expected at most 10 %"), "{error}");
}

#[test]
fn an_adapter_merged_with_itself_is_itself() {
    let place = place("itself");
    let one = random(&place.join("one"), 8, 12.0, 24, 1);
    assert!(merge(&place, &[], &[&one, &one]).status.success());
    assert_near(&product(&place.join("out")), &product(&one));
}

#[test]
fn many_adapters_are_merged_in_any_order_to_the_same_bytes() {
    let place = place("many");
    let folders: Vec<PathBuf> = (0..40)
        .map(|at| random(&place.join(at.to_string()), 4 + at % 3, 4.0, 24, 100 + at as u32))
        .collect();
    let tensors = |folders: &[&Path]| {
        let _ = fs::remove_dir_all(place.join("out"));
        let output = merge(&place, &["--clip", "median"], folders);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::read(place.join("out/adapter_model.safetensors")).unwrap()
    };
    let mut folders: Vec<&Path> = folders.iter().map(PathBuf::as_path).collect();
    let expected = tensors(&folders);
    folders.reverse();
    folders.swap(3, 11);
    assert!(tensors(&folders) == expected);
}

#[test]
fn a_robust_merge_hears_no_fifth_that_says_the_opposite() {
    let place = place("robust");
    let common = random(&place.join("common"), 1, 1.0, 24, 1);
    let mut folders: Vec<PathBuf> = (0..20)
        .map(|at| blended(&place.join(at.to_string()), &common, at < 16, 100 + at))
        .collect();
    let mut read = |more: &[&str]| {
        let _ = fs::remove_dir_all(place.join("out"));
        let paths: Vec<&Path> = folders.iter().map(PathBuf::as_path).collect();
        let more = [&["--rank", "24"], more].concat();
        let output = merge(&place, &more, &paths);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        folders.rotate_left(3);
        (output, error)
    };
    let honest = |place: &Path| -> f64 {
        let (merged, common) = (product(&place.join("out")), product(&common));
        let inner: f64 = merged.iter().zip(&common).map(|(one, two)| one * two).sum();
        inner / common.iter().map(|one| one * one).sum::<f64>()
    };
    let (mean, error) = read(&[]);
    assert!(mean.status.success(), "{error}");
    // 16 say the common part, 4 say it ten times the other way round: 0.8 - 2.
    assert!(honest(&place) < -1.0, "{}", honest(&place));
    let (robust, error) = read(&["--merge", "robust"]);
    assert!(robust.status.success(), "{error}");
    assert!((0.85..1.15).contains(&honest(&place)), "{}", honest(&place));
    let said = String::from_utf8_lossy(&robust.stdout);
    assert!(said.contains("the mean of 20 adapters (robust: 4 have twins, "));
    let bytes = fs::read(place.join("out/adapter_model.safetensors")).unwrap();
    let (robust, _) = read(&["--merge", "robust", "--clip", "median", "--json"]);
    let told: Value = serde_json::from_slice(&robust.stdout).unwrap();
    assert_eq!((&told["merge"], &told["robust"]["twins"]), (&json!("robust"), &json!(4)), "{told}");
    assert!(told["robust"]["most"].as_f64().unwrap() > 1.0, "{told}");
    assert!(fs::read(place.join("out/adapter_model.safetensors")).unwrap() == bytes, "the order");
    let (refused, error) = read(&["--merge", "robust", "--clip", "none"]);
    assert!(!refused.status.success() && error.contains("got --clip none"), "{error}");
    assert!(!place.join("out").exists());
}

/// An adapter of rank 2: a common part of rank 1, ten times the other way round where it is hostile, and
/// one of its own.
fn blended(folder: &Path, common: &Path, honest: bool, seed: u32) -> PathBuf {
    random(folder, 2, 2.0, 24, seed);
    let path = folder.join("adapter_model.safetensors");
    let [own, common] = [&path, &common.join("adapter_model.safetensors")].map(|path| {
        let bytes = fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        NAMES.map(|name| -> Vec<f32> {
            let words = file.tensor(name).unwrap().data().as_chunks().0;
            words.iter().map(|word| f32::from_le_bytes(*word)).collect()
        })
    });
    let [mut a, mut b] = own;
    a[..40].iter_mut().zip(&common[0]).for_each(|(own, one)| *own = 0.05 * *own + one);
    for (row, one) in b.chunks_exact_mut(2).zip(&common[1]) {
        row[0] = if honest { *one } else { -10.0 * one };
    }
    let [a, b] = [a, b].map(|numbers| -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    });
    let views = [
        (NAMES[0], TensorView::new(Dtype::F32, vec![2, 40], &a).unwrap()),
        (NAMES[1], TensorView::new(Dtype::F32, vec![24, 2], &b).unwrap()),
    ];
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    folder.to_owned()
}
