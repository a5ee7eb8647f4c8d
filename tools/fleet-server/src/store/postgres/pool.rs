//! Threads with a connection each, which take what is asked from one queue.
//!
//! - A thread is made when something waits and nobody is idle: a command has one, a server a few.
//! - What somebody else's transaction or a restart came between is done again, here, for ten seconds.
//! - Who asked may be gone: what was begun is ended.

use super::address::Address;
use super::link::{Fault, Hold, Link};
use crate::store::{BookError, Row, Statement};
use std::collections::VecDeque;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a database may be away before who asks is told.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one that has ended may seem to be there.
const ENDING: Duration = Duration::from_secs(2);
/// How often others may come in between.
const AGAIN_MAX: u32 = 1000;
/// Longest pause between two connections.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// What is asked of a book.
#[derive(Debug)]
pub(super) enum Asked {
    /// A query.
    Read(Statement),
    /// A transaction.
    Write(Vec<Statement>),
}

/// The rows of each statement.
type Answered = Result<Vec<Vec<Row>>, BookError>;

/// Something that waits, and whoever waits for it.
#[derive(Debug)]
struct Job {
    asked: Asked,
    reply: SyncSender<Answered>,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    idle: usize,
    threads: Vec<JoinHandle<()>>,
    is_closed: bool,
}

/// What the threads share.
#[derive(Debug)]
struct Shared {
    address: Address,
    hold: Hold,
    queue: Mutex<Queue>,
    wake: Condvar,
}

/// The threads.
#[derive(Debug)]
pub(super) struct Pool {
    shared: Arc<Shared>,
    most: usize,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job; none when there will be none.
    fn next(&self) -> Option<Job> {
        let mut queue = self.queue();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.is_closed {
                return None;
            }
            queue.idle += 1;
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }
}

impl Pool {
    /// None yet, and so many at most.
    pub(super) fn new(address: Address, hold: Hold, most: usize) -> Self {
        let (queue, wake) = (Mutex::default(), Condvar::new());
        Self { shared: Arc::new(Shared { address, hold, queue, wake }), most }
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`BookError`].
    pub(super) fn ask(&self, asked: Asked) -> Answered {
        let gone = || BookError::Failed { problem: "its threads have ended".to_owned() };
        let (reply, answer) = sync_channel(1);
        let mut queue = self.shared.queue();
        queue.jobs.push_back(Job { asked, reply });
        if queue.jobs.len() > queue.idle && queue.threads.len() < self.most {
            let (number, shared) = (queue.threads.len(), self.shared.clone());
            let made = std::thread::Builder::new()
                .name("book".to_owned())
                .spawn(move || serve(&shared, number));
            match made {
                Ok(thread) => queue.threads.push(thread),
                Err(error) if queue.threads.is_empty() => {
                    queue.jobs.clear();
                    return Err(BookError::Failed { problem: error.to_string() });
                }
                // Those that are there will come to it.
                Err(_) => {}
            }
        }
        drop(queue);
        self.shared.wake.notify_one();
        answer.recv().map_err(|_| gone())?
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let threads = {
            let mut queue = self.shared.queue();
            queue.is_closed = true;
            std::mem::take(&mut queue.threads)
        };
        self.shared.wake.notify_all();
        for thread in threads {
            // One that broke off has nothing more to do either.
            let _ = thread.join();
        }
    }
}

/// Answers one job after the other.
fn serve(shared: &Shared, number: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let mut link = None;
    while let Some(Job { asked, reply }) = shared.next() {
        let answered = match &runtime {
            Ok(runtime) => runtime.block_on(answer(shared, &mut link, &asked, number)),
            Err(error) => Err(BookError::Failed { problem: error.to_string() }),
        };
        // Who asked may have gone; what was written stays.
        let _ = reply.send(answered);
    }
}

/// One answer: again and again, as long as that may help.
async fn answer(
    shared: &Shared,
    link: &mut Option<Link>,
    asked: &Asked,
    number: usize,
) -> Answered {
    let until = Instant::now() + PATIENCE;
    let (mut pause, mut again, mut twice) = (Duration::from_millis(5), 0_u32, None);
    loop {
        let is_late = shared.queue().is_closed || Instant::now() >= until;
        match tried(shared, link, asked).await {
            Ok(rows) => return Ok(rows),
            Err(Fault::Book(error)) => return Err(error),
            // Two that count up from one number have one key once; who is really there has it again.
            Err(Fault::Twice { at, key }) if twice.as_ref() == Some(&key) => {
                return Err(BookError::Twice { at });
            }
            Err(Fault::Twice { key, .. }) => twice = Some(key),
            Err(Fault::Again(problem)) => {
                again += 1;
                if is_late || again > AGAIN_MAX {
                    let problem = format!("others were in between {again} times: {problem}");
                    return Err(BookError::Failed { problem });
                }
                // Not all at the same time once more.
                let turn = (number as u64 * 3 + u64::from(again)) % 7;
                sleep(Duration::from_millis(if again < 3 { 0 } else { turn })).await;
            }
            Err(Fault::Held(problem)) if Instant::now() + PATIENCE >= until + ENDING => {
                return Err(BookError::Failed { problem: problem.to_owned() });
            }
            Err(Fault::Held(_)) => sleep(PAUSE_MAX / 5).await,
            Err(Fault::Gone(problem)) => {
                *link = None;
                if is_late {
                    return Err(BookError::Failed { problem });
                }
                sleep(pause).await;
                pause = (2 * pause).min(PAUSE_MAX);
            }
        }
    }
}

async fn tried(
    shared: &Shared,
    link: &mut Option<Link>,
    asked: &Asked,
) -> Result<Vec<Vec<Row>>, Fault> {
    if link.as_ref().is_none_or(|link| link.is_broken) {
        *link = None;
        *link = Some(Link::open(&shared.address, shared.hold).await?);
    }
    let Some(link) = link else { return Err(Fault::Gone("no connection".to_owned())) };
    match asked {
        Asked::Read(query) => link.read(query).await.map(|rows| vec![rows]),
        Asked::Write(all) => link.write(all).await,
    }
}
