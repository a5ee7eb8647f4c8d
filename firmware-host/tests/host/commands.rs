//! The commands as an operator meets them, from outside: exit codes, files, what is said.

use sapwood::adapter::peft::{self, Meta, Role};
use sapwood::adapter::{Adapter, Module, Spec, Target};
use sapwood::ports::Disk;
use sapwood::state::{Commit, LearnerRecord, State, shapes};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

/// The configuration is refused: starting again does not help.
const EXIT_CONFIG: i32 = 78;

pub(super) fn run(folder: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firmware-host"));
    command.args(["-c", "config.toml"]).args(words).current_dir(folder).env("HOME", "/srv/ann");
    command.output().unwrap()
}

/// The same with a line on its standard input.
fn piped(folder: &Path, words: &[&str], line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firmware-host"));
    command.args(["-c", "config.toml"]).args(words).current_dir(folder);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{line}").unwrap();
    child.wait_with_output().unwrap()
}

pub(super) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// A folder with a configuration and an empty state folder.
pub(super) fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("state")).unwrap();
    fs::write(folder.path().join("config.toml"), "model = \"base\"\nstate = \"state\"\n").unwrap();
    folder
}

#[test]
fn a_service_file_is_shown_written_and_removed() {
    let folder = folder();
    // A service of the machine sees nothing below /tmp, where this folder may lie.
    let service = ["install", "--manager", "systemd", "--user"];
    let shown = run(folder.path(), &[&service[..], &["--print"]].concat());
    assert!(shown.status.success(), "{}", said(&shown));
    let written = run(folder.path(), &[&service[..], &["--root", "image"]].concat());
    assert!(said(&written).contains("ran no command"), "{}", said(&written));
    let unit = folder.path().join("image/srv/ann/.config/systemd/user/sapwood.service");
    let text = fs::read_to_string(&unit).unwrap();
    assert!(text.contains(&*String::from_utf8_lossy(&shown.stdout)), "{text}");
    let model = folder.path().join("base").display().to_string();
    assert!(text.contains(&model), "a path is not absolute:\n{text}");
    fs::write(&unit, format!("{text}# mine\n")).unwrap();
    let refused =
        run(folder.path(), &["uninstall", "--manager", "systemd", "--user", "--root", "image"]);
    assert!(!refused.status.success() && said(&refused).contains("--force"), "{}", said(&refused));
    let words = ["uninstall", "--manager", "systemd", "--user", "--root", "image", "--force"];
    assert!(run(folder.path(), &words).status.success());
    assert!(!unit.exists());
}

#[test]
fn an_order_to_a_program_that_does_not_run_waits_in_the_state_folder() {
    let folder = folder();
    let state = folder.path().join("state");
    let paused = run(folder.path(), &["pause"]);
    assert!(said(&paused).contains("until `resume`"), "{}", said(&paused));
    assert!(state.join("paused").exists());
    let status = run(folder.path(), &["status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((&status["running"], &status["paused"]), (&false.into(), &true.into()));
    assert!(run(folder.path(), &["resume"]).status.success());
    assert!(!state.join("paused").exists());
}

/// The state folder is another program's: whatever socket is there or is not says nothing of that.
#[test]
fn where_a_program_has_the_state_and_does_not_answer_nothing_is_changed() {
    let folder = folder();
    let state = folder.path().join("state");
    let held = Disk::exclusive(&state).unwrap();
    let before = fs::read_dir(&state).unwrap().count();
    let orders: [&[&str]; 6] = [
        &["pause"],
        &["resume"],
        &["job", "now"],
        &["aside", "list"],
        &["aside", "drop", "1"],
        &["rollback"],
    ];
    for words in orders {
        let refused = run(folder.path(), words);
        let said = said(&refused);
        assert_eq!(refused.status.code(), Some(1), "{words:?}: {said}");
        assert!(said.contains("a program has the state folder"), "{words:?}: {said}");
        assert!(said.contains("nothing was changed") && said.lines().count() == 1, "{said}");
    }
    let status = run(folder.path(), &["status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["running"], true, "{status}");
    assert_eq!(fs::read_dir(&state).unwrap().count(), before);
    drop(held);
    assert!(run(folder.path(), &["pause"]).status.success() && state.join("paused").exists());
}

/// A socket on which somebody answers is no program that has the state folder.
#[test]
fn an_order_is_left_in_the_folder_that_nobody_has_whoever_listens() {
    let folder = folder();
    let state = folder.path().join("state");
    let _other = UnixListener::bind(state.join("socket")).unwrap();
    let paused = run(folder.path(), &["pause"]);
    assert!(said(&paused).contains("no program runs"), "{}", said(&paused));
    assert!(state.join("paused").exists());
}

#[test]
fn no_order_makes_a_state_folder() {
    let folder = folder();
    for words in [["pause"], ["resume"], ["rollback"]] {
        let refused = run(folder.path(), &[&words[..], &["--state", "other"]].concat());
        assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
        assert!(said(&refused).contains("there is no state folder"), "{}", said(&refused));
    }
    assert!(!folder.path().join("other").exists());
}

#[test]
fn a_service_keeps_how_it_is_to_log_and_is_not_made_open_to_all() {
    let folder = folder();
    let ask = ["install", "--manager", "systemd", "--user", "--print"];
    let log = ["--log-level", "debug", "--log-format", "json"];
    let shown = said(&run(folder.path(), &[&ask[..], &log].concat()));
    assert!(shown.contains("\"--log-level\" \"debug\"") && shown.contains("\"json\""), "{shown}");
    let open =
        run(folder.path(), &[&ask[..4], &["--root", "image", "--listen", "0.0.0.0:1"]].concat());
    assert_eq!(open.status.code(), Some(EXIT_CONFIG), "{}", said(&open));
    assert!(!folder.path().join("image").exists());
}

#[test]
fn the_state_folder_is_not_watched_under_any_name() {
    let folder = folder();
    std::os::unix::fs::symlink("state", folder.path().join("link")).unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    for watched in ["state", "link", "state/inbox", "other/../state", "file"] {
        let refused = run(folder.path(), &["status", "--watch", watched]);
        assert_eq!(refused.status.code(), Some(EXIT_CONFIG), "{watched}: {}", said(&refused));
        assert!(said(&refused).starts_with("error: intake.watch: expected a folder"), "{watched}");
    }
    let own = run(folder.path(), &["status", "--watch", "state/drop"]);
    assert_ne!(own.status.code(), Some(EXIT_CONFIG), "{}", said(&own));
}

/// A generation of one adapted layer, as a job of the program commits it.
pub(super) fn commit(state: &mut State, values: [f32; 4]) {
    let (rank, fan_in, fan_out) = (1, 2, 2);
    let (layer, target, scale, a, b) = (0, Target::Q, 2.0, 0..2, 2..4);
    let module = Module { layer, target, rank, scale, fan_in, fan_out, a, b };
    let spec = Spec { modules: vec![module] };
    let (slow, numbers) =
        (Adapter { spec: spec.clone(), values: values.to_vec() }, values.to_vec());
    let learner = LearnerRecord {
        fast: numbers.clone(),
        slow: numbers.clone(),
        first_moment: numbers.clone(),
        second_moment: numbers,
        shapes: shapes(&spec),
        ..LearnerRecord::default()
    };
    let (role, generation) = (Role::Slow, state.next_generation());
    let meta = Meta { base_hash: [0; 32], generation, steps: 1, role, retain: 0.5, global: None };
    let files = peft::write(&slow, &meta, "").unwrap();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, &bytes[..])).collect();
    let (reservoir, verdict) = (None, "kept");
    let commit = Commit { files: &files, learner: &learner, reservoir, domain: 1, verdict };
    state.commit(commit).unwrap();
}

#[test]
fn a_state_without_its_manifests_is_refused_until_it_is_recovered() {
    let folder = folder();
    let state = folder.path().join("state");
    {
        let mut state = State::open(Arc::new(Disk::exclusive(&state).unwrap())).unwrap();
        commit(&mut state, [1.0, 2.0, 3.0, 4.0]);
        commit(&mut state, [5.0, 6.0, 7.0, 8.0]);
    }
    let recover = ["recover", "--from-adapters"];
    let needless = run(folder.path(), &recover);
    assert!(said(&needless).contains("nothing to recover"), "{}", said(&needless));
    let manifests = ["manifest.a", "manifest.b"].map(|name| state.join(name));
    fs::remove_file(&manifests[0]).unwrap();
    fs::write(&manifests[1], "torn").unwrap();
    let refused = run(folder.path(), &["status"]);
    assert!(said(&refused).contains("recover --from-adapters"), "{}", said(&refused));
    let asked = run(folder.path(), &["recover"]);
    assert!(
        !asked.status.success() && said(&asked).contains("--from-adapters"),
        "{}",
        said(&asked)
    );
    let found = run(folder.path(), &recover);
    assert!(
        found.status.success() && said(&found).contains("generation 2 is in use"),
        "{}",
        said(&found)
    );
    let status = said(&run(folder.path(), &["status", "--json"]));
    assert!(status.contains("\"generation\":2"), "{status}");
    assert_eq!(fs::read(state.join("manifest.b.damaged")).unwrap(), b"torn");
}

/// What does not hold is refused by both in the same words; what holds, by neither.
#[test]
fn run_and_install_ask_the_same_of_a_configuration() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("drop")).unwrap();
    for (name, text, mode) in
        [("token", "0123456789abcdef", 0o600), ("shared", "0123456789abcdef", 0o644)]
    {
        fs::write(path(name), text).unwrap();
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::write(path("drop/token"), "0123456789abcdef").unwrap();
    fs::set_permissions(path("drop/token"), fs::Permissions::from_mode(0o600)).unwrap();
    let long = format!("socket = \"/srv/{}\"", "s".repeat(120));
    let rows: [(&str, &str, Option<&str>); 23] = [
        ("", "", None),
        ("[serve]\nlisten = \"0.0.0.0:8321\"", "", Some("serve.listen")),
        ("[serve]\nlisten = \"0.0.0.0:8321\"", "--token-file token", None),
        ("", "--listen 192.168.0.2:80", Some("serve.listen")),
        ("", "--listen [::ffff:127.0.0.1]:8321", None),
        ("[serve]\ntoken-file = \"shared\"", "", Some("serve.token-file")),
        ("[intake]\nwatch = \"state\"", "", Some("intake.watch")),
        ("[intake]\nwatch = \"state/drop\"", "", None),
        ("[intake]\nwatch = \"base\"", "", Some("intake.watch")),
        ("[intake]\nwatch = \".\"", "", Some("intake.watch")),
        ("[intake]\nwatch = \"drop\"", "", None),
        ("[intake]\nwatch = \"drop\"", "--token-file drop/token", Some("intake.watch")),
        ("[intake]\nwatch = \"drop\"", "--socket drop/socket", Some("intake.watch")),
        ("[intake]\nwatch = \"drop\"", "--socket drop/taken/socket", None),
        ("[intake]\nwatch = \"drop\"\n[job]\ngeneral = \"drop/x\"", "", Some("intake.watch")),
        ("", "--state base", Some("state")),
        (&format!("[serve]\n{long}"), "", Some("serve.socket")),
        (
            "[[intake.serial]]\npath = \"p\"\n[[intake.serial]]\npath = \"./p\"",
            "",
            Some("intake.serial"),
        ),
        ("[job]\nsamples-min = 9\nsamples-max = 8", "", Some("job.samples-max")),
        ("[intake]\ninbox-samples-max = 8", "", Some("job.samples-min")),
        ("[constraints]\ncool-celsius = 85", "", Some("constraints.cool-celsius")),
        ("[fleet]\nenabled = true\nca-file = \"nope\"", "", Some("fleet.ca-file")),
        ("[intake]\ninbox-bytes-max = 4096\n[serve]\nqueue = 4096\nconnections-max = 1", "", None),
    ];
    let managers = [
        "install --print --manager systemd --account ann",
        "install --print --manager systemd --user",
        "install --print --manager launchd --account ann",
    ];
    for (text, flags, key) in rows {
        let head = "model = \"base\"\nstate = \"state\"\n";
        fs::write(path("config.toml"), format!("{head}{text}\n")).unwrap();
        let words = |command: &str| run(folder.path(), &words(command, flags));
        let started = words("run");
        // It has no model to load: that is no fault of the configuration.
        assert_eq!(
            started.status.code(),
            Some(key.map_or(1, |_| EXIT_CONFIG)),
            "{text} {flags}: {}",
            said(&started)
        );
        for manager in managers {
            let asked = words(manager);
            let expected = key.map_or(0, |_| EXIT_CONFIG);
            assert_eq!(
                asked.status.code(),
                Some(expected),
                "{text} {flags}, {manager}: {}",
                said(&asked)
            );
            if let Some(key) = key {
                let told = said(&asked);
                let reason = told.strip_prefix("error: ").unwrap().trim_end();
                assert!(reason.contains(key), "{reason}");
                let same = reason.replace('"', "\\\"");
                assert!(said(&started).contains(&same), "{same}\n{}", said(&started));
            }
        }
    }
    fs::write(path("config.toml"), "state = \"state\"\n").unwrap();
    for command in ["run", managers[0]] {
        let refused = run(folder.path(), &words(command, ""));
        assert_eq!(refused.status.code(), Some(EXIT_CONFIG), "{}", said(&refused));
        assert!(said(&refused).contains("model is missing"), "{}", said(&refused));
    }
}

fn words<'a>(command: &'a str, flags: &'a str) -> Vec<&'a str> {
    command.split(' ').chain(flags.split(' ').filter(|flag| !flag.is_empty())).collect()
}

/// launchd ends a service after `bootout` has come back, and takes no second of its name until then.
#[test]
fn launchd_is_waited_for_before_it_gets_the_next_file() {
    let folder = folder();
    let tool = folder.path().join("launchctl");
    // A stand-in: a service that was told to go is there for three more looks.
    let script = "#!/bin/sh\necho \"$1\" >>calls\ncase $1 in\n\
        bootout) [ -e loaded ] || exit 3; echo 3 >going;;\n\
        print) [ -e loaded ] || exit 113\n\
            if [ -e going ]; then n=$(($(cat going) - 1)); echo $n >going\n\
            [ $n -gt 0 ] || { rm loaded going; exit 113; }; fi;;\n\
        bootstrap) [ ! -e loaded ] || exit 5; : >loaded;;\nesac\n";
    fs::write(folder.path().join("script"), script).unwrap();
    // Written by another process: what this one holds open, a program that another test starts at that
    // moment holds too, and a file that is open for writing cannot be run.
    let mut install = Command::new("install");
    install.args(["-m", "755"]).arg(folder.path().join("script")).arg(&tool);
    assert!(install.status().unwrap().success());
    let path = format!("{}:/usr/bin:/bin", folder.path().display());
    let run = |words: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_firmware-host"));
        command.args(["-c", "config.toml"]).args(words.split(' ')).current_dir(folder.path());
        command.env("HOME", folder.path()).env("PATH", &path).output().unwrap()
    };
    for _ in 0..2 {
        let installed = run("install --manager launchd --user");
        assert!(installed.status.success(), "{}", said(&installed));
    }
    let calls = fs::read_to_string(folder.path().join("calls")).unwrap();
    let calls: Vec<&str> = calls.lines().collect();
    assert_eq!(calls[0], "bootstrap");
    assert_eq!((calls[1], calls[calls.len() - 1]), ("bootout", "bootstrap"), "{calls:?}");
    assert_eq!(calls.iter().filter(|call| **call == "print").count(), 3, "{calls:?}");
    let removed = run("uninstall --manager launchd --user");
    assert!(
        removed.status.success() && !folder.path().join("loaded").exists(),
        "{}",
        said(&removed)
    );
}

#[test]
fn what_a_service_may_take_is_less_than_what_it_is_killed_for() {
    let folder = folder();
    for (flags, is_fine) in [
        ("--memory-high 80% --memory-max 70%", false),
        ("--memory-high 100% --memory-max 64K", false),
        ("--memory-high 50% --memory-max 70%", true),
        ("--memory-high infinity --memory-max 70%", true),
        ("--account ann", false),
        ("--watchdog-seconds 9", false),
    ] {
        let asked = run(folder.path(), &words("install --print --manager systemd --user", flags));
        let expected = if is_fine { 0 } else { EXIT_CONFIG };
        assert_eq!(asked.status.code(), Some(expected), "{flags}: {}", said(&asked));
    }
}

/// A mistyped name must not lock, close or fill a folder of other things.
#[test]
fn a_folder_of_other_things_is_no_state_folder() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    let state = folder.path().join("state");
    fs::write(state.join("thesis.tex"), "mine").unwrap();
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&state, mode).unwrap();
    for words in
        [&["pause"][..], &["aside", "list"], &["recover", "--from-adapters"], &["rollback"]]
    {
        let refused = run(folder.path(), words);
        assert_eq!(refused.status.code(), Some(EXIT_CONFIG), "{words:?}: {}", said(&refused));
        assert!(said(&refused).contains("holds thesis.tex"), "{}", said(&refused));
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1, "{words:?} left something");
        assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o755);
    }
    // What the configuration names may be there first.
    fs::rename(state.join("thesis.tex"), state.join("drop")).unwrap();
    fs::remove_file(state.join("drop")).unwrap();
    fs::create_dir(state.join("drop")).unwrap();
    let watched = run(folder.path(), &["pause", "--watch", "state/drop"]);
    assert!(watched.status.success(), "{}", said(&watched));
}

/// What the model rules out is the configuration's fault too, and is called by the key's own name.
#[test]
fn settings_that_the_model_rules_out_are_not_tried_again() {
    let folder = folder();
    let base = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/base");
    for (setting, said_of_it) in [
        ("num-layers = 64", "learn.num-layers: expected at most the model's 6, got 64"),
        ("max-seq-length = 4000", "learn.max-seq-length: expected at most 512"),
        ("rank = 0", "learn.rank: expected"),
        ("rnak = 8", "unknown field `rnak` in [learn]; CONFIG.md has every key"),
    ] {
        let text = format!("model = {base:?}\nstate = \"state\"\n[learn]\n{setting}\n");
        fs::write(folder.path().join("config.toml"), text).unwrap();
        let refused = run(folder.path(), &["run", "--listen", "127.0.0.1:0"]);
        assert_eq!(refused.status.code(), Some(EXIT_CONFIG), "{}", said(&refused));
        assert_eq!(said(&refused).matches("expected").count().max(1), 1, "{}", said(&refused));
        assert!(said(&refused).contains(said_of_it), "{}", said(&refused));
    }
}

#[test]
fn a_refused_configuration_has_an_exit_code_of_its_own() {
    let folder = folder();
    let without = run(folder.path(), &["status", "--listen", "127.0.0.1:1"]);
    assert_ne!(without.status.code(), Some(EXIT_CONFIG));
    fs::write(folder.path().join("config.toml"), "modle = \"base\"\n").unwrap();
    let refused = run(folder.path(), &["status"]);
    assert_eq!(refused.status.code(), Some(EXIT_CONFIG), "{}", said(&refused));
    assert_eq!(said(&refused).matches("modle").count(), 1, "said twice: {}", said(&refused));
}

/// Joining needs a word of the configuration; what it keeps is the owner's alone, and goes with leaving.
#[test]
fn a_fleet_is_joined_and_left_without_a_program() {
    let folder = folder();
    let hash = "0".repeat(64);
    let link = |fleet: &str| {
        let fleet = fleet.repeat(32);
        format!("sapwood+https://127.0.0.1:1/#fleet={fleet}&token=t&trust={hash}&pin={hash}")
    };
    let join = |link: &str| run(folder.path(), &["fleet", "join", link, "--name", "kiosk"]);
    let refused = join(&link("a"));
    assert!(said(&refused).contains("fleet.enabled"), "{}", said(&refused));
    assert!(!folder.path().join("state-fleet").exists());
    let config = folder.path().join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}[fleet]\nenabled = true\n")).unwrap();
    let unpinned = link("a").split("&pin=").next().unwrap().to_owned();
    for (wrong, why) in [("https://127.0.0.1/", "enrolment link"), (&unpinned, "fleet.ca-file")] {
        let refused = join(wrong);
        assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
        assert!(said(&refused).contains(why), "{}", said(&refused));
    }
    let refused = run(folder.path(), &["fleet", "join", &link("a"), "--name", "a\u{202e}b"]);
    assert!(said(&refused).contains("characters that are seen"), "{}", said(&refused));
    let joined = piped(folder.path(), &["fleet", "join", "-", "--name", "kiosk"], &link("a"));
    assert!(said(&joined).contains("the next one joins"), "{}", said(&joined));
    for name in ["key", "book"] {
        let mode = fs::metadata(folder.path().join("state-fleet").join(name)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let key = || fs::read(folder.path().join("state-fleet/key")).unwrap();
    let before = key();
    assert!(join(&link("a")).status.success());
    assert_eq!(key(), before, "joining again is the same device");
    let other = said(&join(&link("b")));
    assert!(other.contains("fleet leave"), "{other}");
    let status = run(folder.path(), &["fleet", "status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((&status["state"], &status["name"]), (&"joining".into(), &"kiosk".into()));
    assert!(!status.to_string().contains("token"), "{status}");
    assert!(status["up_today"].is_null() && status["down_today"].is_null(), "{status}");
    let shown = said(&run(folder.path(), &["fleet", "status"]));
    assert!(!shown.contains("today"), "{shown}");
    let sync = said(&run(folder.path(), &["fleet", "sync"]));
    assert!(sync.contains("no program runs"), "{sync}");
    // Who is in no fleet any more has it forgotten all the same.
    fs::write(&config, &text).unwrap();
    assert!(said(&run(folder.path(), &["fleet", "leave"])).contains("in no fleet any more"));
    let left = fs::read_dir(folder.path().join("state-fleet")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["lock"]);
    assert!(said(&run(folder.path(), &["fleet", "status"])).contains("in no fleet"));
}
