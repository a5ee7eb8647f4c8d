//! What stands between a server and its S3 store, and what goes wrong there.
//!
//! - Behind it a real store, or one in memory that looks like one. Each request is asked for its fault.
//! - A connection carries one request after the other; those to the store are new each time.

use super::s3::{KEY_ID, SECRET};
use fleet_server::store::blobs::Blobs;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fault {
    /// What should.
    None,
    /// It is done, and the answer is lost.
    Deaf,
    /// It is not done, and this is answered.
    Says(u16, &'static str),
    /// The answer is cut after so many bytes of its body.
    Cut(usize),
    /// Other bytes than those that are kept.
    Wrong,
    /// The connection is cut now, and the request is done when the test says so.
    Later,
}

/// A request, as it was heard.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) method: String,
    pub(crate) path: String,
    head: Vec<u8>,
    body: Vec<u8>,
}

struct Said {
    head: String,
    body: Vec<u8>,
}

impl Said {
    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
    }
}

/// A list of nothing.
const EMPTY: &str = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";

/// What is behind it.
enum Store {
    Real(SocketAddr),
    /// In memory; whether it minds the condition of a creation.
    Memory {
        objects: Mutex<BTreeMap<String, Vec<u8>>>,
        is_strict: bool,
    },
}

type Plan = Box<dyn Fn(&Heard, usize) -> Fault + Send + Sync>;

struct Inner {
    store: Store,
    plan: Mutex<Plan>,
    /// Method and status of each request; 0 where nothing was said.
    log: Mutex<Vec<(String, u16)>>,
    later: Mutex<Vec<Heard>>,
}

/// A proxy.
pub(crate) struct Proxy {
    inner: Arc<Inner>,
    pub(crate) address: SocketAddr,
}

impl Proxy {
    pub(crate) fn before(address: SocketAddr) -> Self {
        Self::start(Store::Real(address))
    }

    pub(crate) fn in_memory(is_strict: bool) -> Self {
        Self::start(Store::Memory { objects: Mutex::default(), is_strict })
    }

    #[expect(clippy::disallowed_methods, reason = "the other end of the server's interface")]
    fn start(store: Store) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let plan: Mutex<Plan> = Mutex::new(Box::new(|_, _| Fault::None));
        let (log, later) = Default::default();
        let inner = Arc::new(Inner { store, plan, log, later });
        let shared = inner.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), shared) = (stream, shared.clone()) else { break };
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        Self { inner, address }
    }

    /// From now on; the second argument counts requests of the method, from 0.
    pub(crate) fn plan(&self, plan: impl Fn(&Heard, usize) -> Fault + Send + Sync + 'static) {
        self.inner.log.lock().unwrap().clear();
        *self.inner.plan.lock().unwrap() = Box::new(plan);
    }

    /// The status of each request of a method since the plan.
    pub(crate) fn said(&self, method: &str) -> Vec<u16> {
        let log = self.inner.log.lock().unwrap();
        log.iter().filter(|(other, _)| other == method).map(|(_, status)| *status).collect()
    }

    /// Does what was put off.
    pub(crate) fn do_it_now(&self) {
        for heard in std::mem::take(&mut *self.inner.later.lock().unwrap()) {
            self.inner.store.answer(&heard);
        }
    }

    pub(crate) fn blobs(&self, folder: &Path, bucket: &str) -> Blobs {
        super::s3::signed(folder, &super::s3::place(self.address, bucket), KEY_ID, SECRET)
    }
}

impl Inner {
    fn serve(&self, mut stream: TcpStream) {
        while let Some(heard) = heard(&mut stream) {
            let count = {
                let mut log = self.log.lock().unwrap();
                log.push((heard.method.clone(), 0));
                log.iter().filter(|(method, _)| *method == heard.method).count() - 1
            };
            let fault = (self.plan.lock().unwrap())(&heard, count);
            let Some(said) = self.answer(&heard, &fault) else { return };
            {
                let mut log = self.log.lock().unwrap();
                let own = log.iter_mut().filter(|(method, _)| *method == heard.method).nth(count);
                own.into_iter().for_each(|(_, status)| *status = said.status());
            }
            let cut = match fault {
                Fault::Cut(bytes) => bytes.min(said.body.len()),
                _ => said.body.len(),
            };
            let whole = [said.head.as_bytes(), &said.body[..cut]].concat();
            if stream.write_all(&whole).is_err() || cut < said.body.len() {
                return;
            }
        }
    }

    fn answer(&self, heard: &Heard, fault: &Fault) -> Option<Said> {
        match fault {
            Fault::Deaf => {
                self.store.answer(heard);
                None
            }
            Fault::Later => {
                self.later.lock().unwrap().push(heard.clone());
                None
            }
            Fault::Says(status, code) => Some(error(*status, code)),
            Fault::Wrong => {
                let mut said = self.store.answer(heard);
                said.body.iter_mut().take(1).for_each(|byte| *byte ^= 1);
                Some(said)
            }
            Fault::None | Fault::Cut(_) => Some(self.store.answer(heard)),
        }
    }
}

impl Store {
    fn answer(&self, heard: &Heard) -> Said {
        match self {
            Self::Real(address) => forwarded(*address, heard),
            Self::Memory { objects, is_strict } => {
                let mut objects = objects.lock().unwrap();
                let there = objects.get(&heard.path).cloned();
                match (heard.method.as_str(), there) {
                    ("PUT", Some(_)) if *is_strict => error(412, "PreconditionFailed"),
                    ("PUT", _) => {
                        objects.insert(heard.path.clone(), heard.body.clone());
                        done(Vec::new())
                    }
                    ("DELETE", _) => {
                        objects.remove(&heard.path);
                        done(Vec::new())
                    }
                    ("HEAD", Some(bytes)) => Said { body: Vec::new(), ..done(bytes) },
                    ("GET", Some(bytes)) => done(bytes),
                    ("GET", None) if heard.path.contains("list-type=") => done(EMPTY.into()),
                    _ => error(404, "NoSuchKey"),
                }
            }
        }
    }
}

fn done(body: Vec<u8>) -> Said {
    let head = format!(
        "HTTP/1.1 200 OK\r\netag: \"e\"\r\nlast-modified: Thu, 26 Nov 2026 00:00:00 GMT\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    Said { head, body }
}

fn error(status: u16, code: &str) -> Said {
    let body =
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message></Error>");
    let head = format!("HTTP/1.1 {status} S\r\ncontent-length: {}\r\n\r\n", body.len());
    Said { head, body: body.into_bytes() }
}

#[expect(clippy::disallowed_methods, reason = "the other end of the server's interface")]
fn forwarded(address: SocketAddr, heard: &Heard) -> Said {
    let mut stream = TcpStream::connect(address).unwrap();
    // Not among what is signed: the end of the answer is that of the connection then.
    let first = heard.head.windows(2).position(|two| two == b"\r\n").unwrap() + 2;
    let (line, rest) = heard.head.split_at(first);
    stream.write_all(&[line, b"connection: close\r\n", rest, &heard.body].concat()).unwrap();
    let (head, mut body) = head(&mut stream).unwrap();
    stream.read_to_end(&mut body).unwrap();
    Said { head: String::from_utf8_lossy(&head).into_owned(), body }
}

fn heard(stream: &mut TcpStream) -> Option<Heard> {
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let (head, rest) = head(stream)?;
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut words = text.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let body = body(stream, rest, length(&text))?;
    Some(Heard { method, path, head, body })
}

/// A head with its empty line, and what came after it.
fn head(stream: &mut TcpStream) -> Option<(Vec<u8>, Vec<u8>)> {
    let (mut all, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let count = stream.read(&mut piece).ok().filter(|count| *count > 0)?;
        all.extend_from_slice(&piece[..count]);
        if let Some(end) = all.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = all.split_off(end + 4);
            return Some((all, rest));
        }
    }
}

fn length(head: &str) -> usize {
    let named = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    };
    head.lines().find_map(named).unwrap_or(0)
}

fn body(stream: &mut TcpStream, mut all: Vec<u8>, length: usize) -> Option<Vec<u8>> {
    let begun = all.len();
    all.resize(length.max(begun), 0);
    stream.read_exact(&mut all[begun..]).ok()?;
    Some(all)
}
