//! `firmware-host serve` as people and their clients meet it: one command, one line when it cannot.
#![cfg(all(target_os = "linux", feature = "engine"))]

use sapwood::adapter::{Adapter, Spec, Strength, Target, mlx};
use sapwood::base::{ExportOptions, export, read_config};
use sapwood_tiny as tiny;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

/// Jobs that are over in a moment.
const QUICK: &str = "model = \"model\"\nstate = \"state\"\n[job]\nsamples-min = 4\niters-min = 1\n\
    iters-max = 10\n[learn]\nnum-layers = 1\nmax-seq-length = 32\nbatch-size = 2\n\
    replay-batch-size = 2\nreplay-blocks = 16\nrank = 2\nthreads = 1\nanchor-blocks = 0\n\
    gate-new = -1.0\ngate-old = 1.0\ngate-worst = 1.0\n";

/// A folder with a base, a state that has learned twice, and an adapter of mlx-lm.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    tiny::write(&at("hf"), 7, tiny::VOCAB).unwrap();
    export(&at("hf"), &at("model"), ExportOptions::default()).unwrap();
    fs::write(at("host.toml"), QUICK).unwrap();
    fs::create_dir(at("state")).unwrap();
    for job in 0..2 {
        let lines: String =
            (1..=6).map(|n| format!("{{\"text\":\"valve {n} of {job} opens\"}}\n")).collect();
        offer(&at("state"), &lines, job);
        let learned = command(folder.path(), &["-c", "host.toml", "job", "now"]);
        assert!(learned.status.success(), "{}", said(&learned));
    }
    let config = read_config(&at("model")).unwrap();
    let strength = Strength { rank: 2, alpha: 2.0 };
    let spec = Spec::uniform(&config, 0..config.layers, &[Target::Q, Target::Down], strength);
    let values = (0..spec.len()).map(|at| ((at % 13) as f32 - 6.0) / 10.0).collect();
    fs::create_dir(at("mlx")).unwrap();
    for (name, bytes) in mlx::write(&Adapter { spec, values }, &config, "tiny").unwrap() {
        fs::write(at("mlx").join(name), bytes).unwrap();
    }
    folder
}

fn offer(state: &Path, lines: &str, job: u64) {
    use sapwood::inbox::{Bounds, Inbox};
    let disk = std::sync::Arc::new(sapwood::ports::Disk::exclusive(state).unwrap());
    let bounds = Bounds { bytes: 1 << 20, samples: 1_000 };
    Inbox::open(disk, bounds, 6 * job).unwrap().offer(lines).unwrap();
}

fn command(folder: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firmware-host"));
    command.args(words).current_dir(folder).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// A program that serves; it is killed with the test.
struct Served {
    child: Child,
    told: Value,
    _out: BufReader<ChildStdout>,
}

impl Served {
    fn start(folder: &Path, words: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_firmware-host"));
        command.args(["serve", "--json", "--port", "0"]).args(words).current_dir(folder);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (mut out, mut line) = (BufReader::new(child.stdout.take().unwrap()), String::new());
        out.read_line(&mut line).unwrap();
        Self { child, told: serde_json::from_str(&line).unwrap(), _out: out }
    }

    #[expect(clippy::disallowed_methods, reason = "the other end of the program's interface")]
    fn asked(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let mut stream = TcpStream::connect(self.told["listen"].as_str().unwrap()).unwrap();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             content-length: {length}\r\n\r\n"
        );
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap())
    }

    fn text(&self, model: &str) -> (String, String) {
        let ask = json!({"model": model, "prompt": "valve", "temperature": 0, "max_tokens": 12});
        let (status, body) = self.asked("POST", "/v1/completions", &ask);
        assert_eq!(status, 200, "{body}");
        let part = |value: &Value| value.as_str().unwrap().to_owned();
        (part(&body["choices"][0]["text"]), part(&body["system_fingerprint"]))
    }

    /// A text, and how many tokens of its prompt were known from earlier texts.
    fn known(&self, model: &str, caches: bool) -> (String, u64) {
        let ask = json!({"model": model, "prompt": "valve 3 of 1 opens", "temperature": 0,
            "max_tokens": 6, "cache_prompt": caches});
        let (status, body) = self.asked("POST", "/v1/completions", &ask);
        assert_eq!(status, 200, "{body}");
        let known = &body["usage"]["prompt_tokens_details"]["cached_tokens"];
        (body["choices"][0]["text"].as_str().unwrap().to_owned(), known.as_u64().unwrap())
    }

    /// Ctrl-C, and how it ended.
    fn end(mut self) -> bool {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        self.child.wait().unwrap().success()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn one_command_serves_a_base_with_any_adapter_and_ctrl_c_ends_it() {
    let folder = folder();
    let before = fs::read(folder.path().join("state/manifest.a")).unwrap();
    let words = ["--model", "model", "--adapter-path", "slow=state", "--adapter-path", "mlx"];
    let served = Served::start(folder.path(), &words);
    assert_eq!(served.told["models"], json!(["slow", "mlx", "base", "slow@1", "slow@2"]));
    assert!(served.told["curl"].as_str().unwrap().starts_with("curl http://127.0.0.1:"));
    assert_eq!(served.asked("GET", "/health", &Value::Null), (200, json!({"status": "ok"})));
    let (_, listed) = served.asked("GET", "/v1/models", &Value::Null);
    assert_eq!(listed["data"][0]["generation"], 2);

    let texts = ["base", "mlx", "slow", "slow@1", "slow@2"].map(|model| served.text(model));
    assert_eq!(texts[4].0, texts[2].0, "the generation in use under its number");
    assert!(texts[1].0 != texts[0].0, "{texts:?}");
    let weights = texts.each_ref().map(|(_, weights)| weights.as_str());
    assert_eq!(weights, ["base", "mlx", "generation-2", "generation-1", "generation-2"]);
    let ask = json!({"prompt": "valve", "temperature": 0, "max_tokens": 12});
    let (_, body) = served.asked("POST", "/v1/completions", &ask);
    assert_eq!(
        (&body["model"], body["choices"][0]["text"].as_str()),
        (&json!("slow"), Some(&*texts[2].0))
    );

    let both = json!({"models": ["base", "slow"], "texts": ["valve 1 of 0 opens"]});
    let (status, body) = served.asked("POST", "/v1/compare", &both);
    assert_eq!((status, &body["texts"]), (200, &json!("request")), "{body}");
    assert!(body["difference"].as_f64().unwrap() != 0.0, "{body}");
    let held_out = json!({"models": ["slow@1", "slow@2"]});
    let (status, body) = served.asked("POST", "/v1/compare", &held_out);
    assert_eq!((status, &body["texts"]), (200, &json!("held-out")), "{body}");

    for (method, path) in [("POST", "/v1/samples"), ("POST", "/v1/rollback"), ("POST", "/v1/job")] {
        let (status, body) = served.asked(method, path, &json!({"text": "a"}));
        assert_eq!((status, &body["error"]["code"]), (501, &json!("no_learner")), "{path}");
    }
    let (status, body) =
        served.asked("POST", "/v1/completions", &json!({"prompt": "a", "model": "gpt"}));
    assert_eq!(status, 404);
    assert!(body["error"]["message"].as_str().unwrap().contains("`slow`, `mlx`, `base`"), "{body}");
    assert!(served.end());
    let after = fs::read(folder.path().join("state/manifest.a")).unwrap();
    assert_eq!(before, after, "nothing was written");
}

#[test]
fn where_no_program_runs_a_generation_comes_into_use_again_in_the_folder() {
    let folder = folder();
    let rolled = |words: &[&str]| {
        command(folder.path(), &[&["-c", "host.toml", "rollback"], words].concat())
    };
    assert_eq!(said(&rolled(&[])).trim(), "in use: generation 1 (before: generation 2)");
    for (words, part) in [(&[][..], "no earlier generation"), (&["--to", "7"], "generation 7")] {
        let refused = rolled(words);
        assert!(!refused.status.success() && said(&refused).contains(part), "{}", said(&refused));
    }
    let bare = said(&rolled(&["--to", "0"]));
    assert_eq!(bare.trim(), "in use: the bare base (before: generation 1)");
    let told: Value = serde_json::from_slice(&rolled(&["--to", "2", "--json"]).stdout).unwrap();
    assert_eq!(told, json!({"ordered": "rollback", "before": null, "generation": 2}));
}

/// Whatever was asked of others in between: a model knows the prompts that it has read itself, and no other's.
#[test]
fn models_share_no_prompt() {
    let folder = folder();
    let words = ["--model", "model", "--adapter-path", "slow=state", "--adapter-path", "mlx"];
    let served = Served::start(folder.path(), &words);
    let models = ["base", "mlx", "slow", "slow@1"];
    let alone = models.map(|model| served.known(model, false));
    assert!(alone.iter().all(|(_, known)| *known == 0));
    for turn in 0..3 {
        for (model, (text, _)) in models.iter().zip(&alone) {
            let (got, known) = served.known(model, true);
            assert_eq!((&got, known > 0), (text, turn > 0), "{model}, turn {turn}");
        }
    }
    assert!(served.end());
}

#[test]
fn a_state_is_named_as_generate_names_it_and_a_client_s_own_name_is_answered() {
    let folder = folder();
    let config = "[serve]\naliases = { \"gpt-4o-mini\" = \"sapwood\" }\n";
    fs::write(folder.path().join("serve.toml"), config).unwrap();
    let words = ["-c", "serve.toml", "--model", "model", "--state", "state", "--host", "localhost"];
    let served = Served::start(folder.path(), &words);
    assert_eq!(served.told["models"], json!(["sapwood", "base", "sapwood@1", "sapwood@2"]));
    assert_eq!(served.text("gpt-4o-mini"), served.text("sapwood"));
    assert!(served.end());
}

#[test]
fn what_cannot_be_served_is_told_in_one_line_before_anything_listens() {
    let folder = folder();
    let aliased = "[serve]\naliases = { \"a\" = \"nobody\" }\n";
    fs::write(folder.path().join("aliased.toml"), aliased).unwrap();
    let large = "[serve]\nprompt-cache-bytes = 1099511627776\n";
    fs::write(folder.path().join("large.toml"), large).unwrap();
    fs::create_dir(folder.path().join("empty")).unwrap();
    for (words, part) in [
        (vec![], "model is missing"),
        (vec!["--model", "nowhere"], "nowhere"),
        (vec!["--model", "model", "--adapter-path", "nowhere"], "--adapter-path: nowhere"),
        (vec!["--model", "model", "--adapter-path", "empty"], "no adapter in use"),
        (
            vec!["--model", "model", "--adapter-path", "base=mlx"],
            "another name than that of the bare base",
        ),
        (vec!["--model", "model", "--adapter-path", "a@1=mlx"], "without @"),
        (
            vec!["--model", "model", "--adapter-path", "mlx", "--adapter-path", "mlx"],
            "a name of its own",
        ),
        (
            vec!["--model", "model", "--listen", "127.0.0.1:1", "--port", "2"],
            "either that or --host",
        ),
        (vec!["--model", "model", "--host", "example.com"], "--host: expected an IP address"),
        (vec!["--model", "model", "--host", "0.0.0.0"], "serve.token-file"),
        (
            vec!["--model", "model", "-c", "aliased.toml"],
            "serve.aliases: expected other names for base",
        ),
        (vec!["--model", "model", "-c", "large.toml"], "prompt-cache-bytes"),
    ] {
        let got = command(folder.path(), &[&["serve"], &words[..]].concat());
        let line = said(&got);
        assert!(!got.status.success() && line.contains(part), "{words:?}: {line}");
        assert_eq!(line.trim_end().lines().count(), 1, "{words:?}: {line}");
    }
}
