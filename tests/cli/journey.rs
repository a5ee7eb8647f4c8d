//! The whole way of a user: export, learn twice, look, score, write, go back.

use super::fixture::{accepted, events, fixture, refused};
use serde_json::Value;
use std::fs;

fn one(text: &str) -> Value {
    let events = events(text);
    assert_eq!(events.len(), 1, "{text}");
    events.into_iter().next().unwrap()
}

#[test]
fn a_user_exports_learns_twice_looks_scores_writes_and_goes_back() {
    let fixture = fixture();
    let place = tempfile::tempdir().unwrap();
    let state = place.path().join("state");
    let text = state.display().to_string();
    let (model, door) = (fixture.text("model"), fixture.at("door.jsonl"));

    let said = fixture.adapt(&state, &fixture.at("pump.jsonl"), &["--json"]);
    let told = events(&said);
    let of = |name: &str| told.iter().filter(|event| event["event"] == name).collect::<Vec<_>>();
    let ready = of("ready")[0];
    assert_eq!((&ready["domain"], &ready["iters"]), (&"pump".into(), &12.into()));
    assert!(ready["memory"]["step"].as_u64().unwrap() > 0);
    let steps: Vec<_> = of("step").iter().map(|event| event["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [4, 8, 12]);
    let loss = |index: usize| of("step")[index]["loss"].as_f64().unwrap();
    assert!(loss(2) < loss(0), "it learns: {} then {}", loss(0), loss(2));
    assert!(of("step")[2]["held"].as_u64().unwrap() > 0, "the reservoir fills");
    assert_eq!(of("scores").len(), 2);
    let verdict = told.last().unwrap();
    assert_eq!((&verdict["event"], &verdict["kept"]), (&"verdict".into(), &true.into()));
    assert_eq!(verdict["generation"], 1);

    fixture.adapt(&state, &door, &["--domain", "doors"]);
    let stats = one(&accepted(&["--json", "replay", "stats", "--state", &text]));
    let domains = stats["domains"].as_array().unwrap();
    let held = |name| domains.iter().find(|d| d["name"] == name).unwrap()["held"].as_u64().unwrap();
    assert_eq!((&domains[0]["number"], &domains[1]["number"]), (&1.into(), &2.into()));
    assert_eq!(held("pump") + held("doors"), stats["held"].as_u64().unwrap());
    assert!(held("pump") > 0 && held("doors") > 0, "{stats}");
    let sound = one(&accepted(&["replay", "verify", "--state", &text, "--json"]));
    assert_eq!(sound["sound"], stats["held"]);

    let score = |more: &[&str]| {
        let data = door.display().to_string();
        let args = ["eval", "--model", &model, "--data", &data, "--max-seq-length", "32", "--json"];
        let event = one(&accepted(&[&args[..], more].concat()));
        event["bits_per_byte"].as_f64().unwrap()
    };
    let (base, adapted) = (score(&[]), score(&["--state", &text]));
    assert!(adapted < base, "the adapter knows the data better: {base} then {adapted}");

    let write =
        ["generate", "--model", &model, "--state", &text, "-p", "the ", "--max-tokens", "5"];
    let written = one(&accepted(&[&write[..], &["--json"]].concat()));
    assert!(accepted(&write).trim_end() == written["text"].as_str().unwrap().trim_end());

    let folders =
        ["1", "2"].map(|number| state.join("adapters").join(number).display().to_string());
    let shape = one(&accepted(&["adapter", "inspect", &folders[1], "--json"]));
    assert_eq!((&shape["generation"], &shape["steps"]), (&2.into(), &24.into()));
    let diff = one(&accepted(&["adapter", "diff", &folders[0], &folders[1], "--json"]));
    assert!(diff["total"]["difference"].as_f64().unwrap() > 0.0, "{diff}");

    let back = one(&accepted(&["rollback", "--state", &text, "--json"]));
    assert_eq!((&back["before"], &back["generation"]), (&2.into(), &1.into()));
    fixture.assert_works(&state);
    accepted(&["rollback", "--state", &text, "--to", "2"]);
    assert!((score(&["--state", &text]) - adapted).abs() < 1e-9, "the same numbers give the same");
    refused(&["rollback", "--state", &text, "--to", "9"], &["generation 9", "[1, 2]"]);
    accepted(&["rollback", "--state", &text, "--to", "0"]);
    assert!((score(&["--state", &text]) - base).abs() < 1e-9, "generation 0 is the bare base");
}

#[test]
fn the_adapter_of_a_state_and_the_one_written_beside_it_say_the_same() {
    let fixture = fixture();
    let (model, adapter) = (fixture.text("model"), fixture.text("adapter"));
    let beside = accepted(&[
        "generate",
        "--model",
        &model,
        "--adapter-path",
        &adapter,
        "-p",
        "the ",
        "--max-tokens",
        "8",
    ]);
    assert_eq!(beside, fixture.says(&fixture.at("state")));
    let bare = accepted(&["generate", "--model", &model, "-p", "the ", "--max-tokens", "8"]);
    assert_ne!(beside, bare, "an adapter that changes nothing would prove nothing");
}

#[test]
fn a_job_with_settings_of_a_file_is_the_job_with_the_same_flags() {
    let fixture = fixture();
    let place = tempfile::tempdir().unwrap();
    let config = place.path().join("job.toml");
    std::fs::write(&config, "rank = 2\nsave-every = 3\ntarget-modules = ['o_proj', 'up_proj']\n")
        .unwrap();
    let learn = |name: &str, more: &[&str]| {
        let state = place.path().join(name);
        fixture.adapt(&state, &fixture.at("pump.jsonl"), more);
        std::fs::read(state.join("adapters/1/adapter_model.safetensors")).unwrap()
    };
    let config = config.display().to_string();
    let (file, flags) = (
        learn("file", &["-c", &config]),
        learn("flags", &["--rank", "2", "--target-modules", "o_proj,up_proj"]),
    );
    assert!(file == flags);
    let other = learn("other", &["-c", &config, "--rank", "3"]);
    assert_ne!(file.len(), other.len(), "flags win over the file");
}

#[test]
fn a_job_in_less_memory_takes_the_same_steps() {
    let fixture = fixture();
    let place = tempfile::tempdir().unwrap();
    let run = |name: &str, more: &[&str]| {
        let state = place.path().join(name);
        let told = fixture.adapt(&state, &fixture.at("pump.jsonl"), &[&["--json"], more].concat());
        let told = events(&told);
        let of = |name: &str| told.iter().find(|event| event["event"] == name).cloned().unwrap();
        let losses = told.iter().filter(|event| event["event"] == "step");
        let losses: Vec<f64> = losses.map(|event| event["loss"].as_f64().unwrap()).collect();
        let needs = |part: &str| of("ready")["memory"][part].as_u64().unwrap();
        (losses, needs("step"), needs("weights"))
    };
    let (plain, step, weights) = run("plain", &[]);
    let (again, step_again, _) = run("again", &["--activations", "recompute"]);
    assert_eq!(plain, again, "what is computed again is the same");
    assert!(step_again < step, "{step_again} of {step} bytes");
    let lean = ["--activations", "bf16", "--head-weights", "int8"];
    let (rounded, _, narrower) = run("rounded", &lean);
    assert!(narrower < weights, "{narrower} of {weights} bytes");
    // Rounding moves a loss by far less than twelve steps do.
    for (plain, rounded) in plain.iter().zip(&rounded) {
        assert!((plain - rounded).abs() < 0.03 * plain, "{plain} and {rounded}");
    }
}

/// Goal: what was asked for and cannot be had is said, and then computes what it says. Oracle: the
/// losses of a job at highest precision.
#[test]
fn medium_precision_is_said_to_be_highest_where_it_cannot_be_had() {
    let fixture = fixture();
    let place = tempfile::tempdir().unwrap();
    let run = |name: &str, more: &[&str]| {
        let state = place.path().join(name);
        let told = fixture.adapt(&state, &fixture.at("pump.jsonl"), &[&["--json"], more].concat());
        let told = events(&told);
        let of = |name: &'static str| told.iter().filter(move |event| event["event"] == name);
        let losses: Vec<f64> = of("step").map(|event| event["loss"].as_f64().unwrap()).collect();
        let said = of("warning").map(|event| event["message"].as_str().unwrap().to_owned());
        (losses, said.filter(|said| said.contains("--matmul-precision")).collect::<Vec<_>>())
    };
    let medium = ["--matmul-precision", "medium", "--head-weights"];
    let (exact, nothing) = run("exact", &["--head-weights", "f32"]);
    let (same, said) = run("same", &[&medium[..], &["f32"]].concat());
    assert!(nothing.is_empty() && exact == same, "{nothing:?}: {exact:?} and {same:?}");
    assert!(said.len() == 1 && said[0].contains("medium computes as highest"), "{said:?}");

    let doctor = one(&accepted(&["doctor", "--json"]));
    let (highest, _) = run("highest", &["--head-weights", "bf16"]);
    let (rounded, said) = run("rounded", &[&medium[..], &["bf16"]].concat());
    match doctor["bf16_products"].as_bool().unwrap() {
        // Below the head weights stay as they are stored: here in f32.
        true => {
            assert!(said.len() == 1 && said[0].contains("in part as highest: some of"), "{said:?}");
            assert_ne!(rounded, highest);
            let all = [&medium[..], &["bf16", "--num-layers", "-1"]].concat();
            assert!(run("all", &all).1.is_empty());
        }
        false => assert!(said.len() == 1 && rounded == highest, "{said:?}: {rounded:?}"),
    }
    // Rounding moves a loss by far less than twelve steps do.
    for (highest, rounded) in highest.iter().zip(&rounded) {
        assert!((highest - rounded).abs() < 0.03 * highest, "{highest} and {rounded}");
    }
}

/// Goal: under `auto` the plan and doctor say which precision is in force, and eval has the highest.
/// Oracle: the base is stored in f32, and rounded to bf16 all of its layers learn.
#[test]
fn the_precision_in_force_is_said() {
    let fixture = fixture();
    let place = tempfile::tempdir().unwrap();
    let doctor = |more: &[&str]| {
        let told = ["doctor", "--json", "--model", &fixture.text("model")];
        one(&accepted(&[&told[..], more].concat()))
    };
    let planned = |name: &str, more: &[&str]| {
        let state = place.path().join(name);
        let told = [&["--json", "--iters", "1"], more].concat();
        let told = events(&fixture.adapt(&state, &fixture.at("pump.jsonl"), &told));
        let mut plan = told.into_iter().filter(|event| event["event"] == "plan");
        let plan = plan.next().unwrap();
        (plan["settings"]["matmul-precision"].clone(), plan["line"].as_str().unwrap().to_owned())
    };
    let bf16 = ["--head-weights", "bf16", "--num-layers", "-1"];
    let can = doctor(&[])["bf16_products"].as_bool().unwrap();
    let rounded = if can { "medium" } else { "highest" };
    for (name, more, expected) in [("plain", &[][..], "highest"), ("bf16", &bf16[..], rounded)] {
        assert_eq!(doctor(more)["matmul_precision"], expected, "{name}");
        let (precision, line) = planned(name, more);
        assert_eq!(precision, expected, "{name}");
        assert_eq!(line.contains("products at medium precision"), expected == "medium", "{line}");
    }
}

/// The page of a job is written, again at the same place, and over nothing that is not ours.
#[test]
fn a_job_leaves_a_page_where_it_is_asked_to() {
    let fixture = fixture();
    let place = tempfile::tempdir().unwrap();
    let (state, page) = (place.path().join("state"), place.path().join("job <1>.html"));
    let shown = page.display().to_string();
    let (pump, door) = (fixture.at("pump.jsonl"), fixture.at("door.jsonl"));
    fixture.adapt(&state, &pump, &["--report", &shown, "--rank", "3", "--domain", "a <b>"]);
    let first = fs::read_to_string(&page).unwrap();
    for part in
        ["<h1>a &lt;b&gt;</h1>", "<td>rank</td><td>3</td>", "fresh text", "<p>kept: ", "plan: "]
    {
        assert!(first.contains(part), "{part}: {first}");
    }
    assert!(!first.contains("<td>old</td>"), "nothing is old in a first job");
    fixture.adapt(&state, &door, &["--report", &shown]);
    let second = fs::read_to_string(&page).unwrap();
    assert!(second.contains("replayed text") && second.contains("<td>old</td>"), "{second}");
    assert!(!second.contains("a &lt;b&gt;</h1>"), "the page is of the last job");
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2, "nothing is left beside it");

    for name in ["job <1>.html", "other.html.partial"] {
        fs::write(place.path().join(name), "mine").unwrap();
    }
    for name in ["job <1>.html", "other.html"] {
        let shown = place.path().join(name).display().to_string();
        let said = refused(&fixture.job(&state, &door, &["--report", &shown]), &[]);
        assert!(
            said.contains("is no page that was written here") && said.contains("unchanged"),
            "{said}"
        );
    }
    assert_eq!(fs::read_to_string(&page).unwrap(), "mine");
    let missing = place.path().join("no/page.html").display().to_string();
    let said = refused(&fixture.job(&state, &door, &["--report", &missing]), &[]);
    assert!(said.contains("--report: cannot write beside"), "{said}");
}
