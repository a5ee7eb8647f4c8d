//! The other end of the Unix socket: what the commands ask of the program that runs.
//!
//! - In: a socket's path and a route. Out: the answer's JSON.
//! - A socket that a killed program left behind is told apart from one that is listened to.
//! - Bounded: every request has a time, every answer a size.
//! - Never here: what the answers mean, TCP, tokens: who may open the socket may give orders.

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// Most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// Seconds that a request may take: the program may be busy with an optimiser step, and waits up to 30 s for a
/// job to come to a place where it can stop.
const ANSWER_SECONDS: u64 = 40;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No socket.
    #[error("no program runs: expected its socket at {}", path.display())]
    Absent {
        /// Where it would be.
        path: PathBuf,
    },
    /// A socket that nobody listens to.
    #[error("no program runs: one that is gone left its socket at {}", path.display())]
    Dead {
        /// The socket.
        path: PathBuf,
    },
    /// The socket cannot be opened, or what came over it cannot be read.
    #[error("cannot talk over {}: {problem}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        problem: String,
    },
    /// No answer in time.
    #[error("no answer over {} within {seconds} s; the program may still follow", path.display())]
    Time {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// The program said no.
    #[error("refused ({status}): {reason}")]
    Refused {
        /// HTTP's number.
        status: u16,
        /// The program's reason.
        reason: String,
    },
    /// An answer that is no JSON.
    #[error("the answer to {route} is no JSON: {problem}")]
    Answer {
        /// What was asked.
        route: String,
        /// What is wrong.
        problem: String,
    },
}

impl ClientError {
    /// Whether the reason is that no program runs.
    pub fn is_nobody(&self) -> bool {
        matches!(self, Self::Absent { .. } | Self::Dead { .. })
    }
}

/// Asks the program behind a Unix socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// For a socket that need not be there.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_path_buf() }
    }

    /// What the program says of itself.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn status(&self) -> Result<Value, ClientError> {
        self.ask(&Method::GET, "/v1/status")
    }

    /// Has it learn now.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn job(&self) -> Result<Value, ClientError> {
        self.ask(&Method::POST, "/v1/job")
    }

    /// Has it stop at the next optimiser step and wait.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn pause(&self) -> Result<Value, ClientError> {
        self.ask(&Method::POST, "/v1/pause")
    }

    /// Has it go on.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn resume(&self) -> Result<Value, ClientError> {
        self.ask(&Method::POST, "/v1/resume")
    }

    /// Has it use an earlier generation again, 0 for the bare base; the one before when none is named.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn rollback(&self, to: Option<u64>) -> Result<Value, ClientError> {
        let body = to.map_or_else(|| json!({}), |to| json!({ "to": to }));
        self.send(&Method::POST, "/v1/rollback", body.to_string().into())
    }

    /// Samples that were set aside.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn aside(&self) -> Result<Value, ClientError> {
        self.ask(&Method::GET, "/v1/aside")
    }

    /// Has one of them wait again.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn retry_aside(&self, number: u64) -> Result<Value, ClientError> {
        self.ask(&Method::POST, &format!("/v1/aside/{number}/retry"))
    }

    /// Has one of them dropped.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn drop_aside(&self, number: u64) -> Result<Value, ClientError> {
        self.ask(&Method::DELETE, &format!("/v1/aside/{number}"))
    }

    /// Gives an order about the fleet: `join` with a body, `leave`, `sync`, `rotate-key`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn fleet(&self, order: &str, body: Option<&Value>) -> Result<Value, ClientError> {
        let body = body.map(Value::to_string).unwrap_or_default();
        self.send(&Method::POST, &format!("/v1/fleet/{order}"), body.into())
    }

    fn ask(&self, method: &Method, route: &str) -> Result<Value, ClientError> {
        self.send(method, route, Bytes::new())
    }

    /// One request over a connection of its own.
    fn send(&self, method: &Method, route: &str, body: Bytes) -> Result<Value, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| self.socket_error(&error))?;
        let limit = Duration::from_secs(ANSWER_SECONDS);
        let (status, body) = runtime
            .block_on(async {
                tokio::time::timeout(limit, self.exchange(method, route, body)).await
            })
            .map_err(|_| ClientError::Time {
                path: self.socket.clone(),
                seconds: ANSWER_SECONDS,
            })??;
        if !(200..300).contains(&status) {
            return Err(ClientError::Refused { status, reason: reason(&body) });
        }
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).map_err(|error| ClientError::Answer {
            route: route.into(),
            problem: error.to_string(),
        })
    }

    async fn exchange(
        &self,
        method: &Method,
        route: &str,
        body: Bytes,
    ) -> Result<(u16, Bytes), ClientError> {
        let stream =
            UnixStream::connect(&self.socket).await.map_err(|error| self.no_stream(&error))?;
        let failed = |error: hyper::Error| self.socket_error(&error);
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        // What fails there fails the request too.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(route)
            .header("host", "localhost")
            .body(Full::new(body))
            .map_err(|error| self.socket_error(&error))?;
        let answer = sender.send_request(request).await.map_err(failed)?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX);
        let body = body.collect().await.map_err(|error| self.socket_error(&*error))?;
        Ok((status, body.to_bytes()))
    }

    fn no_stream(&self, error: &io::Error) -> ClientError {
        let path = self.socket.clone();
        match error.kind() {
            io::ErrorKind::NotFound => ClientError::Absent { path },
            io::ErrorKind::ConnectionRefused => ClientError::Dead { path },
            _ => self.socket_error(error),
        }
    }

    fn socket_error(&self, error: &(dyn std::error::Error + 'static)) -> ClientError {
        let mut problem = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            problem += &format!(": {cause}");
            source = cause.source();
        }
        ClientError::Socket { path: self.socket.clone(), problem }
    }
}

/// The reason in a refusal: the message of its JSON, else its text, in one line.
fn reason(body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let message = value.pointer("/error/message").and_then(Value::as_str).map(String::from);
    let text = message.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    text.trim().chars().take(500).map(|l| if l.is_control() { ' ' } else { l }).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::thread;

    /// What a client makes of one answer, and what it asked.
    fn answered(answer: &'static [u8]) -> (Result<Value, ClientError>, String) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut asked, mut bytes) = (Vec::new(), [0; 1024]);
            while !asked.ends_with(b"\r\n\r\n") {
                let length = stream.read(&mut bytes).unwrap();
                asked.extend_from_slice(&bytes[..length]);
            }
            stream.write_all(answer).unwrap();
            String::from_utf8(asked).unwrap()
        });
        let answer = Client::new(&socket).pause();
        (answer, server.join().unwrap())
    }

    #[test]
    fn an_order_is_a_post_and_its_answer_is_read() {
        let (answer, asked) = answered(b"HTTP/1.1 200 OK\r\n\r\n{\"paused\":true}");
        assert_eq!(answer.unwrap()["paused"], true);
        assert!(asked.starts_with("POST /v1/pause HTTP/1.1\r\n"), "{asked}");
    }

    #[test]
    fn a_refusal_names_the_reason() {
        let (answer, _) = answered(
            b"HTTP/1.1 409 Conflict\r\n\r\n{\"error\":{\"message\":\"no\\u001bsamples.\"}}",
        );
        let error = answer.unwrap_err();
        assert_eq!(error.to_string(), "refused (409): no samples.");
        assert!(!error.is_nobody());
    }

    #[test]
    fn what_is_no_answer_is_an_error_and_not_nobody() {
        let long = b"HTTP/1.1 200 OK\r\ncontent-length: 999999999999\r\n\r\n{";
        for answer in
            [&b"SSH-2.0-x\r\n"[..], b"", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes", long]
        {
            let (answer, _) = answered(answer);
            assert!(!answer.unwrap_err().is_nobody());
        }
    }

    #[test]
    fn a_socket_left_behind_is_told_apart_from_one_that_never_was() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let error = Client::new(&socket).status().unwrap_err();
        assert!(matches!(error, ClientError::Absent { .. }) && error.is_nobody());
        drop(UnixListener::bind(&socket).unwrap());
        let error = Client::new(&socket).status().unwrap_err();
        assert!(matches!(error, ClientError::Dead { .. }) && error.is_nobody(), "{error}");
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(Client::new(&file).status().is_err());
    }
}
