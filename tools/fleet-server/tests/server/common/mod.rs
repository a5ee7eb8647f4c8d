//! A fleet in a folder of its own, its server in this process or as the program, and devices that call
//! it over TLS.

pub(crate) mod book;
mod device;
pub(crate) mod over;
pub(crate) mod postgres;
mod program;
pub(crate) mod proxy;
mod rounds;
pub(crate) mod s3;

pub(crate) use device::{Device, Line, Reply, Stream, adapter, meta, read};
pub(crate) use over::over_every_store;
pub(crate) use program::{Served, install, is_gone, json, refused, run, said, written};
pub(crate) use rounds::{
    candidate, cohort, fleet, fleet_with, given, open, own, patient, promote, release, so_far,
    until,
};

use fleet_server::home::{self, Home, Stores, Wish};
use fleet_server::operator::{self, Invitation};
use fleet_server::ports::{Clock, SystemChance};
use fleet_server::serve::{self, Server, Settings};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use sapwood_protocol::fleet::id::{FleetId, Hash};
use sapwood_protocol::fleet::key::SecretKey;
use sapwood_protocol::fleet::link::Link;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The day on which all tests begin.
pub(crate) const DAY_ONE_MS: u64 = 1_764_100_000_000;
pub(crate) const BASE: Hash = Hash([7; 32]);
pub(crate) const LABEL: &str = "pumps";

/// A clock that a test winds.
pub(crate) struct Wound(pub(crate) AtomicU64);

impl Clock for Wound {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.now_ms())
    }
}

/// A fleet with its server.
pub(crate) struct Fleet {
    pub(crate) place: tempfile::TempDir,
    pub(crate) clock: Arc<Wound>,
    pub(crate) server: Option<Server>,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) address: SocketAddr,
    pub(crate) id: FleetId,
    /// The Postgres of its own that has the book, if one does; it ends last.
    pub(crate) service: Option<postgres::Postgres>,
}

pub(crate) fn client_tls(folder: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("tls/cert.pem")).unwrap()).unwrap();
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(ring).with_safe_default_protocol_versions();
    Arc::new(config.unwrap().with_root_certificates(roots).with_no_client_auth())
}

/// Makes a fleet's folder, with a certificate for this machine.
pub(crate) fn made(folder: &Path, now_ms: u64) -> FleetId {
    made_with(folder, &Stores::default(), now_ms)
}

/// The same with the book elsewhere.
pub(crate) fn made_with(folder: &Path, stores: &Stores, now_ms: u64) -> FleetId {
    let names = ["localhost".to_owned()];
    let wish = Wish { folder, name: "valves", tls: Some(&names), now_ms };
    let blobs = stores.blobs.clone().or_else(|| s3::chosen(folder));
    let stores = Stores { blobs, ..stores.clone() };
    home::init_with(&wish, &stores, &SystemChance).unwrap()
}

/// Where a fleet's book is to be: in a database where the caller says so, `SAPWOOD_BOOK=postgres`.
pub(crate) fn chosen() -> Stores {
    #[expect(clippy::disallowed_methods, reason = "over which book is the caller's to say")]
    let named = std::env::var("SAPWOOD_BOOK");
    let is_postgres = named.is_ok_and(|book| book == "postgres");
    let name = "SAPWOOD_BOOK=postgres";
    let there = || postgres::database(name).unwrap_or_else(|| panic!("{name}, and none to start"));
    Stores { database: is_postgres.then(there), blobs: None }
}

/// A link to a port of this machine that lets so many in at once.
pub(crate) fn link(home: &Home, port: u16, uses: u64, lab: bool, now_ms: u64) -> Link {
    let invitation = Invitation {
        host: format!("localhost:{port}"),
        label: LABEL.into(),
        uses,
        expires_ms: now_ms + 86_400_000,
        auto: true,
        lab,
        pinned: true,
    };
    operator::invite(home, &invitation, &SystemChance, now_ms).unwrap()
}

impl Fleet {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl Fn(&mut Settings)) -> Self {
        Self::at(&chosen(), None, change)
    }

    /// A fleet whose book is in a Postgres of its own.
    pub(crate) fn over(service: postgres::Postgres, change: impl Fn(&mut Settings)) -> Self {
        let database = Some(service.database("fleet"));
        Self::at(&Stores { database, blobs: None }, Some(service), change)
    }

    fn at(
        stores: &Stores,
        service: Option<postgres::Postgres>,
        change: impl Fn(&mut Settings),
    ) -> Self {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("fleet");
        let id = made_with(&folder, stores, DAY_ONE_MS);
        let clock = Arc::new(Wound(AtomicU64::new(DAY_ONE_MS)));
        let mut settings = Settings::new(&folder);
        settings.clock = clock.clone();
        change(&mut settings);
        let server = serve::start(settings).unwrap();
        let (tls, address) = (client_tls(&folder), server.address);
        Self { place, clock, server: Some(server), tls, address, id, service }
    }

    pub(crate) fn folder(&self) -> std::path::PathBuf {
        self.place.path().join("fleet")
    }

    pub(crate) fn home(&self) -> Home {
        Home::open(&self.folder()).unwrap()
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    pub(crate) fn wind(&self, by: Duration) {
        self.clock.0.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }

    /// A link that lets so many in at once.
    pub(crate) fn link(&self, uses: u64, lab: bool) -> Link {
        let home = self.server.as_ref().unwrap().home();
        link(home, self.address.port(), uses, lab, self.now_ms())
    }

    /// A device that has not called yet.
    pub(crate) fn device(&self, seed: u8) -> Device {
        let seed = Hash::of(&[seed]).0;
        Device::new(
            SecretKey::from_seed(&seed),
            self.id,
            self.address,
            self.tls.clone(),
            self.now_ms(),
        )
    }

    /// A device that takes part.
    pub(crate) fn enrolled(&self, seed: u8) -> Device {
        let mut device = self.device(seed);
        let token = self.link(1, false).token;
        let enrolled = device.enrol(token.as_deref()).unwrap();
        assert_eq!(enrolled.device, device.id);
        device
    }
}
