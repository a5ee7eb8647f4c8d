//! Headers that lie, models that are others, and weights as the package gguf widens them.
//! Oracle: `tools/golden/gguf_files.py` (gguf 0.19, llama.cpp by llama-cpp-python 0.3.36).
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise")]

use super::cursor::Cursor;
use super::value::Value;
use super::*;
use crate::base::{ExportOptions, export};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use std::fs;
use tempfile::TempDir;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf").join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    fs::read(golden(name).join("model.gguf")).unwrap()
}

fn read(bytes: &[u8]) -> Result<Header, String> {
    Header::read(bytes, bytes.len() as u64).map_err(|fault| match fault {
        Fault::Lie { at, what } => format!("at byte {at}, {what}"),
        Fault::Read(error) => panic!("read beyond its end: {error}"),
    })
}

/// The byte after the last of `needle`, where it stands first.
fn after(bytes: &[u8], needle: &str) -> usize {
    let found = bytes.windows(needle.len()).position(|window| window == needle.as_bytes());
    found.unwrap() + needle.len()
}

/// The bytes with others written over them.
fn with(bytes: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

/// A header of these bytes after the magic word, the version and the counts.
fn small(tensors: u64, keys: u64, rest: &[&[u8]]) -> Vec<u8> {
    let head = [b"GGUF", &3u32.to_le_bytes()[..], &tensors.to_le_bytes(), &keys.to_le_bytes()];
    [head.concat(), rest.concat()].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn value(kind: u32, bytes: &[u8]) -> Value {
    let all = [&kind.to_le_bytes()[..], bytes].concat();
    Value::read(&mut Cursor::new(&all[..], all.len() as u64)).unwrap()
}

#[test]
fn a_lying_gguf_header_is_refused_with_its_place_and_reason() {
    let whole = bytes("smollm2");
    read(&whole).unwrap();
    let huge = u64::MAX.to_le_bytes();
    let name = after(&whole, "general.architecture");
    let tokens = after(&whole, "tokenizer.ggml.tokens");
    let tensor = after(&whole, "blk.0.attn_q.weight");
    // Two axes of 48: their count, 4 bytes; their widths, 16; the type, 4; the offset, 8.
    let (kind, offset) = (tensor + 20, tensor + 24);
    let first = after(&whole, "blk.0.attn_k.weight") + 24;
    let flag = |flag: u8| [&text("x")[..], &7u32.to_le_bytes(), &[flag]].concat();
    let aligned =
        |to: u32| [&text("general.alignment")[..], &4u32.to_le_bytes(), &to.to_le_bytes()].concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (with(&whole, 0, b"GGML"), "at byte 0, it begins with \"GGML\""),
        (with(&whole, 4, &1u32.to_le_bytes()), "at byte 4, version 1, expected 2 or 3"),
        (with(&whole, 4, &4u32.to_le_bytes()), "version 4, expected 2 or 3"),
        (with(&whole, 4, &3u32.to_be_bytes()), "version 3 in big endian"),
        (with(&whole, 8, &huge), "18446744073709551615 tensors"),
        (with(&whole, 16, &huge), "18446744073709551615 keys, expected at most"),
        (with(&whole, 24, &huge), "at byte 24, a key of 18446744073709551615 bytes"),
        (with(&whole, name, &13u32.to_le_bytes()), "a value of type 13, expected 0 to 12"),
        (with(&whole, name + 4, &huge), "a text of 18446744073709551615 in a file that has"),
        (with(&whole, name + 12, b"\xff"), "a text that is not UTF-8"),
        (with(&whole, tokens + 4, &9u32.to_le_bytes()), "an array of arrays"),
        (with(&whole, tokens + 8, &huge), "an array of 18446744073709551615 in a file that has"),
        (with(&whole, tokens + 8, &(1u64 << 40).to_le_bytes()), "an array of 1099511627776"),
        (with(&whole, tensor, &0u32.to_le_bytes()), "\"blk.0.attn_q.weight\" with 0 axes"),
        (with(&whole, tensor, &5u32.to_le_bytes()), "with 5 axes, expected 1 to 4"),
        (with(&whole, tensor + 4, &[0; 8]), "with an axis of 0"),
        (with(&whole, tensor + 4, &huge), "too large"),
        (with(&whole, kind, &16u32.to_le_bytes()), "is IQ2_XXS, expected F32, F16, BF16, Q4_0"),
        (with(&whole, kind, &999u32.to_le_bytes()), "is of type 999, expected F32"),
        (with(&whole, kind, &12u32.to_le_bytes()), "is not made of whole blocks of Q4_K"),
        (with(&whole, offset, &33u64.to_le_bytes()), "at 33, expected a multiple of 32"),
        (with(&whole, offset, &(1u64 << 40).to_le_bytes()), "it is cut off"),
        (with(&whole, offset, &(u64::MAX - 31).to_le_bytes()), "it is cut off"),
        (with(&whole, offset, &whole[first..first + 8]), "share bytes"),
        (
            with(&whole, tensor - 19, b"blk.0.attn_v.weight"),
            "\"blk.0.attn_v.weight\" a second time",
        ),
        (whole[..whole.len() - 1].to_vec(), "it is cut off"),
        (small(0, 1, &[&flag(2)]), "a flag that is neither 0 nor 1"),
        (small(0, 2, &[&flag(0), &flag(1)]), "the key \"x\" a second time"),
        (small(0, 1, &[&aligned(48)]), "`general.alignment` of 48, expected a power of two"),
        (small(0, 1, &[&aligned(0)]), "`general.alignment` of 0"),
    ];
    for (lying, words) in cases {
        let error = read(&lying).map(|_| ()).unwrap_err();
        assert!(error.contains(words), "expected {words:?}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

/// Goal: a file that claims to be large costs nothing: what it claims is held against what it has, and
/// against the limit, before anything is reserved or read.
#[test]
fn what_a_gguf_header_claims_is_not_reserved() {
    struct Counted<'a>(&'a [u8], &'a mut usize);
    impl Read for Counted<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            assert!(buffer.len() < 1 << 16, "asked for {} bytes at once", buffer.len());
            *self.1 += buffer.len();
            self.0.read(buffer)
        }
    }
    let claims = |kind: u32, count: u64| {
        let list = [&9u32.to_le_bytes()[..], &kind.to_le_bytes(), &count.to_le_bytes()].concat();
        small(0, 1, &[&text("x"), &list])
    };
    for claimed in [claims(8, 1 << 30), claims(10, 1 << 30), claims(0, 1 << 40), claims(8, 1 << 60)]
    {
        let mut read = 0;
        // The file says that it is larger than any disk.
        let fault = Header::read(Counted(&claimed, &mut read), u64::MAX).unwrap_err();
        assert!(matches!(fault, Fault::Lie { .. }), "{fault:?}");
        assert_eq!(read, claimed.len(), "nothing beyond the claim is read");
    }
}

#[test]
fn a_gguf_header_that_is_cut_anywhere_or_flipped_is_an_error_or_another_model() {
    let whole = bytes("smollm2");
    let header = after(&whole, "output_norm.weight") + 100;
    for end in (0..header).step_by(7) {
        assert!(read(&whole[..end]).is_err(), "cut at {end}");
    }
    let mut chance = ChaCha8Rng::seed_from_u64(11);
    let (mut refused, place) = (0, TempDir::new().unwrap());
    let path = place.path().join("x.gguf");
    for round in 0..200 {
        let mut bytes = whole.clone();
        for _ in 0..=round % 3 {
            let at = chance.next_u64() as usize % header;
            bytes[at] ^= 1 << (chance.next_u32() % 8);
        }
        fs::write(&path, &bytes).unwrap();
        match Gguf::open(&path) {
            Err(_) => refused += 1,
            Ok(gguf) => {
                for (name, shape) in gguf.config().weights() {
                    assert_eq!(gguf.weight(&name).map_or(shape.clone(), |one| one.shape), shape);
                }
            }
        }
    }
    // A flip in a token or a name of the metadata is another model, most others are none.
    assert!((30..200).contains(&refused), "{refused}");
}

/// The refusal of golden `smollm2` with some value of its metadata set.
fn refusal(key: &str, value: Value) -> String {
    let path = golden("smollm2").join("model.gguf");
    let mut header = read_header(&path).unwrap();
    header.values.insert(key.into(), value);
    let error = describe(&header, None, &path).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("model.gguf") && !error.contains('\n'), "{error}");
    error
}

#[test]
fn what_would_compute_another_model_is_refused_by_its_key() {
    let whole = |number: u32| value(4, &number.to_le_bytes());
    let float = |number: f32| value(6, &number.to_le_bytes());
    for (key, held, words) in [
        (
            "general.architecture",
            Value::from_text("mamba"),
            "must be \"llama\", \"qwen2\" or \"qwen3\", got \"mamba\"",
        ),
        ("general.type", Value::from_text("adapter"), "\"adapter\""),
        ("split.count", whole(3), "got 3"),
        ("llama.expert_count", whole(8), "must be 0, got 8"),
        ("llama.logit_scale", float(0.5), "got 0.5"),
        ("llama.attention.causal", Value::from_flag(false), "must be true, got false"),
        ("llama.attention.sliding_window", whole(16), "must be none below 128, got 16"),
        ("llama.attention.value_length", whole(4), "must be 8, the width of a head, got 4"),
        ("llama.rope.dimension_count", whole(4), "must be 8"),
        (
            "llama.rope.scaling.type",
            Value::from_text("yarn"),
            "must be \"none\" or \"linear\", got \"yarn\"",
        ),
        ("llama.wavelets", whole(1), "`llama.wavelets` must be absent"),
        ("llama.block_count", Value::from_text("3"), "must be a whole number, got \"3\""),
        ("llama.block_count", whole(2), "blk.2."),
        ("llama.block_count", whole(u32::MAX), "num_hidden_layers"),
        ("llama.attention.head_count_kv", whole(4), "num_key_value_heads"),
        ("llama.feed_forward_length", whole(65), "has shape [48, 64], expected [48, 65]"),
        ("tokenizer.ggml.model", Value::from_text("bert"), "\"gpt2\" or \"llama\", got \"bert\""),
        ("tokenizer.ggml.pre", Value::from_text("tekken"), "got \"tekken\""),
        ("tokenizer.ggml.bos_token_id", whole(96), "must be below 96"),
        (
            "tokenizer.ggml.merges",
            value(9, &[&8u32.to_le_bytes()[..], &1u64.to_le_bytes(), &text("! ?")].concat()),
            "merge 0 is \"! ?\"",
        ),
        ("tokenizer.ggml.token_type", whole(1), "must be 96 whole numbers, got 1"),
        (
            "tokenizer.ggml.tokens",
            value(
                9,
                &[&8u32.to_le_bytes()[..], &2u64.to_le_bytes(), &text("a"), &text("a")].concat(),
            ),
            "\"a\" is 0 and 1",
        ),
    ] {
        let error = refusal(key, held);
        assert!(error.contains(words), "{key}: expected {words:?}: {error}");
    }
    // What changes nothing is no reason.
    let path = golden("smollm2").join("model.gguf");
    let mut header = read_header(&path).unwrap();
    let neutral = [
        ("llama.expert_count", whole(0)),
        ("llama.attention.sliding_window", whole(4096)),
        ("llama.attention.causal", Value::from_flag(true)),
        ("llama.rope.scaling.type", Value::from_text("none")),
        ("tokenizer.ggml.padding_token_id", whole(400)),
    ];
    header.values.extend(neutral.map(|(key, value)| (key.to_owned(), value)));
    describe(&header, None, &path).map(|_| ()).unwrap();
}

#[test]
fn divisors_of_rope_that_are_not_those_of_llama3_are_refused() {
    let path = golden("llama3").join("model.gguf");
    let header = read_header(&path).unwrap();
    let divisors = divisors(&path, &header.tensors[model::DIVISORS]).unwrap();
    describe(&header, Some(&divisors), &path).map(|_| ()).unwrap();
    for at in 0..divisors.len() {
        let mut other = divisors.clone();
        other[at] *= 1.01;
        let error = describe(&header, Some(&other), &path).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("rope_freqs.weight"), "{error}");
    }
    for strange in [&divisors[1..], &[f32::NAN; 8], &[f32::INFINITY; 8], &[0.0; 8], &[-1.0; 8]] {
        assert!(describe(&header, Some(strange), &path).is_err(), "{strange:?}");
    }
}

/// Goal: every encoding is widened to the numbers of the package gguf, and lies where our layout wants it.
#[test]
fn every_encoding_is_widened_as_the_package_gguf_does() {
    let folder = golden("quantised");
    let gguf = Gguf::open(&folder.join("model.gguf")).unwrap();
    let file = fs::read(folder.join("expected.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&file).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for (name, shape) in gguf.config().weights() {
        let Ok(rows) = file.tensor(&format!("rows.{name}")) else { continue };
        seen.insert(gguf.tensor(&name).unwrap().encoding.name());
        let weight = gguf.weight(&name).unwrap();
        assert_eq!(weight.shape, shape);
        let expected: Vec<f32> =
            rows.data().as_chunks::<4>().0.iter().map(|&four| f32::from_le_bytes(four)).collect();
        let turned = name != "model.embed_tokens.weight";
        let (count, columns) = if turned { (shape[1], shape[0]) } else { (shape[0], shape[1]) };
        for (row, expected) in
            [0, count / 2 + 1, count - 1].into_iter().zip(expected.chunks(columns))
        {
            for (column, expected) in expected.iter().enumerate() {
                let at = if turned { column * count + row } else { row * columns + column };
                // The same products of a scale and a small whole number, rounded once more or less.
                let near = 1e-6 * expected.abs() + 1e-9;
                let got = weight.data[at];
                assert!(
                    (got - expected).abs() <= near,
                    "{name} at {row}, {column}: {got} {expected}"
                );
            }
        }
    }
    let all = [
        "BF16", "F16", "Q2_K", "Q3_K", "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K",
        "Q8_0",
    ];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), all);
}

/// Goal: a file and the Hugging Face folder that it was made of are one base, rope's scaling included.
#[test]
fn a_gguf_file_and_the_folder_that_it_was_made_of_are_one_base() {
    for family in ["smollm2", "llama3", "llama_linear", "qwen3"] {
        let out = TempDir::new().unwrap();
        let path = golden(family).join("model.gguf");
        let report = export(&path, &out.path().join("model"), ExportOptions::default()).unwrap();
        let base = crate::base::Base::open(&out.path().join("model")).unwrap();
        let (folder, _) = crate::base::tests::exported(family, ExportOptions::default());
        let other = crate::base::Base::open(&folder.path().join("model")).unwrap();
        assert_eq!(base.hash(), other.hash(), "{family}");
        // llama.cpp ends a text at more tokens than this folder names.
        let eos = other.config().eos.clone();
        assert_eq!(Config { eos, ..base.config().clone() }, *other.config(), "{family}");
        assert_eq!(base.config().eos, [2, 0], "{family}");
        let files =
            ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"];
        assert_eq!(report.files[..4], files);
    }
}

#[test]
fn an_infinite_number_in_a_gguf_file_is_refused_and_nothing_is_left_behind() {
    let mut bytes = bytes("smollm2");
    let end = bytes.len();
    let place = TempDir::new().unwrap();
    let path = place.path().join("x.gguf");
    // The last tensor of the file, whichever it is.
    let header = read(&bytes).unwrap();
    let last = header.tensors.values().max_by_key(|tensor| tensor.offset).unwrap();
    bytes[last.offset as usize..end].fill(0xff);
    fs::write(&path, &bytes).unwrap();
    let out = place.path().join("model");
    let error = export(&path, &out, ExportOptions::default()).unwrap_err().to_string();
    assert!(error.contains("holds NaN"), "{error}");
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
}
