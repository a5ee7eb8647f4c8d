//! TLS as the client of a database wants it.
//!
//! - `prefer` and `require` hide what is said from whoever listens, and take anyone for the database;
//!   `verify-full` takes whom an authority of a file vouches for, under the name that was asked for.

use sapwood_connections::{Known, TlsError, TlsStream as Inner};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

/// What greets one host.
pub(super) struct Greeting {
    pub(super) known: Known,
    pub(super) host: String,
}

impl TlsConnect<TcpStream> for Greeting {
    type Stream = Encrypted;
    type Error = TlsError;
    type Future = Pin<Box<dyn Future<Output = Result<Encrypted, TlsError>> + Send>>;

    fn connect(self, stream: TcpStream) -> Self::Future {
        Box::pin(
            async move { self.known.greet(&self.host, stream).await.map(Box::new).map(Encrypted) },
        )
    }
}

/// A connection under TLS.
pub(super) struct Encrypted(Box<Inner<TcpStream>>);

impl TlsStream for Encrypted {
    // The proof of a password is not tied to the certificate: who it is `verify-full` says.
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
