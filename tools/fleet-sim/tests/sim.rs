//! Small simulated fleets: every weather at once, a bad release, memory over rounds.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use fleet_server::aggregate::attacks::Attack;
use fleet_server::home::Stores;
use fleet_sim::report::Report;
use fleet_sim::run::{Orders, Scenario, run};
use fleet_sim::servers::Programs;
use fleet_sim::shape::Shape;
use fleet_sim::tally::Kind;
use fleet_sim::weather::Weather;
use std::path::{Path, PathBuf};

const MINUTE_MS: u64 = 60_000;

/// A fleet under a clock that runs faster, as `fleet-sim serve` serves it.
fn scenario(out: &Path, devices: u32, speed: f64) -> Scenario {
    Scenario {
        asked: "a test".into(),
        devices,
        lab: 2,
        copied: 0,
        policy: r#"{"check_in_s": 900}"#.into(),
        first_ms: 15 * MINUTE_MS,
        every_ms: None,
        warm_s: 0.0,
        // Whatever goes wrong: two real minutes.
        minutes: (2.0 * speed) as u64,
        speed,
        enrol_per_s: 50.0,
        shape: Shape::from_name("tiny").unwrap(),
        weather: Weather::default(),
        orders: Orders::Nothing,
        trial_ms: 10 * MINUTE_MS,
        seed: 1,
        row_s: 2.0,
        links: vec![],
        folder: None,
        stores: Stores::default(),
        replicas: 1,
        out: out.to_owned(),
    }
}

fn played(scenario: &Scenario) -> Report {
    let own = PathBuf::from(env!("CARGO_BIN_EXE_fleet-sim"));
    run(scenario, &Programs { server: own.clone(), own }).unwrap()
}

fn count(report: &Report, name: &str) -> f64 {
    report.counts.iter().find(|(other, _)| *other == name).unwrap().1
}

#[test]
fn a_fleet_in_every_weather_goes_through_its_rounds() {
    let place = tempfile::tempdir().unwrap();
    let weather = Weather {
        slow: 0.2,
        old_clocks: 0.3,
        cuts: 0.05,
        hostile: 0.2,
        attack: Attack::Little,
        declined: 0.05,
        ..Weather::default()
    };
    let report = played(&Scenario {
        copied: 2,
        policy:
            r#"{"check_in_s": 900, "quota": 10, "min_devices": 5, "merge": "robust", "stage_h": 0}"#
                .into(),
        orders: Orders::Rounds { count: 3, hasty: true },
        weather,
        ..scenario(place.path(), 40, 300.0)
    });
    let told = report.summary().to_string();
    assert_eq!(report.story.rounds.len(), 3, "{told}");
    assert!(report.story.rounds.iter().all(|round| round.came == 10), "{told}");
    assert!(report.story.rounds.iter().all(|round| round.whole_ms > round.opened_ms), "{told}");
    assert!(count(&report, "enrolled") == 40.0 && count(&report, "devices") == 42.0, "{told}");
    assert!(count(&report, "clocks corrected") >= 5.0, "{told}");
    assert!(count(&report, "power cuts") > 0.0, "{told}");
    assert!(count(&report, "installs confirmed") > 20.0, "{told}");
    for how in ["signature", "malformed", "adapter", "foreign", "no tls"] {
        for kind in [Kind::Enrol, Kind::CheckIn, Kind::Upload, Kind::Artifact] {
            assert_eq!(report.calls.ended(kind, how), 0, "{how}: {told}");
        }
    }
    for file in ["minutes.csv", "rounds.csv", "summary.json", "latency.svg", "report.html"] {
        assert!(place.path().join(file).is_file(), "{file}");
    }
}

#[test]
fn two_who_have_one_key_are_suspended() {
    let place = tempfile::tempdir().unwrap();
    let report = played(&Scenario { copied: 3, minutes: 90, ..scenario(place.path(), 12, 300.0) });
    let told = report.summary().to_string();
    // Each device and its copy hear it.
    assert_eq!(count(&report, "told that they are suspended"), 6.0, "{told}");
}

/// A quarter of the devices is worse off, which no text of a judge shows.
#[test]
fn a_bad_release_is_paused_by_its_stages_and_taken_back() {
    let place = tempfile::tempdir().unwrap();
    let report = played(&Scenario {
        policy: r#"{"check_in_s": 1800, "quota": 10, "min_devices": 5, "stage_h": 2}"#.into(),
        orders: Orders::Drill { react_ms: 10 * MINUTE_MS },
        weather: Weather { worse: 0.25, ..Weather::default() },
        first_ms: 30 * MINUTE_MS,
        ..scenario(place.path(), 100, 1200.0)
    });
    let told = report.summary().to_string();
    let events: Vec<&str> = report.story.events.iter().map(|(_, what)| &**what).collect();
    let paused = events.iter().find(|what| what.starts_with("it is paused"));
    assert!(paused.is_some_and(|what| what.contains("reverted it")), "{told}");
    assert!(events.last().unwrap().starts_with("nobody runs it any more"), "{told}");
    let ran = count(&report, "ever ran the bad release");
    assert!((1.0..=50.0).contains(&ran), "{told}");
    assert_eq!(count(&report, "run it at the end"), 0.0, "{told}");
}

/// NVIDIA/NVFlare 2166: a server grew from 1 to 22 GB. `SAPWOOD_ROUNDS=1000` plays as many.
#[test]
fn the_memory_of_a_server_is_flat_over_rounds() {
    #[expect(clippy::disallowed_methods, reason = "whoever runs the test says how long")]
    let count = std::env::var("SAPWOOD_ROUNDS").map_or(15, |rounds| rounds.parse().unwrap());
    let place = tempfile::tempdir().unwrap();
    let report = played(&Scenario {
        minutes: 20 * count,
        policy: r#"{"check_in_s": 60, "quota": 10, "min_devices": 5, "stage_h": 0}"#.into(),
        orders: Orders::Rounds { count, hasty: true },
        trial_ms: 0,
        first_ms: MINUTE_MS,
        ..scenario(place.path(), 12, 60.0)
    });
    let told = report.summary().to_string();
    let ended = report.story.rounds.iter().filter(|round| round.whole_ms > 0).count();
    assert_eq!(ended as u64, count, "{told}");
    // A third of the way in everything was there once.
    let grown: Vec<u64> = report.rows.iter().map(|row| row.server.resident).collect();
    let (early, end) = (grown[grown.len() / 3], grown[grown.len() - 1]);
    assert!(end < early + (8 << 20), "{grown:?}");
}

/// A fleet that is there has a policy, servers and a number of them: another is not taken and passed over.
#[test]
fn what_a_fleet_that_is_there_has_already_cannot_be_asked_for() {
    let hex = "ab".repeat(32);
    let link = format!(
        "sapwood+https://127.0.0.1:1/#fleet={}&token={hex}&trust={hex}&pin={hex}",
        "ab".repeat(16)
    );
    for (option, value) in [("--policy", "{}"), ("--replicas", "2"), ("--server", "x")] {
        let said = std::process::Command::new(env!("CARGO_BIN_EXE_fleet-sim"))
            .args(["run", "--devices", "2", "--link", &link, option, value])
            .output()
            .unwrap();
        let error = String::from_utf8(said.stderr).unwrap();
        assert_eq!(said.status.code(), Some(2), "{error}");
        assert!(error.contains(option) && error.contains("cannot be used with"), "{error}");
    }
}

/// Whoever is killed ends nothing by itself: its servers would go on, and have the database.
#[cfg(target_os = "linux")]
#[test]
fn a_server_ends_with_the_simulator_that_is_killed() {
    let place = tempfile::tempdir().unwrap();
    let mut simulator = std::process::Command::new(env!("CARGO_BIN_EXE_fleet-sim"))
        .args(["run", "--devices", "2", "--speed", "10", "--minutes", "1000", "--out"])
        .arg(place.path())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let children = format!("/proc/{0}/task/{0}/children", simulator.id());
    let wait = |done: &dyn Fn() -> bool| {
        let mut looks = 0..400;
        looks.any(|_| {
            done() || {
                std::thread::park_timeout(std::time::Duration::from_millis(50));
                false
            }
        })
    };
    let server = || {
        let all = std::fs::read_to_string(&children).unwrap_or_default();
        all.split_whitespace().next().map(str::to_owned)
    };
    assert!(wait(&|| server().is_some()), "no server began");
    let stat = Path::new("/proc").join(server().unwrap()).join("stat");
    simulator.kill().unwrap();
    simulator.wait().unwrap();
    // One that has ended, and whom nobody has asked how, is a zombie.
    let is_gone =
        || std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z ")) || !stat.exists();
    let is_gone = wait(&is_gone);
    if !is_gone {
        let process = stat.parent().unwrap().file_name().unwrap();
        std::process::Command::new("kill").arg(process).status().unwrap();
    }
    assert!(is_gone, "the server goes on");
}

/// A report shows how it was made, and is shown around: a password never comes so far.
#[test]
fn a_password_in_an_argument_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let said = std::process::Command::new(env!("CARGO_BIN_EXE_fleet-sim"))
        .args(["run", "--speed", "10", "--out"])
        .arg(place.path())
        .args(["--database", "postgres://fleet:secret@127.0.0.1:1/fleet"])
        .output()
        .unwrap();
    let error = String::from_utf8(said.stderr).unwrap();
    assert!(error.contains("seen by all, expected PGPASSWORD"), "{error}");
    assert!(!said.status.success() && !error.contains("secret"), "{error}");
}
