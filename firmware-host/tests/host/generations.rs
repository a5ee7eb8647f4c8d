//! Generations of a device that learns: chosen by name, compared, gone back to.

use crate::place::{Device, LEARNED, SERIES, TARGETS, WAITING, outcome, place};
use firmware_host::device::Order;
use firmware_host::paused::OrderError;
use firmware_host::serve::{Device as _, ModelError};
use firmware_host::status::Phase;
use sapwood::gate::Tally;
use sapwood::state::State;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::{self, park_timeout};
use std::time::Duration;

/// A device whose second generation is in use.
fn twice_learned() -> Device {
    let mut device = place().device();
    device.until(|view| view.generation == 2);
    device
}

fn compared(device: &Device, ids: [&str; 2], texts: Option<&[String]>) -> [Tally; 2] {
    device.handle.compare(ids, texts, &mut || ControlFlow::Continue(())).unwrap()
}

/// Looks of the worker until somebody else has what was asked for.
fn until_done<T>(device: &mut Device, asking: thread::JoinHandle<T>) -> T {
    for _ in 0..500 {
        if asking.is_finished() {
            return asking.join().unwrap();
        }
        assert!(device.tick(), "the worker ended");
        park_timeout(Duration::from_millis(20));
    }
    unreachable!("no answer: {:?}", device.handle.status().phase)
}

#[test]
fn a_kept_generation_is_a_model_of_its_own() {
    let device = twice_learned();
    let all = device.handle.models();
    let ids: Vec<&str> = all.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(ids, ["sapwood", "base", "sapwood@1", "sapwood@2"]);
    assert!(all[2].created.is_some() && all[2].about.contains("generation 1"), "{:?}", all[2]);
    let generation = |id: &str| device.handle.model(id).unwrap().generation();
    let generations = ["sapwood", "base", "sapwood@1", "sapwood@2"].map(generation);
    assert_eq!(generations, [Some(2), None, Some(1), Some(2)]);
    for id in ["sapwood@3", "sapwood@0", "base@1", "other"] {
        let refused = device.handle.model(id).err().unwrap();
        assert!(matches!(&refused, ModelError::Unknown { id: named } if named == id), "{refused}");
    }
    let texts = ["pump 1 turns at 7 rpm".to_owned()];
    let [base, first] = compared(&device, ["base", "sapwood@1"], Some(&texts));
    let [second, in_use] = compared(&device, ["sapwood@2", "sapwood"], Some(&texts));
    assert_eq!(second, in_use);
    assert!(base != first && first != second && base.bytes > 0, "{base:?} {first:?} {second:?}");
    // Without texts it is the text that the device holds out itself.
    let [base, second] = compared(&device, ["base", "sapwood@2"], None);
    assert!(base.tokens > 0 && base.tokens == second.tokens && base != second);
}

/// What is read from an adapter's files is what was in use when it was committed.
#[test]
fn a_generation_read_from_its_files_is_the_one_that_was_in_use() {
    let texts = ["pump 1 turns at 7 rpm, pump 2 at none".to_owned()];
    let mut device = place().device();
    let [before, _] = compared(&device, ["sapwood", "base"], Some(&texts));
    device.until(|view| view.generation == 2);
    let [read, now] = compared(&device, ["sapwood@1", "sapwood"], Some(&texts));
    assert_eq!(read, before);
    assert_ne!(now, before);
}

#[test]
fn a_rollback_is_durable_and_served_when_it_is_answered() {
    let disk = place().disk();
    let mut device = Device::open(&disk, place().config());
    device.until(|view| view.generation == 2);
    let handle = device.handle.clone();
    let rolled = until_done(&mut device, thread::spawn(move || handle.roll_back(None)));
    let rolled = rolled.unwrap();
    assert_eq!((rolled.before, rolled.generation), (Some(2), Some(1)));
    for luck in 0..8 {
        let state = State::look(Arc::new(disk.after_cut(luck))).unwrap();
        assert_eq!(state.current().map(|generation| generation.number), Some(1));
    }
    let status = device.handle.status();
    assert_eq!(status.serving.generation, Some(1));
    let in_use: Vec<bool> = status.generations.iter().map(|one| one.in_use).collect();
    assert_eq!(in_use, [true, false]);
    assert_eq!(device.handle.model("sapwood@2").unwrap().generation(), Some(2));
    for (to, generation) in [(0, None), (2, Some(2))] {
        let handle = device.handle.clone();
        let rolled = until_done(&mut device, thread::spawn(move || handle.roll_back(Some(to))));
        assert_eq!(rolled.unwrap().generation, generation);
        assert_eq!(device.handle.model("sapwood").unwrap().generation(), generation);
    }
    let handle = device.handle.clone();
    let refused = until_done(&mut device, thread::spawn(move || handle.roll_back(Some(7))));
    let refused = refused.unwrap_err();
    assert!(matches!(&refused, OrderError::Refused { is_missing: true, .. }), "{refused}");
    assert!(refused.to_string().ends_with("the generation in use stays"), "{refused}");
    assert_eq!(device.handle.status().serving.generation, Some(2));
}

/// A job under way stops for it, and its samples are learned afterwards.
#[test]
fn a_rollback_in_a_job_stops_it_and_costs_no_sample() {
    let mut device = twice_learned();
    let first = LEARNED + WAITING;
    (first..first + WAITING).for_each(|number| device.offer(number));
    let handle = device.handle.clone();
    let asking = thread::spawn(move || {
        while handle.status().phase != Phase::Learning {
            park_timeout(Duration::from_millis(1));
        }
        handle.roll_back(Some(1))
    });
    let rolled = until_done(&mut device, asking).unwrap();
    assert_eq!(rolled.generation, Some(1));
    if rolled.before == Some(3) {
        // The job had ended by then, and nothing waits any more.
        (first + WAITING..first + 2 * WAITING).for_each(|number| device.offer(number));
    }
    device.until(|view| view.generation >= 3);
    let status = device.handle.status();
    assert_eq!((status.inbox.samples, status.inbox.aside), (0, 0));
}

/// A generation on trial goes when somebody says so, and its fleet hears of it.
#[test]
fn a_rollback_ends_a_trial() {
    let mut device = place().device();
    device.order(&place().offered(1, 7, &TARGETS));
    device.until(|view| view.trial);
    let handle = device.handle.clone();
    let rolled = until_done(&mut device, thread::spawn(move || handle.roll_back(None)));
    assert_eq!(rolled.unwrap().generation, Some(1));
    let view = device.view();
    assert!(!view.trial && view.installed().is_none(), "{view:?}");
    assert!(outcome(&view, 7).is_some() && view.installs[0].series == Some(SERIES));
}

/// Nobody follows any more: who waits hears that at the next look.
#[test]
fn a_program_that_ends_refuses_who_waits() {
    let mut device = place().device();
    let handle = device.handle.clone();
    handle.order(Order::Stop).unwrap();
    let asking = thread::spawn(move || handle.roll_back(None));
    let refused = until_done(&mut device, asking);
    assert!(matches!(refused, Err(OrderError::Stopping)), "{refused:?}");
}
