//! The sync against the fleet server itself: two devices of the lab join, lend, and install the merge.

use super::files::adapter;
use super::rig::Rig;
use crate::clock::Clock as _;
use crate::config::Fleet as Config;
use crate::sync::enlist;
use fleet_server::home::{self, Home, Wish};
use fleet_server::operator::Invitation;
use fleet_server::operator::releases;
use fleet_server::operator::rounds::{self as orders, Verdict};
use fleet_server::ports::{Clock, SystemChance};
use fleet_server::rounds::{self, State};
use fleet_server::serve::{self, Server, Settings};
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::message::DeviceState;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const DAY_ONE_MS: u64 = 1_764_100_000_000;

/// The server's clock, which stands still: devices go by it whatever their own shows.
struct Still;

impl Clock for Still {
    fn now_ms(&self) -> u64 {
        DAY_ONE_MS
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
}

fn server(folder: &Path) -> Server {
    let names = ["localhost".to_owned()];
    let wish = Wish { folder, name: "valves", tls: Some(&names), now_ms: DAY_ONE_MS };
    home::init(&wish, &SystemChance).unwrap();
    let mut settings = Settings::new(folder);
    (settings.clock, settings.look) = (Arc::new(Still), Duration::from_millis(10));
    serve::start(settings).unwrap()
}

/// A device of the lab whose own clock stands at 1970.
fn device(server: &Server, commits: u64) -> Rig {
    let invitation = Invitation {
        host: format!("localhost:{}", server.address.port()),
        label: "kiosks".into(),
        uses: 1,
        expires_ms: DAY_ONE_MS + 86_400_000,
        auto: true,
        lab: true,
        pinned: true,
    };
    let link = server.link(&invitation).unwrap();
    let config = Config { enabled: true, lab: true, ..Config::default() };
    let mut rig = Rig::with(config, 0, |_| None);
    let clock: Arc<dyn crate::clock::Clock> = rig.clock.clone();
    enlist(&rig.turn.store, &link, Some("kiosk"), None, &clock).unwrap();
    rig.turn.open().unwrap();
    (0..commits).for_each(|_| rig.pupil.commit());
    rig
}

#[test]
fn two_devices_join_lend_and_install_what_the_server_merged() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("fleet");
    let server = server(&folder);
    let home = Home::open(&folder).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut rigs = [device(&server, 0), device(&server, 1)];
    for rig in &mut rigs {
        let accepted = |rig: &Rig| rig.book().state == Some(DeviceState::Accepted);
        runtime.block_on(rig.until("a place in the fleet", accepted));
        assert_eq!(rig.book().label.as_deref(), Some("kiosks"));
    }
    let cohort = orders::cohort(&home.book, None).unwrap();
    let change = "{\"min_devices\": 2, \"quota\": 2, \"rank\": 2}";
    orders::policy(&home.book, &cohort, change, DAY_ONE_MS).unwrap();
    let cohort = orders::cohort(&home.book, None).unwrap();
    let round = orders::open(&home, &cohort, &SystemChance, DAY_ONE_MS).unwrap();
    for rig in &mut rigs {
        rig.turn.pace.ask();
        let lent = |rig: &Rig| rig.turn.status().is_some_and(|status| status.uploads == 1);
        runtime.block_on(rig.until("an upload", lent));
        let sent = rig.book().sent.unwrap();
        let generation = rig.pupil.view.lock().unwrap().generation;
        let expected = Hash::of(&adapter("sapwood-update/1", Hash([0; 32]), generation));
        assert_eq!((sent.hash, sent.round), (expected, Some(round)));
    }
    let merged = || rounds::find(&home.book, round).unwrap().unwrap();
    let mut looks = 0;
    while merged().state != State::Merged {
        assert!(looks < 3_000, "{:?}", merged());
        std::thread::park_timeout(Duration::from_millis(10));
        looks += 1;
    }
    let (artifact, bytes) = merged().result.unwrap();
    let report = serde_json::json!({});
    let verdict = Verdict { who: "operator", artifact, bytes, report };
    let sequence = orders::approve(&home, round, &verdict, DAY_ONE_MS).unwrap();
    for rig in &mut rigs {
        rig.turn.pace.ask();
        runtime.block_on(rig.until("a report", |rig| rig.book().acked == [sequence]));
        let given = rig.pupil.given.lock().unwrap().clone();
        assert_eq!((given[0].artifact, given[0].sequence), (artifact, sequence));
        assert!(rig.clock.now().as_second() < 86_400 * 365, "it was never told the year");
        assert_eq!(rig.amiss(), "");
    }
    let release = releases::release(&home.book, cohort.id, sequence).unwrap();
    let told = fleet_server::overview::of_release(&home.book, &release).unwrap();
    assert!(told.to_string().contains("\"confirmed\":2"), "{told}");
}
