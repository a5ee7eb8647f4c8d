//! The judge with a learner's program that scores: a script that answers as `sapwood eval --json` does.

use crate::common::{
    self, Fleet, Served, cohort, fleet, given, promote, refused, run, said, until, written,
};
use fleet_server::judge::{self, Found, JudgeError, Program};
use fleet_server::rounds::{self, Round, State};
use fleet_server::store::Book;
use sapwood_protocol::fleet::message::Installed;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What the script says of the bare base, and of adapters by how often it was asked about one: general and
/// cohort, turn by turn for eta 1, 2, 4, 1/2, 1/4.
const BASE: (&str, &str) = ("1.0", "2.0");

fn start(program: &Path) -> Command {
    Command::new(program)
}

/// A fleet whose round is merged, and what its judge runs.
struct Bench {
    fleet: Fleet,
    devices: Vec<common::Device>,
    round: Round,
    program: Program,
}

impl Bench {
    fn new() -> Self {
        let (fleet, mut devices) = fleet(3);
        let (round, _) = given(&fleet, &mut devices, 0);
        let round = until(&fleet, round, State::Merged);
        let at = |name: &str| fleet.place.path().join(name);
        ["model", "general", "cohort"].iter().for_each(|name| fs::write(at(name), name).unwrap());
        let [model, general, cohort] = ["model", "general", "cohort"].map(at);
        let (sapwood, scratch) = (at("sapwood"), at("scratch"));
        let limit = Duration::from_secs(20);
        let is_told = || false;
        let program = Program { sapwood, model, general, cohort, scratch, start, limit, is_told };
        Self { fleet, devices, round, program }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.fleet.place.path().join(name)
    }

    /// The script, which does this for an adapter's text, in `$text` and, counted from 0, in `$turn`.
    fn says(&self, does: &str) {
        let (general, own) = BASE;
        let counts = self.at("turns");
        let _ = fs::remove_file(&counts);
        let script = format!(
            r#"#!/bin/sh
test "$1 $2 $3 $4 $5" = "eval --json --model {model} --data" || exit 3
text=$(cat "$6"); echo '{{"event": "load", "seconds": 1}}'
if [ -z "$7" ]; then
  case $text in general) bits={general};; *) bits={own};; esac
else
  test "$7" = --adapter-path && test -s "$8/adapter_model.safetensors" && test -s "$8/adapter_config.json" || exit 4
  turn=$(cat {turns} 2>/dev/null || echo 0)
  test "$text" = cohort && echo $((turn + 1)) > {turns}
  {does}
fi
echo "{{\"event\": \"text\", \"bits_per_byte\": $bits}}"
"#,
            model = self.program.model.display(),
            turns = counts.display(),
        );
        fs::write(self.at("script"), script).unwrap();
        common::install(&self.at("script"), &self.program.sapwood);
    }

    /// The bits per byte that it says, turn by turn.
    fn scores(&self, turns: &[(&str, &str)]) {
        let cases = turns.iter().enumerate().map(|(turn, (general, own))| {
            format!("general{turn}) bits={general};; cohort{turn}) bits={own};;")
        });
        let cases: Vec<String> = cases.collect();
        self.says(&format!("case $text$turn in {} *) exit 5;; esac", cases.join(" ")));
    }

    fn judged(&self) -> Result<Found, JudgeError> {
        let now_ms = || self.fleet.now_ms();
        judge::judge(&self.fleet.home(), self.round.id, &mut self.program.clone(), now_ms)
    }

    fn found(&self) -> Round {
        rounds::find(&self.fleet.home().book, self.round.id).unwrap().unwrap()
    }
}

#[test]
fn a_server_of_the_role_judges_what_is_merged() {
    let mut bench = Bench::new();
    bench.scores(&[("1.005", "1.9"), ("1.008", "1.7"), ("1.2", "1.5")]);
    bench.fleet.server = None;
    let folder = bench.fleet.folder();
    let none = run(&folder, &["serve", "--roles", "judge", "--model", "x"]);
    assert!(refused(&none).contains("--general is not said"));
    let path = |path: &PathBuf| path.display().to_string();
    let program = &bench.program;
    let [sapwood, model, general, text] =
        [&program.sapwood, &program.model, &program.general, &program.cohort].map(path);
    let more = ["--sapwood", &sapwood, "--model", &model, "--general", &general, "--text", &text];
    let _judge = Served::of_roles(&folder, "judge", &more);
    let round = until(&bench.fleet, bench.round.id, State::Candidate);
    assert_ne!(round.result, bench.round.result, "another step is another file");
}

#[test]
fn the_best_step_that_the_program_finds_good_is_a_candidate() {
    let bench = Bench::new();
    bench.scores(&[("1.005", "1.9"), ("1.008", "1.7"), ("1.2", "1.5")]);
    let found = bench.judged().unwrap();
    assert_eq!((found.sequence, &found.report["eta"]), (Some(1), &json!(2.0)), "{}", found.report);
    assert_eq!(found.report["before"], json!({"general": 1.0, "cohort": 2.0}));
    let tries = found.report["tries"].as_array().unwrap();
    let etas: Vec<_> = tries.iter().map(|one| one["eta"].as_f64().unwrap()).collect();
    assert_eq!(etas, [1.0, 2.0, 4.0]);
    assert!(tries[2]["refused"].as_str().unwrap().contains("general text has 1.2000"));
    let round = bench.found();
    assert_eq!(round.state, State::Candidate);
    assert_ne!(round.result, bench.round.result, "another step is another file");
    assert!(!bench.program.scratch.exists(), "and nothing is left beside it");
}

#[test]
fn what_is_worse_on_either_text_at_every_step_is_refused() {
    for (general, own, why) in [
        ("1.0", "2.1", "the cohort's text has 2.1000"),
        ("1.02", "1.5", "general text has 1.0200 bits per byte, expected at most 1.0100"),
    ] {
        let bench = Bench::new();
        bench.scores(&[(general, own); 5]);
        let found = bench.judged().unwrap();
        let tries = found.report["tries"].as_array().unwrap();
        assert_eq!((found.sequence, tries.len()), (None, 5), "{}", found.report);
        assert!(tries.iter().all(|one| one["refused"].as_str().unwrap().contains(why)));
        let round = bench.found();
        assert!(round.state == State::Failed && round.report.unwrap().contains(why));
    }
}

#[test]
fn a_program_that_does_not_score_leaves_the_round_as_it_was() {
    let mut bench = Bench::new();
    let kept = |bench: &Bench| {
        let home = bench.fleet.home();
        let tables = ["select * from release", "select * from audit", "select * from upload"];
        tables.map(|table| home.book.read(table, &[]).unwrap())
    };
    let before = kept(&bench);
    for (does, expected) in [
        ("echo 'all of it' | tr a-z A-Z; exit 0", "no bits_per_byte"),
        ("bits=many", "no bits_per_byte"),
        ("bits=-1", "no bits_per_byte"),
        ("bits=1e999", "no bits_per_byte"),
        ("echo 'no room' >&2; exit 1", "exit status: 1"),
        ("kill -9 $$", "signal: 9"),
        // Good at first, and no word of the second step.
        ("test $turn = 0 || exit 7; bits=0.5", "exit status: 7"),
        ("exec sleep 100", "not done after 1 s"),
    ] {
        let hangs = does.contains("sleep");
        bench.program.limit = Duration::from_secs(if hangs { 1 } else { 20 });
        bench.says(does);
        let error = bench.judged().unwrap_err().to_string();
        assert!(error.contains(expected), "{does}: {error}");
        assert!(error.ends_with("the round is as it was") && error.lines().count() == 1, "{error}");
        assert_eq!((bench.found(), kept(&bench)), (bench.round.clone(), before.clone()), "{does}");
        assert!(!bench.program.scratch.exists(), "{does}");
    }
    bench.program.limit = Duration::from_secs(20);
    bench.scores(&[("1.0", "1.9"), ("1.0", "1.9"), ("1.0", "1.9")]);
    let found = bench.judged().unwrap();
    assert_eq!(
        (found.sequence, &found.report["eta"]),
        (Some(1), &json!(1.0)),
        "of equals the first"
    );
    assert_eq!(bench.found().result, bench.round.result, "the file that was merged");
}

/// A second round is judged against the adapter that devices have, not against the bare base.
#[test]
fn the_command_judges_a_round_against_what_its_devices_run() {
    let mut bench = Bench::new();
    bench.scores(&[("1.0", "1.5"), ("1.0", "1.6"), ("1.0", "1.6")]);
    let judge = |bench: &Bench| {
        let round = bench.round.id.to_string();
        let at = |name: &str| bench.at(name).display().to_string();
        let [sapwood, model, general, text] = ["sapwood", "model", "general", "cohort"].map(at);
        run(
            &bench.fleet.folder(),
            &[
                "judge",
                "--round",
                &round,
                "--sapwood",
                &sapwood,
                "--model",
                &model,
                "--general",
                &general,
                "--text",
                &text,
            ],
        )
    };
    let text = said(&judge(&bench));
    assert!(text.contains("candidate, sequence 1"), "{text}");
    assert!(refused(&judge(&bench)).contains("is candidate, expected merged"));
    let sequence = promote(&bench.fleet, 1, "release.key").unwrap();
    let (artifact, _) = bench.found().result.unwrap();
    let installed = Some(Installed { sequence, artifact });
    bench.devices.iter_mut().for_each(|device| device.installed = installed);
    let round = common::open(&bench.fleet);
    for (n, device) in bench.devices.iter_mut().enumerate() {
        assert_eq!(device.check_in().unwrap().invite.unwrap().artifact, artifact);
        let reply = device.upload(round, &device.update(artifact, 20 + n as u64));
        assert_eq!(reply.status, 201, "{}", reply.text());
    }
    bench.round = until(&bench.fleet, round, State::Merged);
    // Better than the bare base, worse than what is there.
    bench.scores(&[
        ("1.0", "1.5"),
        ("1.0", "1.6"),
        ("1.0", "1.6"),
        ("1.0", "1.6"),
        ("1.0", "1.6"),
        ("1.0", "1.6"),
    ]);
    let text = said(&judge(&bench));
    assert!(text.contains("refused, its updates may come again"), "{text}");
    assert_eq!(cohort(&bench.fleet.home()).sequence, sequence);
}

fn kill(signal: &str, pid: &str) -> bool {
    let mut kill = Command::new("kill");
    kill.args([signal, pid]).stderr(Stdio::null()).status().unwrap().success()
}

impl Bench {
    /// A judge of the round as a process, and the process that it has score, which does not end by itself.
    fn judging(&self) -> (Child, String) {
        let [pid, round] = [self.at("pid"), PathBuf::from(self.round.id.to_string())];
        self.says(&format!("echo $$ > {}; exec sleep 100", pid.display()));
        let mut judge = Command::new(env!("CARGO_BIN_EXE_fleet-server"));
        judge.arg("judge").arg("--round").arg(round).arg("--folder").arg(self.fleet.folder());
        for (option, name) in
            [("sapwood", "sapwood"), ("model", "model"), ("general", "general"), ("text", "cohort")]
        {
            judge.arg(format!("--{option}")).arg(self.at(name));
        }
        let child = judge.stderr(Stdio::piped()).spawn().unwrap();
        (child, written(&pid))
    }
}

/// A judge that is told to end takes its program with it, and leaves no folder.
#[test]
fn a_judge_that_is_told_to_end_leaves_nothing_behind() {
    let bench = Bench::new();
    let (mut child, program) = bench.judging();
    assert!(kill("-0", &program));
    assert!(kill("-TERM", &child.id().to_string()));
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(!kill("-0", &program), "the program outlived its judge");
    let left = fs::read_dir(bench.fleet.folder()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with("judge-")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(bench.found(), bench.round);
}

/// One that is killed cannot end anything: the system does.
#[test]
#[cfg(target_os = "linux")]
fn a_judge_that_is_killed_takes_its_program_with_it() {
    let bench = Bench::new();
    let (mut child, program) = bench.judging();
    assert!(kill("-0", &program));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(common::is_gone(&program), "the program outlived its judge");
}

common::over_every_store!();
