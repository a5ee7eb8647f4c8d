//! Export and opening, over the golden family checkpoints; the numbers are judged in `trunk`.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::*;
use crate::base::canonical::Part;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

/// Every golden checkpoint: `tools/golden/families.py`, transformers 5.
pub(crate) const FAMILIES: [&str; 15] = [
    "head_dim",
    "llama2",
    "llama2_bf16",
    "llama2_f16",
    "llama2_sharded",
    "llama3",
    "llama_biased",
    "llama_linear",
    "mistral",
    "mistral_no_window",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm2",
    "smollm2_own_head",
];

/// The committed folder of a golden checkpoint.
pub(crate) fn golden(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/families").join(family)
}

/// A copy of a golden checkpoint that a test may damage, complete with a tokenizer.
fn checkpoint(family: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    for entry in fs::read_dir(golden(family)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    dir
}

/// A golden checkpoint exported to a folder of its own, `.path().join("model")`.
pub(crate) fn exported(family: &str, options: ExportOptions) -> (TempDir, ExportReport) {
    let (hf, out) = (checkpoint(family), TempDir::new().unwrap());
    let report = export(hf.path(), &out.path().join("model"), options).unwrap();
    (out, report)
}

fn open(out: &TempDir) -> Base {
    Base::open(&out.path().join("model")).unwrap()
}

const EXTERNAL: ExportOptions = ExportOptions { dtype: Precision::F32, inline_bytes_max: 0 };
const HALF: ExportOptions =
    ExportOptions { dtype: Precision::F16, inline_bytes_max: export::INLINE_BYTES_MAX };

/// The error of exporting a damaged checkpoint; and that it left nothing behind.
fn refusal(hf: &TempDir, options: ExportOptions) -> String {
    let out = TempDir::new().unwrap();
    let error = export(hf.path(), &out.path().join("model"), options).unwrap_err();
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0, "left something behind: {error}");
    error.to_string()
}

/// Replaces a text inside a safetensors header by one of the same length.
fn edit(path: &Path, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
    bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
    fs::write(path, bytes).unwrap();
}

#[test]
fn an_exported_weight_equals_the_checkpoints() {
    for family in FAMILIES {
        let (out, report) = exported(family, ExportOptions::default());
        let base = open(&out);
        let source = hf::Checkpoint::open(&golden(family), base.config()).unwrap();
        for (name, _) in base.config().weights() {
            assert_eq!(base.weight(&name).unwrap(), source.weight(&name).unwrap(), "{name}");
        }
        assert_eq!(report.parameters, base.config().parameters());
        assert!(!report.external);
    }
}

/// Goal: what is written for transformers is read back as it was, in one file and in shards, in each type.
#[test]
fn a_checkpoint_that_is_written_holds_the_weights_of_the_one_that_was_read() {
    for (family, number, most, files) in [
        ("smollm2", Number::F32, u64::MAX, 1),
        ("qwen3", Number::F32, u64::MAX, 1),
        ("phi3", Number::F32, 1, 21),
        ("qwen2", Number::F32, 20_000, 8),
        ("llama2_bf16", Number::Bf16, 10_000, 10),
        ("llama2_f16", Number::F16, 1, 30),
    ] {
        let (hf, out) = (checkpoint(family), TempDir::new().unwrap());
        let out = out.path().join("again");
        let config = read_config(hf.path()).unwrap();
        let source = hf::Checkpoint::open(hf.path(), &config).unwrap();
        let small = export::small_files(hf.path(), config.tied, &[]).unwrap();
        let report = shards::write(&out, (&config, &source), &small, number, most).unwrap();
        let of_weights = |name: &&String| name.ends_with(".safetensors");
        assert_eq!(report.files.iter().filter(of_weights).count(), files, "{family}");
        assert_eq!(read_config(&out).unwrap(), config);
        let again = hf::Checkpoint::open(&out, &config).unwrap();
        for (name, _) in config.weights() {
            assert_eq!(again.weight(&name).unwrap(), source.weight(&name).unwrap(), "{name}");
        }
        assert_eq!(hash(&config, &again).unwrap(), hash(&config, &source).unwrap());
        let sizes = report.files.iter().filter(of_weights).map(|name| out.join(name));
        let bytes: u64 = sizes.map(|path| fs::metadata(path).unwrap().len()).sum();
        assert!(bytes > report.weight_bytes && bytes < report.weight_bytes + 10_000);
    }
}

/// mlx-lm and transformers 4 compute with another angle where it stands in transformers 5's place alone.
#[test]
fn what_is_written_says_its_angles_where_every_reader_looks() {
    let llama3 = r#"{"rope_theta": 500000.0, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64}"#;
    for (parameters, scales) in
        [(r#"{"rope_theta": 500000.0, "rope_type": "default"}"#, false), (llama3, true)]
    {
        let (hf, out) = (checkpoint("smollm2"), TempDir::new().unwrap());
        let read = |path: &Path| -> serde_json::Map<String, serde_json::Value> {
            serde_json::from_slice(&fs::read(path.join("config.json")).unwrap()).unwrap()
        };
        let mut about = read(hf.path());
        about.remove("rope_theta");
        about.insert("rope_parameters".into(), serde_json::from_str(parameters).unwrap());
        let text = serde_json::to_string(&about).unwrap();
        fs::write(hf.path().join("config.json"), text).unwrap();
        let config = read_config(hf.path()).unwrap();
        let source = hf::Checkpoint::open(hf.path(), &config).unwrap();
        let small = export::small_files(hf.path(), config.tied, &[]).unwrap();
        let out = out.path().join("again");
        shards::write(&out, (&config, &source), &small, Number::F32, u64::MAX).unwrap();
        let mut written = read(&out);
        assert_eq!(written["rope_theta"], 500_000.0);
        assert_eq!(written["rope_scaling"]["rope_type"] == "llama3", scales);
        assert_eq!(read_config(&out).unwrap(), config);
        // As a reader of before has it.
        written.remove("rope_parameters");
        fs::write(out.join("config.json"), serde_json::to_string(&written).unwrap()).unwrap();
        assert_eq!(read_config(&out).unwrap(), config);
    }
}

#[test]
fn linear_weights_are_turned_and_a_tied_output_layer_is_the_embedding_turned() {
    let (out, _) = exported("smollm2", ExportOptions::default());
    let base = open(&out);
    let Config { hidden: d, vocab: v, .. } = *base.config();
    let embedding = base.weight("model.embed_tokens.weight").unwrap();
    let output = base.weight("lm_head.weight").unwrap();
    assert_eq!((&embedding.shape[..], &output.shape[..]), (&[v, d][..], &[d, v][..]));
    assert_eq!(embedding.data[5 * d + 3], output.data[3 * v + 5]);
    assert_ne!(embedding.data[3 * d + 5], output.data[3 * v + 5]);
}

/// Type, shape and bytes of tensors by their names.
type Tensors = BTreeMap<String, (safetensors::Dtype, Vec<usize>, Vec<u8>)>;

/// The tensors of a checkpoint in one file, to be changed and written again.
fn rewrite(dir: &Path, change: impl FnOnce(&mut Tensors)) {
    let path = dir.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let held = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let own = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
    };
    let mut tensors: Tensors = held.tensors().into_iter().map(own).collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Goal: what is stored of a tied output layer is read as transformers 5 reads it. Oracle: its loader, which
/// keeps two that differ, ties two that are equal, and takes the output layer where the embedding is missing.
#[test]
fn a_tied_output_layer_that_is_stored_is_kept_where_it_differs() {
    let plain = open(&exported("smollm2", ExportOptions::default()).0);
    let export_of = |hf: &TempDir| {
        let out = TempDir::new().unwrap();
        let report =
            export(hf.path(), &out.path().join("model"), ExportOptions::default()).unwrap();
        (open(&out), report.parameters, out)
    };
    let hf = checkpoint("smollm2");
    rewrite(hf.path(), |tensors| {
        let embedding = tensors["model.embed_tokens.weight"].clone();
        tensors.insert("lm_head.weight".into(), embedding);
    });
    let (base, parameters, _) = export_of(&hf);
    assert!(base.config().tied && base.hash() == plain.hash());
    rewrite(hf.path(), |tensors| {
        tensors.remove("model.embed_tokens.weight").unwrap();
    });
    let (base, same, _) = export_of(&hf);
    assert!(base.hash() == plain.hash() && same == parameters);
    let hf = checkpoint("smollm2");
    rewrite(hf.path(), |tensors| {
        let (dtype, shape, mut data) = tensors["model.embed_tokens.weight"].clone();
        *data.last_mut().unwrap() ^= 0x80;
        tensors.insert("lm_head.weight".into(), (dtype, shape, data));
    });
    let (base, more, out) = export_of(&hf);
    let Config { hidden: d, vocab: v, tied, .. } = *base.config();
    assert!(!tied && more == parameters + (d * v) as u64 && base.hash() != plain.hash());
    let text = fs::read_to_string(out.path().join("model/config.json")).unwrap();
    assert!(text.contains("\"tie_word_embeddings\": false"), "{text}");
    let [output, embedding] = ["lm_head.weight", "model.embed_tokens.weight"]
        .map(|name| *base.weight(name).unwrap().data.last().unwrap());
    assert_eq!(output, -embedding);
}

#[test]
fn a_position_buffer_of_any_type_is_passed_over_and_a_weight_of_such_a_type_is_not() {
    let hf = checkpoint("llama2");
    rewrite(hf.path(), |tensors| {
        for (layer, dtype, bytes) in
            [(0, safetensors::Dtype::F64, 8), (1, safetensors::Dtype::I64, 8)]
        {
            let name = format!("model.layers.{layer}.self_attn.rotary_emb.inv_freq");
            tensors.insert(name, (dtype, vec![4], vec![0; 4 * bytes]));
        }
    });
    export(hf.path(), &hf.path().join("model"), ExportOptions::default()).unwrap();
    let hf = checkpoint("llama2");
    rewrite(hf.path(), |tensors| {
        let norm = tensors.get_mut("model.norm.weight").unwrap();
        *norm = (safetensors::Dtype::F64, norm.1.clone(), [&norm.2[..], &norm.2[..]].concat());
    });
    let error = refusal(&hf, ExportOptions::default());
    assert!(error.contains("\"model.norm.weight\" is F64, expected F32"), "{error}");
}

#[test]
fn pickled_weights_are_refused_with_the_way_out() {
    for name in ["pytorch_model.bin", "pytorch_model.bin.index.json"] {
        let hf = checkpoint("llama2");
        fs::rename(hf.path().join("model.safetensors"), hf.path().join(name)).unwrap();
        let error = refusal(&hf, ExportOptions::default());
        assert!(error.contains(name) && error.contains("save_pretrained"), "{error}");
        assert_eq!(error.lines().count(), 1);
    }
}

#[test]
fn external_data_is_aligned_and_holds_the_same_weights() {
    let (inline, _) = exported("qwen2", ExportOptions::default());
    let (external, report) = exported("qwen2", EXTERNAL);
    assert!(report.external && report.files.contains(&"model.onnx.data".to_string()));
    assert_eq!(open(&inline).hash(), open(&external).hash());
    let file = OnnxFile::open(&external.path().join("model/model.onnx")).unwrap();
    for tensor in &file.graph().initializer {
        for entry in tensor.external_data.iter().filter(|entry| entry.key == "offset") {
            assert_eq!(entry.value.parse::<u64>().unwrap() % 4096, 0, "{}", tensor.name);
        }
    }
    assert_eq!(file.metadata(foreign::FORMAT_KEY), Some("1"));
}

#[test]
fn shards_and_one_file_of_the_same_weights_give_the_same_hash() {
    let hash = |family, options| open(&exported(family, options).0).hash();
    let whole = hash("llama2", ExportOptions::default());
    assert_eq!(whole, hash("llama2_sharded", ExportOptions::default()));
    assert_ne!(whole, hash("llama2", HALF), "rounded weights are another base");
    assert_ne!(whole, hash("mistral", ExportOptions::default()));
    assert_eq!(hash("llama2_f16", ExportOptions::default()), hash("llama2_f16", HALF));
}

#[test]
fn a_half_precision_file_takes_half_the_bytes() {
    let (full, half) = (exported("llama2", ExportOptions::default()), exported("llama2", HALF));
    // Norms stay f32; they are 7 of 32 numbers here.
    let norms = 4 * 7 * 32;
    assert_eq!(half.1.weight_bytes - norms, (full.1.weight_bytes - norms) / 2);
}

#[test]
fn both_spellings_of_a_golden_config_mean_the_same() {
    for family in FAMILIES {
        let dir = golden(family);
        let Ok(other) = fs::read_to_string(dir.join("config_alternate.json")) else { continue };
        assert_eq!(read_config(&dir).unwrap(), Config::parse(&other, None).unwrap(), "{family}");
    }
}

#[test]
fn a_folder_that_holds_something_is_not_overwritten() {
    let (hf, out) = (checkpoint("llama2"), TempDir::new().unwrap());
    fs::write(out.path().join("precious"), "1").unwrap();
    let error = export(hf.path(), out.path(), ExportOptions::default()).unwrap_err();
    assert!(matches!(error, BaseError::Occupied { .. }), "{error}");
    assert!(out.path().join("precious").exists());
    let empty = out.path().join("empty");
    fs::create_dir(&empty).unwrap();
    export(hf.path(), &empty, ExportOptions::default()).unwrap();
    Base::open(&empty).unwrap();
}

#[test]
fn a_checkpoint_without_a_tokenizer_is_refused() {
    let hf = checkpoint("llama2");
    fs::remove_file(hf.path().join("tokenizer.json")).unwrap();
    assert!(refusal(&hf, ExportOptions::default()).contains("tokenizer.json"));
}

#[test]
fn a_lying_header_is_refused() {
    let check = |from: &str, to: &str, words: &str| {
        let hf = checkpoint("llama2");
        edit(&hf.path().join("model.safetensors"), from, to);
        let error = refusal(&hf, ExportOptions::default());
        assert!(error.contains(words), "{from} -> {to}: {error}");
    };
    check("\"shape\":[96,32]", "\"shape\":[32,96]", "expected [96, 32] by config.json");
    check("\"shape\":[96,32]", "\"shape\":[99,32]", "has 12288 bytes");
    check("\"data_offsets\":[0,", "\"data_offsets\":[4,", "expected to begin at 0");
    check("\"dtype\":\"F32\"", "\"dtype\":\"I32\"", "expected F32, F16 or BF16");
    check("model.norm.weight", "model.norm.height", "has no tensor \"model.norm.weight\"");
    check("layers.1.mlp.up_proj", "layers.0.mlp.up_proj", "comes twice");
}

#[test]
fn a_truncated_or_inflated_checkpoint_is_refused() {
    let hf = checkpoint("llama2");
    let path = hf.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for length in [0, 7, 8, 100, 4000, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let error = refusal(&hf, ExportOptions::default());
        assert!(error.contains("is not a whole safetensors file"), "{length}: {error}");
    }
    fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
    assert!(refusal(&hf, ExportOptions::default()).contains("its tensors need"));
    fs::write(&path, [&u64::MAX.to_le_bytes(), &whole[8..]].concat()).unwrap();
    assert!(refusal(&hf, ExportOptions::default()).contains("a header of 18446744073709551615"));
}

#[test]
fn a_weight_that_the_config_does_not_use_is_refused_by_name() {
    let hf = checkpoint("llama2");
    let config = fs::read_to_string(hf.path().join("config.json")).unwrap();
    let fewer = config.replace("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2");
    assert_ne!(config, fewer);
    fs::write(hf.path().join("config.json"), fewer).unwrap();
    assert!(refusal(&hf, ExportOptions::default()).contains("\"model.layers.2.input_layernorm"));
}

#[test]
fn a_missing_or_escaping_shard_is_refused_by_name() {
    let hf = checkpoint("llama2_sharded");
    fs::remove_file(hf.path().join("model-00002-of-00002.safetensors")).unwrap();
    assert!(refusal(&hf, ExportOptions::default()).contains("model-00002-of-00002.safetensors"));
    let hf = checkpoint("llama2_sharded");
    let index = hf.path().join("model.safetensors.index.json");
    let text = fs::read_to_string(&index).unwrap();
    fs::write(&index, text.replace("model-00002", "../model-00002")).unwrap();
    assert!(refusal(&hf, ExportOptions::default()).contains("not a file of the same folder"));
    let first = hf.path().join("model-00001-of-00002.safetensors");
    fs::copy(first, hf.path().join("model-00002-of-00002.safetensors")).unwrap();
    fs::write(&index, text).unwrap();
    assert!(refusal(&hf, ExportOptions::default()).contains("and again in"));
}

#[test]
fn a_number_that_half_precision_cannot_hold_is_refused_by_name() {
    let hf = checkpoint("llama2");
    let path = hf.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    // The first tensor of this file is the embedding or the output layer, both two-dimensional.
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[8 + header..12 + header].copy_from_slice(&1e6f32.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let error = refusal(&hf, HALF);
    assert!(error.contains("1000000, which f16 cannot hold; export with f32 weights"), "{error}");
    bytes[8 + header..12 + header].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    assert!(refusal(&hf, ExportOptions::default()).contains("holds NaN"));
}

#[test]
fn a_damaged_model_folder_is_refused() {
    let (out, _) = exported("llama2", EXTERNAL);
    let model = out.path().join("model");
    let open = || Base::open(&model).map(|_| ()).unwrap_err().to_string();
    let data = model.join("model.onnx.data");
    let whole = fs::read(&data).unwrap();
    fs::write(&data, &whole[..whole.len() - 1]).unwrap();
    assert!(open().contains("truncated"), "{}", open());
    fs::remove_file(&data).unwrap();
    assert!(open().contains("model.onnx.data"), "{}", open());
    fs::write(&data, &whole).unwrap();
    let config = model.join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"intermediate_size\": 64", "\"intermediate_size\": 65"))
        .unwrap();
    assert!(open().contains("by config.json"), "{}", open());
    fs::write(&config, text).unwrap();
    Base::open(&model).unwrap();
    let onnx = model.join("model.onnx");
    let whole = fs::read(&onnx).unwrap();
    fs::write(&onnx, &whole[..whole.len() / 2]).unwrap();
    assert!(open().contains("not a whole ONNX model"), "{}", open());
    fs::write(&onnx, "not a model").unwrap();
    assert!(open().contains("not a whole ONNX model"), "{}", open());
}

#[test]
fn an_unknown_weight_is_an_error() {
    let (out, _) = exported("llama2", ExportOptions::default());
    assert!(matches!(open(&out).weight("model.layers.3.x"), Err(BaseError::NoWeight { .. })));
}

#[test]
fn the_file_holds_the_whole_canonical_graph() {
    let (out, _) = exported("llama2", ExportOptions::default());
    let file = OnnxFile::open(&out.path().join("model/model.onnx")).unwrap();
    let whole = canonical::Canonical::new(open(&out).config(), Part::Whole, Precision::F32);
    assert_eq!(file.graph().node, whole.graph.node);
    let tensors = whole.graph.initializer.len() + whole.slots.len();
    assert_eq!(file.graph().initializer.len(), tensors);
}

#[test]
fn opening_a_file_leaves_its_weights_on_disk() {
    let (out, _) = exported("llama2", ExportOptions::default());
    let file = OnnxFile::open(&out.path().join("model/model.onnx")).unwrap();
    let tensors = &file.graph().initializer;
    assert!(tensors.iter().all(|tensor| tensor.raw_data.len() <= 4096));
    let embedding = file.constant("model.embed_tokens.weight").unwrap();
    assert!(embedding.raw_data.is_empty());
    assert_eq!(file.floats(embedding).unwrap().len(), 96 * 32);
}

#[test]
fn a_flipped_bit_or_a_cut_is_an_error_or_another_model_but_never_a_panic() {
    use rand_core::{Rng, SeedableRng};
    let (out, _) = exported("qwen2", ExportOptions::default());
    let path = out.path().join("model/model.onnx");
    let whole = fs::read(&path).unwrap();
    let mut chance = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let mut refused = 0;
    for round in 0..400 {
        let mut bytes = whole.clone();
        let at = chance.next_u64() as usize % bytes.len();
        if round % 4 == 0 {
            bytes.truncate(at);
        } else {
            // Weights are most of the bytes; the graph before them is where a flip tells.
            let at = if round % 4 == 1 { at } else { at % 40_000 };
            bytes[at] ^= 1 << (chance.next_u32() % 8);
        }
        fs::write(&path, bytes).unwrap();
        refused += usize::from(Base::open(&out.path().join("model")).is_err());
    }
    assert!(refused >= 100, "every cut is refused, got {refused} refusals");
}

/// Goal: what a stamp says is what reading every weight finds, and only of the bytes it was written for.
#[test]
fn a_base_that_is_opened_again_is_known_by_its_stamp_and_a_changed_one_is_not() {
    let (out, _) = exported("llama3", EXTERNAL);
    let model = out.path().join("model");
    let first = Base::open(&model).unwrap();
    assert!(!first.is_proved("anything"));
    first.prove("anything");
    let again = Base::open(&model).unwrap();
    assert!(again.is_proved("anything") && !again.is_proved("any"));
    assert_eq!(again.hash(), first.hash());
    let names: Vec<String> = first.config().weights().into_iter().map(|(name, _)| name).collect();
    assert!(names.iter().all(|name| again.narrowest(name) == first.narrowest(name)));
    // The last bit of a number in the middle.
    let path = model.join("model.onnx.data");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() / 8 * 4;
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let other = Base::open(&model).unwrap();
    assert!(other.hash() != first.hash() && !other.is_proved("anything"));
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert_eq!(Base::open(&model).unwrap().hash(), first.hash());
    // The stamp of another configuration is none either.
    let config = model.join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"factor\": 8.0", "\"factor\": 4.0")).unwrap();
    assert_ne!(Base::open(&model).unwrap().hash(), first.hash());
}
