//! The commands as an operator runs them: what they print, and that what they refuse changes nothing.

use crate::common::{self, json, refused, run, said};
use fleet_server::devices;
use fleet_server::home::Home;
use fleet_server::store::{Book, Columns, Statement};
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::key::SecretKey;
use sapwood_protocol::fleet::link::Link;
use sapwood_protocol::fleet::message::{Enroll, Facts};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A device of its own for each seed, enrolled as the server enrols it.
fn enrol(folder: &Path, seed: u8, token: Option<String>) -> String {
    let home = Home::open(folder).unwrap();
    let public_key = SecretKey::from_seed(&[seed; 32]).public();
    let facts = Facts { base: Hash([7; 32]), first_layer: 0, targets: 1, rank: 2 };
    let asks = Enroll { public_key, token, name: format!("valve {seed}"), facts };
    devices::enrol(&home.book, &asks, 1_000).unwrap().id.to_string()
}

#[test]
fn a_fleet_is_made_once_and_its_link_lets_devices_in() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("fleet");
    let made = json(&run(&folder, &["init", "--name", "valves", "--tls", "--json"]));
    let line = refused(&run(&folder, &["init"]));
    assert!(line.contains("exists, expected nothing there"), "{line}");
    let arguments =
        ["enroll-link", "--address", "fleet.example:8443", "--uses", "1", "--auto-accept"];
    let text = said(&run(&folder, &arguments));
    let link: Link = text.trim().parse().unwrap();
    assert_eq!(link.fleet.to_string(), made["fleet"].as_str().unwrap());
    assert_eq!(link.pin, Some(Home::open(&folder).unwrap().pin().unwrap()));
    assert_eq!(link.host, "fleet.example:8443");
    let device = enrol(&folder, 1, link.token);
    let listed = json(&run(&folder, &["devices", "list", "--json"]));
    assert_eq!(listed["devices"][0]["device"], device.as_str());
    assert_eq!(listed["devices"][0]["state"], "accepted");
    let line = refused(&run(&folder, &["enroll-link", "--address", "a/b"]));
    assert!(line.contains("host"), "{line}");
    for host in ["127.0.0.1:99999", "host:abc", "h:1:2", "::1"] {
        let line = refused(&run(&folder, &["enroll-link", "--address", host]));
        assert!(line.contains("a port from 1 to 65535"), "{line}");
    }
    let waits = enrol(&folder, 2, None);
    for label in ["a\nb", "a\u{202e}b"] {
        let line = refused(&run(&folder, &["enroll-link", "--address", "a", "--label", label]));
        assert!(line.contains("expected characters that are seen"), "{line}");
        let accept = ["devices", "accept", "--label", label, &waits];
        assert!(refused(&run(&folder, &accept)).contains("characters that are seen"));
    }
    for names in ["", "bad name!", "a,b/c", "-x"] {
        let path = place.path().join("other");
        let line = refused(&run(&path, &["init", &format!("--tls={names}")]));
        assert!(line.contains("expected names of hosts and addresses") && !path.exists(), "{line}");
    }
    let path = place.path().join("other");
    said(&run(&path, &["init", "--tls", "fleet.example,*.fleet.example,10.0.0.1,::1"]));
    let tokens = Home::open(&folder).unwrap().book.read("select count(*) from token", &[]).unwrap();
    assert_eq!(Columns::of(tokens.into_iter().next().unwrap()).number().unwrap(), 1);
    let label = "long".repeat(20);
    let line = refused(&run(&folder, &["enroll-link", "--address", "a", "--label", &label]));
    assert!(line.contains("label has 80 bytes"), "{line}");
}

#[test]
fn an_operators_word_moves_a_device_along_its_arrows_only() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("fleet");
    said(&run(&folder, &["init"]));
    let (one, other) = (enrol(&folder, 1, None), enrol(&folder, 2, None));
    let say = |word: &str, device: &str, more: &[&str]| {
        run(&folder, &[&["devices", word], more, &[device]].concat())
    };
    let line = refused(&say("accept", &one, &[]));
    assert!(line.contains("has no label from a token"), "{line}");
    said(&say("accept", &one, &["--label", "pumps", "--lab"]));
    said(&say("reject", &other, &[]));
    said(&say("suspend", &one, &[]));
    said(&say("suspend", &one, &[]));
    let line = refused(&say("accept", &one, &["--label", "x"]));
    assert!(line.contains("is suspended, expected pending; nothing was changed"), "{line}");
    said(&say("resume", &one, &[]));
    let line = refused(&say("resume", &other, &[]));
    assert!(line.contains("is rejected, expected suspended"), "{line}");
    said(&say("retire", &one, &[]));
    let line = refused(&say("suspend", &one, &[]));
    assert!(line.contains("is retired, expected accepted"), "{line}");
    let line = refused(&say("retire", &"0".repeat(32), &[]));
    assert!(line.contains("there is no device 0000"), "{line}");
    let home = Home::open(&folder).unwrap();
    let words = home.book.read("select what from audit order by id", &[]).unwrap();
    let words: Vec<String> = words.iter().map(|row| format!("{:?}", row[0])).collect();
    let expected = ["accept", "reject", "suspend", "resume", "retire"];
    assert_eq!(words, expected.map(|word| format!("Text({word:?})")));
    let device = devices::find(&home.book, one.parse().unwrap()).unwrap().unwrap();
    assert!(device.lab && device.cohort.is_some());
}

#[test]
fn what_is_no_fleets_folder_or_of_another_version_is_refused_in_one_line() {
    let place = tempfile::tempdir().unwrap();
    for arguments in [&["devices", "list"][..], &["enroll-link", "--address", "a"]] {
        let line = refused(&run(place.path(), arguments));
        assert!(line.contains("is no fleet's folder"), "{line}");
    }
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    let folder = place.path().join("fleet");
    said(&run(&folder, &["init"]));
    let home = Home::open(&folder).unwrap();
    home.book.write(vec![Statement::one("update meta set version = 3", [])]).unwrap();
    let line = refused(&run(&folder, &["devices", "list"]));
    assert!(line.contains("has book version 3, expected 2: it was written by a newer program, and is left as it is"), "{line}");
}

#[test]
fn an_error_says_each_thing_once() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("fleet");
    let line = refused(&run(&folder, &["serve"]));
    assert_eq!(line.matches("is no fleet's folder").count(), 1, "{line}");
    said(&run(&folder, &["init"]));
    let line = refused(&run(&folder, &["serve"]));
    assert_eq!(line.matches("os error 2").count(), 1, "{line}");
    #[expect(clippy::disallowed_methods, reason = "another program that has the port")]
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let other = place.path().join("other");
    said(&run(&other, &["init", "--tls"]));
    let line = refused(&run(&other, &["serve", "--listen", &address]));
    assert_eq!(line.matches("in use").count(), 1, "{line}");
    let line = refused(&run(&place.path().join("none/fleet"), &["init"]));
    assert_eq!(line.matches("os error 2").count(), 1, "{line}");
}

#[test]
fn lists_of_an_empty_fleet_are_empty_and_a_reader_that_has_gone_is_no_error() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("fleet");
    said(&run(&folder, &["init"]));
    for list in ["devices", "rounds", "cohorts", "releases"] {
        let text = said(&run(&folder, &[list, "list"]));
        assert!(text.starts_with("no "), "{list}: {text}");
        json(&run(&folder, &[list, "list", "--json"]));
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fleet-server"));
    command.args(["trust", "show", "--folder"]).arg(&folder).stdout(writer);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Whoever runs a command as root on a folder of the server's account leaves nothing there that the account
/// cannot read. Says something where the tests run as root.
#[test]
fn what_root_makes_in_a_fleets_folder_is_its_owners() {
    use std::os::unix::fs::{MetadataExt, chown};
    const OWNER: u32 = 1001;
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("fleet");
    said(&run(&folder, &["init"]));
    if std::fs::metadata(&folder).unwrap().uid() != 0 {
        return;
    }
    let mut left = vec![folder.clone()];
    while let Some(path) = left.pop() {
        chown(&path, Some(OWNER), Some(OWNER)).unwrap();
        if path.is_dir() {
            left.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    let root = folder.join("keys/root.key");
    said(&run(&folder, &["trust", "rotate", "--root-key", root.to_str().unwrap(), "--online"]));
    let home = Home::open(&folder).unwrap();
    home.blobs.put(b"an adapter").unwrap();
    drop(fleet_server::serve::start(fleet_server::serve::Settings::new(&folder)));
    let mut left = vec![folder];
    while let Some(path) = left.pop() {
        let found = std::fs::metadata(&path).unwrap();
        assert_eq!((found.uid(), found.gid()), (OWNER, OWNER), "{}", path.display());
        if path.is_dir() {
            left.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
}

/// A folder where nothing can be written, until this is dropped.
struct ReadOnly(PathBuf);

impl ReadOnly {
    /// Another one at a place; none where nothing may be mounted.
    fn mounted(folder: &Path, at: &Path) -> Option<Self> {
        std::fs::create_dir(at).unwrap();
        let mount = |how: &[&str], paths: &[&Path]| {
            let ran = Command::new("mount").args(how).args(paths).output();
            ran.is_ok_and(|ran| ran.status.success())
        };
        let own = mount(&["--bind"], &[folder, at]).then(|| Self(at.to_owned()))?;
        mount(&["-o", "remount,bind,ro"], &[at]).then_some(own)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        // What stays mounted is the machine's to take down.
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// A look needs nothing but to read: a folder on a backup's disk, or another machine's. Says something where
/// the tests may mount.
#[test]
fn what_only_looks_needs_nothing_written() {
    let place = tempfile::tempdir().unwrap();
    // A name that an address would read otherwise.
    let (folder, other) = (place.path().join("fleet"), place.path().join("a %20 #copy?"));
    said(&run(&folder, &["init", "--tls", "localhost"]));
    let link = Home::open(&folder).unwrap();
    let token = common::link(&link, 1, 1, false, common::DAY_ONE_MS).token;
    enrol(&folder, 1, token);
    drop(link);
    let looks: [&[&str]; 7] = [
        &["devices", "list", "--json"],
        &["cohorts", "list", "--json"],
        &["rounds", "list", "--json"],
        &["releases", "list", "--json"],
        &["rollout", "show", "--json", "1"],
        &["trust", "show", "--json"],
        &["audit", "--json"],
    ];
    let all = |folder: &Path| looks.map(|look| run(folder, look));
    let expected = all(&folder);
    let Some(_mounted) = ReadOnly::mounted(&folder, &other) else { return };
    for (got, expected) in all(&other).into_iter().zip(expected) {
        let text = |output: Output| [output.stdout, output.stderr].map(String::from_utf8);
        assert_eq!(text(got), text(expected));
    }
    // Beside a server that writes on, as it is now.
    let served = common::Served::start(&folder);
    said(&run(&folder, &["enroll-link", "--address", "localhost:1"]));
    assert_eq!(said(&run(&other, &["audit"])), said(&run(&folder, &["audit"])));
    drop(served);
    // What was killed has left its log, which can be read too.
    assert!(folder.join("fleet.db-wal").exists());
    assert_eq!(said(&run(&other, &["audit"])), said(&run(&folder, &["audit"])));
    let line = refused(&run(&other, &["enroll-link", "--address", "localhost:1"]));
    assert!(line.contains("readonly database; nothing was written"), "{line}");
}

/// Whoever had a key of two roles would have both.
#[test]
fn a_key_that_has_a_role_is_given_no_other() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("fleet");
    said(&run(&folder, &["init"]));
    let at = |name: &str| folder.join("keys").join(name).display().to_string();
    let (root, release, online) = (at("root.key"), at("release.key"), at("online.key"));
    for more in [
        ["--new-release-key", &root],
        ["--new-root-key", &release],
        ["--new-release-key", &online],
        ["--new-root-key", &online],
    ] {
        let rotate = [&["trust", "rotate", "--root-key", &root], &more[..]].concat();
        let line = refused(&run(&folder, &rotate));
        assert!(line.contains("expected another for each; nothing was changed"), "{line}");
    }
    let shown = json(&run(&folder, &["trust", "show", "--json"]));
    assert_eq!(shown["epoch"], 1);
}

/// The demo with a device's program that does not end: neither that nor its server outlives it.
#[test]
#[cfg(target_os = "linux")]
fn a_demo_that_is_killed_takes_its_programs_with_it() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let script = format!("#!/bin/sh\necho $$ > {}; exec sleep 100\n", at("pid").display());
    std::fs::write(at("script"), script).unwrap();
    common::install(Path::new(env!("CARGO_BIN_EXE_fleet-server")), &at("fleet-server"));
    ["firmware-host", "sapwood"].iter().for_each(|name| common::install(&at("script"), &at(name)));
    let mut demo = Command::new(at("fleet-server"));
    demo.args(["demo", "--models"]).arg(place.path()).arg("--folder").arg(at("demo"));
    let mut child = demo.stderr(std::process::Stdio::null()).spawn().unwrap();
    let device = common::written(&at("pid"));
    let all = format!("/proc/{0}/task/{0}/children", child.id());
    let all = std::fs::read_to_string(all).unwrap();
    let all: Vec<&str> = all.split_whitespace().collect();
    assert!(all.len() == 2 && all.contains(&&*device), "its server and a device: {all:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(all.iter().all(|program| common::is_gone(program)), "a program outlived the demo");
}
