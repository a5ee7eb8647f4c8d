//! One connection to a database: made, and told one transaction at a time.
//!
//! - A transaction is `serializable`: its statements go out together, their guards are looked at in order,
//!   and only then `commit`. Until that is said, a connection that is lost has written nothing.
//! - Every wait has an end: a statement's the database sees to, a dead connection's is here.
//! - A connection holds the book, shared or alone, in a lock that ends with it.

use super::address::{Address, Place};
use super::tls::Greeting;
use super::values::{self, Parameter};
use crate::store::{BookError, Guard, Row, Statement};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config, Error, NoTls, SimpleQueryMessage};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(3);
/// How long an answer may take: more than the database gives a statement.
const ANSWER: Duration = Duration::from_secs(8);
/// Statements that a connection keeps prepared.
const PREPARED_MAX: usize = 256;
/// What every connection is told first.
const SESSION: &str =
    "set statement_timeout = 5000; set idle_in_transaction_session_timeout = 10000;
    set tcp_keepalives_idle = 30; set tcp_keepalives_interval = 5; set tcp_keepalives_count = 3;
    set bytea_output = hex; set client_min_messages = error";
/// An index is read by one row, a table by all: who reads all of it is in everybody's way.
const BEGIN: &str = "begin isolation level serializable; set local enable_seqscan = off";
const SHARED: &str =
    "select pg_try_advisory_lock_shared(hashtext('sapwood fleet'), hashtext(current_schema()))";
const ALONE: &str =
    "select pg_try_advisory_lock(hashtext('sapwood fleet'), hashtext(current_schema()))";

/// How a connection holds the book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// As others do.
    Shared,
    /// And nobody else does.
    Alone,
}

/// Why a transaction did not come through.
#[derive(Debug)]
pub(super) enum Fault {
    /// It would not the next time either.
    Book(BookError),
    /// A row is there; the key that it has.
    Twice {
        /// Which statement.
        at: usize,
        /// The key, in the database's words.
        key: String,
    },
    /// Another was in between.
    Again(String),
    /// The connection is lost; nothing was written.
    Gone(String),
    /// Others hold the book; one that has just ended may seem to for a moment.
    Held(&'static str),
}

/// What came of a statement.
struct Answer {
    rows: Vec<tokio_postgres::Row>,
    changed: usize,
}

/// A text, and the types of its values.
type Key = (&'static str, Vec<u32>);

/// A connection.
pub(super) struct Link {
    client: Client,
    prepared: BTreeMap<Key, tokio_postgres::Statement>,
    /// Nothing is to be had from it any more.
    pub(super) is_broken: bool,
}

fn failed(problem: impl Into<String>) -> Fault {
    Fault::Book(BookError::Failed { problem: problem.into() })
}

/// An error of the statement `at` in one line.
fn told(at: usize, error: &Error) -> Fault {
    let Some(said) = error.as_db_error() else {
        let source = std::error::Error::source(error).map(ToString::to_string);
        let text = source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
        // What the client itself cannot say it could not the next time either.
        let is_own = ["parameter", "deserializing", "invalid configuration"]
            .iter()
            .any(|part| text.contains(part));
        if text.contains("password missing") {
            return failed("it wants a password, expected one in PGPASSWORD");
        }
        return if is_own { failed(text) } else { Fault::Gone(text) };
    };
    let (code, text) = (said.code().code(), said.message().to_owned());
    match code {
        "57014" => failed("a statement took longer than 5 s"),
        "42P01" => failed(format!("{text}: no book is here, or it was moved away")),
        "42P07" => failed(format!("{text}: expected a database without a book")),
        "57P01" | "57P02" | "57P03" | "25P03" | "53300" => Fault::Gone(text),
        _ if code.starts_with("08") => Fault::Gone(text),
        _ if code.starts_with("40") => Fault::Again(text),
        _ if code.starts_with("23") => {
            Fault::Twice { at, key: said.detail().map_or(text, str::to_owned) }
        }
        _ => failed(text),
    }
}

fn slow<E>(_: E) -> Fault {
    Fault::Gone(format!("no answer in {} s", ANSWER.as_secs()))
}

impl Link {
    /// Connects to the first place that answers.
    ///
    /// # Errors
    /// [`Fault::Gone`] when none does; [`Fault::Book`] when one does and lets nobody in.
    pub(super) async fn open(address: &Address, hold: Hold) -> Result<Self, Fault> {
        let mut last = Fault::Gone("no place is named".to_owned());
        for place in &address.places {
            match timeout(CONNECT, connected(address, place)).await {
                Ok(Ok(client)) => {
                    let link = Self { client, prepared: BTreeMap::new(), is_broken: false };
                    return link.held(hold).await;
                }
                Ok(Err(fault @ Fault::Book(_))) => return Err(fault),
                Ok(Err(fault)) => last = fault,
                Err(_) => last = Fault::Gone(format!("no answer in {} s", CONNECT.as_secs())),
            }
        }
        Err(last)
    }

    async fn held(self, hold: Hold) -> Result<Self, Fault> {
        let asks = if hold == Hold::Alone { ALONE } else { SHARED };
        let said = async {
            self.client.batch_execute(SESSION).await?;
            self.client.simple_query(asks).await
        };
        let said = timeout(ANSWER, said).await.map_err(slow)?.map_err(|error| told(0, &error))?;
        let answer = said.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        match (answer, hold) {
            (Some("t"), _) => Ok(self),
            // A lock by the name of a schema that is none is neither had nor refused.
            (None, _) => Err(failed(
                "its user may use no schema of its search path, expected one with the right to create tables",
            )),
            (Some(_), Hold::Shared) => Err(Fault::Held("another program upgrades or moves it")),
            (Some(_), Hold::Alone) => {
                Err(Fault::Held("another program has it open, expected that all are stopped"))
            }
        }
    }

    /// The rows of a query.
    ///
    /// # Errors
    /// [`Fault`].
    pub(super) async fn read(&mut self, query: &Statement) -> Result<Vec<Row>, Fault> {
        let prepared = self.prepared(query).await?;
        let answer = timeout(ANSWER, step(&self.client, &prepared, query)).await;
        let answer = answer.map_err(slow)?.map_err(|error| told(0, &error))?;
        answer.rows.iter().map(values::row).collect::<Result<_, _>>().map_err(Fault::Book)
    }

    /// Runs a transaction.
    ///
    /// # Errors
    /// [`Fault`]; nothing was written, unless it says that nobody knows.
    pub(super) async fn write(&mut self, all: &[Statement]) -> Result<Vec<Vec<Row>>, Fault> {
        let is_known = all.iter().all(|one| self.prepared.contains_key(&key(one)));
        let answers = match is_known {
            true => self.together(all).await,
            false => self.one_by_one(all).await,
        };
        match answers.and_then(|answers| judged(all, answers)) {
            Ok(rows) => self.commit().await.map(|()| rows),
            Err(fault) => {
                let ended = timeout(ANSWER, self.client.batch_execute("rollback")).await;
                self.is_broken = !matches!(ended, Ok(Ok(())));
                Err(fault)
            }
        }
    }

    /// All statements at once: one wait for all.
    async fn together(&self, all: &[Statement]) -> Result<Vec<Result<Answer, Error>>, Fault> {
        type Waits<'a> = Pin<Box<dyn Future<Output = Result<Answer, Error>> + 'a>>;
        let begin = async {
            self.client.batch_execute(BEGIN).await?;
            Ok(Answer { rows: Vec::new(), changed: 0 })
        };
        let mut waits: Vec<Waits<'_>> = vec![Box::pin(begin)];
        for one in all {
            if let Some(prepared) = self.prepared.get(&key(one)) {
                waits.push(Box::pin(step(&self.client, prepared, one)));
            }
        }
        // They are polled in order, and each goes out when it is polled first.
        let mut answers: Vec<Option<Result<Answer, Error>>> = waits.iter().map(|_| None).collect();
        let done = std::future::poll_fn(|context| {
            for (wait, answer) in waits.iter_mut().zip(&mut answers) {
                if answer.is_none()
                    && let Poll::Ready(ready) = wait.as_mut().poll(context)
                {
                    *answer = Some(ready);
                }
            }
            if answers.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
        });
        timeout(ANSWER, done).await.map_err(slow)?;
        let mut answers = answers.into_iter().flatten();
        if let Some(Err(error)) = answers.next() {
            return Err(told(0, &error));
        }
        Ok(answers.collect())
    }

    /// One statement after the other: each is prepared when those before it have run.
    async fn one_by_one(&mut self, all: &[Statement]) -> Result<Vec<Result<Answer, Error>>, Fault> {
        let begun = timeout(ANSWER, self.client.batch_execute(BEGIN)).await.map_err(slow)?;
        begun.map_err(|error| told(0, &error))?;
        let mut answers = Vec::with_capacity(all.len());
        for one in all {
            let prepared = self.prepared(one).await?;
            let answer = timeout(ANSWER, step(&self.client, &prepared, one)).await.map_err(slow)?;
            let is_over = answer.is_err();
            answers.push(answer);
            if is_over {
                break;
            }
        }
        Ok(answers)
    }

    async fn commit(&mut self) -> Result<(), Fault> {
        let said = timeout(ANSWER, self.client.batch_execute("commit")).await;
        let fault = match said {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => told(0, &error),
            Err(elapsed) => slow(elapsed),
        };
        match fault {
            // It went out, and what became of it nobody heard.
            Fault::Gone(problem) => {
                self.is_broken = true;
                Err(Fault::Book(BookError::Unknown { problem }))
            }
            other => Err(other),
        }
    }

    async fn prepared(&mut self, one: &Statement) -> Result<tokio_postgres::Statement, Fault> {
        let key = key(one);
        if let Some(prepared) = self.prepared.get(&key) {
            return Ok(prepared.clone());
        }
        let kinds: Vec<Type> = one.values.iter().map(values::kind).collect();
        let made = timeout(ANSWER, self.client.prepare_typed(one.sql, &kinds)).await;
        let made = made.map_err(slow)?.map_err(|error| told(0, &error))?;
        if self.prepared.len() >= PREPARED_MAX {
            self.prepared.clear();
        }
        self.prepared.insert(key, made.clone());
        Ok(made)
    }
}

fn key(one: &Statement) -> Key {
    (one.sql, one.values.iter().map(|value| values::kind(value).oid()).collect())
}

async fn step(
    client: &Client,
    prepared: &tokio_postgres::Statement,
    one: &Statement,
) -> Result<Answer, Error> {
    let places = prepared.params();
    let values: Vec<Parameter<'_>> = one
        .values
        .iter()
        .zip(places)
        .map(|(value, place)| values::parameter(value, place))
        .collect();
    if prepared.columns().is_empty() {
        let changed = client.execute(prepared, &values).await?;
        return Ok(Answer {
            rows: Vec::new(),
            changed: usize::try_from(changed).unwrap_or(usize::MAX),
        });
    }
    Ok(Answer { rows: client.query(prepared, &values).await?, changed: 0 })
}

/// Looks at what came of each statement, in order.
fn judged(all: &[Statement], answers: Vec<Result<Answer, Error>>) -> Result<Vec<Vec<Row>>, Fault> {
    let mut kept = Vec::with_capacity(all.len());
    for (at, (one, answer)) in all.iter().zip(answers).enumerate() {
        let answer = answer.map_err(|error| told(at, &error))?;
        let got = if answer.rows.is_empty() { answer.changed } else { answer.rows.len() };
        match one.guard {
            Guard::Rows(expected) if got != expected => {
                return Err(Fault::Book(BookError::Guard { at, expected, got }));
            }
            Guard::Rows(_) | Guard::Any => {}
        }
        kept.push(
            answer.rows.iter().map(values::row).collect::<Result<_, _>>().map_err(Fault::Book)?,
        );
    }
    Ok(kept)
}

/// Connects, and has the connection carried on by this thread's runtime.
async fn connected(address: &Address, place: &Place) -> Result<Client, Fault> {
    let gone = |error: std::io::Error| Fault::Gone(error.to_string());
    match place {
        Place::Tcp(host, port) => {
            let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(gone)?;
            watched(&stream).map_err(gone)?;
            let greeting = Greeting { known: address.known.clone(), host: host.clone() };
            let made = address.config.connect_raw(stream, greeting).await;
            let (client, connection) = made.map_err(|error| refused(&error))?;
            // How it ended whoever waits for an answer is told.
            tokio::spawn(async move { drop(connection.await) });
            Ok(client)
        }
        Place::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(gone)?;
            let config = Config::clone(&address.config).ssl_mode(SslMode::Disable).clone();
            let made = config.connect_raw(stream, NoTls).await;
            let (client, connection) = made.map_err(|error| refused(&error))?;
            tokio::spawn(async move { drop(connection.await) });
            Ok(client)
        }
    }
}

/// Has the system give up on a connection whose other side is silent.
fn watched(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_keepalive(stream, true)?;
    #[cfg(target_os = "linux")]
    rustix::net::sockopt::set_tcp_user_timeout(stream, 10_000)?;
    Ok(())
}

/// Why nobody is let in: a database that starts or is full will be there, all else needs a person.
fn refused(error: &Error) -> Fault {
    match told(0, error) {
        Fault::Gone(text) if text.contains("TLS") || text.contains("authentication") => {
            failed(text)
        }
        fault => fault,
    }
}
