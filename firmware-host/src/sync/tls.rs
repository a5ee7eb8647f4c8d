//! TLS 1.3: the door to `rustls`.
//!
//! - A server with a pin is known by its key alone: no authority, no name, no date can make it another,
//!   and a clock at 1970 cannot lock the device out. Without a pin the authorities of a file speak.
//! - No list of authorities is built in: it would age with the program, and a fleet has one server.
//! - Certificates of authorities are judged by the server's time, where it is known.
//! - Invariant: who answers has proven that the key is its own.

use super::error::ExchangeError;
use super::time::ServerTime;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use sapwood_protocol::fleet::id::Hash;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
pub(super) use tokio_rustls::client::TlsStream;

/// How servers are known: whoever connects has one of these.
#[derive(Clone)]
pub(super) struct Known(TlsConnector);

/// The server has another key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its key has BLAKE3 {got}, expected {expected} by the link's pin")]
pub(super) struct OtherKey {
    expected: Hash,
    got: Hash,
}

impl Known {
    /// The server with this key.
    ///
    /// # Errors
    /// [`ExchangeError::Authorities`] never; the library's own settings are at fault.
    pub(super) fn by_key(pin: Hash, time: &Arc<ServerTime>) -> Result<Self, ExchangeError> {
        let provider = Arc::new(ring::default_provider());
        let pinned = Pinned { pin, provider: provider.clone() };
        Self::by(Arc::new(pinned), provider, time)
    }

    /// Any server that an authority of this file vouches for.
    ///
    /// # Errors
    /// [`ExchangeError::Authorities`].
    pub(super) fn by_authorities(
        file: &Path,
        time: &Arc<ServerTime>,
    ) -> Result<Self, ExchangeError> {
        let wrong = |problem: String| ExchangeError::Authorities { path: file.into(), problem };
        let mut roots = RootCertStore::empty();
        let read = CertificateDer::pem_file_iter(file).map_err(|error| wrong(error.to_string()))?;
        for certificate in read {
            // One that this library does not know need not be the one that counts.
            let _ = roots.add(certificate.map_err(|error| wrong(error.to_string()))?);
        }
        if roots.is_empty() {
            return Err(wrong("it holds no certificate of an authority".into()));
        }
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let verifier = verifier.build().map_err(|error| wrong(error.to_string()))?;
        Self::by(verifier, provider, time)
    }

    fn by(
        verifier: Arc<dyn ServerCertVerifier>,
        provider: Arc<CryptoProvider>,
        time: &Arc<ServerTime>,
    ) -> Result<Self, ExchangeError> {
        let judged = Arc::new(Judged(time.clone()));
        let builder = ClientConfig::builder_with_details(provider, judged)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| ExchangeError::Tls { host: String::new(), problem: told(&error) })?;
        let config =
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Speaks TLS over a connection.
    ///
    /// # Errors
    /// [`ExchangeError::Tls`] when the other side is not who it should be.
    pub(super) async fn greet(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, ExchangeError> {
        let wrong = |problem| ExchangeError::Tls { host: host.to_owned(), problem };
        let plain = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(plain.to_owned());
        let name = name.map_err(|_| wrong("expected the name of a host".into()))?;
        let greeted = self.0.connect(name, stream).await;
        greeted.map_err(|error| {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
            wrong(inner.map_or_else(|| error.to_string(), told))
        })
    }
}

/// An error in one line; an own one without what the library says around it.
fn told(error: &Error) -> String {
    let own = |other: &OtherError| other.0.downcast_ref::<OtherKey>().map(OtherKey::to_string);
    let own = match error {
        Error::Other(other) | Error::InvalidCertificate(CertificateError::Other(other)) => {
            own(other)
        }
        _ => None,
    };
    own.unwrap_or_else(|| error.to_string())
}

/// Whose certificate is taken: one with the pinned key, whatever else it says.
#[derive(Debug)]
struct Pinned {
    pin: Hash,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let key = ParsedCertificate::try_from(end_entity)?.subject_public_key_info();
        let (expected, got) = (self.pin, Hash::of(&key));
        match expected == got {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(Error::Other(OtherError(Arc::new(OtherKey { expected, got })))),
        }
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
#[derive(Debug)]
struct Judged(Arc<ServerTime>);

impl TimeProvider for Judged {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.now_ms())))
    }
}
