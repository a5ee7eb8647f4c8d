//! One connection's pace: a client that takes nothing is cut off, one that is refused hears it.
//!
//! - Where bytes lie unread when a socket closes, the system takes back the answer on its way, and a
//!   client that is still sending hears of a broken connection alone: so a close reads on for a while.
//! - Invariant: a write ends [`STUCK`] after the last byte that was taken, a close [`LINGER`] after it
//!   began, whatever the client sends.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Time without a byte taken by a client that has bytes to take.
const STUCK: Duration = Duration::from_secs(20);
/// How long a connection that is closed reads on.
const LINGER: Duration = Duration::from_secs(2);
/// Reads of a closing connection before others have their turn.
const READS: usize = 32;

/// A connection that ends when its client does not move.
#[derive(Debug)]
pub struct Paced<Io> {
    io: Io,
    stuck: Option<Pin<Box<Sleep>>>,
    /// From the moment that all is written and said to be.
    lingers: Option<Pin<Box<Sleep>>>,
}

impl<Io> Paced<Io> {
    /// A connection whose client has not moved yet.
    pub fn new(io: Io) -> Self {
        Self { io, stuck: None, lingers: None }
    }
}

impl<Io: AsyncWrite + Unpin> Paced<Io> {
    fn write_with(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut Io>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = write(Pin::new(&mut self.io), context) {
            self.stuck = None;
            return Poll::Ready(written);
        }
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(STUCK)));
        ready!(stuck.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Paced<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Paced<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write_with(context, |io, context| io.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write_with(context, |io, context| io.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, lingers, .. } = &mut *self;
        let lingers = match lingers {
            Some(lingers) => lingers,
            None => {
                ready!(Pin::new(&mut *io).poll_shutdown(context))?;
                lingers.insert(Box::pin(sleep(LINGER)))
            }
        };
        // Before any read: who sends without a pause would never have it asked.
        if lingers.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut bytes = [0; 8 << 10];
        for _ in 0..READS {
            let mut unread = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *io).poll_read(context, &mut unread) {
                Poll::Ready(Ok(())) if !unread.filled().is_empty() => {}
                // Its end, or that of the whole connection.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use std::sync::mpsc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_cut_off_and_one_that_does_is_not() {
        let (near, mut far) = duplex(4);
        let soon = Box::pin(sleep(Duration::from_millis(1)));
        let mut stuck = Paced::new(near);
        stuck.write_all(b"full").await.unwrap();
        far.read_exact(&mut [0; 4]).await.unwrap();
        stuck.write_all(b"full").await.unwrap();
        assert!(stuck.stuck.is_none());
        stuck.stuck = Some(soon);
        let error = stuck.write_all(b"more").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_close_takes_what_is_on_its_way_and_ends_with_the_client() {
        let (near, mut far) = duplex(4);
        let closing = tokio::spawn(async move { Paced::new(near).shutdown().await });
        far.write_all(&[7; 1000]).await.unwrap();
        drop(far);
        closing.await.unwrap().unwrap();
    }

    /// A client that always has more to say.
    struct Endless;

    impl AsyncRead for Endless {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            buffer.put_slice(&[7; 100]);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Endless {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn a_close_ends_also_when_the_client_sends_without_end() {
        let (ended, ends) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async { Paced::new(Endless).shutdown().await }).unwrap();
            ended.send(())
        });
        ends.recv_timeout(5 * LINGER).unwrap();
    }
}
