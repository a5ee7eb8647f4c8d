//! Objects in a bucket of S3, or of what speaks like it.
//!
//! - In: a name and bytes. Out: an object that was created or was there; its bytes; a list.
//! - An object is created only where none is, by `If-None-Match: *`. That it is there already is success,
//!   so that a try which meets what an earlier one wrote is one; a 409 says neither and is tried again.
//! - What passes is tried again, a few times and ever later; what does not is told in one line: bucket,
//!   endpoint, name, status, the store's own code. Nothing secret is in it.
//! - Never here: hashes, what a name means. A list is the store's word, its times by the store's clock.

use super::error::BlobError;
use super::http::{Failure, Lines};
use super::place::{Credentials, Place};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{
    GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig,
};
use sapwood_protocol::limits::FLEET_ADAPTER_BYTES_MAX;
use std::fmt;
use std::future::Future;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;

/// The folder of what is created to see what comes of it.
const PROBES: &str = "probe";
/// How often a request is made at most.
const TRIES: u32 = 6;
/// The longest wait after the first try, doubled after each other.
const WAIT: Duration = Duration::from_millis(200);
/// How long an answer may take, and the next piece of one.
const ANSWER: Duration = Duration::from_secs(15);
/// How long one may take where somebody only asks how it is.
const REACH: Duration = Duration::from_secs(3);
/// Bytes a second that a line must carry.
const SLOWEST: u64 = 256 << 10;
/// Bytes that are in memory on their way out at the same time.
const SENDING_BYTES_MAX: u64 = 2 * FLEET_ADAPTER_BYTES_MAX;

/// What became of a creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Created {
    /// It is there now.
    New,
    /// It was there.
    Old,
}

/// Where bytes go that come in; a try that fails half way begins again.
pub(super) trait Sink {
    fn clear(&mut self) -> Result<(), BlobError>;
    fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError>;
}

/// A bucket.
pub(super) struct S3 {
    place: Place,
    store: AmazonS3,
    /// None after the end.
    runtime: Option<Runtime>,
    sending: Mutex<u64>,
    sent: Condvar,
}

/// Why a download ended.
enum Broken {
    Store(Failure),
    Sink(BlobError),
}

impl S3 {
    /// A bucket, of which nothing is asked yet.
    pub(super) fn new(place: Place, credentials: &Credentials) -> Result<Self, BlobError> {
        let wrong = |problem: String| BlobError::Store {
            place: place.to_string(),
            what: "cannot be asked".to_owned(),
            problem,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("blobs")
            .enable_all()
            .build()
            .map_err(|error| wrong(error.to_string()))?;
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&place.bucket)
            .with_region(&place.region)
            .with_endpoint(place.host())
            .with_virtual_hosted_style_request(place.is_virtual)
            .with_access_key_id(&credentials.key_id)
            .with_secret_access_key(&credentials.secret)
            .with_disable_bulk_delete(true)
            // The tries are made here: the library takes a 409 for "exists" and no answer for an error.
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .with_http_connector(Lines::new(place.ca.as_deref()));
        if let Some(token) = &credentials.token {
            builder = builder.with_token(token);
        }
        let store = builder.build().map_err(|error| wrong(Failure::of(&error).to_string()))?;
        let (sending, sent) = (Mutex::new(0), Condvar::new());
        Ok(Self { place, store, runtime: Some(runtime), sending, sent })
    }

    /// Creates an object unless there is one.
    pub(super) fn create(&self, name: &str, bytes: Vec<u8>) -> Result<Created, BlobError> {
        let count = bytes.len() as u64;
        let payload = PutPayload::from(bytes);
        let made = self.tried(count, "PUT", name, &async |path| {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            self.store.put_opts(path, payload.clone(), options).await.map(drop)
        });
        match made {
            Ok(()) => Ok(Created::New),
            // 304 is what HTTP says of it where nothing is changed.
            Err(Failure::Said { status: 412 | 304, .. }) => Ok(Created::Old),
            Err(failure) => Err(self.failed("PUT", name, &failure)),
        }
    }

    /// Whether there is an object.
    pub(super) fn has(&self, name: &str) -> Result<bool, BlobError> {
        let found =
            self.tried(0, "HEAD", name, &async |path| self.store.head(path).await.map(drop));
        match found {
            Ok(()) => Ok(true),
            Err(failure) if is_absent(&failure) => Ok(false),
            Err(failure) => Err(self.failed("HEAD", name, &failure)),
        }
    }

    /// Has the bytes of an object go into a sink; false when there is none.
    pub(super) fn fetch(&self, name: &str, sink: &mut dyn Sink) -> Result<bool, BlobError> {
        let path = self.path(name);
        let mut tries = 0;
        loop {
            match self.wait(self.fetch_once(&path, sink)) {
                Ok(()) => return Ok(true),
                Err(Broken::Sink(error)) => return Err(error),
                Err(Broken::Store(failure)) if is_absent(&failure) => return Ok(false),
                Err(Broken::Store(failure)) => {
                    tries += 1;
                    if tries == TRIES || !passes(&failure) {
                        return Err(self.failed("GET", name, &failure));
                    }
                    self.wait(async { sleep(pause(tries)).await });
                }
            }
        }
    }

    async fn fetch_once(&self, path: &Path, sink: &mut dyn Sink) -> Result<(), Broken> {
        let late = |_| Broken::Store(Failure::Unheard("no answer in time".to_owned()));
        let broken = |error| Broken::Store(Failure::of(&error));
        sink.clear().map_err(Broken::Sink)?;
        let got = timeout(ANSWER, self.store.get_opts(path, GetOptions::default()));
        let got = got.await.map_err(late)?.map_err(broken)?;
        let expected = got.meta.size;
        if expected > FLEET_ADAPTER_BYTES_MAX {
            let problem = format!("{expected} bytes, expected {FLEET_ADAPTER_BYTES_MAX} at most");
            return Err(Broken::Sink(self.failed(
                "GET",
                path.as_ref(),
                &Failure::Unheard(problem),
            )));
        }
        let (mut stream, mut came) = (got.into_stream(), 0);
        while let Some(piece) = timeout(ANSWER, stream.next()).await.map_err(late)? {
            let piece = piece.map_err(broken)?;
            came += piece.len() as u64;
            sink.write(&piece).map_err(Broken::Sink)?;
        }
        match came == expected {
            true => Ok(()),
            false => {
                let cut = format!("cut after {came} bytes of {expected}");
                Err(Broken::Store(Failure::Unheard(cut)))
            }
        }
    }

    /// Lets go of an object; that there is none is success.
    pub(super) fn delete(&self, name: &str) -> Result<(), BlobError> {
        let gone = self.tried(0, "DELETE", name, &async |path| self.store.delete(path).await);
        self.gone(name, gone)
    }

    /// The same with one try, whose end is known when it is told as success.
    pub(super) fn delete_once(&self, name: &str) -> Result<(), BlobError> {
        let path = self.path(name);
        let gone = self.wait(once(0, self.store.delete(&path)));
        self.gone(name, gone)
    }

    fn gone(&self, name: &str, gone: Result<(), Failure>) -> Result<(), BlobError> {
        match gone {
            Err(failure) if !is_absent(&failure) => Err(self.failed("DELETE", name, &failure)),
            _ => Ok(()),
        }
    }

    /// The objects of a folder: the last part of each name, and when it was written, ms since 1970.
    pub(super) fn list(&self, folder: &str) -> Result<Vec<(String, u64)>, BlobError> {
        let listed = self.tried(SLOWEST * 60, "LIST", folder, &async |path| {
            let mut stream = self.store.list(Some(path));
            let mut all = Vec::new();
            while let Some(found) = stream.next().await {
                let found = found?;
                let written_ms = u64::try_from(found.last_modified.timestamp_millis());
                let name = found.location.filename().unwrap_or_default().to_owned();
                all.push((name, written_ms.unwrap_or_default()));
            }
            Ok(all)
        });
        listed.map_err(|failure| self.failed("LIST", folder, &failure))
    }

    /// Whether the bucket answers: one try, and nothing is changed.
    pub(super) fn reach(&self) -> Result<(), BlobError> {
        let path = self.path(PROBES);
        let asked = async { self.store.list(Some(&path)).next().await.transpose().map(drop) };
        let failure = match self.wait(async { timeout(REACH, asked).await }) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => Failure::of(&error),
            Err(_) => Failure::Unheard(format!("no answer in {} s", REACH.as_secs())),
        };
        Err(self.failed("LIST", PROBES, &failure))
    }

    /// Whether all is allowed that will be asked for, and two creations of one name conflict: a look-alike was
    /// seen that did not see to it.
    pub(super) fn probe(&self) -> Result<(), BlobError> {
        let mut chance = [0; 16];
        let drawn = getrandom::fill(&mut chance);
        drawn.map_err(|error| self.failed("PUT", "probe", &Failure::Unheard(error.to_string())))?;
        let name: String = chance.iter().map(|byte| format!("{byte:02x}")).collect();
        let name = format!("{PROBES}/{name}");
        self.create(&name, b"first".to_vec())?;
        let again = self.create(&name, b"second".to_vec());
        let read = self.tried(0, "GET", &name, &async |path| {
            self.store.get_opts(path, GetOptions::default()).await.map(drop)
        });
        let gone = self.delete(&name);
        if again? == Created::New {
            return Err(BlobError::Lax { place: self.place.to_string() });
        }
        read.map_err(|failure| self.failed("GET", &name, &failure))?;
        gone?;
        self.list(PROBES).map(drop)
    }

    /// Makes a request until it is answered for good.
    fn tried<T>(
        &self,
        bytes: u64,
        what: &str,
        name: &str,
        request: &impl AsyncFn(&Path) -> object_store::Result<T>,
    ) -> Result<T, Failure> {
        let path = self.path(name);
        self.wait(async {
            let mut tries = 0;
            loop {
                match once(bytes, request(&path)).await {
                    Err(failure) if passes(&failure) && tries + 1 < TRIES => {
                        tries += 1;
                        tracing::info!(%failure, tries, "{what} {path} is tried again");
                        sleep(pause(tries)).await;
                    }
                    answered => return answered,
                }
            }
        })
    }

    fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        match &self.runtime {
            Some(runtime) => runtime.handle().block_on(work),
            None => unreachable!("the runtime is taken when the bucket is dropped"),
        }
    }

    /// Waits until there is room in memory for so many bytes on their way out, while it is held.
    pub(super) fn room(&self, bytes: u64) -> Room<'_> {
        let mut sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        while *sending > 0 && *sending + bytes > SENDING_BYTES_MAX {
            sending = self.sent.wait(sending).unwrap_or_else(PoisonError::into_inner);
        }
        *sending += bytes;
        Room { s3: self, bytes }
    }

    fn path(&self, name: &str) -> Path {
        Path::from(self.place.key(name))
    }

    fn failed(&self, method: &str, name: &str, failure: &Failure) -> BlobError {
        let what = format!("{method} {}", self.place.key(name));
        BlobError::Store { place: self.place.to_string(), what, problem: failure.to_string() }
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        // Whoever drops it last may be a task, where waiting for threads is forbidden.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for S3 {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "S3({})", self.place)
    }
}

/// Room that is given back.
pub(super) struct Room<'a> {
    s3: &'a S3,
    bytes: u64,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        *self.s3.sending.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
        self.s3.sent.notify_all();
    }
}

/// One try, as long as so many bytes take.
async fn once<T>(
    bytes: u64,
    request: impl Future<Output = object_store::Result<T>>,
) -> Result<T, Failure> {
    let patience = ANSWER + Duration::from_secs(bytes / SLOWEST);
    match timeout(patience, request).await {
        Ok(answered) => answered.map_err(|error| Failure::of(&error)),
        Err(_) => Err(Failure::Unheard("no answer in time".to_owned())),
    }
}

/// Whether a failure may be over soon.
fn passes(failure: &Failure) -> bool {
    match failure {
        Failure::Said { status, code } => {
            let slow = code.as_deref() == Some("RequestTimeout");
            slow || matches!(status, 408 | 409 | 429 | 500 | 502 | 503 | 504)
        }
        Failure::Unheard(_) => true,
    }
}

/// Whether there is a bucket, and no such object in it.
fn is_absent(failure: &Failure) -> bool {
    match failure {
        Failure::Said { status: 404, code } => {
            code.as_deref().is_none_or(|code| code == "NoSuchKey")
        }
        _ => false,
    }
}

/// How long to wait after so many tries: half of it at least, the rest by chance.
fn pause(tries: u32) -> Duration {
    let mut chance = [0];
    // Without chance all wait as long, which is no worse than that.
    let _ = getrandom::fill(&mut chance);
    let whole = WAIT * (1 << tries.min(5)) / 2;
    whole / 2 + whole / 2 * u32::from(chance[0]) / 255
}
