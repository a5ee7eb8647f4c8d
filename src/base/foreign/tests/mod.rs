//! The mapper against small decoders whose every weight is known, and against broken ones.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod decoder;
mod golden;
mod positions;

use super::*;
use crate::base::onnx::{
    AttributeProto, ModelProto, StringStringEntryProto, TensorProto, data_type,
};
use decoder::{DIMS, Style, element, expected, integer, model, node};
use prost::Message;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use std::path::Path;

fn file(model: ModelProto) -> OnnxFile {
    OnnxFile::from_model(Path::new("model.onnx"), model).unwrap()
}

fn error(model: ModelProto) -> String {
    map(&file(model), &DIMS).unwrap_err().to_string()
}

fn node_of<'a>(model: &'a mut ModelProto, op: &str) -> &'a mut crate::base::onnx::NodeProto {
    model.graph.as_mut().unwrap().node.iter_mut().find(|node| node.op_type == op).unwrap()
}

#[test]
fn every_weight_is_found_in_every_style_without_its_name() {
    let styles = [
        Style::default(),
        Style { transposed: true, ..Style::default() },
        Style { half: true, bias: true, ..Style::default() },
        Style { tied: true, bias: true, transposed: true, ..Style::default() },
        Style { fused: true, ..Style::default() },
    ];
    for style in styles {
        let file = file(model(style));
        let map = map(&file, &DIMS).unwrap();
        let biases = if style.bias { 7 * DIMS.layers } else { 0 };
        assert_eq!(map.places().len(), 3 + 9 * DIMS.layers + biases, "{style:?}");
        assert_eq!(map.is_tied(), style.tied, "{style:?}");
        for name in map.places().keys() {
            let (shape, values) = map.read(&file, name).unwrap();
            assert_eq!(Some(shape), DIMS.shape(name), "{style:?} {name}");
            // Exact: every element is a multiple of 1/256, which f16 holds.
            assert_eq!(values, expected(name, style), "{style:?} {name}");
        }
    }
}

#[test]
fn a_file_of_our_own_is_read_by_name() {
    let mut own = model(Style::default());
    let found = map(&file(own.clone()), &DIMS).unwrap();
    let graph = own.graph.as_mut().unwrap();
    for tensor in &mut graph.initializer {
        let name = found.places().iter().find(|(_, place)| place.tensor == tensor.name);
        name.into_iter().for_each(|(name, _)| tensor.name = name.clone());
    }
    // Its nodes are of no interest.
    graph.node.truncate(1);
    let (key, value) = (FORMAT_KEY.to_owned(), FORMAT.to_owned());
    own.metadata_props = vec![StringStringEntryProto { key, value }];
    let file = file(own.clone());
    let map = map(&file, &DIMS).unwrap();
    assert!(map.is_own() && !map.is_tied());
    for name in map.places().keys() {
        let (_, values) = map.read(&file, name).unwrap();
        assert_eq!(values, expected(name, Style::default()), "{name}");
    }
    own.metadata_props[0].value = "2".into();
    assert!(error(own).contains("sapwood.format is \"2\", this program reads \"1\""));
}

#[test]
fn four_bit_weights_are_widened_with_and_without_zero_points() {
    // Goal: (q - zero) * scale. Oracle: the same by hand, for K = 3 in blocks of 2, N = 2.
    let tensor = |name: &str, dims: &[i64], data_type, raw_data| TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type,
        raw_data,
        ..Default::default()
    };
    let scales = [1.0_f32, 10.0, 100.0, 1000.0].iter().flat_map(|s| s.to_le_bytes()).collect();
    let mut model = model(Style::default());
    model.graph.as_mut().unwrap().initializer = vec![
        tensor("q", &[2, 2, 1], data_type::UINT8, vec![0x98, 0x07, 0x0F, 0x0A]),
        tensor("scales", &[4], data_type::FLOAT, scales),
        tensor("zeros", &[2, 1], data_type::UINT8, vec![0x70, 0x01]),
    ];
    let file = file(model);
    let read = |zero_points: Option<&str>| {
        let (zero_points, scales) = (zero_points.map(str::to_owned), "scales".to_owned());
        let packed = Quantised { scales, zero_points, block: 2, fan_in: 3, fan_out: 2 };
        let plain = Location::plain("q", Layout::OutIn);
        read::weight(&file, &Location { quantised: Some(packed), ..plain }).unwrap()
    };
    let by_hand = [[0.0, 1.0, -10.0], [700.0, -800.0, 2000.0]];
    let flat = |rows: [[f32; 3]; 2]| decoder::transpose(&rows.concat(), 2, 3);
    assert_eq!(read(None), (vec![3, 2], flat(by_hand)));
    let by_hand = [[8.0, 9.0, 0.0], [1400.0, -100.0, 10000.0]];
    assert_eq!(read(Some("zeros")), (vec![3, 2], flat(by_hand)));
}

#[test]
fn an_operator_of_another_family_is_named_with_the_way_out() {
    let cases = [
        ("", "Gelu", "RMSNorm and SiLU"),
        ("", "TopK", "mixture of experts"),
        ("", "DequantizeLinear", "sapwood export HF_DIR MODEL_DIR"),
        ("org.example", "Softmax", "sapwood export HF_DIR MODEL_DIR"),
    ];
    for (domain, op, hint) in cases {
        let mut model = model(Style::default());
        let softmax = node_of(&mut model, "Softmax");
        (softmax.op_type, softmax.domain) = (op.into(), domain.into());
        let error = error(model);
        assert!(error.contains(op) && error.contains(hint), "{error}");
    }
}

type Change = fn(&mut ModelProto);

#[test]
fn what_a_plain_decoder_lacks_is_refused_and_not_mapped() {
    let cases: [(&str, Change, &str); 7] = [
        ("scaled embedding", |m| insert_after(m, "Gather", 0, "Neg"), "expected one RMSNorm"),
        ("capped scores", |m| insert_after(m, "MatMul", 3, "Sigmoid"), "Sigmoid"),
        (
            "capped logits",
            |m| insert_after(m, "MatMul", 18, "Sigmoid"),
            "expected the output logits",
        ),
        ("no rotation", |m| node_of(m, "Neg").op_type = "Identity".into(), "rotated by halves"),
        ("another epsilon", |m| set_scalars(m, 1e-5, 1e-6), "epsilon 1e-6, expected 1e-5"),
        ("a cube", |m| set_scalars(m, 2.0, 3.0), "expected one RMSNorm"),
        ("no gate", |m| node_of(m, "Sigmoid").op_type = "Neg".into(), "expected SiLU"),
    ];
    for (name, change, expected) in cases {
        let mut model = model(Style::default());
        change(&mut model);
        let error = error(model);
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn a_configuration_of_another_number_of_layers_is_refused() {
    let file = file(model(Style::default()));
    for (layers, expected) in [(1, "after 1 layers (num_hidden_layers"), (3, "model.layers.2")] {
        let error = map(&file, &Dims { layers, ..DIMS }).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// Puts an operator behind the `nth` node of a kind.
fn insert_after(model: &mut ModelProto, op: &str, nth: usize, inserted: &str) {
    let nodes = &mut model.graph.as_mut().unwrap().node;
    let of_kind = |(_, node): &(usize, &crate::base::onnx::NodeProto)| node.op_type == op;
    let at = nodes.iter().enumerate().filter(of_kind).nth(nth).unwrap().0;
    let output = std::mem::replace(&mut nodes[at].output[0], "before".into());
    nodes.insert(at + 1, node(inserted, &["before"], &output));
}

fn set_scalars(model: &mut ModelProto, from: f32, to: f32) {
    for tensor in &mut model.graph.as_mut().unwrap().initializer {
        if tensor.dims.is_empty() && tensor.raw_data == from.to_le_bytes() {
            tensor.raw_data = to.to_le_bytes().to_vec();
        }
    }
}

#[test]
fn a_fused_operator_with_more_than_plain_attention_is_refused() {
    let cap = AttributeProto { name: "softcap".into(), f: Some(50.0), ..Default::default() };
    let cases = [
        (integer("local_window_size", 4096), "local_window_size 4096, expected -1"),
        (integer("rotary_interleaved", 1), "rotary_interleaved 1, expected 0"),
        (cap, "softcap 50, expected 0"),
    ];
    for (attribute, expected) in cases {
        let mut model = model(Style { fused: true, ..Style::default() });
        node_of(&mut model, "GroupQueryAttention").attribute.push(attribute);
        let error = error(model);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_linear_layer_beside_the_decoder_is_refused() {
    let mut model = model(Style::default());
    let graph = model.graph.as_mut().unwrap();
    let matrix = graph.initializer.iter().find(|tensor| tensor.dims == [8, 12]).unwrap();
    let extra = node("MatMul", &["input_ids", &matrix.name], "beside");
    graph.node.push(extra);
    assert!(error(model).contains("belongs to no decoder layer"));
}

#[test]
fn a_weight_of_another_shape_than_the_configuration_says_is_refused() {
    let file = file(model(Style::default()));
    for dims in [Dims { vocab: 17, ..DIMS }, Dims { ffn: 13, ..DIMS }, Dims { kv_heads: 2, ..DIMS }]
    {
        let error = map(&file, &dims).unwrap_err();
        assert!(matches!(error, BaseError::Shape { .. }), "{error}");
    }
}

#[test]
fn a_graph_that_reads_a_tensor_before_it_is_written_is_refused() {
    let mut model = model(Style::default());
    model.graph.as_mut().unwrap().node.reverse();
    assert!(error(model).contains("nothing before it writes"));
}

#[test]
fn a_truncated_or_damaged_file_gives_an_error_or_weights_and_never_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let whole = model(Style { half: true, fused: true, ..Style::default() }).encode_to_vec();
    let read_all = |bytes: &[u8]| -> Result<(), BaseError> {
        std::fs::write(&path, bytes).unwrap();
        let file = OnnxFile::open(&path)?;
        let map = map(&file, &DIMS)?;
        map.places().keys().try_for_each(|name| map.read(&file, name).map(drop))
    };
    read_all(&whole).unwrap();
    for cut in (0..whole.len()).step_by(11) {
        assert!(read_all(&whole[..cut]).is_err(), "cut after {cut} of {} bytes", whole.len());
    }
    let mut chance = ChaCha8Rng::seed_from_u64(2);
    let mut refused = 0;
    for _ in 0..1000 {
        let mut bytes = whole.clone();
        for _ in 0..=chance.next_u32() % 3 {
            let at = chance.next_u64() as usize % bytes.len();
            bytes[at] ^= 1 << (chance.next_u32() % 8);
        }
        refused += usize::from(read_all(&bytes).is_err());
    }
    // Most bits of the file are weights, which may hold anything.
    assert!((1..1000).contains(&refused), "{refused} of 1000 refused");
}

#[test]
fn elements_of_two_weights_differ() {
    let names = ["model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"];
    assert_ne!(element(names[0], 0), element(names[1], 0));
}
