//! Models fetched from a server on loopback that plays the hub, and from one that plays it badly.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise")]

use sapwood_hub::{Event, HubError, Name, Repo, Settings, digest};
use sapwood_tiny::hub::{Answer, Model, Request, Server, Stored, ranged};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn stored(name: &str, bytes: &[u8], large: bool) -> Stored {
    Stored { name: name.into(), bytes: bytes.into(), hash: digest::of(bytes, large), large }
}

fn weights() -> Vec<u8> {
    (0..300_000u32).flat_map(u32::to_le_bytes).collect()
}

/// A model in one file, with more beside it than is needed.
fn whole() -> Model {
    let files = vec![
        stored("README.md", b"# a model", false),
        stored("config.json", b"{}", false),
        stored("tokenizer.json", b"{\"version\":\"1.0\"}", true),
        stored("pytorch_model.bin", b"never", true),
        stored("onnx/model.onnx", b"never", true),
        stored("model.safetensors", &weights(), true),
    ];
    Model { repo: "org/tiny".into(), commit: COMMIT.into(), files }
}

/// The same in two shards.
fn sharded(index: &str) -> Model {
    let mut model = whole();
    model.files.pop();
    model.files.push(stored("model.safetensors.index.json", index.as_bytes(), false));
    for (name, byte) in [("one.safetensors", 1), ("two.safetensors", 2), ("spare.safetensors", 3)] {
        model.files.push(stored(name, &[byte; 100], true));
    }
    model
}

/// A cache of its own, and variables.
struct Place {
    dir: TempDir,
    variables: BTreeMap<String, String>,
}

impl Place {
    fn new(endpoint: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().display().to_string();
        let said =
            [("HF_HOME", &*home), ("HF_ENDPOINT", endpoint), ("HF_HUB_DOWNLOAD_TIMEOUT", "2")];
        let variables = said.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Self { dir, variables }
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    fn shelf(&self) -> PathBuf {
        self.dir.path().join("hub/models--org--tiny")
    }

    /// Fetches all; what was told on the way.
    fn fetch(&self, name: &str) -> Result<(PathBuf, Vec<String>), HubError> {
        let settings = Settings::read(&|name| self.variables.get(name).cloned())?;
        let mut told = Vec::new();
        let mut tell = |event: Event<'_>| told.push(format!("{event:?}"));
        let mut repo = Repo::open(Name::parse(name)?, &settings, &mut tell)?;
        repo.small(&mut tell)?;
        let place = repo.weights(&mut tell)?;
        Ok((place, told))
    }

    /// Asserts that it is refused in one line with these words.
    fn refused(&self, name: &str, words: &[&str]) -> String {
        let error = match self.fetch(name) {
            Ok((place, _)) => panic!("{name} was fetched to {}", place.display()),
            Err(error) => error.to_string(),
        };
        assert!(!error.contains('\n'), "{error}");
        for word in words {
            assert!(error.contains(word), "expected {word:?} in: {error}");
        }
        error
    }

    /// Asserts that nothing has the name of a whole file.
    fn assert_nothing(&self) {
        let blobs = fs::read_dir(self.shelf().join("blobs"));
        let names =
            blobs.map_or(Vec::new(), |all| all.map(|one| one.unwrap().file_name()).collect());
        assert!(names.is_empty(), "{names:?}");
        assert!(!self.shelf().join("refs").exists() && !self.shelf().join("snapshots").exists());
    }
}

fn play(model: Model) -> Server {
    Server::start(move |request| model.answer(request)).unwrap()
}

/// Answers the listing as it is, and files by `file`.
fn files_by(
    model: Model,
    file: impl Fn(&Request, &Stored) -> Answer + Send + Sync + 'static,
) -> Server {
    Server::start(move |request| {
        let name = request.path.rsplit_once(&format!("{COMMIT}/")).map(|(_, name)| name);
        match name.and_then(|name| model.files.iter().find(|file| file.name == name)) {
            Some(stored) => file(request, stored),
            None => model.answer(request),
        }
    })
    .unwrap()
}

#[test]
fn a_model_is_fetched_whole_and_no_more_of_it_into_the_cache_that_python_reads() {
    let server = play(whole());
    let place = Place::new(&server.url);
    let (folder, told) = place.fetch("org/tiny").unwrap();
    assert_eq!(folder, place.shelf().join("snapshots").join(COMMIT));
    let mut names: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|file| file.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    assert_eq!(fs::read_to_string(place.shelf().join("refs/main")).unwrap(), COMMIT);
    let link = fs::read_link(folder.join("config.json")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(digest::of(b"{}", false)));
    assert!(
        told[0].contains("Plan") && told[0].contains("files: 3, bytes: 1200019"),
        "{}",
        told[0]
    );
    let never = server.seen().iter().any(|request| request.path.contains("pytorch"));
    assert!(!never && server.seen().len() == 4, "{:?}", server.seen());

    // All of it is there: only the commit is asked for.
    let (_, told) = place.fetch("org/tiny").unwrap();
    assert!(told[0].contains("bytes: 0, cached: 1200019") && told.len() == 1, "{told:?}");
    assert_eq!(server.seen().len(), 5);
}

#[test]
fn shards_are_those_of_the_index_alone() {
    let index =
        r#"{"weight_map":{"a":"one.safetensors","b":"two.safetensors","c":"one.safetensors"}}"#;
    let server = play(sharded(index));
    let place = Place::new(&server.url);
    let (folder, _) = place.fetch("org/tiny").unwrap();
    let is_there = |name: &str| folder.join(name).exists();
    assert!(is_there("one.safetensors") && is_there("two.safetensors"));
    assert!(is_there("model.safetensors.index.json") && !is_there("spare.safetensors"));
}

#[test]
fn an_index_that_leads_elsewhere_is_refused() {
    for (index, word) in [
        (r#"{"weight_map":{"a":"../../../../etc/x.safetensors"}}"#, "no .safetensors beside it"),
        (r#"{"weight_map":{"a":"/etc/x.safetensors"}}"#, "no .safetensors beside it"),
        (r#"{"weight_map":{"a":"in/x.safetensors"}}"#, "no .safetensors beside it"),
        (r#"{"weight_map":{"a":"config.json"}}"#, "no .safetensors beside it"),
        (r#"{"weight_map":{"a":"three.safetensors"}}"#, "which the repository does not have"),
        (r#"{"weight_map":{}}"#, "names no shard"),
        (r#"{"weight_map":[]}"#, "model.safetensors.index.json"),
        ("<html>", "model.safetensors.index.json"),
    ] {
        let server = play(sharded(index));
        let place = Place::new(&server.url);
        place.refused("org/tiny", &[word]);
        assert!(!place.shelf().join("refs").exists());
    }
}

#[test]
fn a_listing_that_leads_elsewhere_names_nothing_that_is_asked_for() {
    let mut model = whole();
    model.files.push(stored("../../x.gguf", b"x", false));
    model.files.push(stored("/etc/y.gguf", b"x", false));
    let server = play(model);
    let place = Place::new(&server.url);
    place.fetch("org/tiny").unwrap();
    let server = play(Model { files: vec![stored("../x.gguf", b"x", false)], ..whole() });
    Place::new(&server.url).refused("org/tiny", &["holds no weights"]);
    for body in ["", "[]", "{\"sha\":\"../../x\",\"siblings\":[]}", "{\"sha\":\"0\"}"] {
        let server = Server::start(move |_| Answer::ok(body)).unwrap();
        Place::new(&server.url).refused("org/tiny", &["what", "says of hf:org/tiny@main"]);
    }
}

#[test]
fn a_gguf_file_is_taken_where_it_is_the_only_one_or_named() {
    let gguf = |name: &str| stored(name, b"GGUF....", true);
    let server = play(Model { files: vec![gguf("in/q4.gguf")], ..whole() });
    let place = Place::new(&server.url);
    let (file, _) = place.fetch("org/tiny").unwrap();
    assert!(
        file.ends_with(format!("{COMMIT}/in/q4.gguf")) && fs::read(file).unwrap() == b"GGUF...."
    );
    let server = play(Model { files: vec![gguf("q4.gguf"), gguf("q8.gguf")], ..whole() });
    let place = Place::new(&server.url);
    place.refused("org/tiny", &["several GGUF files", "q4.gguf (0.0 MB), q8.gguf"]);
    place.assert_nothing();
    assert!(place.fetch("org/tiny/q8.gguf").unwrap().0.ends_with("q8.gguf"));
    place.refused("org/tiny/q5.gguf", &["no file q5.gguf", "q4.gguf"]);
}

#[test]
fn the_token_goes_to_the_hub_and_to_nobody_else() {
    let cdn = Server::start(|request| ranged(request, &weights())).unwrap();
    let far = format!("{}/signed?for=an-hour", cdn.url);
    let hub =
        files_by(whole(), move |request, stored| match stored.large && stored.bytes.len() > 99 {
            // As the hub does it for a model that was renamed: first to itself.
            true if !request.path.contains("renamed") => {
                Answer::with(307, "location", &format!("/renamed/{COMMIT}/{}", stored.name))
            }
            true => Answer::with(302, "location", &far),
            false => ranged(request, &stored.bytes),
        });
    let place = Place::new(&hub.url).with("HF_TOKEN", "hf_secret");
    place.fetch("org/tiny").unwrap();
    let all = hub.seen();
    assert!(all.iter().any(|request| request.path.contains("renamed")));
    assert!(all.iter().all(|request| request.header("authorization") == Some("Bearer hf_secret")));
    assert_eq!(cdn.seen().len(), 1);
    assert!(cdn.seen().iter().all(|request| request.header("authorization").is_none()));
}

#[test]
fn what_the_hub_does_not_give_is_said_in_its_words() {
    let says = |status: u16, code: &'static str| {
        Server::start(move |_| Answer::with(status, "x-error-code", code)).unwrap()
    };
    for (status, code, token, words) in [
        (401, "", "", &["shows no org/tiny", "HF_TOKEN"][..]),
        (401, "RepoNotFound", "", &["shows no org/tiny", "HF_TOKEN"]),
        (401, "", "hf_old", &["does not take the token"]),
        (403, "GatedRepo", "hf_mine", &["is gated", "/org/tiny"]),
        (401, "GatedRepo", "", &["is gated", "/org/tiny"]),
        (404, "RepoNotFound", "hf_mine", &["has no model org/tiny"]),
        (404, "RevisionNotFound", "", &["no revision \"main\""]),
        (500, "", "", &["answers 500", "its list of files"]),
        (301, "", "", &["answers 301"]),
    ] {
        let server = says(status, code);
        let place = Place::new(&server.url).with("HF_TOKEN", token);
        let line = place.refused("org/tiny", words);
        assert!(!line.contains("hf_old") && !line.contains("hf_mine"), "{line}");
        place.assert_nothing();
    }
    let server = play(whole());
    Place::new(&server.url).refused("org/other", &["has no model org/other"]);
    Place::new(&server.url).refused("org/tiny@v9", &["no revision \"v9\""]);
    // Gated models show their list, and no file.
    let server = files_by(whole(), |_, _| Answer::with(403, "x-error-code", "GatedRepo"));
    let place = Place::new(&server.url);
    place.refused("org/tiny", &["is gated"]);
    assert!(!place.shelf().join("refs").exists());
    let server = Server::start(|_| Answer {
        body: b"too\x1b[2Jmany\nat once".into(),
        ..Answer::with(429, "retry-after", "300")
    });
    let line = Place::new(&server.unwrap().url)
        .refused("org/tiny", &["429", "too [2Jmany", "after 300 s"]);
    assert!(!line.contains('\u{1b}'), "{line:?}");
}

#[test]
fn a_redirect_that_leads_nowhere_is_refused() {
    for (to, word) in [
        ("/again", "without end"),
        ("ftp://x/y", "no address of HTTP"),
        ("http://a b/", "no address of HTTP"),
        ("http://127.0.0.1:1/", "cannot be reached"),
    ] {
        let server = Server::start(move |_| Answer::with(302, "location", to)).unwrap();
        let place = Place::new(&server.url);
        place.refused("org/tiny", &[word]);
        place.assert_nothing();
    }
}

#[test]
fn a_file_that_breaks_off_is_gone_on_with() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let ranges = asked.clone();
    let server = files_by(whole(), move |request, stored| {
        let mut answer = ranged(request, &stored.bytes);
        if stored.name == "model.safetensors" {
            ranges.lock().unwrap().push(request.header("range").map(str::to_owned));
            answer.claims = Some(answer.body.len());
            answer.body.truncate(500_000);
        }
        answer
    });
    let place = Place::new(&server.url);
    let (folder, _) = place.fetch("org/tiny").unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    let ranges = asked.lock().unwrap().clone();
    assert_eq!(ranges, [None, Some("bytes=500000-".into()), Some("bytes=1000000-".into())]);
}

#[test]
fn a_file_that_always_ends_early_is_kept_as_far_as_it_came() {
    let end = Arc::new(AtomicUsize::new(1000));
    let most = end.clone();
    let server = files_by(whole(), move |request, stored| {
        let mut answer = ranged(request, &stored.bytes);
        let from = stored.bytes.len() - answer.body.len();
        answer.claims = Some(answer.body.len());
        answer.body.truncate(most.load(Ordering::Relaxed).saturating_sub(from));
        answer
    });
    let place = Place::new(&server.url);
    place.refused("org/tiny", &["model.safetensors ends after 1000 of 1200000 bytes"]);
    assert!(!place.shelf().join("refs").exists());
    let hash = digest::of(&weights(), true);
    let partial = place.shelf().join("blobs").join(format!("{hash}.incomplete"));
    assert_eq!(fs::metadata(&partial).unwrap().len(), 1000);
    let before = server.seen().len();
    end.store(usize::MAX, Ordering::Relaxed);
    let (folder, told) = place.fetch("org/tiny").unwrap();
    assert!(told[0].contains("bytes: 1199000, cached: 1019"), "{}", told[0]);
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    let last = server.seen()[before..].last().unwrap().clone();
    assert_eq!(last.header("range"), Some("bytes=1000-"));
    assert!(!partial.exists());
}

#[test]
fn a_server_that_knows_no_ranges_begins_again() {
    let server = files_by(whole(), |_, stored| Answer::ok(stored.bytes.clone()));
    for kept in [&weights()[..5000], &[7; 2_000_000]] {
        let place = Place::new(&server.url);
        let blobs = place.shelf().join("blobs");
        fs::create_dir_all(&blobs).unwrap();
        let hash = digest::of(&weights(), true);
        fs::write(blobs.join(format!("{hash}.incomplete")), kept).unwrap();
        let (folder, _) = place.fetch("org/tiny").unwrap();
        assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    }
}

#[test]
fn bytes_that_do_not_fit_their_hash_are_thrown_away() {
    for (name, kind) in [("model.safetensors", "SHA-256"), ("config.json", "git's SHA-1")] {
        let server = files_by(whole(), move |request, stored| {
            let mut answer = ranged(request, &stored.bytes);
            if stored.name == name {
                answer.body[0] ^= 1;
            }
            answer
        });
        let place = Place::new(&server.url);
        place.refused("org/tiny", &[name, kind, "thrown away"]);
        let hash = whole().files.iter().find(|file| file.name == name).unwrap().hash.clone();
        let blobs = place.shelf().join("blobs");
        assert!(!blobs.join(&hash).exists() && !blobs.join(hash + ".incomplete").exists());
    }
    let server = files_by(whole(), |_, stored| Answer::ok([&stored.bytes[..], b"more"].concat()));
    let place = Place::new(&server.url);
    place.refused("org/tiny", &["is longer than", "thrown away"]);
    place.assert_nothing();
}

#[test]
fn a_server_that_falls_silent_is_not_waited_for() {
    let server = files_by(whole(), |request, stored| {
        if stored.name == "model.safetensors" {
            std::thread::park_timeout(std::time::Duration::from_secs(60));
        }
        ranged(request, &stored.bytes)
    });
    let place = Place::new(&server.url).with("HF_HUB_DOWNLOAD_TIMEOUT", "0.2");
    place.refused("org/tiny", &["cannot reach", "timeout"]);
}

#[test]
fn without_the_hub_the_cache_does() {
    let server = play(whole());
    let place = Place::new(&server.url);
    place.fetch("org/tiny").unwrap();
    let asked = server.seen().len();
    let offline = Place { variables: place.variables.clone(), dir: place.dir };
    let offline = offline.with("HF_HUB_OFFLINE", "1");
    let (folder, told) = offline.fetch("org/tiny").unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    assert!(told.len() == 1 && told[0].contains("bytes: 0"), "{told:?}");
    offline.fetch(&format!("org/tiny@{COMMIT}")).unwrap();
    offline.refused("org/tiny@v9", &["has nothing of org/tiny at v9", "HF_HUB_OFFLINE is set"]);
    offline.refused("org/other", &["has nothing of org/other at main"]);
    assert_eq!(server.seen().len(), asked);

    // Nobody answers: the cache too, and it is said.
    let away = offline.with("HF_HUB_OFFLINE", "0").with("HF_ENDPOINT", "http://127.0.0.1:1");
    let (_, told) = away.fetch("org/tiny").unwrap();
    assert!(told[0].contains("cannot be reached") && told[0].contains(COMMIT), "{told:?}");
    away.refused("org/other", &["127.0.0.1:1 cannot be reached", "has nothing of org/other"]);

    let away = away.with("HF_HUB_OFFLINE", "1");
    fs::write(folder.join("model.safetensors"), b"cut off").unwrap();
    away.refused("org/tiny", &["model.safetensors in the cache", "remove"]);
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
    away.refused("org/tiny", &["no whole model", "tokenizer.json"]);
}

#[test]
fn a_mirror_that_tells_no_hashes_is_asked_for_each() {
    let mut model = whole();
    let bare = |file: &Stored| format!("{{\"rfilename\":\"{}\"}}", file.name);
    let names: Vec<String> = model.files.iter().map(bare).collect();
    let listing = format!("{{\"sha\":\"{COMMIT}\",\"siblings\":[{}]}}", names.join(","));
    model.files.retain(|file| file.name != "README.md");
    let server = Server::start(move |request| {
        if request.path.contains("/api/") {
            return Answer::ok(listing.clone());
        }
        let name = request.path.rsplit('/').next().unwrap();
        let Some(file) = model.files.iter().find(|file| file.name == name) else {
            return Answer::with(404, "x-error-code", "EntryNotFound");
        };
        match (request.method.as_str(), file.large) {
            ("HEAD", true) => Answer::with(302, "location", "http://127.0.0.1:1/far")
                .and("x-linked-etag", &format!("\"{}\"", file.hash))
                .and("x-linked-size", &file.bytes.len().to_string()),
            (_, false) => ranged(request, &file.bytes).and("etag", &format!("W/\"{}\"", file.hash)),
            _ => ranged(request, &file.bytes),
        }
    })
    .unwrap();
    let place = Place::new(&server.url);
    let (folder, _) = place.fetch("org/tiny").unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    let server = Server::start(|request| match request.path.contains("/api/") {
        true => Answer::ok(format!(
            "{{\"sha\":\"{COMMIT}\",\"siblings\":[{{\"rfilename\":\"x.gguf\"}}]}}"
        )),
        false => Answer::ok("GGUF").and("etag", "\"some\""),
    });
    Place::new(&server.unwrap().url).refused("org/tiny", &["tells no length or no hash", "some"]);
}

#[test]
fn a_hub_by_https_needs_authorities() {
    let none = Place::new("https://127.0.0.1:1").with("SSL_CERT_FILE", "/nowhere.pem");
    none.refused("org/tiny", &["/nowhere.pem", "SSL_CERT_FILE"]);
}
