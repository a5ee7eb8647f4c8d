//! `sapwood stream`: what is measured, of which text, and what is written.

use super::fixture::{accepted, events, fixture, lines, refused};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Runs a short stream over two domains and gives its events.
fn stream(domains: [&Path; 2], more: &[&str]) -> Vec<Value> {
    let model = fixture().text("model");
    let domains = domains.map(|path| path.display().to_string());
    let short = ["--iters", "5", "--batch-size", "3", "--replay-batch-size", "1", "--threads", "1"];
    let small = ["--num-layers", "2", "--max-seq-length", "32", "--learning-rate", "0.01"];
    let named = ["stream", "--json", "--model", &model];
    let domains = [&domains[0][..], &domains[1]];
    events(&accepted(&[&named[..], &short, &small, more, &domains].concat()))
}

fn of<'e>(events: &'e [Value], event: &str) -> Vec<&'e Value> {
    events.iter().filter(|value| value["event"] == event).collect()
}

#[test]
fn a_stream_of_two_domains_writes_what_it_measured() {
    let place = tempfile::tempdir().unwrap();
    let general = place.path().join("general.txt");
    fs::write(&general, "once upon a time there was a little house\n".repeat(40)).unwrap();
    let (general, out) = (general.display().to_string(), place.path().join("out"));
    let out_text = out.display().to_string();
    let named = ["--methods", "er,ilora,joint,joint-long", "--general", &general];
    let domains = [fixture().at("pump.jsonl"), fixture().at("door.jsonl")];
    let told = stream([&domains[0], &domains[1]], &[&named[..], &["--out", &out_text]].concat());
    let runs = of(&told, "run");
    assert_eq!(runs.len(), 4);
    for run in &runs {
        let (matrix, metrics) = (&run["matrix"], &run["metrics"]);
        let score = |row: usize, column: usize| matrix["rows"][row][column].as_f64().unwrap();
        let metric = |name: &str| metrics[name].as_f64().unwrap();
        assert!((metric("la") - (score(0, 0) + score(1, 1)) / 2.0).abs() < 1e-9, "{run}");
        assert!((metric("last") - score(1, 1)).abs() < 1e-9, "{run}");
        let general = matrix["general"].as_array().unwrap();
        assert!(general.len() == 3 && general[0] != general[2] && metric("general") != 0.0);
        assert_ne!(matrix["rows"][0], matrix["rows"][1], "a course: {run}");
    }
    let acc = |run: &Value| run["metrics"]["acc"].as_f64().unwrap();
    let gap = acc(runs[0]) - acc(runs[2]);
    for (summary, run) in of(&told, "summary").iter().zip(&runs) {
        assert_eq!(summary["method"], run["method"]);
        let expected = (gap > 0.0).then(|| 100.0 * (acc(runs[0]) - acc(run)) / gap);
        let off = summary["share"].as_f64().zip(expected).map(|(got, want)| (got - want).abs());
        assert!(off.map_or(expected.is_none(), |off| off < 1e-6), "{summary} {expected:?}");
    }
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    assert_eq!(read("matrix.csv").lines().count(), 1 + 4 * 3 * 3);
    let saved: Value = serde_json::from_str(&read("stream.json")).unwrap();
    assert_eq!(
        (&saved["split"], &saved["runs"][3]["matrix"]),
        (&"test".into(), &runs[3]["matrix"])
    );
    let table = read("table.md");
    assert!(
        table.contains("| AAA | prequential | general | share |")
            && table.contains("\n| joint, 3 x steps | 1 |")
    );
    assert!(read("stream-joint-3-x-steps.svg").contains(">1/2<"));
}

#[test]
fn settings_are_chosen_by_text_that_is_no_test_text() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    for (name, text) in [("pump", "the pump reports pressure "), ("door", "a door is open ")] {
        fs::create_dir(at(name)).unwrap();
        fs::write(at(name).join("train.jsonl"), lines(text, 40)).unwrap();
    }
    let mut scores = [Vec::new(), Vec::new()];
    for test in ["and clean ", "nothing like it "] {
        for name in ["pump", "door"] {
            fs::write(at(name).join("test.jsonl"), lines(test, 8)).unwrap();
        }
        for (split, scores) in ["valid", "test"].iter().zip(&mut scores) {
            let more = ["--methods", "sequential", "--split", split, "--eval-blocks", "6"];
            scores.push(of(&stream([&at("pump"), &at("door")], &more), "run")[0]["matrix"].clone());
        }
    }
    let [valid, test] = scores;
    assert_eq!(valid[0], valid[1], "test text must not be seen");
    assert_ne!(test[0], test[1], "else the test texts would prove nothing");
}

/// A method named twice is no second seed; MER's slow learner moves even in jobs shorter than its stride.
#[test]
fn a_method_has_one_row_and_every_row_learns() {
    let domains = [fixture().at("pump.jsonl"), fixture().at("door.jsonl")];
    let told = stream([&domains[0], &domains[1]], &["--methods", "mer,whitened,mer,sapwood"]);
    let runs = of(&told, "run");
    let methods: Vec<&str> = runs.iter().filter_map(|run| run["method"].as_str()).collect();
    assert_eq!(methods, ["MER", "I-LoRA, whitened", "Sapwood"]);
    for run in runs {
        let matrix = &run["matrix"];
        assert_ne!(matrix["rows"][0], matrix["before"], "{run}");
        assert_eq!(matrix["prequential"].as_array().map(Vec::len), Some(2), "{run}");
    }
}

#[test]
fn what_a_stream_cannot_score_is_refused_by_name() {
    let (model, pump) = (fixture().text("model"), fixture().text("pump.jsonl"));
    let named = ["stream", "--model", &model, "--max-seq-length", "32", "--num-layers", "2"];
    refused(&[&named[..], &["--methods", "upper", &pump]].concat(), &["upper"]);
    refused(&[&named[..], &["--general", "no-such-text", &pump]].concat(), &["no-such-text"]);
    for key in ["seeds", "eval-blocks", "replay-batch-size"] {
        let flag = format!("--{key}");
        refused(&[&named[..], &[&flag, "0", &pump]].concat(), &[&flag, "at least 1", "got 0"]);
    }
    refused(&[&named[..], &["--as-published", &pump]].concat(), &["--methods as-published"]);
    let place = tempfile::tempdir().unwrap();
    let few = place.path().join("few.jsonl");
    fs::write(&few, "{\"text\":\"one\"}\n{\"text\":\"two\"}\n").unwrap();
    let few = few.display().to_string();
    refused(&[&named[..], &["--split", "valid", &few]].concat(), &["few", "held out"]);
}
