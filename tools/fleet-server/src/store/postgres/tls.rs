//! TLS to a database: the door to `rustls` for it.
//!
//! - `prefer` and `require` hide what is said from whoever listens, and take anyone for the database;
//!   `verify-full` takes whom an authority of a file vouches for, under the name that was asked for.
//! - TLS 1.3 alone, by ring. No list of authorities is built in.

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as Inner;

/// Why certificates are not to be had.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}, expected certificates of authorities in PEM", path = path.display())]
pub struct TlsError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: String,
}

/// Who a database must be.
#[derive(Clone, Debug)]
pub(super) enum Tls {
    /// Anyone.
    Anyone,
    /// Whom one of these vouches for.
    Known(Arc<RootCertStore>),
}

impl Tls {
    /// Whom an authority of a file vouches for.
    ///
    /// # Errors
    /// [`TlsError`].
    pub(super) fn authorities(file: &Path) -> Result<Self, TlsError> {
        let wrong = |problem: String| TlsError { path: file.to_owned(), problem };
        let mut roots = RootCertStore::empty();
        let all = CertificateDer::pem_file_iter(file).map_err(|error| wrong(error.to_string()))?;
        for certificate in all {
            // One that this library does not know need not be the one that counts.
            let _ = roots.add(certificate.map_err(|error| wrong(error.to_string()))?);
        }
        match roots.is_empty() {
            true => Err(wrong("it has none".to_owned())),
            false => Ok(Self::Known(Arc::new(roots))),
        }
    }

    /// What greets a host.
    ///
    /// # Errors
    /// What is wrong with its name, or with the library's own settings.
    pub(super) fn to(&self, host: &str) -> Result<Greeting, String> {
        let told = |error: Error| error.to_string();
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match self {
            Self::Anyone => Arc::new(Anyone(provider.clone())),
            Self::Known(roots) => {
                WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
                    .build()
                    .map_err(|error| error.to_string())?
            }
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(told)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        Ok(Greeting { connector: TlsConnector::from(Arc::new(config)), name })
    }
}

/// What greets one host.
pub(super) struct Greeting {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl TlsConnect<TcpStream> for Greeting {
    type Stream = Encrypted;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted>> + Send>>;

    fn connect(self, stream: TcpStream) -> Self::Future {
        Box::pin(async move {
            self.connector.connect(self.name, stream).await.map(Box::new).map(Encrypted)
        })
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

/// Takes every certificate whose key the other side has.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let all = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, all)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
