//! The threads that the program cannot do without: none of them dies in silence.
//!
//! - One that breaks off is told at once to whoever listens, who makes it a fault of the device and ends
//!   the program in order; [`EXIT_BROKEN`] lets the service manager start it again.
//! - What a request breaks ends that request alone, and is counted with all others by
//!   [`log::panics`](crate::log::panics).
//! - Never here: what a thread does.

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use tokio::task::JoinError;

/// The program broke off, in the words of sysexits.h: a fault in itself.
pub const EXIT_BROKEN: u8 = 70;

/// Which thread broke off, and what it said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the thread {name:?} broke off ({said}), which is a fault in the program; what was committed and acknowledged is kept"
)]
pub struct Broken {
    /// Its name.
    pub name: &'static str,
    /// Its last words.
    pub said: String,
}

type Alarm = Box<dyn Fn(&Broken) + Send>;

/// Starts threads and watches over them; cheap to clone.
#[derive(Clone, Default)]
pub struct Supervisor(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    /// The first that broke off: what follows may follow from it.
    broken: Option<Broken>,
    alarm: Option<Alarm>,
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_tuple("Supervisor").field(&self.broken()).finish()
    }
}

impl Supervisor {
    /// Starts a thread; what it is joined to is none when it broke off.
    ///
    /// # Errors
    /// The system's, when it gives no thread.
    pub fn start<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<Option<T>>> {
        let supervisor = self.clone();
        thread::Builder::new().name(name.into()).spawn(move || {
            // What it shared is guarded by locks that say what a panic leaves; nothing else is used again.
            let ended = catch_unwind(AssertUnwindSafe(work));
            ended.map_err(|said| supervisor.report(name, &*said)).ok()
        })
    }

    /// Starts a task on the runtime of the caller.
    pub fn task(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let (supervisor, task) = (self.clone(), tokio::spawn(work));
        tokio::spawn(async move {
            if let Err(Ok(said)) = task.await.map_err(JoinError::try_into_panic) {
                supervisor.report(name, &*said);
            }
        });
    }

    /// Hears of the first thread that breaks off, also when that was before.
    pub fn on_break(&self, alarm: impl Fn(&Broken) + Send + 'static) {
        let mut inner = self.lock();
        inner.broken.iter().for_each(&alarm);
        inner.alarm = Some(Box::new(alarm));
    }

    /// The first thread that broke off.
    pub fn broken(&self) -> Option<Broken> {
        self.lock().broken.clone()
    }

    fn report(&self, name: &'static str, said: &(dyn Any + Send)) {
        let broken = Broken { name, said: words(said).to_owned() };
        let mut inner = self.lock();
        if inner.broken.is_none() {
            inner.alarm.iter().for_each(|alarm| alarm(&broken));
            inner.broken = Some(broken);
        }
    }

    /// A panic of the alarm leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a panic said.
fn words(said: &(dyn Any + Send)) -> &str {
    let said = said.downcast_ref::<&str>().copied().or(said.downcast_ref::<String>().map(|s| &**s));
    said.unwrap_or("it said nothing")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    #![expect(clippy::panic, reason = "what is supervised here breaks off")]
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_thread_that_breaks_off_is_told_once_by_name() {
        let supervisor = Supervisor::default();
        let (sender, heard) = mpsc::channel();
        supervisor.on_break(move |broken| sender.send(broken.to_string()).unwrap());
        assert_eq!(supervisor.start("sound", || 3).unwrap().join().unwrap(), Some(3));
        assert_eq!(supervisor.broken(), None);
        let number = 7;
        let broken = supervisor.start("folder", move || panic!("index {number}")).unwrap();
        assert_eq!(broken.join().unwrap(), None::<()>);
        supervisor.start("serial", || panic!("later")).unwrap().join().unwrap();
        let told = heard.recv().unwrap();
        assert!(told.starts_with("the thread \"folder\" broke off (index 7)"), "{told}");
        assert!(heard.try_recv().is_err(), "the second one may follow from the first");
        assert_eq!(supervisor.broken().unwrap().name, "folder");
    }

    #[test]
    fn who_listens_late_hears_of_it_too() {
        let supervisor = Supervisor::default();
        supervisor.start("signals", || panic!("gone")).unwrap().join().unwrap();
        let (sender, heard) = mpsc::channel();
        supervisor.on_break(move |broken| sender.send(broken.clone()).unwrap());
        assert_eq!(heard.recv().unwrap(), Broken { name: "signals", said: "gone".into() });
    }

    #[tokio::test]
    async fn a_task_that_breaks_off_is_told_like_a_thread() {
        let supervisor = Supervisor::default();
        let (sender, heard) = tokio::sync::oneshot::channel();
        let sender = Mutex::new(Some(sender));
        supervisor.on_break(move |broken| {
            sender.lock().unwrap().take().unwrap().send(broken.name).unwrap();
        });
        supervisor.task("sound", async {});
        supervisor.task("accept", async { panic!("no more connections") });
        assert_eq!(heard.await.unwrap(), "accept");
    }
}
