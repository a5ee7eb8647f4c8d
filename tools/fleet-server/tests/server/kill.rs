//! The real server under load, killed again and again: what it acknowledged is there, once.
//!
//! - Every life starts `fleet-server serve` on the same folder; devices enrol, check in and upload over
//!   TLS until it is killed at a moment of chance. Who got no answer asks the next life again.
//! - Then, of the folder: every device that was told so is enrolled, every counter that was heard is kept,
//!   every upload with a receipt has its row and its whole file, and is counted once.
//! - Over Postgres the database is killed too, with all that it started, in every fourth life, and comes back
//!   in it.
//! - 200 kills in the gate, and 32 over Postgres;
//!   `SAPWOOD_KILLS=1000 cargo test -p fleet-server --test server kill::` for more.

use crate::common::postgres::Postgres as Service;
use crate::common::{self, DAY_ONE_MS, Device, Served, client_tls, link, made_with};
use fleet_server::devices;
use fleet_server::home::{Home, Stores};
use fleet_server::operator::rounds as orders;
use fleet_server::ports::{Clock, SystemChance, SystemClock};
use fleet_server::rounds::{self, NONE, State, UploadState};
use fleet_server::store::{Book, Columns};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use rustls::ClientConfig;
use sapwood_protocol::fleet::id::{DeviceId, FleetId, Hash};
use sapwood_protocol::fleet::key::SecretKey;
use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

const KILLS: u32 = 200;
/// Over Postgres, where one takes longer.
const KILLS_POSTGRES: u32 = 32;
/// Servers that live at the same time.
const SERVERS: u32 = 2;
/// Devices of a server that call at the same time.
const CALLERS: u64 = 3;
/// Devices without a receipt that a caller has at least.
const WAITING: usize = 6;
/// Longest life, in milliseconds from when it serves.
const LIFE_MS_MAX: u64 = 300;
/// Uploads of a round, at first.
const QUOTA: u64 = 12;

fn kills(otherwise: u32) -> u32 {
    #[expect(clippy::disallowed_methods, reason = "the length of the campaign is the caller's")]
    let named = std::env::var("SAPWOOD_KILLS").ok();
    named.and_then(|kills| kills.parse().ok()).unwrap_or(otherwise)
}

/// What a device was told, and what it will ask again.
struct Life {
    device: Device,
    enrolled: bool,
    /// The highest counter of an answered check-in.
    heard: u64,
    /// The round, and the file that it was asked for.
    sends: Option<(u64, Vec<u8>)>,
    /// The round and the hash of a receipt.
    receipt: Option<(u64, Hash)>,
}

/// A fleet and its devices.
struct Campaign {
    folder: PathBuf,
    fleet: FleetId,
    tls: Arc<ClientConfig>,
    token: String,
}

fn campaign(place: &Path, service: Option<&Service>) -> Campaign {
    let folder = place.join("fleet");
    let now_ms = SystemClock::start().now_ms();
    let database = service.map(|service| service.database("fleet"));
    let fleet = made_with(&folder, &Stores { database, blobs: None }, now_ms);
    let home = Home::open(&folder).unwrap();
    let token = link(&home, 8443, 1_000_000, false, now_ms).token.unwrap();
    Campaign { tls: client_tls(&folder), folder, fleet, token }
}

impl Life {
    fn new(campaign: &Campaign, number: u64, address: SocketAddr) -> Self {
        let seed = Hash::of(&number.to_le_bytes()).0;
        let key = SecretKey::from_seed(&seed);
        let now_ms = SystemClock::start().now_ms();
        let device = Device::new(key, campaign.fleet, address, campaign.tls.clone(), now_ms);
        Self { device, enrolled: false, heard: 0, sends: None, receipt: None }
    }

    /// One more thing that this device wants; false when it was not answered, or has all.
    fn goes_on(&mut self, campaign: &Campaign, number: u64) -> bool {
        if !self.enrolled {
            self.enrolled = self.device.try_enrol(&campaign.token);
            return self.enrolled;
        }
        let Some((round, file)) = &self.sends else {
            self.device.counter += 1;
            self.device.time_ms = SystemClock::start().now_ms();
            let Some(checked) = self.device.try_check_in() else { return false };
            self.heard = self.device.counter;
            let Some(invite) = checked.invite else { return false };
            self.sends = Some((invite.round, self.device.update(NONE, number)));
            return true;
        };
        let path = format!("/v1/rounds/{round}/upload");
        let Some(reply) = self.device.call("PUT", &path, file) else { return false };
        match reply.status {
            200 | 201 => self.receipt = Some((*round, Hash::of(file))),
            // The round closed before this device: another will ask.
            410 => self.sends = None,
            503 => {}
            _ => assert!(reply.body.is_empty(), "{}", reply.text()),
        }
        false
    }
}

/// Calls until the server is gone: those without a receipt one after the other, again and again, and a new
/// one where there are few of them.
fn calls(
    campaign: &Campaign,
    address: SocketAddr,
    waiting: Vec<(u64, Life)>,
    fresh: impl Fn() -> u64,
    over: &AtomicBool,
) -> Vec<(u64, Life)> {
    let (mut waiting, mut done) = (VecDeque::from(waiting), Vec::new());
    while !over.load(Ordering::SeqCst) {
        if waiting.len() < WAITING {
            let number = fresh();
            waiting.push_front((number, Life::new(campaign, number, address)));
        }
        let Some((number, mut life)) = waiting.pop_front() else { break };
        life.device.address = address;
        while life.goes_on(campaign, number) {}
        match life.receipt {
            Some(_) => done.push((number, life)),
            None => waiting.push_back((number, life)),
        }
    }
    done.extend(waiting);
    done
}

/// Fails unless everything that was acknowledged is there, once; how many uploads are.
fn check(home: &Home, all: &BTreeMap<u64, Life>) -> u64 {
    if !home.book.is_shared() {
        let rows = home.book.read("pragma integrity_check", &[]).unwrap();
        assert_eq!(Columns::of(rows[0].clone()).text().unwrap(), "ok");
    }
    let known: BTreeMap<DeviceId, devices::Device> =
        devices::all(&home.book, None).unwrap().into_iter().map(|one| (one.id, one)).collect();
    let mut kept = BTreeMap::new();
    for round in rounds::all(&home.book).unwrap() {
        let uploads = rounds::uploads(&home.book, round.id).unwrap();
        let stored = uploads
            .iter()
            .filter(|upload| matches!(upload.state, UploadState::Stored | UploadState::Counted));
        let mut count = 0;
        for upload in stored {
            count += 1;
            let twice = kept.insert(upload.device, (round.id, upload.file.clone().unwrap().hash));
            assert!(twice.is_none(), "{} is in two rounds", upload.device);
        }
        assert!(count == round.stored && count <= round.quota, "{round:?} has {count}");
        assert!(round.state != State::Failed, "{round:?}");
    }
    let mut acknowledged = 0;
    for life in all.values() {
        let row = known.get(&life.device.id);
        assert!(!life.enrolled || row.is_some(), "{} is gone", life.device.id);
        assert!(row.map_or(0, |row| row.counter) >= life.heard, "{}", life.device.id);
        if let Some(receipt) = life.receipt {
            assert_eq!(kept.get(&life.device.id), Some(&receipt), "{}", life.device.id);
            home.blobs.read(receipt.1).unwrap();
            acknowledged += 1;
        }
    }
    acknowledged
}

/// Waits; not by parking, from which a thread of a scope wakes its parent when it ends.
fn wait(time: Duration) {
    let (_nobody, never) = mpsc::channel::<()>();
    assert!(never.recv_timeout(time).is_err());
}

/// Opens a round once there is a cohort and the last one is full; ends one now and then with who came, for
/// most of many devices have given already. The more there are, the more it asks for.
fn next_round(home: &Home, kill: u32, devices: u64) {
    let Ok(cohort) = orders::cohort(&home.book, None) else { return };
    let now_ms = SystemClock::start().now_ms();
    match rounds::open_one(&home.book, cohort.id).unwrap() {
        Some(round) if kill % 8 == 7 && round.stored >= 2 => {
            orders::close(&home.book, round.id, now_ms).unwrap();
        }
        Some(_) => {}
        None => {
            let change = format!("{{\"min_devices\": 2, \"quota\": {}}}", QUOTA.max(devices / 3));
            orders::policy(&home.book, &cohort, &change, DAY_ONE_MS).unwrap();
            let cohort = orders::cohort(&home.book, None).unwrap();
            orders::open(home, &cohort, &SystemChance, now_ms).unwrap();
        }
    }
}

/// One server, killed again and again: kills, uploads acknowledged, rounds merged.
fn server(kills: u32, seed: u64, mut service: Option<Service>) -> [u64; 3] {
    let place = tempfile::tempdir().unwrap();
    let campaign = campaign(place.path(), service.as_ref());
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let (mut all, mut acknowledged): (BTreeMap<u64, Life>, u64) = (BTreeMap::new(), 0);
    let next = std::sync::atomic::AtomicU64::new(0);
    for kill in 0..kills {
        let mut served = Served::start(&campaign.folder);
        let address = served.address;
        let life = Duration::from_millis(chance.next_u64() % LIFE_MS_MAX);
        let over = AtomicBool::new(false);
        let mut waiting: Vec<Vec<(u64, Life)>> = (0..CALLERS).map(|_| Vec::new()).collect();
        let unfinished: Vec<u64> = all
            .iter()
            .filter(|(_, life)| life.receipt.is_none())
            .map(|(number, _)| *number)
            .collect();
        for number in unfinished {
            let place = (number % CALLERS) as usize;
            waiting[place].push((number, all.remove(&number).unwrap()));
        }
        let came = thread::scope(|scope| {
            let (campaign, over) = (&campaign, &over);
            let fresh = || next.fetch_add(1, Ordering::SeqCst);
            let callers: Vec<_> = waiting
                .into_iter()
                .map(|waiting| {
                    let run = move || match address {
                        Some(address) => calls(campaign, address, waiting, fresh, over),
                        None => waiting,
                    };
                    scope.spawn(run)
                })
                .collect();
            wait(life / 2);
            if let Some(service) = service.as_mut().filter(|_| kill % 4 == 3) {
                service.kill();
                service.begin();
            }
            wait(life / 2);
            served.child.kill().unwrap();
            over.store(true, Ordering::SeqCst);
            callers.into_iter().flat_map(|one| one.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(served.child.wait().unwrap().signal(), Some(9), "the server ended by itself");
        all.extend(came);
        let home = Home::open(&campaign.folder).unwrap();
        acknowledged = check(&home, &all);
        next_round(&home, kill, all.len() as u64);
        assert!(kill < 20 || acknowledged > 0, "no life came as far as a receipt");
    }
    let home = Home::open(&campaign.folder).unwrap();
    let merged = rounds::of_state(&home.book, State::Merged).unwrap().len() as u64;
    [kills.into(), acknowledged, merged]
}

/// Several servers at the same time; fails unless enough came of it.
fn campaigns(name: &str, kills: u32, services: Vec<Option<Service>>) {
    let share = kills.div_ceil(SERVERS);
    let servers: Vec<_> = services
        .into_iter()
        .zip(9..)
        .map(|(service, seed)| thread::spawn(move || server(share, seed, service)))
        .collect();
    let counts = servers.into_iter().map(|one| one.join().unwrap());
    let sum = |one: [u64; 3], other: [u64; 3]| std::array::from_fn(|at| one[at] + other[at]);
    let [kills, acknowledged, merged] = counts.reduce(sum).unwrap();
    let told = format!(
        "{name}: {kills} kills; {acknowledged} uploads acknowledged, {merged} rounds merged\n"
    );
    std::io::stderr().write_all(told.as_bytes()).unwrap();
    assert!(acknowledged > kills / 4 && merged > kills / 100, "{told}");
}

#[test]
fn what_was_acknowledged_survives_every_kill_and_counts_once() {
    campaigns("sqlite", kills(KILLS), (0..SERVERS).map(|_| None).collect());
}

#[test]
fn what_was_acknowledged_survives_every_kill_of_server_and_database() {
    let name = "what_was_acknowledged_survives_every_kill_of_server_and_database";
    let services: Vec<_> = (0..SERVERS).map(|_| Service::start(name)).collect();
    if services.iter().all(Option::is_some) {
        campaigns("postgres", kills(KILLS_POSTGRES), services);
    }
}

/// The same where the blobs are in a bucket; the store is not killed.
#[test]
fn what_was_acknowledged_survives_over_s3() {
    let names = ["kill::what_was_acknowledged_survives_every_kill_and_counts_once"];
    common::s3::again("kill_over_s3", &names, &[("SAPWOOD_KILLS", "80")]);
}
