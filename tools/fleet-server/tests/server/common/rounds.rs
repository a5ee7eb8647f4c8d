//! Rounds and releases of a fleet's one cohort.

use super::{DAY_ONE_MS, Device, Fleet};
use fleet_server::cohorts::Cohort;
use fleet_server::door::Rate;
use fleet_server::home::{self, Home};
use fleet_server::operator::releases;
use fleet_server::operator::rounds::{self as orders, Verdict};
use fleet_server::ports::SystemChance;
use fleet_server::rollout::Release;
use fleet_server::rounds::{self, NONE, Round, State};
use fleet_server::serve::Settings;
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::statement::Statement;
use serde_json::json;
use std::time::Duration;

/// A fleet whose rounds take so many devices, and that looks after them often.
pub(crate) fn fleet(devices: u8) -> (Fleet, Vec<Device>) {
    fleet_with(devices, Fleet::with(patient))
}

/// A server that looks after rounds often, and lets everybody call as often.
pub(crate) fn patient(settings: &mut Settings) {
    settings.look = Duration::from_millis(10);
    // The clock stands still: nobody's bucket fills up.
    settings.rate = Rate { per_s: 1.0, burst: 1e9 };
}

/// The same of a fleet that is there.
pub(crate) fn fleet_with(devices: u8, fleet: Fleet) -> (Fleet, Vec<Device>) {
    let all: Vec<Device> = (0..devices).map(|n| fleet.enrolled(n)).collect();
    let home = fleet.home();
    let change = format!("{{\"min_devices\": 2, \"quota\": {devices}, \"rank\": 3}}");
    orders::policy(&home.book, &cohort(&home), &change, DAY_ONE_MS).unwrap();
    (fleet, all)
}

/// The one cohort.
pub(crate) fn cohort(home: &Home) -> Cohort {
    orders::cohort(&home.book, None).unwrap()
}

/// Opens a round of the one cohort.
pub(crate) fn open(fleet: &Fleet) -> u64 {
    let home = fleet.home();
    orders::open(&home, &cohort(&home), &SystemChance, fleet.now_ms()).unwrap()
}

/// Waits until a round is so far.
pub(crate) fn until(fleet: &Fleet, round: u64, state: State) -> Round {
    let home = fleet.home();
    for _ in 0..2000 {
        let round = rounds::find(&home.book, round).unwrap().unwrap();
        if round.state == state {
            return round;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    panic!("{:?}", rounds::find(&home.book, round));
}

/// A round to which every device gives an update of its own, on top of nothing; the files.
pub(crate) fn given(fleet: &Fleet, devices: &mut [Device], seed: u64) -> (u64, Vec<Vec<u8>>) {
    let round = open(fleet);
    let give = |(n, device): (usize, &mut Device)| {
        device.check_in().unwrap();
        let file = device.update(NONE, seed + n as u64);
        let reply = device.upload(round, &file);
        assert_eq!(reply.status, 201, "{}", reply.text());
        file
    };
    (round, devices.iter_mut().enumerate().map(give).collect())
}

/// A candidate of all devices' updates: its sequence and artifact.
pub(crate) fn candidate(
    fleet: &Fleet,
    devices: &mut [Device],
    from: Hash,
    seed: u64,
) -> (u64, Hash) {
    let round = open(fleet);
    for (n, device) in devices.iter_mut().enumerate() {
        let invite = device.check_in().unwrap().invite.unwrap();
        assert_eq!(invite.artifact, from);
        let reply = device.upload(round, &device.update(from, seed + n as u64));
        assert_eq!(reply.status, 201, "{}", reply.text());
    }
    let (artifact, bytes) = until(fleet, round, State::Merged).result.unwrap();
    let verdict = Verdict { who: "operator", artifact, bytes, report: json!({}) };
    let sequence = orders::approve(&fleet.home(), round, &verdict, fleet.now_ms()).unwrap();
    (sequence, artifact)
}

pub(crate) fn promote(fleet: &Fleet, sequence: u64, key: &str) -> Result<u64, String> {
    let home = fleet.home();
    let keys = [home::key(&fleet.folder().join("keys").join(key)).unwrap()];
    let promoted = releases::promote(&home, &cohort(&home), sequence, &keys, fleet.now_ms());
    promoted.map_err(|error| error.to_string())
}

pub(crate) fn release(fleet: &Fleet, sequence: u64) -> Release {
    let home = fleet.home();
    releases::release(&home.book, cohort(&home).id, sequence).unwrap()
}

/// Waits until a release is so.
pub(crate) fn so_far(fleet: &Fleet, sequence: u64, so: impl Fn(&Release) -> bool) -> Release {
    for _ in 0..1000 {
        let release = release(fleet, sequence);
        if so(&release) {
            return release;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    panic!("{:?}", release(fleet, sequence));
}

/// The statement of a release.
pub(crate) fn own(fleet: &Fleet, sequence: u64) -> Statement {
    Statement::decode(&release(fleet, sequence).statement).unwrap()
}
