//! A global adapter from the command line: installed, inspected, confirmed, taken back.

use super::fixture::{accepted, events, files, fixture, refused};
use sapwood::adapter::{Adapter, Spec, Strength, Target, wire};
use sapwood::base::{Base, read_config};
use sapwood_protocol::fleet::id::{CohortId, Hash};
use sapwood_protocol::fleet::update::{Kind, Meta};
use std::fs;
use std::path::Path;

/// Writes a global adapter of three ranks for the top layers of the fixture's base; it changes little.
fn global(path: &Path, layers: usize) -> String {
    let model = fixture().at("model");
    let config = read_config(&model).unwrap();
    let strength = Strength { rank: 3, alpha: 3.0 };
    let top = config.layers - layers..config.layers;
    let spec = Spec::uniform(&config, top, &Target::ALL, strength);
    let values = (0..spec.len()).map(|at| ((at % 17) as f32 - 8.0) / 4096.0).collect();
    let meta = Meta {
        kind: Kind::Global,
        base: Hash(Base::open(&model).unwrap().hash()),
        cohort: CohortId([1; 32]),
        from: Hash([0; 32]),
        generation: 1,
        steps: 1,
        tokens: 1,
    };
    fs::write(path, wire::encode(&Adapter { spec, values }, &meta).unwrap()).unwrap();
    path.display().to_string()
}

#[test]
fn a_global_adapter_is_installed_on_trial_and_kept_or_taken_back_by_hand() {
    let held = fixture().learned();
    let (state, model) = (held.state.display().to_string(), fixture().text("model"));
    let file = global(&held.place.path().join("global.safetensors"), 2);
    let put = ["adapter", "install", "--model", &model, "--state", &state, "--global", &file];
    let told = accepted(&put);
    for word in ["rank 3 under an own part of rank 32", "before", "kept: old", "is on trial"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    refused(&put, &["installed already"]);
    refused(&fixture().job(&held.state, &fixture().at("door.jsonl"), &[]), &["2 is on trial"]);
    let shown = ["adapter", "inspect", &held.state.join("adapters/2").display().to_string()];
    let shown = accepted(&shown);
    assert!(shown.contains("the first 3 ranks are a global adapter's (sequence 1"), "{shown}");
    assert!(accepted(&["adapter", "revert", "--state", &state]).contains("in use: 1 (before: 2)"));
    refused(&["adapter", "revert", "--state", &state], &["no generation is on trial"]);

    let told = events(&accepted(&[&put[..], &["--json", "--sequence", "7"]].concat()));
    let names: Vec<&str> = told.iter().filter_map(|event| event["event"].as_str()).collect();
    let (first, rest) = names.split_first().unwrap();
    let (last, tries) = rest.split_last().unwrap();
    assert_eq!((*first, *last), ("installing", "verdict"));
    assert!(!tries.is_empty() && tries.chunks(2).all(|pair| pair == ["refitted", "scores"]));
    let kept = accepted(&["adapter", "confirm", "--state", &state, "--json"]);
    assert_eq!(events(&kept)[0]["generation"], 3);
    fixture().adapt(
        &held.state,
        &fixture().at("door.jsonl"),
        &["--iters", "2", "--gate-worst", "10"],
    );
    let shown = held.state.join("adapters/4").display().to_string();
    let shown = &events(&accepted(&["adapter", "inspect", &shown, "--json"]))[0];
    assert_eq!(
        (&shown["global"]["sequence"], &shown["modules"][0]["rank"]),
        (&7.into(), &35.into())
    );
}

#[test]
fn what_is_no_global_adapter_of_this_state_is_refused_and_nothing_changes() {
    let held = fixture().learned();
    let (state, model) = (held.state.display().to_string(), fixture().text("model"));
    let file = held.place.path().join("global.safetensors");
    let put = |file: &str| {
        ["adapter", "install", "--model", &model, "--state", &state, "--global", file]
            .map(str::to_owned)
    };
    fs::write(&file, "not an adapter").unwrap();
    refused(&put(&file.display().to_string()), &["global.safetensors"]);
    let one = global(&file, 1);
    refused(&put(&one), &["is another's: expected q_proj of layer"]);
    refused(&put(&held.place.path().join("none").display().to_string()), &["none"]);
    held.assert_untouched();
    let place = tempfile::tempdir().unwrap();
    let missing = place.path().join("nope").display().to_string();
    refused(&["adapter", "confirm", "--state", &missing], &["there is no state folder"]);
    assert!(files(place.path()).is_empty());
}
