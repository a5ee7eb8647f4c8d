//! Models named as the hub and as Ollama name them: exported, and refused where a model folder is meant.

use super::fixture::{accepted, events, files, fixture, refusal, refused, sapwood_with};
use sapwood_hub::digest;
use sapwood_tiny::hub::{Answer, Model, Server, Stored};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn stored(name: &str, bytes: Vec<u8>, large: bool) -> Stored {
    Stored { name: name.into(), hash: digest::of(&bytes, large), bytes, large }
}

/// The fixture's Hugging Face folder as a model of the hub.
fn tiny() -> Model {
    let one = |(path, bytes): (PathBuf, Vec<u8>)| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let large = name.ends_with(".safetensors");
        stored(&name, bytes, large)
    };
    let files = files(&fixture().at("hf")).into_iter().map(one).collect();
    Model { repo: "org/tiny".into(), commit: COMMIT.into(), files }
}

fn read(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn play(model: Model) -> Server {
    Server::start(move |request| model.answer(request)).unwrap()
}

#[test]
fn a_model_of_the_hub_becomes_the_same_model_folder_as_its_files() {
    let place = tempfile::tempdir().unwrap();
    let [home, out, again] = ["home", "out", "again"].map(|name| place.path().join(name));
    let [home, out, again] = [&home, &out, &again].map(|path| path.display().to_string());
    let server = play(tiny());
    let said = [("HF_HOME", &*home), ("HF_ENDPOINT", &*server.url), ("HF_TOKEN", "hf_secret")];
    let output = sapwood_with(&["--json", "export", "hf:org/tiny", &out], &said);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = events(&String::from_utf8(output.stdout).unwrap());
    assert_eq!((&told[0]["event"], &told[0]["commit"]), (&"fetch".into(), &COMMIT.into()));
    assert_eq!(told[1]["source"]["commit"], COMMIT);
    let bytes = |folder: &str| fs::read(Path::new(folder).join("model.onnx")).unwrap();
    assert!(bytes(&out) == bytes(&fixture().text("model")));
    accepted(&["generate", "--model", &out, "-p", "the pump", "--max-tokens", "2"]);
    let origin = read(Path::new(&out).join("origin.json"));
    assert_eq!((&origin["repo"], &origin["commit"]), (&"org/tiny".into(), &COMMIT.into()));
    // Other programs know the base by its name on the hub, not by a folder of this machine.
    let adapter = place.path().join("peft").display().to_string();
    let convert =
        ["convert", "--to", "peft", "--model", &out, &fixture().text("adapter"), &adapter];
    accepted(&convert);
    let about = read(Path::new(&adapter).join("adapter_config.json"));
    assert_eq!(about["base_model_name_or_path"], "org/tiny");

    // Once more without the hub, for people.
    let said = [("HF_HOME", &*home), ("HF_HUB_OFFLINE", "1"), ("HF_ENDPOINT", &*server.url)];
    let asked = server.seen().len();
    let output = sapwood_with(&["export", "hf:org/tiny@main", &again], &said);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(&format!("hf:org/tiny@main is commit {COMMIT}; files:")), "{text}");
    assert!(text.contains("0 B to fetch") && bytes(&again) == bytes(&out));
    assert_eq!(server.seen().len(), asked);
}

#[test]
fn what_is_not_computed_here_is_refused_before_its_weights_come() {
    let place = tempfile::tempdir().unwrap();
    let [home, out] = ["home", "out"].map(|name| place.path().join(name).display().to_string());
    let mut model = tiny();
    model.files.retain(|file| file.name != "config.json");
    let other = r#"{"model_type": "mamba", "architectures": ["MambaForCausalLM"]}"#;
    model.files.push(stored("config.json", other.into(), false));
    let server = play(model);
    let said = [("HF_HOME", &*home), ("HF_ENDPOINT", &*server.url)];
    let output = sapwood_with(&["export", "hf:org/tiny", &out], &said);
    refusal(&output, &["model_type", "mamba"]);
    assert!(!server.seen().iter().any(|request| request.path.contains("safetensors")));
    assert!(!Path::new(&out).exists());

    let asked = server.seen().len();
    let output = sapwood_with(&["export", "hf:org/tiny", &fixture().text("model")], &said);
    refusal(&output, &["is not an empty folder"]);
    assert_eq!(server.seen().len(), asked, "nothing is fetched for a folder that is taken");
}

#[test]
fn what_the_hub_refuses_is_one_line_and_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let [home, out] = ["home", "out"].map(|name| place.path().join(name).display().to_string());
    let server = Server::start(|_| Answer::with(401, "x-error-code", "GatedRepo")).unwrap();
    let said = [("HF_HOME", &*home), ("HF_ENDPOINT", &*server.url)];
    for (name, words) in [
        ("hf:org/tiny", "org/tiny is gated"),
        ("hf:../tiny", "is no name of the hub"),
        ("hf:org/tiny/x.bin", "must be a .gguf"),
    ] {
        refusal(&sapwood_with(&["export", name, &out], &said), &[words]);
    }
    for (named, words) in [("org/tiny", "is hf:org/tiny"), ("x.gguf", "x.gguf: No such file")] {
        refused(&["export", named, &out], &[words]);
    }
    let offline = [("HF_HOME", &*home), ("HF_HUB_OFFLINE", "1")];
    let output = sapwood_with(&["export", "hf:org/tiny", &out], &offline);
    refusal(&output, &["has nothing of org/tiny at main", "HF_HUB_OFFLINE is set"]);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn a_model_of_ollamas_store_is_exported_by_its_name() {
    let golden =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf/quantised/model.gguf");
    let place = tempfile::tempdir().unwrap();
    let store = place.path().join("models");
    let bytes = fs::read(golden).unwrap();
    let (hash, size) = (digest::of(&bytes, true), bytes.len());
    let manifests = store.join("manifests/registry.ollama.ai/library/tiny");
    fs::create_dir_all(&manifests).unwrap();
    fs::create_dir_all(store.join("blobs")).unwrap();
    fs::write(store.join("blobs").join(format!("sha256-{hash}")), bytes).unwrap();
    let layer = |kind: &str| {
        format!(
            r#"{{"mediaType":"application/vnd.ollama.image.{kind}","digest":"sha256:{hash}","size":{size}}}"#
        )
    };
    let layers = ["model", "template", "params", "license"].map(layer).join(",");
    fs::write(manifests.join("latest"), format!(r#"{{"layers":[{layers}]}}"#)).unwrap();
    let out = place.path().join("out").display().to_string();
    let (store, said) = (store.display().to_string(), "OLLAMA_MODELS");
    let output = sapwood_with(&["export", "ollama:tiny", &out], &[(said, &store)]);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{errors}");
    assert!(
        errors.contains("in Go's language")
            && errors.contains("not taken over of Ollama's model: params"),
        "{errors}"
    );
    accepted(&["generate", "--model", &out, "-p", "the pump", "--max-tokens", "2"]);
    let origin = read(Path::new(&out).join("origin.json"));
    assert_eq!((&origin["ollama"], &origin["sha256"]), (&"tiny".into(), &hash.as_str().into()));
    let other = format!("{out}-other");
    let output = sapwood_with(&["export", "ollama:tiny:1b", &other], &[(said, &store)]);
    refusal(&output, &["has no model tiny:1b: expected one of tiny:latest"]);
}

#[test]
fn a_name_or_a_file_as_a_model_is_refused_with_the_way_out_by_every_command() {
    let place = tempfile::tempdir().unwrap();
    let gguf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf/smollm2/model.gguf");
    let (gguf, out) = (gguf.display().to_string(), place.path().join("out").display().to_string());
    let (adapter, door) = (fixture().text("adapter"), fixture().text("door.jsonl"));
    for (model, way) in [
        ("hf:org/tiny@v1", "sapwood export hf:org/tiny@v1 MODEL_DIR"),
        ("org/tiny", "sapwood export hf:org/tiny MODEL_DIR"),
        ("ollama:tiny:1b", "sapwood export ollama:tiny:1b MODEL_DIR"),
        (gguf.as_str(), "smollm2/model.gguf MODEL_DIR"),
    ] {
        for args in [
            &["generate", "-p", "x"][..],
            &["eval", "--data", &door],
            &["doctor"],
            &["data", "check", "--data", &door],
            &["adapter", "inspect", &adapter],
            &["adapter", "diff", &adapter, &adapter],
            &["convert", "--to", "gguf", &adapter, &out],
            &["fuse", "--adapter-path", &adapter, &out],
        ] {
            // A GGUF file is a base to fold an adapter into.
            if args[0] != "fuse" || model != gguf {
                refused(&[args, &["--model", model]].concat(), &["expected a model folder", way]);
            }
        }
    }
    let hf = fixture().text("hf");
    for args in [&["generate", "-p", "x"][..], &["eval", "--data", &door], &["doctor"]] {
        let words = ["is a Hugging Face folder", "sapwood export", "MODEL_DIR"];
        refused(&[args, &["--model", &hf]].concat(), &words);
    }
}
