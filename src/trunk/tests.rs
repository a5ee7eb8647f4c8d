//! Goal: tract computes what transformers does, for every family, at every tap.
//! Oracle: `tools/golden/families.py` (transformers 5, f32, eager attention).
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::proof::{DIFFERENCE_MAX, probe, relative_difference};
use super::*;
use crate::base::ExportOptions;
use crate::base::tests::{FAMILIES, exported, golden};
use ndarray::{Array4, Axis};
use safetensors::SafeTensors;
use std::path::Path;
use tempfile::TempDir;

/// What transformers said of a family: ids `[B, T]`, logits `[B, T, V]`, hidden `[L + 1, B, T, D]`.
struct Golden {
    ids: Array2<u32>,
    logits: Array3<f32>,
    hidden: Array4<f32>,
    /// What llama.cpp said, where it was asked.
    llama: Option<Array3<f32>>,
}

impl Golden {
    fn load(family: &str) -> Self {
        Self::read(&golden(family))
    }

    fn read(folder: &Path) -> Self {
        let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let shape = |name: &str| file.tensor(name).unwrap().shape().to_vec();
        let bytes = |name: &str| file.tensor(name).unwrap().data().to_vec();
        let floats = |name: &str| -> ArrayD<f32> {
            let bytes = bytes(name);
            let values = bytes.as_chunks::<4>().0.iter().map(|&four| f32::from_le_bytes(four));
            ArrayD::from_shape_vec(shape(name), values.collect()).unwrap()
        };
        let bytes = bytes("input_ids");
        let ids = bytes.as_chunks::<8>().0.iter().map(|&id| u64::from_le_bytes(id) as u32);
        let ids = ArrayD::from_shape_vec(shape("input_ids"), ids.collect()).unwrap();
        Self {
            ids: ids.into_dimensionality().unwrap(),
            logits: floats("logits").into_dimensionality().unwrap(),
            hidden: floats("hidden").into_dimensionality().unwrap(),
            llama: file
                .tensor("llama")
                .is_ok()
                .then(|| floats("llama").into_dimensionality().unwrap()),
        }
    }
}

fn opened(family: &str, options: ExportOptions) -> (TempDir, Base) {
    let (out, _) = exported(family, options);
    let base = Base::open(&out.path().join("model")).unwrap();
    (out, base)
}

/// Every tap and the logits of a base, within a tolerance relative to the largest value.
fn follows(name: &str, base: &Base, golden: &Golden, tolerance: f32) {
    for tap in 0..=base.config().layers {
        let hidden = Trunk::load(base, tap, 1).unwrap().hidden(&golden.ids).unwrap();
        let expected = golden.hidden.index_axis(Axis(0), tap).to_owned();
        let difference = relative_difference(&hidden, &expected);
        assert!(difference < tolerance, "{name} at tap {tap}: off by {difference:e}");
    }
    let logits = Whole::load(base, 2).unwrap().logits(&golden.ids).unwrap();
    let difference = relative_difference(&logits, &golden.logits);
    assert!(difference < tolerance, "{name}, logits: off by {difference:e}");
}

#[test]
fn every_family_gives_the_hidden_states_and_logits_of_transformers() {
    for family in FAMILIES {
        // f32 sums of up to 96 terms in another order, three layers deep: measured 2e-6.
        let (_out, base) = opened(family, ExportOptions::default());
        follows(family, &base, &Golden::load(family), 1e-4);
    }
}

#[test]
fn half_precision_files_stay_near_transformers() {
    let half = ExportOptions { dtype: Precision::F16, ..ExportOptions::default() };
    for family in ["llama2", "qwen2", "smollm2"] {
        // An f16 weight is rounded by up to 5e-4 of itself, and three layers add up.
        let (_out, base) = opened(family, half);
        follows(family, &base, &Golden::load(family), 2e-2);
    }
}

/// Goal: whoever exported the base, it computes the same and has the same hash.
/// Oracle: `tools/golden/graphs.py` and `handmade.py` (transformers 5, f32).
#[test]
fn files_of_other_exporters_give_the_logits_of_transformers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/onnx");
    let mut hashes = Vec::new();
    for name in [
        "dynamo_op18",
        "hand_external",
        "hand_op17",
        "torchscript_op17_mask",
        "dynamo_op18_qwen2",
        "torchscript_op17_f16",
        "hand_int4",
    ] {
        let base = Base::open(&folder.join(name)).unwrap();
        // The same weights in the same arithmetic, rounded or quantised before the oracle ran.
        follows(name, &base, &Golden::read(&folder.join(name)), 1e-4);
        hashes.push(base.hash());
    }
    assert!(hashes[..4].iter().all(|hash| *hash == hashes[0]), "four exports of one base");
    assert!(hashes[4..].iter().all(|hash| *hash != hashes[0]), "other weights");
}

/// Goal: a base exported from a GGUF file computes what transformers makes of the numbers that the package
/// gguf widened, and what llama.cpp computes, as far as llama.cpp keeps f32.
/// Oracle: `tools/golden/gguf_files.py`, which prints how far the two are from each other.
#[test]
fn a_base_of_a_gguf_file_gives_the_logits_of_transformers_and_llama_cpp() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf");
    for (name, near) in [
        ("smollm2", 1e-4),
        ("qwen3", 1e-4),
        ("llama3", 1e-4),
        ("llama_linear", 1e-4),
        // llama.cpp rounds what goes into a product to f16, to bf16, and to 8 bits.
        ("qwen2", 5e-3),
        ("head_dim", 5e-2),
        ("quantised", 5e-2),
    ] {
        let (folder, out) = (folder.join(name), TempDir::new().unwrap());
        let model = out.path().join("model");
        crate::base::export(&folder.join("model.gguf"), &model, ExportOptions::default()).unwrap();
        let (base, golden) = (Base::open(&model).unwrap(), Golden::read(&folder));
        follows(name, &base, &golden, 1e-4);
        let logits = Whole::load(&base, 2).unwrap().logits(&golden.ids).unwrap();
        let difference = relative_difference(&logits, &golden.llama.unwrap());
        assert!(difference < near, "{name}, llama.cpp: off by {difference:e}");
    }
}

#[test]
fn rope_scaling_changes_the_logits_more_than_the_tolerance() {
    let golden = Golden::load("llama3");
    let (out, _base) = opened("llama3", ExportOptions::default());
    let path = out.path().join("model/config.json");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, config.replace("\"factor\": 8.0", "\"factor\": 1.0")).unwrap();
    let base = Base::open(&out.path().join("model")).unwrap();
    let logits = Whole::load(&base, 1).unwrap().logits(&golden.ids).unwrap();
    assert!(relative_difference(&logits, &golden.logits) > 1e-3, "the test above tests nothing");
}

#[test]
fn what_follows_a_token_does_not_change_its_hidden_state() {
    let golden = Golden::load("mistral");
    let (_out, base) = opened("mistral", ExportOptions::default());
    let trunk = Trunk::load(&base, 2, 1).unwrap();
    let whole = trunk.hidden(&golden.ids).unwrap();
    let short = trunk.hidden(&golden.ids.slice(ndarray::s![.., ..4]).to_owned()).unwrap();
    let start = whole.slice(ndarray::s![.., ..4, ..]).to_owned();
    // Same sums, perhaps in another order of blocks.
    assert!(relative_difference(&short, &start) < 1e-5);
}

/// Goal: the few operators of the trunk compute what the canonical graph does, on both sides of the
/// attention's tiles and of the kernels' lanes. Oracle: the plain canonical graph.
#[test]
fn blocks_longer_than_a_tile_follow_the_canonical_graph() {
    for family in ["smollm2", "qwen2", "head_dim", "llama3"] {
        let (_out, base) = opened(family, ExportOptions::default());
        let plan = typed_graph(&base, Part::Trunk(2)).unwrap().into_runnable().unwrap();
        let plain = Engine { plan, config: base.config().clone() };
        let trunk = Trunk::load(&base, 2, 1).unwrap();
        for shape in [(1, 15), (1, 63), (2, 64), (1, 65), (1, 97), (2, 128)] {
            let ids = probe(shape, base.config().vocab);
            let expected = plain.run(&ids).unwrap();
            let difference = relative_difference(&trunk.hidden(&ids).unwrap(), &expected);
            // Sums of up to 128 terms in another order, two layers deep.
            assert!(difference < 1e-5, "{family}, {shape:?}: off by {difference:e}");
        }
    }
}

/// Goal: medium precision rounds rows to bf16 in every layer below the tap, where the processor multiplies
/// them and the weights are bf16, and changes nothing elsewhere. Oracle: the same trunk at highest.
#[test]
fn medium_precision_rounds_what_is_kept_in_bf16_and_nothing_else() {
    for (family, is_bf16) in [("llama2_bf16", true), ("llama2", false), ("llama2_f16", false)] {
        let (_out, base) = opened(family, ExportOptions::default());
        let ids = probe((2, 33), base.config().vocab);
        let load = |tap| Trunk::load(&base, tap, 1).unwrap();
        for tap in 1..=base.config().layers {
            let (highest, medium) = (load(tap), load(tap).at(MatmulPrecision::Medium).unwrap());
            let is_rounded = is_bf16 && products::in_bf16();
            assert_eq!((highest.in_bf16()[1], medium.in_bf16()), (false, [is_rounded; 2]));
            let (expected, got) = (highest.hidden(&ids).unwrap(), medium.hidden(&ids).unwrap());
            let difference = relative_difference(&got, &expected);
            // 2^-9 of each number that goes into a product, three layers of a few products deep.
            assert!(difference < 2e-2, "{family} at tap {tap}: off by {difference:e}");
            assert_eq!(difference > 1e-4, is_rounded, "{family} at tap {tap}: {difference:e}");
            let back = medium.at(MatmulPrecision::Highest).unwrap().hidden(&ids).unwrap();
            assert_eq!(back, expected, "{family} at tap {tap}");
        }
    }
}

#[test]
fn a_block_has_the_same_bits_alone_among_others_and_on_any_threads() {
    let bits = |hidden: &Array2<f32>| hidden.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    use MatmulPrecision::{Highest, Medium};
    for (family, precision) in [("smollm2", Highest), ("qwen2", Highest), ("llama2_bf16", Medium)] {
        let (_out, base) = opened(family, ExportOptions::default());
        let load = |threads| Trunk::load(&base, 3, threads).unwrap().at(precision).unwrap();
        let vocab = base.config().vocab;
        // Lengths on and off the fours and sixteens that kernels like; one is twice there.
        let lengths = [1, 6, 128, 33, 33, 64, 127];
        let blocks: Vec<Vec<u32>> = lengths
            .iter()
            .enumerate()
            .map(|(i, &length)| {
                (0..length).map(|t| (i * 31 + t * 7919 + t * t) as u32 % vocab as u32).collect()
            })
            .collect();
        let blocks: Vec<&[u32]> = blocks.iter().map(Vec::as_slice).collect();
        let single = load(1);
        let alone: Vec<_> =
            blocks.iter().map(|block| bits(&single.hidden_of(&[block]).unwrap()[0])).collect();
        assert_ne!(alone[3], alone[4], "other tokens, other bits");
        for threads in [1, 2, 3] {
            let trunk = load(threads);
            let among: Vec<_> = trunk.hidden_of(&blocks).unwrap().iter().map(bits).collect();
            assert_eq!(alone, among, "{family} on {threads} threads");
            let reversed: Vec<&[u32]> = blocks.iter().rev().copied().collect();
            let among: Vec<_> = trunk.hidden_of(&reversed).unwrap().iter().map(bits).collect();
            assert!(alone.iter().rev().eq(&among), "{family} on {threads} threads, reversed");
            let pair =
                ndarray::stack![Axis(0), ndarray::aview1(blocks[4]), ndarray::aview1(blocks[3])];
            let pair = trunk.hidden(&pair).unwrap();
            let rows = [4, 3].map(|block| &alone[block]);
            let batched = pair.outer_iter().map(|row| bits(&row.to_owned()));
            assert!(batched.eq(rows.into_iter().cloned()), "{family} in one batch of {threads}");
        }
    }
}

#[test]
fn what_gives_other_hidden_states_has_another_origin() {
    let (_out, llama) = opened("llama2_bf16", ExportOptions::default());
    let (_other, mistral) = opened("mistral", ExportOptions::default());
    let load = |base, tap| Trunk::load(base, tap, 1).unwrap();
    let origins = [load(&llama, 1), load(&llama, 2), load(&mistral, 1)].map(|one| one.origin());
    assert!(origins[0] != origins[1] && origins[0] != origins[2] && !origins.contains(&0));
    let medium = load(&llama, 1).at(MatmulPrecision::Medium).unwrap();
    assert_eq!(medium.origin() != origins[0], products::in_bf16());
    assert_eq!(load(&llama, 1).at(MatmulPrecision::Highest).unwrap().origin(), origins[0]);
    // What is not kept in bf16 is multiplied as at highest.
    assert_eq!(load(&mistral, 1).at(MatmulPrecision::Medium).unwrap().origin(), origins[2]);
}

#[test]
fn no_blocks_have_no_hidden_states() {
    let (_out, base) = opened("mistral", ExportOptions::default());
    let trunk = Trunk::load(&base, 1, 2).unwrap();
    assert!(trunk.hidden_of(&[]).unwrap().is_empty());
    let empty = trunk.hidden_of(&[&[1, 2], &[], &[3]]).unwrap_err().to_string();
    assert!(empty.contains("at least one token"), "{empty}");
}

#[test]
fn ids_that_the_base_cannot_take_are_refused() {
    let (_out, base) = opened("mistral", ExportOptions::default());
    let trunk = Trunk::load(&base, 1, 1).unwrap();
    assert_eq!(trunk.tap(), 1);
    let refusal = |ids: Array2<u32>| trunk.hidden(&ids).unwrap_err().to_string();
    let beyond = refusal(Array2::from_elem((1, 3), 96));
    assert!(beyond.contains("token 96 is not in the vocabulary of 96"), "{beyond}");
    let long = refusal(Array2::zeros((1, 65)));
    assert!(long.contains("65 tokens exceeds 64, the model's sliding_window"), "{long}");
    assert!(refusal(Array2::zeros((0, 3))).contains("at least one token"));
    let above = Trunk::load(&base, 4, 1).unwrap_err().to_string();
    assert!(above.contains("the tap is 4, expected 0 to 3"), "{above}");
}

#[test]
fn the_pass_that_miscompiles_masks_is_still_known_by_its_name() {
    let known = |pass: &_| format!("{pass:?}").starts_with("FoldUniformMask");
    assert_eq!(Optimizer::declutter().passes.iter().filter(|pass| known(pass)).count(), 1);
}

#[test]
fn a_difference_that_is_not_a_number_is_no_agreement() {
    let zeros = Array3::<f32>::zeros((1, 1, 2));
    let mut broken = zeros.clone();
    broken[[0, 0, 0]] = f32::NAN;
    assert!(relative_difference(&broken, &zeros).is_nan());
    assert!(relative_difference(&zeros, &zeros) <= DIFFERENCE_MAX);
}
