//! `sapwood study`: what is found, kept, taken again and written.

use super::fixture::{accepted, events, fixture, lines, refused};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn study(part: &str, out: &Path, more: &[&str]) -> Vec<String> {
    let model = fixture().text("model");
    let [pump, door] =
        ["pump.jsonl", "door.jsonl"].map(|name| out.with_file_name(name).display().to_string());
    let out = out.display().to_string();
    let named = ["study", part, "--json", "--model", &model, "--out", &out];
    let short = ["--iters", "4", "--batch-size", "3", "--replay-batch-size", "1", "--threads", "1"];
    let small = ["--num-layers", "2", "--max-seq-length", "32", "--learning-rate", "0.01"];
    // The command line takes each flag once.
    let flags = short.chunks(2).chain(small.chunks(2)).filter(|pair| !more.contains(&pair[0]));
    let all = named.iter().chain(flags.flatten()).chain(more);
    all.copied().chain([&*pump, &*door]).map(str::to_owned).collect()
}

#[test]
fn a_study_goes_on_from_what_it_found_and_over_no_other() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("study");
    // More than the other tests have: a tenth of it is compared.
    for (name, text) in
        [("pump.jsonl", "the pump reports pressure "), ("door.jsonl", "a door is open ")]
    {
        fs::write(place.path().join(name), lines(text, 90)).unwrap();
    }
    let line = &["--points", "3"][..];
    let told = events(&accepted(&study("connectivity", &out, line)));
    let count = |name: &str| told.iter().filter(|event| event["event"] == name).count();
    // One line between neighbours and two between learners, in both spaces.
    assert_eq!((count("learned"), count("line")), (1, 6));
    let rows = &told[0]["matrix"]["rows"];
    let first = &told[1]["curve"]["points"];
    for (point, row) in [(0, 0), (2, 1)] {
        for domain in 0..2 {
            let got = first[point]["losses"][domain].as_f64().unwrap();
            let expected = rows[row][domain].as_f64().unwrap();
            assert!((got / expected - 1.0).abs() < 1e-5, "{got} {expected}");
        }
    }
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    assert_eq!(read("connectivity.csv").lines().count(), 1 + 6 * 3 * 2);
    assert!(read("report.html").matches("<svg").count() == 3 && !out.join("cka.csv").exists());
    // One pair, in both spaces: what was forgotten of the pump while the door was learned.
    let rows = |domain: usize| [0, 1].map(|row| rows[row][domain].as_f64().unwrap());
    let ([pump, forgotten], [door, learned]) = (rows(0), rows(1));
    let pairs: Vec<Vec<String>> = read("pairs.csv")
        .lines()
        .skip(1)
        .map(|line| line.split(',').map(str::to_owned).collect())
        .collect();
    assert_eq!(pairs.len(), 2);
    for pair in &pairs {
        assert_eq!(pair[..2], ["pump", "door"]);
        for (got, expected) in [(&pair[4], forgotten - pump), (&pair[6], door - learned)] {
            let got: f64 = got.parse().unwrap();
            assert!((got - expected).abs() < 1e-4, "{got} {expected}");
        }
    }

    // Nothing is computed or written twice, and the other part takes the same adapters.
    let own_texts = fs::read(out.join("own-texts")).unwrap();
    assert!(events(&accepted(&study("connectivity", &out, line))).is_empty());
    let told = events(&accepted(&study("cka", &out, &[])));
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(fs::read(out.join("own-texts")).unwrap(), own_texts);
    let alike = told[0]["similarity"]["mean"].as_array().unwrap();
    assert!(alike.len() == 2 && alike.iter().all(|one| one.as_f64().unwrap() < 1.0), "{told:?}");
    assert_eq!(read("cka.csv").lines().count(), 1 + 2 * 2);
    assert_eq!(read("report.html").matches("<svg").count(), 5);
    let before = read("study.json");
    for (more, said) in [
        (&["--seed", "5"][..], "--seed was \"0\" and is \"5\""),
        (&["--method", "er"], "--method was"),
        (&["--eval-blocks", "2"], "the text is another"),
    ] {
        refused(&study("connectivity", &out, more), &["holds another study", said, "unchanged"]);
    }
    refused(&study("connectivity", &out, &["--points", "2"]), &["--points", "3 to 1001"]);
    refused(&study("cka", &out, &["--blocks", "3"]), &["--blocks", "more than 3"]);
    refused(&study("cka", &out, &["--method", "joint"]), &["--method", "domain after domain"]);
    assert_eq!(read("study.json"), before);
    let other = place.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("cka.csv"), "mine").unwrap();
    refused(&study("cka", &other, &[]), &["--out", "holds cka.csv and no study", "unchanged"]);
    assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
    fs::write(out.join("study.json"), "{}").unwrap();
    refused(&study("cka", &out, &[]), &["is no study's", "unchanged"]);
    fs::write(out.join("study.json"), before.replace("\"version\": 1", "\"version\": 9")).unwrap();
    refused(&study("cka", &out, &[]), &["of version 9, expected 1"]);
}

#[test]
fn a_stream_is_learned_under_every_combination_and_once_each() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("study");
    for (name, text) in
        [("pump.jsonl", "the pump reports pressure "), ("door.jsonl", "a door is open ")]
    {
        fs::write(place.path().join(name), lines(text, 30)).unwrap();
    }
    let vary = ["--vary", "retain=0.1,0.9", "--vary", "replay-blocks=2,9"];
    let swept = |told: &str| {
        let told = events(told);
        told.iter().filter(|event| event["event"] == "swept").cloned().collect::<Vec<_>>()
    };
    let first = swept(&accepted(&study("sweep", &out, &vary)));
    assert_eq!(first.len(), 4);
    assert_ne!(
        first[0]["run"]["matrix"], first[3]["run"]["matrix"],
        "settings change what is learned"
    );
    let more = swept(&accepted(&study(
        "sweep",
        &out,
        &["--vary", "retain=0.9,0.99", "--vary", "replay-blocks=9"],
    )));
    assert_eq!(more.len(), 1, "one is there already");
    assert_eq!(more[0]["run"]["choice"]["retain"], 0.99);
    // The least of all is a configuration that a job takes and tells.
    let recommended = out.join("recommended.toml");
    let text = fs::read_to_string(&recommended).unwrap();
    assert!(text.contains("replay-blocks = 9") && text.contains("# pump retain 0"), "{text}");
    let state = place.path().join("state").display().to_string();
    let (model, data) = (fixture().text("model"), place.path().join("pump.jsonl"));
    let (data, named) = (data.display().to_string(), recommended.display().to_string());
    let job = ["adapt", "--json", "--model", &model, "--data", &data, "--state", &state];
    let small = ["-c", &named, "--iters", "2", "--num-layers", "2", "--max-seq-length", "32"];
    let told = events(&accepted(&[&job[..], &small].concat()));
    let plan = told.iter().find(|event| event["event"] == "plan").unwrap();
    let line = text.lines().find(|line| line.starts_with("retain")).unwrap();
    assert_eq!(line, format!("retain = {}", plan["settings"]["retain"]));
    let told = swept(&accepted(&study("history", &out, &["--blocks", "2,40"])));
    assert_eq!(told.len(), 3);
    assert_eq!(told[0]["run"]["choice"]["replay-batch-size"], 0);
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    assert_eq!(read("sweep.csv").lines().count(), 1 + 4 + 1 + 3);
    let page = read("report.html");
    for part in ["How much history is enough", "<td>pump</td><td>retain</td>", "retain 0.99"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let page = place.path().join("scale.html").display().to_string();
    let side_by_side = |studies: &[&str]| {
        let all = [&["study", "scale", "--out", &page], studies].concat();
        all.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let shown = out.display().to_string();
    accepted(&side_by_side(&[&shown, &shown]));
    let scale = fs::read_to_string(&page).unwrap();
    assert_eq!(scale.matches(&shown).count(), 2 + 4 + 2, "{scale}");
    refused(&side_by_side(&[place.path().to_str().unwrap()]), &["cannot read", "study.json"]);
    assert_eq!(fs::read_to_string(&page).unwrap(), scale);
    refused(&study("sweep", &out, &["--vary", "model=x"]), &["--vary", "SETTING=VALUE"]);
    refused(&study("sweep", &out, &["--vary", "retain=2"]), &["--retain", "nothing was started"]);
    refused(&study("sweep", &out, &["--vary", "retain=0.5", "--seeds", "0"]), &["--seeds"]);
    refused(&study("history", &out, &["--blocks", "0"]), &["--blocks", "above 0"]);
}

#[test]
fn a_plane_is_scored_once_and_needs_three_domains() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("study");
    let texts = ["the pump reports pressure ", "a door is open ", "the little house is warm "];
    for (name, text) in ["pump.jsonl", "door.jsonl", "house.jsonl"].iter().zip(texts) {
        fs::write(place.path().join(name), lines(text, 30)).unwrap();
    }
    let house = place.path().join("house.jsonl").display().to_string();
    let told = events(&accepted(&study("plane", &out, &["--side", "3", &house])));
    let plane = &told[1]["plane"];
    assert_eq!((told.len(), plane["points"].as_array().unwrap().len()), (2, 9));
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    assert_eq!(read("plane.csv").lines().count(), 1 + 9 * 3);
    assert_eq!(read("plane.svg").matches("<circle").count(), 3);
    assert!(events(&accepted(&study("plane", &out, &["--side", "3", &house]))).is_empty());
    refused(&study("plane", &out, &["--side", "3"]), &["at least three domains"]);
    refused(&study("plane", &out, &["--side", "2", &house]), &["--side", "3 to 101"]);
}

/// A stream that is killed after its first domain goes on with the second and ends as if it had not been.
#[test]
fn a_stream_that_is_cut_off_goes_on() {
    let place = tempfile::tempdir().unwrap();
    let texts = ["the pump reports pressure ", "a door is open ", "the little house is warm "];
    for (name, text) in ["pump.jsonl", "door.jsonl", "house.jsonl"].iter().zip(texts) {
        fs::write(place.path().join(name), lines(text, 30)).unwrap();
    }
    let house = place.path().join("house.jsonl").display().to_string();
    let told = |out: &str| {
        let more = ["--points", "3", "--iters", "30", &house];
        study("connectivity", &place.path().join(out), &more)
    };
    let learned =
        |told: &str| events(told).into_iter().find(|event| event["event"] == "learned").unwrap();
    let whole = learned(&accepted(&told("whole")));
    let cut = place.path().join("cut");
    let mut child = Command::new(env!("CARGO_BIN_EXE_sapwood"))
        .args(told("cut"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !cut.join("stream").exists() {
        assert!(child.try_wait().unwrap().is_none(), "it left nothing to go on with");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let done: Value = serde_json::from_slice(&fs::read(cut.join("study.json")).unwrap()).unwrap();
    let rows = done["matrix"]["rows"].as_array().unwrap().len();
    assert!((1..3).contains(&rows), "{rows} domains were learned before the end");
    let damaged = place.path().join("damaged");
    copy(&cut, &damaged);
    files(&damaged.join("stream")).iter().for_each(|file| fs::write(file, "not it").unwrap());
    // What a program that was killed while it wrote has left.
    fs::create_dir_all(cut.join("stream.partial/adapters")).unwrap();
    let again = learned(&accepted(&told("cut")));
    assert!(again["before"].as_u64().unwrap() > 0, "{again}");
    assert_eq!(again["matrix"], whole["matrix"]);
    assert!(!cut.join("stream").exists() && !cut.join("stream.partial").exists());
    let anew = learned(&accepted(&told("damaged")));
    assert_eq!((&anew["before"], &anew["matrix"]), (&json!(0), &whole["matrix"]));
}

/// The files under a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    all.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let there = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(there.parent().unwrap()).unwrap();
        fs::copy(file, there).unwrap();
    }
}
