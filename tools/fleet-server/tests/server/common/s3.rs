//! A real S3 server of a test's own: SeaweedFS, on ports of this machine, in a folder that is deleted.
//!
//! - Found by SAPWOOD_WEED, else by PATH, else in `target/services/`, where the gate installs it.
//! - Absent: the test says so by its name and passes, unless SAPWOOD_SERVICES=required.
//! - One for all tests of a program. A shell keeps it, which ends it when this process ends, however that
//!   comes about: it takes SIGTERM for a wish and 20 seconds to follow it.

use fleet_server::store::blobs::{Blobs, Credentials, Place};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub(crate) const KEY_ID: &str = "sapwood";
pub(crate) const SECRET: &str = "the-secret-of-a-test";

const BUCKET: &str = "sapwood-test";

/// What all ports are for: each program has two, and S3 one for TLS.
const PORTS: [&str; 4] = ["master", "volume", "filer", "s3"];

/// A running server.
#[derive(Debug)]
pub(crate) struct Weed {
    pub(crate) address: SocketAddr,
    /// The same over TLS, for `localhost`.
    pub(crate) tls: SocketAddr,
    pub(crate) certificate: PathBuf,
    filer: SocketAddr,
    drawn: AtomicU64,
    /// It lives as long as this end of the pipe.
    _shell: Child,
}

#[expect(clippy::disallowed_methods, reason = "where services are is the machine's")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn found() -> Option<PathBuf> {
    if let Some(named) = environment("SAPWOOD_WEED") {
        return Some(named.into());
    }
    let path = environment("PATH").unwrap_or_default();
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/services/venv/bin");
    let mut all = path.split(':').map(PathBuf::from).chain([installed]);
    all.find(|bin| bin.join("weed").is_file()).map(|bin| bin.join("weed"))
}

/// The server of this program's tests; none when there is none to start, which is told under the test's
/// name.
pub(crate) fn weed(test: &str) -> Option<&'static Weed> {
    static WEED: OnceLock<Option<Weed>> = OnceLock::new();
    let weed = WEED.get_or_init(|| found().map(|program| Weed::start(&program))).as_ref();
    if weed.is_none() {
        let told = "an S3 server is absent (tools/services/install, or SAPWOOD_WEED)";
        assert!(environment("SAPWOOD_SERVICES").is_none_or(|it| it != "required"), "{told}");
        // Past the harness, which shows what a test says only where it fails.
        std::io::stderr().write_all(format!("SKIPPED {test}: {told}\n").as_bytes()).unwrap();
    }
    weed
}

#[expect(clippy::disallowed_methods, reason = "the other end of the server's interface")]
fn free() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

#[expect(clippy::disallowed_methods, reason = "the other end of the server's interface")]
fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    TcpStream::connect(address)
}

impl Weed {
    fn start(program: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("weed").tempdir().unwrap().keep();
        let identity = format!(
            r#"{{"identities": [{{"name": "test", "actions": ["Admin", "Read", "List", "Write"],
                "credentials": [{{"accessKey": "{KEY_ID}", "secretKey": "{SECRET}"}}]}}]}}"#
        );
        std::fs::write(folder.join("s3.json"), identity).unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let [certificate, key] = ["cert.pem", "key.pem"].map(|name| folder.join(name));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let taken: Vec<TcpListener> = (0..=2 * PORTS.len()).map(|_| free()).collect();
        let ports: Vec<u16> = taken.iter().map(|port| port.local_addr().unwrap().port()).collect();
        drop(taken);
        let mut given = Vec::new();
        for (name, pair) in PORTS.iter().zip(ports.chunks(2)) {
            given.push(format!("-{name}.port={}", pair[0]));
            given.push(format!("-{name}.port.grpc={}", pair[1]));
        }
        given.push(format!("-s3.port.https={}", ports[2 * PORTS.len()]));
        given.push(format!("-s3.cert.file={}", certificate.display()));
        given.push(format!("-s3.key.file={}", key.display()));
        let keep = r#"folder=$1; shift; "$@" >"$folder/log" 2>&1 & weed=$!
            read -r _; kill -9 $weed; rm -rf "$folder""#;
        let shell = Command::new("sh")
            .args(["-c", keep, "sh"])
            .arg(&folder)
            .arg(program)
            .args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"])
            .args(["-master.telemetry=false", "-master.volumeSizeLimitMB=256", "-volume.max=20"])
            .args(["-s3.port.lance=0", "-s3.port.iceberg=0", "-s3.autoCreateBucket=false"])
            .arg("-s3.domainName=localhost")
            .arg(format!("-dir={}", folder.display()))
            .arg(format!("-s3.config={}", folder.join("s3.json").display()))
            .args(given)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let at = |which: usize| SocketAddr::from(([127, 0, 0, 1], ports[which]));
        let (address, tls, filer) = (at(6), at(2 * PORTS.len()), at(4));
        let drawn = AtomicU64::new(0);
        let weed = Self { address, tls, certificate, filer, drawn, _shell: shell };
        weed.waits_for(&folder);
        weed
    }

    fn waits_for(&self, folder: &Path) {
        for _ in 0..300 {
            let refused =
                asked(self.address, "GET", "/").is_some_and(|said| said.contains(" 403 "));
            if refused && asked(self.filer, "GET", "/").is_some_and(|said| said.contains(" 200 ")) {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(100));
        }
        let made = asked(self.filer, "POST", &format!("/buckets/{BUCKET}/"));
        if made.is_some_and(|said| said.contains(" 201 ")) {
            return;
        }
        let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        panic!("the S3 server does not start: {log}");
    }

    /// A place of its own: bucket and prefix. Each bucket would have its own volumes, of which there are few.
    pub(crate) fn bucket(&self) -> String {
        format!("{BUCKET}/{}", self.drawn.fetch_add(1, Ordering::Relaxed))
    }

    /// The address of a bucket on this server.
    pub(crate) fn place(&self, bucket: &str) -> String {
        place(self.address, bucket)
    }

    /// Has a program of tests keep the blobs of each fleet here, under a test's name.
    pub(crate) fn tells<'c>(
        &self,
        command: &'c mut Command,
        address: SocketAddr,
        test: &str,
    ) -> &'c mut Command {
        let place = format!("s3://{BUCKET}/{test}/OWN?endpoint=http://{address}");
        command
            .env("SAPWOOD_TEST_BLOBS", place)
            .env("AWS_ACCESS_KEY_ID", KEY_ID)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .env_remove("AWS_SESSION_TOKEN")
    }

    /// Fails where nothing was kept under a test's name.
    pub(crate) fn has_kept(&self, test: &str) {
        let kept = asked(self.filer, "GET", &format!("/buckets/{BUCKET}/{test}/"));
        assert!(kept.is_some_and(|said| said.contains(" 200 ")), "nothing was kept there");
    }

    /// Blobs in a bucket, with a cache of their own.
    pub(crate) fn blobs(&self, folder: &Path) -> Blobs {
        blobs(folder, &self.place(&self.bucket()))
    }
}

pub(crate) fn place(address: SocketAddr, bucket: &str) -> String {
    format!("s3://{bucket}/fleets/valves?endpoint=http://{address}&region=us-east-1")
}

pub(crate) fn blobs(folder: &Path, place: &str) -> Blobs {
    signed(folder, place, KEY_ID, SECRET)
}

pub(crate) fn signed(folder: &Path, place: &str, key_id: &str, secret: &str) -> Blobs {
    let credentials = Credentials { key_id: key_id.into(), secret: secret.into(), token: None };
    Blobs::in_bucket(folder, Place::read(place).unwrap(), &credentials).unwrap()
}

/// What is answered to a call that nobody has signed.
fn asked(address: SocketAddr, method: &str, path: &str) -> Option<String> {
    let mut stream = connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let text = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(text.as_bytes()).ok()?;
    let mut said = Vec::new();
    // A connection that is cut has said what it said.
    let _ = stream.read_to_end(&mut said);
    Some(String::from_utf8_lossy(&said).into_owned())
}

/// Runs tests of this program once more, over a real S3 store: each fleet has its blobs there.
pub(crate) fn again(test: &str, names: &[&str], more: &[(&str, &str)]) {
    if let Some(weed) = weed(test) {
        again_at(weed, weed.address, test, names, more);
    }
}

/// The same, by way of another address.
pub(crate) fn again_at(
    weed: &Weed,
    address: SocketAddr,
    test: &str,
    names: &[&str],
    more: &[(&str, &str)],
) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--include-ignored"]).args(names).envs(more.iter().copied());
    let ran = weed.tells(&mut command, address, test).output().unwrap();
    let said = [ran.stdout, ran.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    let all = format!("{} passed; 0 failed", names.len());
    assert!(ran.status.success() && said[0].contains(&all), "{}{}", said[0], said[1]);
    weed.has_kept(test);
}

/// Where the blobs of a fleet in a folder are to be, if whoever runs this program has said so.
pub(crate) fn chosen(folder: &Path) -> Option<String> {
    let own = folder.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let own = own.trim_start_matches('.');
    environment("SAPWOOD_TEST_BLOBS").map(|place| place.replace("OWN", own))
}

/// Bytes that no two seeds share.
pub(crate) fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
