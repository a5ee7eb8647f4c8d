//! The plan of a life in a fleet: acts of the device, its learner, its owner and the server.
//!
//! - Every act may be done again where it was cut, or left out.

use firmware_host::sync::memory::{Bad, refusal};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use sapwood::reservoir::below;
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::message::Outcome;

/// One act.
#[derive(Clone, Debug)]
pub enum Act {
    /// The owner gives the device the fleet's link.
    Join,
    /// The owner has it forget the fleet.
    Leave,
    /// The program ends and starts again.
    Restart,
    /// It checks in and does what follows.
    Talk,
    /// Ten minutes and more go by.
    Wait,
    /// The learner commits a generation.
    Commit,
    /// The server opens a round of this number.
    Invite(u64),
    /// It asks for nothing.
    Close,
    /// It offers an artifact under this sequence; one that is no adapter otherwise.
    Offer(u64, bool),
    /// The learner installs what it was given, on trial.
    Try,
    /// The trial ends so, or what was given is not taken.
    End(Outcome),
    /// The owner has the device change its key.
    Rotate,
    /// The fleet changes its keys.
    Epoch,
    /// Something goes wrong with the next request to such a path.
    Bad(&'static str, Bad),
}

/// What goes wrong on the way, and at the server.
fn bad(path: &'static str, draw: &mut dyn FnMut(u64) -> u64) -> Act {
    let unavailable = Bad::Refuse(refusal(Code::Unavailable));
    let mut bads = vec![Bad::Deaf, Bad::Lost, unavailable, Bad::Twice, Bad::Late];
    match path {
        "/v1/checkin" => bads.push(Bad::Old),
        "/v1/artifacts/" => {
            let junk = vec![b'x'; draw(600) as usize];
            bads.extend([Bad::Body(200, Vec::new(), junk), Bad::Cut(draw(500) as usize)]);
            bads.extend([Bad::Cut(1 + draw(300) as usize), Bad::Cut(0)]);
        }
        _ => {}
    }
    let chosen = draw(bads.len() as u64) as usize;
    Act::Bad(path, bads.swap_remove(chosen))
}

/// A plan of so many rounds, the same for the same seed.
pub fn plan(seed: u64, rounds: u64) -> Vec<Act> {
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = |bound| below(&mut chance, bound);
    let mut acts = Vec::new();
    join(&mut acts, &mut draw);
    for number in 0..rounds {
        lend(&mut acts, 2 * number + 1, &mut draw);
        if draw(2) == 0 {
            acts.extend((draw(2) == 0).then(|| bad("/v1/key", &mut draw)));
            acts.extend([Act::Rotate, Act::Talk]);
        }
        acts.extend((draw(4) == 0).then_some(Act::Epoch));
        if draw(4) > 0 {
            fetch(&mut acts, number + 1, &mut draw);
        }
        if draw(2) == 0 {
            acts.push(Act::Leave);
            acts.extend((draw(2) == 0).then_some(Act::Restart));
            join(&mut acts, &mut draw);
        } else if draw(4) == 0 {
            // The same link once more.
            acts.push(Act::Join);
        }
        acts.extend((draw(3) == 0).then_some(Act::Restart));
    }
    acts
}

fn join(acts: &mut Vec<Act>, draw: &mut dyn FnMut(u64) -> u64) {
    acts.extend((draw(2) == 0).then(|| bad("/v1/enroll", draw)));
    acts.extend((draw(4) == 0).then(|| bad("/v1/trust", draw)));
    acts.extend([Act::Join, Act::Talk]);
}

fn lend(acts: &mut Vec<Act>, round: u64, draw: &mut dyn FnMut(u64) -> u64) {
    acts.extend((draw(2) == 0).then_some(Act::Commit));
    acts.extend((draw(2) == 0).then(|| bad("/v1/rounds/", draw)));
    acts.extend((draw(4) == 0).then(|| bad("/v1/checkin", draw)));
    acts.extend([Act::Invite(round), Act::Talk]);
    acts.extend((draw(2) == 0).then_some(Act::Commit));
    if draw(2) == 0 {
        // The round came to nothing; the next one is for the same artifact.
        acts.extend((draw(2) == 0).then_some(Act::Restart));
        acts.extend((draw(2) == 0).then(|| bad("/v1/rounds/", draw)));
        acts.extend([Act::Invite(round + 1), Act::Talk]);
    }
    acts.extend((draw(2) == 0).then_some(Act::Close));
}

fn fetch(acts: &mut Vec<Act>, sequence: u64, draw: &mut dyn FnMut(u64) -> u64) {
    for _ in 0..draw(4) {
        acts.push(bad("/v1/artifacts/", draw));
    }
    acts.extend([Act::Offer(sequence, draw(6) > 0), Act::Talk]);
    acts.extend((draw(3) == 0).then_some(Act::Restart));
    acts.extend([Act::Wait, Act::Talk]);
    if draw(3) > 0 {
        acts.extend([Act::Try, Act::Talk]);
    }
    let ends = [Outcome::Confirmed, Outcome::Reverted, Outcome::Declined, Outcome::Failed];
    if draw(6) > 0 {
        acts.push(Act::End(ends[draw(4) as usize]));
    }
    acts.extend((draw(2) == 0).then(|| bad("/v1/checkin", draw)));
    acts.push(Act::Talk);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_stands_for_one_plan_and_plans_hold_everything() {
        let shown = |seed| format!("{:?}", plan(seed, 3));
        assert_eq!(shown(3), shown(3));
        let all: String = (0..20).map(shown).collect();
        for act in [
            "Join",
            "Leave",
            "Restart",
            "Wait",
            "Commit",
            "Invite(6)",
            "Close",
            "Offer(3, true)",
            "Offer(1, false)",
            "Try",
            "End(Confirmed)",
            "End(Reverted)",
            "End(Declined)",
            "Rotate",
            "Epoch",
            "Deaf",
            "Lost",
            "Late",
            "Twice",
            "Old",
            "Cut",
            "Body",
            "Refuse",
            "/v1/key",
        ] {
            assert!(all.contains(act), "{act}");
        }
    }
}
