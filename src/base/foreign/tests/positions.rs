//! Goal: a graph that turns otherwise than config.json says is refused with both figures.
//! Oracle: the files of other exporters, whose configuration is right (`tools/golden/graphs.py`).

use crate::base::Base;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// A golden ONNX folder with a changed configuration.
fn changed(name: &str, was: &str, is: &str) -> TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/onnx").join(name);
    let to = TempDir::new().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.path().join(path.file_name().unwrap())).unwrap();
    }
    let config = to.path().join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    assert!(text.contains(was), "{name}: {text}");
    fs::write(config, text.replace(was, is)).unwrap();
    to
}

const GRAPHS: [&str; 7] = [
    "dynamo_op18",
    "dynamo_op18_qwen2",
    "hand_external",
    "hand_int4",
    "hand_op17",
    "torchscript_op17_f16",
    "torchscript_op17_mask",
];

#[test]
fn a_graph_as_its_configuration_says_is_opened() {
    for name in GRAPHS {
        Base::open(changed(name, "{", "{").path()).unwrap();
    }
}

#[test]
fn another_base_of_the_angles_is_refused_with_both_figures() {
    for name in GRAPHS {
        let text = fs::read_to_string(changed(name, "{", "{").path().join("config.json")).unwrap();
        let own = if text.contains("1000000.0") { "1000000.0" } else { "10000.0" };
        let folder = changed(name, &format!("\"rope_theta\": {own}"), "\"rope_theta\": 500000.0");
        let error = Base::open(folder.path()).unwrap_err().to_string();
        let graphs = own.trim_end_matches(".0");
        assert!(error.contains(&format!("rope_theta of {graphs},")), "{name}: {error}");
        assert!(error.contains("config.json says 500000 "), "{name}: {error}");
        let folder = changed(
            name,
            "\"rope_type\": \"default\"",
            "\"rope_type\": \"linear\", \"factor\": 4.0",
        );
        let error = Base::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("Linear { factor: 4.0 }"), "{name}: {error}");
    }
}

#[test]
fn other_heads_of_the_same_width_together_are_refused() {
    for name in GRAPHS {
        let folder = changed(name, "\"num_attention_heads\": 4", "\"num_attention_heads\": 8");
        let config = folder.path().join("config.json");
        let text = fs::read_to_string(&config).unwrap();
        let text = text.replace("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4");
        fs::write(&config, text.replace("\"head_dim\": 8", "\"head_dim\": 4")).unwrap();
        let error = Base::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("8 heads of 4"), "{name}: {error}");
    }
}
