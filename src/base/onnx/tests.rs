//! Tensors against bytes written by hand, and external data against its traps.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::*;
use crate::base::BaseError;
use std::path::Path;

fn tensor(data_type: i32, dims: &[i64]) -> TensorProto {
    TensorProto { name: "weight".into(), dims: dims.to_vec(), data_type, ..Default::default() }
}

fn file(path: &Path) -> OnnxFile {
    let model = ModelProto { graph: Some(GraphProto::default()), ..Default::default() };
    OnnxFile::from_model(path, model).unwrap()
}

fn external(location: &str, offset: &str, length: Option<&str>) -> TensorProto {
    let entry =
        |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into() };
    let mut external_data = vec![entry("location", location), entry("offset", offset)];
    external_data.extend(length.map(|length| entry("length", length)));
    let data_location = LOCATION_EXTERNAL;
    TensorProto { external_data, data_location, ..tensor(data_type::FLOAT, &[2]) }
}

#[test]
fn every_floating_type_is_widened_from_bytes_and_from_fields() {
    let bytes = |data_type, raw_data: &[u8]| TensorProto {
        raw_data: raw_data.to_vec(),
        ..tensor(data_type, &[2])
    };
    let halves = |data_type, bits: [i32; 2]| TensorProto {
        int32_data: bits.to_vec(),
        ..tensor(data_type, &[2])
    };
    let (single, double) = ([1.5_f32, -2.0], [1.5_f64, -2.0]);
    let cases = [
        bytes(data_type::FLOAT, &single.map(f32::to_le_bytes).concat()),
        bytes(data_type::DOUBLE, &double.map(f64::to_le_bytes).concat()),
        bytes(data_type::FLOAT16, &[0x00, 0x3E, 0x00, 0xC0]),
        bytes(data_type::BFLOAT16, &[0xC0, 0x3F, 0x00, 0xC0]),
        halves(data_type::FLOAT16, [0x3E00, 0xC000]),
        halves(data_type::BFLOAT16, [0x3FC0, 0xC000]),
        TensorProto { float_data: single.to_vec(), ..tensor(data_type::FLOAT, &[2]) },
        TensorProto { double_data: double.to_vec(), ..tensor(data_type::DOUBLE, &[2]) },
    ];
    for case in cases {
        assert_eq!(file(Path::new("model.onnx")).floats(&case).unwrap(), single, "{case:?}");
    }
}

#[test]
fn a_shape_that_lies_about_the_elements_is_refused() {
    let file = file(Path::new("model.onnx"));
    let long = TensorProto { float_data: vec![0.0; 3], ..tensor(data_type::FLOAT, &[2]) };
    let short = TensorProto { raw_data: vec![0; 7], ..tensor(data_type::FLOAT, &[2]) };
    for lying in [long, short, tensor(data_type::FLOAT, &[1 << 40])] {
        assert!(matches!(file.floats(&lying), Err(BaseError::Elements { .. })), "{lying:?}");
    }
    for dims in [&[-1][..], &[i64::MAX, i64::MAX], &[1 << 62]] {
        let error = file.floats(&tensor(data_type::FLOAT, dims)).unwrap_err().to_string();
        assert!(error.contains("negative size or more elements than memory"), "{error}");
    }
    let error = file.floats(&tensor(22, &[2])).unwrap_err().to_string();
    assert!(error.contains("INT4 (22)"), "{error}");
}

#[test]
fn external_data_is_read_from_its_place_in_the_folder_only() {
    let folder = tempfile::tempdir().unwrap();
    let numbers = [0.0_f32, 1.5, -2.0].map(f32::to_le_bytes).concat();
    std::fs::write(folder.path().join("model.onnx.data"), numbers).unwrap();
    let file = file(&folder.path().join("model.onnx"));
    for length in [None, Some("8")] {
        let there = external("model.onnx.data", "4", length);
        assert_eq!(file.floats(&there).unwrap(), [1.5, -2.0]);
    }
    let refused = |tensor: &TensorProto| file.floats(tensor).unwrap_err();
    for escape in ["../model.onnx.data", "/etc/hostname", "", "a/../../b"] {
        let error = refused(&external(escape, "0", None));
        assert!(matches!(error, BaseError::ExternalData { .. }), "{error}");
    }
    for offset in ["8", "18446744073709551615"] {
        let error = refused(&external("model.onnx.data", offset, None));
        assert!(matches!(error, BaseError::ExternalDataShort { got: 12, .. }), "{error}");
    }
    let error = refused(&external("model.onnx.data", "-4", None)).to_string();
    assert!(error.contains("not a whole number"), "{error}");
    let error = refused(&external("model.onnx.data", "0", Some("9"))).to_string();
    assert!(error.contains("has 9 bytes, expected 8"), "{error}");
    let error = refused(&external("absent.data", "0", None));
    assert!(matches!(error, BaseError::MissingExternalData { .. }), "{error}");
}

#[test]
fn a_file_that_is_no_model_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    assert!(matches!(OnnxFile::open(&path), Err(BaseError::Read { .. })));
    assert!(matches!(OnnxFile::open(folder.path()), Err(BaseError::Read { .. })));
    for foreign in ["", "version https://git-lfs.github.com/spec/v1\n", "\u{1}\u{2}\u{3}"] {
        std::fs::write(&path, foreign).unwrap();
        let error = OnnxFile::open(&path).unwrap_err();
        assert!(matches!(error, BaseError::Onnx { .. }), "{error}");
        assert!(error.to_string().contains("model.onnx"), "{error}");
    }
    let sparse = std::fs::File::create(&path).unwrap();
    sparse.set_len(FILE_BYTES_MAX + 1).unwrap();
    assert!(matches!(OnnxFile::open(&path), Err(BaseError::TooBig { .. })));
}

#[test]
fn an_attribute_keeps_a_zero_through_a_file() {
    use prost::Message;
    let zero = AttributeProto { name: "axis".into(), i: Some(0), ..Default::default() };
    assert_eq!(AttributeProto::decode(zero.encode_to_vec().as_slice()).unwrap().i, Some(0));
}
