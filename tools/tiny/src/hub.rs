//! A server on loopback that plays the hub, for the tests of whoever asks it.
//!
//! - In: what it answers, by a function of the request. Out: its address, and what it was asked.
//! - Never here: hashes; whoever has a model here brings them.

#![expect(clippy::disallowed_methods, reason = "a server of tests, on loopback")]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// What was asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The path, with what stands behind a question mark.
    pub path: String,
    /// The headers, names in small letters.
    pub headers: Vec<(String, String)>,
}

impl Request {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

/// What is answered.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Headers but for the length.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// The length that is said, where it is another.
    pub claims: Option<usize>,
}

impl Answer {
    /// A body under 200.
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, body: body.into(), ..Self::default() }
    }

    /// A status with a header.
    pub fn with(status: u16, name: &str, value: &str) -> Self {
        Self { status, ..Self::default() }.and(name, value)
    }

    /// One more header.
    pub fn and(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A running server; it ends with the test.
pub struct Server {
    /// Its address, without a slash at its end.
    pub url: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Answers every request, each over a connection of its own.
    /// # Errors
    /// What the system says.
    pub fn start(
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (answer, notes) = (Arc::new(answer), seen.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, notes) = (answer.clone(), notes.clone());
                // Who hangs up hears nothing.
                thread::spawn(move || serve(stream, &*answer, &notes).unwrap_or_default());
            }
        });
        Ok(Self { url, seen })
    }

    /// What was asked so far.
    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(
    stream: TcpStream,
    answer: &dyn Fn(&Request) -> Answer,
    notes: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.to_owned())),
            None => break,
        }
    }
    let request = Request { method, path, headers };
    let Answer { status, headers, body, claims } = answer(&request);
    let is_head = request.method == "HEAD";
    notes.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    let mut head = format!("HTTP/1.1 {status} Said\r\nconnection: close\r\n");
    let _ = write!(head, "content-length: {}\r\n", claims.unwrap_or(body.len()));
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let mut stream = stream;
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if !is_head {
        stream.write_all(&body)?;
    }
    // What a client still sends must not break off what it reads.
    stream.shutdown(std::net::Shutdown::Write)?;
    reader.read_to_end(&mut Vec::new())?;
    Ok(())
}

/// A file of a model.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its path.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its hash as the hub tells it.
    pub hash: String,
    /// Whether it lies in the store for large files.
    pub large: bool,
}

/// A model on the hub.
#[derive(Clone, Debug)]
pub struct Model {
    /// `ORG/NAME`.
    pub repo: String,
    /// The commit that `main` is.
    pub commit: String,
    /// Its files.
    pub files: Vec<Stored>,
}

impl Model {
    /// What the hub answers about it.
    pub fn answer(&self, request: &Request) -> Answer {
        let Self { repo, commit, files } = self;
        let revision = request.path.strip_prefix(&format!("/api/models/{repo}/revision/"));
        if let Some(revision) = revision.and_then(|rest| rest.split('?').next()) {
            return match revision == "main" || revision == commit {
                true => Answer::ok(self.listing()),
                false => Answer::with(404, "x-error-code", "RevisionNotFound"),
            };
        }
        let file = request.path.strip_prefix(&format!("/{repo}/resolve/{commit}/"));
        match file.and_then(|name| files.iter().find(|file| file.name == name)) {
            Some(file) => ranged(request, &file.bytes),
            None if file.is_some() => Answer::with(404, "x-error-code", "EntryNotFound"),
            None => Answer::with(404, "x-error-code", "RepoNotFound"),
        }
    }

    /// Its listing, as the hub writes it.
    pub fn listing(&self) -> String {
        let one = |file: &Stored| {
            let Stored { name, bytes, hash, large } = file;
            let about = match large {
                true => format!(
                    "\"blobId\":\"{}\",\"lfs\":{{\"sha256\":\"{hash}\",\"size\":{},\"pointerSize\":135}}",
                    "9".repeat(40),
                    bytes.len()
                ),
                false => format!("\"blobId\":\"{hash}\""),
            };
            format!("{{\"rfilename\":\"{name}\",\"size\":{},{about}}}", bytes.len())
        };
        let files: Vec<String> = self.files.iter().map(one).collect();
        format!("{{\"id\":\"x\",\"sha\":\"{}\",\"siblings\":[{}]}}", self.commit, files.join(","))
    }
}

/// A file, or the rest of it that is asked for.
pub fn ranged(request: &Request, bytes: &[u8]) -> Answer {
    let from = request.header("range").and_then(|range| range.strip_prefix("bytes="));
    let from = from.and_then(|range| range.trim_end_matches('-').parse::<usize>().ok());
    match from {
        None => Answer::ok(bytes),
        Some(from) if from >= bytes.len() => Answer { status: 416, ..Answer::default() },
        Some(from) => {
            let all = bytes.len();
            let range = format!("bytes {from}-{}/{all}", all - 1);
            Answer { status: 206, body: bytes[from..].to_vec(), ..Answer::default() }
                .and("content-range", &range)
        }
    }
}
