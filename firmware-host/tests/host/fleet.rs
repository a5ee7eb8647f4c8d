//! The running program in a fleet: joined over its socket, a job, a check-in, an upload, an install.
#![cfg(all(target_os = "linux", feature = "engine"))]

use firmware_host::clock::{Clock, SystemClock};
use fleet_server::home::{self, Home, Wish};
use fleet_server::operator::Invitation;
use fleet_server::operator::releases;
use fleet_server::operator::rounds::{self as orders, Verdict};
use fleet_server::operator::trust::{Change, rotate};
use fleet_server::ports::{Clock as _, SystemChance};
use fleet_server::rollout;
use fleet_server::rounds::{self, State};
use fleet_server::serve::{self, Server, Settings};
use fleet_server::store::Book as _;
use sapwood::base::{ExportOptions, export};
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::link::Link;
use sapwood_protocol::fleet::signatures::Signatures;
use sapwood_protocol::fleet::statement::{Role, Statement};
use sapwood_tiny as tiny;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::park_timeout;
use std::time::Duration;

/// Longest wait for what takes seconds.
const PATIENCE: Duration = Duration::from_secs(90);

/// A device program of the test's own; it is killed with it.
struct Device {
    folder: tempfile::TempDir,
    child: Child,
}

impl Device {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        tiny::write(&at("hf"), 7, tiny::VOCAB).unwrap();
        export(&at("hf"), &at("model"), ExportOptions::default()).unwrap();
        let config = "model = \"model\"\nstate = \"state\"\n[serve]\nlisten = \"127.0.0.1:0\"\n\
                      [job]\nsamples-min = 8\niters-min = 20\niters-max = 20\npoll-seconds = 0.05\n\
                      [learn]\nnum-layers = 1\nmax-seq-length = 32\nbatch-size = 2\n\
                      replay-batch-size = 2\nreplay-blocks = 16\nrank = 2\nthreads = 1\n\
                      anchor-blocks = 0\ngate-new = -1.0\ngate-old = 1.0\n\
                      [fleet]\nenabled = true\nlab = true\n";
        fs::write(at("host.toml"), config).unwrap();
        let log = fs::File::create(at("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_firmware-host"));
        command.args(["run", "-c", "host.toml"]).current_dir(folder.path());
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let device = Self { folder, child };
        device.until("its socket", || device.said(&["status"]).contains("waiting"));
        device
    }

    /// What a command says, and whether it worked.
    fn command(&self, words: &[&str]) -> (String, bool) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_firmware-host"));
        command.args(["-c", "host.toml"]).args(words).current_dir(self.folder.path());
        let output = command.output().unwrap();
        let said = [&output.stdout[..], &output.stderr].concat();
        (String::from_utf8_lossy(&said).into_owned(), output.status.success())
    }

    fn said(&self, words: &[&str]) -> String {
        self.command(words).0
    }

    fn fleet(&self) -> Value {
        let said = self.said(&["fleet", "status", "--json"]);
        serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}"))
    }

    fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let clock = SystemClock::start();
        while !holds() {
            let log = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(clock.elapsed() < PATIENCE, "waited for {what}:\n{}", log());
            park_timeout(Duration::from_millis(50));
        }
    }

    /// Samples for a job, over the program's socket.
    fn learn(&self) {
        let mut lines = String::new();
        for number in 0..16 {
            lines += &format!("{{\"text\":\"valve {number} opened and closed again today\"}}\n");
        }
        let socket = self.folder.path().join("state/socket");
        let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        let head = format!(
            "POST /v1/samples HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            lines.len()
        );
        std::io::Write::write_all(&mut stream, (head + &lines).as_bytes()).unwrap();
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn server(folder: &Path) -> Server {
    let names = ["localhost".to_owned()];
    let now_ms = fleet_server::ports::SystemClock::start().now_ms();
    let wish = Wish { folder, name: "valves", tls: Some(&names), now_ms };
    home::init(&wish, &SystemChance).unwrap();
    let mut settings = Settings::new(folder);
    settings.look = Duration::from_millis(20);
    serve::start(settings).unwrap()
}

/// The fleet gets another release key. What the one of before signs is refused by the device; the
/// sequence of what the new one signs, for all devices.
fn other_keys(home: &Home, device: &Device, verdict: &Verdict, round: u64) -> u64 {
    let key = |name: &str| home::key(&home.folder.join("keys").join(name)).unwrap();
    let now_ms = fleet_server::ports::SystemClock::start().now_ms();
    let second = home::new_key(&home.folder.join("keys/second.key"), &SystemChance).unwrap();
    let change = Change { release: vec![second], seconds: 86_400, ..Change::default() };
    rotate(home, &[key("root.key")], &change, &SystemChance, now_ms).unwrap();
    let cohort = || orders::cohort(&home.book, None).unwrap();
    let offer = Statement {
        role: Role::Release,
        fleet: home.fleet,
        cohort: cohort().id,
        sequence: 1,
        issued_s: now_ms / 1000,
        expires_s: now_ms / 1000 + 86_400,
        artifact_bytes: verdict.bytes,
        artifact: verdict.artifact,
    };
    let mut revoked = Signatures::default();
    revoked.sign(&key("release.key"), &offer.encode()).unwrap();
    let rows = rollout::published(&offer, &revoked.encode(), 5, None, now_ms);
    home.book.write(rows.to_vec()).unwrap();
    device.command(&["fleet", "sync"]);
    device.until("a refusal", || {
        device.said(&["fleet", "status"]).contains("0 signatures of a Release hold")
    });
    assert_eq!(device.fleet()["taken"], 0);
    let candidate = orders::approve(home, round, verdict, now_ms).unwrap();
    let promoted = releases::promote(home, &cohort(), candidate, &[key("second.key")], now_ms);
    let sequence = promoted.unwrap();
    for _ in 1..rollout::STAGES.len() - 1 {
        let word = releases::Word::Advance;
        releases::say(&home.book, cohort().id, sequence, word, now_ms).unwrap();
    }
    sequence
}

#[test]
fn a_running_device_joins_lends_what_it_learned_and_tries_what_was_merged() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("fleet");
    let server = server(&folder);
    let home = Home::open(&folder).unwrap();
    let now_ms = || fleet_server::ports::SystemClock::start().now_ms();
    let invitation = Invitation {
        host: format!("localhost:{}", server.address.port()),
        label: "kiosks".into(),
        uses: 2,
        expires_ms: now_ms() + 86_400_000,
        auto: true,
        lab: true,
        pinned: true,
    };
    let link = server.link(&invitation).unwrap().to_string();
    let devices = [Device::start(), Device::start()];
    for device in &devices {
        let (said, worked) = device.command(&["fleet", "join", &link, "--name", "kiosk"]);
        assert!(worked && said.contains("accepted"), "{said}");
        assert_eq!(device.fleet()["check_ins"], serde_json::json!([1, 0]));
    }
    let cohort = || orders::cohort(&home.book, None).unwrap();
    let change = "{\"min_devices\": 2, \"quota\": 2, \"rank\": 4}";
    orders::policy(&home.book, &cohort(), change, now_ms()).unwrap();
    for device in &devices {
        device.learn();
        let told = || device.said(&["status", "--json"]);
        let learned =
            || told().contains("\"ending\":\"kept\"") || told().contains("\"ending\":\"dropped\"");
        device.until("a job", learned);
        assert!(told().contains("\"ending\":\"kept\""), "{}", told());
    }
    let round = orders::open(&home, &cohort(), &SystemChance, now_ms()).unwrap();
    for device in &devices {
        let (said, worked) = device.command(&["fleet", "sync"]);
        assert!(worked, "{said}");
        device.until("an upload", || device.fleet()["uploads"] == 1);
    }
    let merged = || rounds::find(&home.book, round).unwrap().unwrap();
    devices[0].until("a merge", || merged().state == State::Merged);
    let (artifact, bytes) = merged().result.unwrap();
    let report = serde_json::json!({});
    let verdict = Verdict { who: "operator", artifact, bytes, report };
    let sequence = other_keys(&home, &devices[0], &verdict, round);
    for device in &devices {
        assert!(device.command(&["fleet", "sync"]).1);
        device.until("an install", || {
            let fleet = device.fleet();
            // The gate may also keep what was there: then the server is told so.
            fleet["downloads"] == 1 && (fleet["trial"] == true || fleet["pending"].is_null())
        });
        assert_eq!(device.fleet()["taken"], sequence);
        let left = device.said(&["fleet", "leave"]);
        assert!(left.contains("in no fleet any more"), "{left}");
        assert!(device.fleet().is_null());
    }
}

/// A link that does not work took the place of the one that did, and every command said that all was well.
#[test]
fn what_the_fleet_s_server_refuses_or_never_hears_is_a_command_that_fails() {
    let place = tempfile::tempdir().unwrap();
    let server = server(&place.path().join("fleet"));
    let invitation = Invitation {
        host: format!("localhost:{}", server.address.port()),
        label: "kiosks".into(),
        uses: 1,
        expires_ms: fleet_server::ports::SystemClock::start().now_ms() + 86_400_000,
        auto: true,
        lab: false,
        pinned: true,
    };
    let link = server.link(&invitation).unwrap();
    let spoiled = Link { pin: Some(Hash([0x7a; 32])), ..link.clone() }.to_string();
    let device = Device::start();
    let (said, worked) = device.command(&["fleet", "join", &spoiled]);
    assert!(!worked && said.contains("is not who it should be"), "{said}");
    let (said, worked) = device.command(&["fleet", "join", &link.to_string()]);
    assert!(worked && said.contains("accepted"), "{said}");
    let (said, worked) = device.command(&["fleet", "join", &spoiled]);
    assert!(!worked && said.contains("the link of before is kept"), "{said}");
    let (said, worked) = device.command(&["fleet", "sync"]);
    assert!(worked && said.contains("accepted"), "{said}");
    server.stop();
    let (said, worked) = device.command(&["fleet", "sync"]);
    assert!(!worked && said.contains("cannot reach"), "{said}");
}
