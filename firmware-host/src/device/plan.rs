//! What the worker does next about the samples that wait: pure, from what the disk and the samples say.
//!
//! ```text
//! record of the job, checkpoint, numbers that wait -> Next: run a job, set a sample aside, nothing
//! what its samples gave                            -> Worth: learn, wait for more, pass over
//! ```
//! - A job that was brought down without getting further, by a cut or by one of its samples, begins
//!   again with half of them. What remains under suspicion is halved until a job comes through, or until
//!   one sample is left alone: if it brings down [`ALONE_MAX`] jobs, it and no other is set aside.
//! - A job that got further before it was brought down goes on, however often.
//! - Invariant: every sample is learned, waits, or is set aside.

use crate::config::Config;
use sapwood::base;
use sapwood::inbox::Job;
use sapwood::learner;
use sapwood::settings::Settings;
use std::time::Duration;

/// How often one sample alone may bring a job down: a power cut may have been at the wrong moment.
pub(super) const ALONE_MAX: u32 = 3;

/// What the disk says.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    /// The number up to which samples are learned.
    pub(super) learned: u64,
    /// The number of the last sample of a job of full size; none when none waits.
    pub(super) reach: Option<u64>,
    /// The job under way.
    pub(super) job: Option<Job>,
    /// The number up to which waits what may bring a job down.
    pub(super) suspect: Option<u64>,
    /// The step of that job's checkpoint; 0 without.
    pub(super) step: u64,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Learn the samples of this job, whose record is written before the first is read.
    Run(Job),
    /// The same, but what an earlier job left must go first: it took other samples.
    Anew(Job),
    /// Set this sample aside.
    SetAside(u64),
    /// Nothing waits.
    Nothing,
}

/// Decides.
pub(super) fn next(known: &Known) -> Next {
    let &Known { learned, step, .. } = known;
    let Some(job) = known.job else { return new_job(known) };
    if job.attempts == 0 || step > job.step {
        return Next::Run(Job { attempts: 1, step, ..job });
    }
    if job.through - learned > 1 {
        let (through, suspect) = (half(learned, job.through), job.through);
        return Next::Anew(Job { through, attempts: 1, step: 0, suspect });
    }
    if job.attempts < ALONE_MAX {
        return Next::Run(Job { attempts: job.attempts + 1, ..job });
    }
    Next::SetAside(job.through)
}

fn new_job(known: &Known) -> Next {
    let Some(reach) = known.reach else { return Next::Nothing };
    let halved = known.suspect.map(|suspect| half(known.learned, suspect));
    let through = halved.map_or(reach, |halved| halved.min(reach));
    let suspect = known.suspect.unwrap_or(0);
    Next::Run(Job { through, attempts: 1, step: 0, suspect })
}

/// What reading the samples of a job gave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Made {
    /// Samples read.
    pub(super) samples: u64,
    /// Blocks to learn.
    pub(super) blocks: usize,
    /// Whether nothing was left to judge by beside them.
    pub(super) judged_by_itself: bool,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// A job, if samples give one.
    Job,
    /// The global adapter that was ordered.
    Install,
    /// The generation on trial has lived long enough for its second look.
    Look,
    /// It is on trial for so much longer: nothing is learned on top of it.
    Trial(Duration),
}

/// What decides about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stand {
    /// How long the generation on trial has lived, if one is.
    pub(super) trial: Option<Duration>,
    /// Whether a job was begun and has not ended.
    pub(super) is_in_job: bool,
    /// Whether a global adapter waits, and there is text to judge it by.
    pub(super) is_offered: bool,
}

/// Decides: an install comes after the job under way and before the next one, and a trial before all.
pub(super) fn turn(stand: Stand, trial: Duration) -> Turn {
    match stand {
        Stand { trial: Some(lived), .. } if lived >= trial => Turn::Look,
        Stand { trial: Some(lived), .. } => Turn::Trial(trial.saturating_sub(lived)),
        Stand { is_in_job: false, is_offered: true, .. } => Turn::Install,
        _ => Turn::Job,
    }
}

/// What they are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worth {
    /// A run.
    Learning,
    /// Waiting: with more of them there is something to judge by.
    Waiting,
    /// Nothing can be learned from them.
    Nothing,
}

/// Decides; a job that was begun before, or is under suspicion, does not wait for more samples.
pub(super) fn worth(job: &Job, made: Made, samples_min: u64) -> Worth {
    let is_new = job.suspect == 0 && job.step == 0;
    match made {
        Made { blocks: 0, .. } => Worth::Nothing,
        Made { judged_by_itself: true, samples, .. } if is_new && samples < samples_min => {
            Worth::Waiting
        }
        _ => Worth::Learning,
    }
}

/// Settings of a run over so many blocks: the steps that make the epochs asked for, each of them told.
pub(super) fn settings(config: &Config, base: &base::Config, blocks: usize) -> Settings {
    let (job, learn) = (&config.job, &config.learn);
    let fresh = f64::from(learn.fresh_blocks().max(1));
    let wanted = (job.epochs * blocks as f64 / fresh).ceil() as u64;
    let iters = wanted.clamp(job.iters_min, job.iters_max.max(job.iters_min));
    let is_open = config.wishes.as_ref().is_some_and(|wishes| wishes.retain.is_none());
    let retain = if is_open { learner::retain_for(base, learn, iters) } else { learn.retain };
    Settings { iters, retain, steps_per_report: 1, ..learn.clone() }
}

/// The number in the middle between what is learned and `through`, or the next one.
fn half(learned: u64, through: u64) -> u64 {
    learned + (through - learned).div_ceil(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    const FULL: u64 = 64;

    /// A device whose samples `bad` bring down every job that holds one: what became of all.
    fn live(samples: u64, bad: &BTreeSet<u64>, cuts: u32) -> (BTreeSet<u64>, BTreeSet<u64>, u32) {
        let (mut learned, mut aside) = (BTreeSet::new(), BTreeSet::new());
        let (mut known, mut record) = (Known::default(), None);
        let (mut fallen, mut cuts) = (0, cuts);
        for _ in 0..10_000 {
            known.reach = Some((known.learned + FULL).min(samples)).filter(|r| *r > known.learned);
            known.job = record.filter(|job: &Job| job.through > known.learned);
            known.suspect = record.map(|job| job.suspect).filter(|s| *s > known.learned);
            match next(&known) {
                Next::Nothing => return (learned, aside, fallen),
                Next::SetAside(number) => {
                    aside.insert(number);
                    known.learned = number;
                }
                Next::Run(job) | Next::Anew(job) => {
                    assert!(job.through > known.learned && job.through <= samples);
                    record = Some(job);
                    if cuts > 0 || bad.range(known.learned + 1..=job.through).next().is_some() {
                        cuts = cuts.saturating_sub(1);
                        fallen += 1;
                        continue;
                    }
                    learned.extend(known.learned + 1..=job.through);
                    known.learned = job.through;
                }
            }
        }
        unreachable!("it goes on for ever");
    }

    #[test]
    fn a_sample_that_brings_jobs_down_is_found_and_no_other_is_set_aside() {
        for bad in 1..=200 {
            let (learned, aside, fallen) = live(200, &BTreeSet::from([bad]), 0);
            assert_eq!((learned.len(), &aside), (199, &BTreeSet::from([bad])));
            assert!(fallen <= 9, "sample {bad} took {fallen} falls");
        }
    }

    #[test]
    fn several_are_found_one_after_the_other() {
        let bad = BTreeSet::from([1, 2, 40, 64, 65, 130]);
        let (learned, aside, _) = live(130, &bad, 0);
        assert_eq!((learned.len(), aside), (124, bad));
    }

    #[test]
    fn cuts_make_the_next_jobs_smaller_and_cost_no_sample() {
        for cuts in 0..=7 {
            let (learned, aside, fallen) = live(200, &BTreeSet::new(), cuts);
            assert_eq!((learned.len(), aside.len(), fallen), (200, 0, cuts));
        }
    }

    #[test]
    fn a_job_that_got_further_or_was_told_to_stop_goes_on() {
        let job = Job { through: 9, attempts: 3, step: 10, suspect: 0 };
        let known = Known { job: Some(job), step: 12, ..Known::default() };
        assert_eq!(next(&known), Next::Run(Job { attempts: 1, step: 12, ..job }));
        let told = Job { attempts: 0, ..job };
        let known = Known { job: Some(told), step: 10, ..Known::default() };
        assert_eq!(next(&known), Next::Run(Job { attempts: 1, ..told }));
    }

    #[test]
    fn few_samples_wait_for_more_only_before_their_job_has_begun() {
        let few = Made { samples: 2, blocks: 1, judged_by_itself: true };
        let fresh = Job { through: 2, attempts: 1, step: 0, suspect: 0 };
        assert_eq!(worth(&fresh, few, 3), Worth::Waiting);
        assert_eq!(worth(&fresh, few, 2), Worth::Learning);
        assert_eq!(worth(&fresh, Made { judged_by_itself: false, ..few }, 3), Worth::Learning);
        for begun in [Job { step: 1, ..fresh }, Job { suspect: 4, ..fresh }] {
            assert_eq!(worth(&begun, few, 3), Worth::Learning);
        }
        assert_eq!(worth(&fresh, Made { blocks: 0, ..few }, 3), Worth::Nothing);
    }

    #[test]
    fn a_trial_comes_before_all_and_an_install_between_two_jobs() {
        let ten = Duration::from_secs(600);
        let all = Stand { trial: None, is_in_job: true, is_offered: true };
        assert_eq!(turn(Stand::default(), ten), Turn::Job);
        assert_eq!(turn(all, ten), Turn::Job, "the job under way ends first");
        assert_eq!(turn(Stand { is_in_job: false, ..all }, ten), Turn::Install);
        let lived = |seconds| Stand { trial: Some(Duration::from_secs(seconds)), ..all };
        assert_eq!(turn(lived(599), ten), Turn::Trial(Duration::from_secs(1)));
        assert_eq!(turn(lived(600), ten), Turn::Look);
    }

    #[test]
    fn steps_make_the_epochs_within_their_bounds() -> Result<(), base::BaseError> {
        let mut config = Config::default();
        let fresh = config.learn.fresh_blocks() as usize;
        (config.job.epochs, config.job.iters_min, config.job.iters_max) = (2.0, 3, 10);
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/base");
        let base = base::read_config(&shipped)?;
        let steps = |blocks| settings(&config, &base, blocks).iters;
        assert_eq!([1, 4 * fresh, 4 * fresh + 1, 99 * fresh].map(steps), [3, 8, 9, 10]);
        Ok(())
    }
}
