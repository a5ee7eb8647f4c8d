//! The fleet's server of memory behind TLS, on a port of its own.

use crate::sync::memory::{Desk, Office};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::message::Signed;
use std::sync::{Arc, MutexGuard};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub(super) use crate::sync::memory::{Bad, NOW_MS, refusal};

/// The server; it ends with the runtime of its test.
#[derive(Clone)]
pub(super) struct Server {
    office: Office,
    pub(super) port: u16,
    pub(super) pin: Hash,
    pub(super) pem: String,
}

impl Server {
    pub(super) async fn start() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned()];
        let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let secret = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], secret)
            .unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let pin = Hash::of(&rcgen::PublicKeyData::subject_public_key_info(&key));
        let server = Self { office: Office::default(), port, pin, pem: certificate.pem() };
        let (acceptor, office) = (TlsAcceptor::from(Arc::new(config)), server.office.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, office) = (acceptor.clone(), office.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    office.serve(stream).await;
                });
            }
        });
        server
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Desk> {
        self.office.desk()
    }

    /// The link that its operator gives.
    pub(super) fn link(&self) -> String {
        self.office.link(&format!("127.0.0.1:{}", self.port), self.pin)
    }

    /// Offers an artifact.
    pub(super) fn offer(&self, signed: Signed, artifact: &[u8]) {
        self.office.offer(signed, artifact);
    }
}
