//! TLS 1.3 towards a server, and who that must be: the door to `rustls` of all who connect.
//!
//! - A server with a pin is known by its key alone: no authority, no name, no date can make it another,
//!   and a clock at 1970 locks nobody out. Else the authorities of a file speak, or nobody.
//! - No list of authorities is built in: it would age with the program.
//! - Every connection shakes hands in full; nothing is kept for the next one.
//! - Invariant: who answers has proven that the key is its own.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::time_provider::TimeProvider;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use sapwood_protocol::fleet::id::Hash;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
pub use tokio_rustls::client::TlsStream;

/// Why there is no TLS.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// A file of authorities that is none.
    #[error("{path}: {problem}, expected certificates of authorities in PEM", path = path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A name that no certificate could have.
    #[error("expected the name of a host")]
    Name,
    /// The server has another key.
    #[error("its key has BLAKE3 {got}, expected {expected} by the link's pin")]
    Key {
        /// The pin.
        expected: Hash,
        /// What it has.
        got: Hash,
    },
    /// The library, or the connection.
    #[error("{0}")]
    Other(String),
}

impl From<Error> for TlsError {
    fn from(error: Error) -> Self {
        let own = match &error {
            Error::Other(OtherError(own)) => own.downcast_ref::<Self>().cloned(),
            _ => None,
        };
        own.unwrap_or_else(|| Self::Other(error.to_string()))
    }
}

/// How a server is known.
#[derive(Clone, Debug)]
pub struct Known(Arc<ClientConfig>);

impl Known {
    /// Whoever answers: what is said is hidden from who only listens.
    ///
    /// # Errors
    /// [`TlsError::Other`]: the library's own settings are at fault.
    pub fn anyone() -> Result<Self, TlsError> {
        Self::by_certificate(None)
    }

    /// The server with this key.
    ///
    /// # Errors
    /// As those of [`Known::anyone`].
    pub fn by_key(pin: Hash) -> Result<Self, TlsError> {
        Self::by_certificate(Some(pin))
    }

    fn by_certificate(pin: Option<Hash>) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        Self::by(Arc::new(ByKey { pin, provider: provider.clone() }), provider)
    }

    /// Any server for whose name an authority of this file vouches.
    ///
    /// # Errors
    /// [`TlsError::Authorities`].
    pub fn by_authorities(file: &Path) -> Result<Self, TlsError> {
        let wrong = |problem: String| TlsError::Authorities { path: file.into(), problem };
        let mut roots = RootCertStore::empty();
        let read = CertificateDer::pem_file_iter(file).map_err(|error| wrong(error.to_string()))?;
        for certificate in read {
            // One that this library does not know need not be the one that counts.
            let _ = roots.add(certificate.map_err(|error| wrong(error.to_string()))?);
        }
        if roots.is_empty() {
            return Err(wrong("it has none".into()));
        }
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        Self::by(verifier.build().map_err(|error| wrong(error.to_string()))?, provider)
    }

    fn by(
        verifier: Arc<dyn ServerCertVerifier>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }

    /// The same, dates of certificates judged by a time of the caller's, since 1970.
    pub fn judged_by(self, now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        let mut config = Arc::unwrap_or_clone(self.0);
        config.time_provider = Arc::new(Judged(now));
        Self(Arc::new(config))
    }

    /// Speaks TLS over a connection to a host.
    ///
    /// # Errors
    /// [`TlsError`] when the other side is not who it should be.
    pub async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: &str,
        stream: S,
    ) -> Result<TlsStream<S>, TlsError> {
        let plain = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(plain.to_owned()).map_err(|_| TlsError::Name)?;
        let greeted = TlsConnector::from(self.0.clone()).connect(name, stream).await;
        greeted.map_err(|error| match error.get_ref().and_then(|own| own.downcast_ref::<Error>()) {
            Some(own) => own.clone().into(),
            None => TlsError::Other(error.to_string()),
        })
    }
}

/// Whose certificate is taken: one with the pinned key, or any, whatever else it says.
#[derive(Debug)]
struct ByKey {
    pin: Option<Hash>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ByKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(expected) = self.pin {
            let key = ParsedCertificate::try_from(end_entity)?.subject_public_key_info();
            let got = Hash::of(&key);
            if got != expected {
                return Err(Error::Other(OtherError(Arc::new(TlsError::Key { expected, got }))));
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("expected TLS 1.3".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The time by which certificates are judged.
struct Judged<F>(F);

impl<F> fmt::Debug for Judged<F> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Judged")
    }
}

impl<F: Fn() -> Duration + Send + Sync> TimeProvider for Judged<F> {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch((self.0)()))
    }
}
