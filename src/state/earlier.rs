//! What earlier versions wrote, and how it is read as what this one writes.
//!
//! - In: a checked header and the bytes behind it. Out: manifest, learner record or checkpoint of now.
//! - A type here is never changed: `tests/golden` holds the bytes of each version.

use super::checkpoint::{Best, Checkpoint};
use super::learner::{Domain, HeldOutBlock, JobPosition, LearnerRecord, Shape};
use super::manifest::{FileDigest, Generation, Manifest, Rejection};
use super::trial::{Global, Install, InstallOutcome, Since, Trial};
use crate::reservoir::record::open;
use crate::reservoir::{ChanceState, FirstLedger, Ledger, RecordError, SecondLedger};
use rkyv::{Archive, Deserialize, Serialize};
use sapwood_protocol::record::Header;

/// A manifest of any version.
pub(super) fn manifest(header: &Header, bytes: &[u8]) -> Result<Manifest, RecordError> {
    match header.version {
        1 => Ok(SecondManifest::from(open::<FirstManifest>(header, bytes)?).into()),
        2 => Ok(open::<SecondManifest>(header, bytes)?.into()),
        3 | 4 => Ok(open::<ThirdManifest>(header, bytes)?.into()),
        5 => Ok(open::<FifthManifest>(header, bytes)?.into()),
        6 => Ok(open::<SixthManifest>(header, bytes)?.into()),
        _ => open(header, bytes),
    }
}

/// A learner record of any version.
pub(super) fn learner(header: &Header, bytes: &[u8]) -> Result<LearnerRecord, RecordError> {
    match header.version {
        1 => Ok(open::<FirstLearner>(header, bytes)?.into()),
        2 => Ok(open::<SecondLearner>(header, bytes)?.into()),
        3 => Ok(open::<ThirdLearner>(header, bytes)?.into()),
        _ => open(header, bytes),
    }
}

/// A checkpoint of any version.
pub(super) fn checkpoint(header: &Header, bytes: &[u8]) -> Result<Checkpoint, RecordError> {
    match header.version {
        1 => Ok(open::<FirstCheckpoint>(header, bytes)?.into()),
        2 => Ok(open::<SecondCheckpoint>(header, bytes)?.into()),
        3 => Ok(open::<ThirdCheckpoint>(header, bytes)?.into()),
        4 => Ok(open::<FourthCheckpoint>(header, bytes)?.into()),
        _ => open(header, bytes),
    }
}

/// Before there was an inbox.
#[derive(Archive, Serialize, Deserialize)]
struct FirstManifest {
    sequence: u64,
    current: u64,
    last: u64,
    generations: Vec<FirstGeneration>,
    rejections: Vec<Rejection>,
    ledger: Option<FirstLedger>,
}

/// Before the reservoir was served in passes.
#[derive(Archive, Serialize, Deserialize)]
struct SecondManifest {
    sequence: u64,
    current: u64,
    last: u64,
    generations: Vec<FirstGeneration>,
    rejections: Vec<Rejection>,
    ledger: Option<FirstLedger>,
    learned: u64,
}

/// Of versions 3 and 4, before the numbers of domains were kept.
#[derive(Archive, Serialize, Deserialize)]
struct ThirdManifest {
    sequence: u64,
    current: u64,
    last: u64,
    generations: Vec<FirstGeneration>,
    rejections: Vec<Rejection>,
    ledger: Option<SecondLedger>,
    learned: u64,
}

/// Before a global adapter could be installed.
#[derive(Archive, Serialize, Deserialize)]
struct FifthManifest {
    sequence: u64,
    current: u64,
    last: u64,
    generations: Vec<FirstGeneration>,
    rejections: Vec<Rejection>,
    ledger: Option<Ledger>,
    learned: u64,
    domain: u32,
}

/// Before a sequence said whose it is, and an install counted its starts.
#[derive(Archive, Serialize, Deserialize)]
struct SixthManifest {
    sequence: u64,
    current: u64,
    last: u64,
    generations: Vec<SecondGeneration>,
    rejections: Vec<Rejection>,
    ledger: Option<Ledger>,
    learned: u64,
    domain: u32,
    trial: Option<Trial>,
    installs: Vec<FirstInstall>,
}

/// A commit of version 6.
#[derive(Archive, Serialize, Deserialize)]
struct SecondGeneration {
    number: u64,
    parent: u64,
    step: u64,
    verdict: String,
    files: Vec<FileDigest>,
    learner: FileDigest,
    global: Option<FirstGlobal>,
    since: Since,
}

/// With a sequence of any fleet.
#[derive(Archive, Serialize, Deserialize)]
struct FirstGlobal {
    ranks: u32,
    artifact: [u8; 32],
    sequence: u64,
}

/// With a sequence of any fleet.
#[derive(Archive, Serialize, Deserialize)]
struct FirstInstall {
    sequence: u64,
    artifact: [u8; 32],
    outcome: InstallOutcome,
    reason: String,
    before: Option<f64>,
    after: Option<f64>,
}

/// A commit of versions 1 to 5.
#[derive(Archive, Serialize, Deserialize)]
struct FirstGeneration {
    number: u64,
    parent: u64,
    step: u64,
    verdict: String,
    files: Vec<FileDigest>,
    learner: FileDigest,
}

impl From<FirstGeneration> for Generation {
    fn from(first: FirstGeneration) -> Self {
        let FirstGeneration { number, parent, step, verdict, files, learner } = first;
        let since = Since::all(step);
        Self { number, parent, step, verdict, files, learner, global: None, since }
    }
}

impl From<FirstGlobal> for Global {
    fn from(first: FirstGlobal) -> Self {
        let FirstGlobal { ranks, artifact, sequence } = first;
        Self { ranks, artifact, sequence, series: None }
    }
}

impl From<FirstInstall> for Install {
    fn from(first: FirstInstall) -> Self {
        let FirstInstall { sequence, artifact, outcome, reason, before, after } = first;
        Self { sequence, series: None, artifact, outcome, reason, before, after }
    }
}

impl From<SecondGeneration> for Generation {
    fn from(second: SecondGeneration) -> Self {
        let SecondGeneration { number, parent, step, verdict, files, learner, global, since } =
            second;
        let global = global.map(Global::from);
        Self { number, parent, step, verdict, files, learner, global, since }
    }
}

impl From<FirstManifest> for SecondManifest {
    fn from(first: FirstManifest) -> Self {
        let FirstManifest { sequence, current, last, generations, rejections, ledger } = first;
        Self { sequence, current, last, generations, rejections, ledger, learned: 0 }
    }
}

impl From<SecondManifest> for Manifest {
    fn from(second: SecondManifest) -> Self {
        let SecondManifest { sequence, current, last, generations, rejections, ledger, learned } =
            second;
        let ledger = ledger.map(SecondLedger::from);
        ThirdManifest { sequence, current, last, generations, rejections, ledger, learned }.into()
    }
}

impl From<ThirdManifest> for Manifest {
    fn from(third: ThirdManifest) -> Self {
        let ThirdManifest { sequence, current, last, generations, rejections, ledger, learned } =
            third;
        let ledger = ledger.map(Ledger::from);
        // What a rolled back job named may be forgotten; its blocks still say the number.
        let domain = ledger.as_ref().map_or(0, Ledger::domain_max);
        FifthManifest { sequence, current, last, generations, rejections, ledger, learned, domain }
            .into()
    }
}

impl From<FifthManifest> for Manifest {
    fn from(fifth: FifthManifest) -> Self {
        let FifthManifest { sequence, current, last, rejections, ledger, learned, domain, .. } =
            fifth;
        Self {
            sequence,
            current,
            last,
            generations: fifth.generations.into_iter().map(Generation::from).collect(),
            rejections,
            ledger,
            learned,
            domain,
            ..Self::default()
        }
    }
}

impl From<SixthManifest> for Manifest {
    fn from(sixth: SixthManifest) -> Self {
        Self {
            sequence: sixth.sequence,
            current: sixth.current,
            last: sixth.last,
            generations: sixth.generations.into_iter().map(Generation::from).collect(),
            rejections: sixth.rejections,
            ledger: sixth.ledger,
            learned: sixth.learned,
            domain: sixth.domain,
            trial: sixth.trial,
            installs: sixth.installs.into_iter().map(Install::from).collect(),
            attempt: None,
        }
    }
}

/// When a domain was the place of its name, from 1.
#[derive(Archive, Serialize, Deserialize)]
struct FirstLearner {
    fast: Vec<f32>,
    slow: Vec<f32>,
    first_moment: Vec<f32>,
    second_moment: Vec<f32>,
    step: u64,
    cursor: FirstPosition,
    shapes: Vec<Shape>,
    base: [u8; 32],
    settings: Vec<(String, String)>,
    domains: Vec<String>,
    held_out: Vec<FirstHeldOut>,
}

/// With room for a chance that no job ever used.
#[derive(Archive, Serialize, Deserialize)]
struct FirstPosition {
    dataset: [u8; 32],
    epoch: u64,
    position: u64,
    step: u64,
    chance: ChanceState,
}

impl From<FirstPosition> for JobPosition {
    fn from(first: FirstPosition) -> Self {
        let FirstPosition { dataset, epoch, position, step, .. } = first;
        Self { dataset, epoch, position, step }
    }
}

/// When a domain's number was a short one.
#[derive(Archive, Serialize, Deserialize)]
struct FirstHeldOut {
    tokens: Vec<u32>,
    learn: Vec<bool>,
    bytes: u32,
    domain: u16,
}

impl From<FirstHeldOut> for HeldOutBlock {
    fn from(first: FirstHeldOut) -> Self {
        let FirstHeldOut { tokens, learn, bytes, domain } = first;
        Self { tokens, learn, bytes, domain: domain.into() }
    }
}

impl From<FirstLearner> for LearnerRecord {
    fn from(first: FirstLearner) -> Self {
        let named = |(name, number)| Domain { number, name, key: String::new() };
        Self {
            fast: first.fast,
            slow: first.slow,
            first_moment: first.first_moment,
            second_moment: first.second_moment,
            step: first.step,
            cursor: first.cursor.into(),
            shapes: first.shapes,
            base: first.base,
            settings: first.settings,
            domains: first.domains.into_iter().zip(1..).map(named).collect(),
            held_out: first.held_out.into_iter().map(HeldOutBlock::from).collect(),
            global: None,
            since: Since::all(first.step),
        }
    }
}

/// Before a global adapter could come first.
#[derive(Archive, Serialize, Deserialize)]
struct SecondLearner {
    fast: Vec<f32>,
    slow: Vec<f32>,
    first_moment: Vec<f32>,
    second_moment: Vec<f32>,
    step: u64,
    cursor: JobPosition,
    shapes: Vec<Shape>,
    base: [u8; 32],
    settings: Vec<(String, String)>,
    domains: Vec<Domain>,
    held_out: Vec<HeldOutBlock>,
}

impl From<SecondLearner> for LearnerRecord {
    fn from(second: SecondLearner) -> Self {
        Self {
            fast: second.fast,
            slow: second.slow,
            first_moment: second.first_moment,
            second_moment: second.second_moment,
            step: second.step,
            cursor: second.cursor,
            shapes: second.shapes,
            base: second.base,
            settings: second.settings,
            domains: second.domains,
            held_out: second.held_out,
            global: None,
            since: Since::all(second.step),
        }
    }
}

/// Before a sequence said whose it is.
#[derive(Archive, Serialize, Deserialize)]
struct ThirdLearner {
    fast: Vec<f32>,
    slow: Vec<f32>,
    first_moment: Vec<f32>,
    second_moment: Vec<f32>,
    step: u64,
    cursor: JobPosition,
    shapes: Vec<Shape>,
    base: [u8; 32],
    settings: Vec<(String, String)>,
    domains: Vec<Domain>,
    held_out: Vec<HeldOutBlock>,
    global: Option<FirstGlobal>,
    since: Since,
}

impl From<ThirdLearner> for LearnerRecord {
    fn from(third: ThirdLearner) -> Self {
        Self {
            fast: third.fast,
            slow: third.slow,
            first_moment: third.first_moment,
            second_moment: third.second_moment,
            step: third.step,
            cursor: third.cursor,
            shapes: third.shapes,
            base: third.base,
            settings: third.settings,
            domains: third.domains,
            held_out: third.held_out,
            global: third.global.map(Global::from),
            since: third.since,
        }
    }
}

/// Before the reservoir was served in passes and the best was kept.
#[derive(Archive, Serialize, Deserialize)]
struct FirstCheckpoint {
    sequence: u64,
    current: u64,
    learner: FirstLearner,
    ledger: Option<FirstLedger>,
}

/// When a domain's number was a short one.
#[derive(Archive, Serialize, Deserialize)]
struct SecondCheckpoint {
    sequence: u64,
    current: u64,
    learner: FirstLearner,
    ledger: Option<SecondLedger>,
    best: Option<Best>,
}

/// Before a global adapter could come first.
#[derive(Archive, Serialize, Deserialize)]
struct ThirdCheckpoint {
    sequence: u64,
    current: u64,
    learner: SecondLearner,
    ledger: Option<Ledger>,
    best: Option<Best>,
}

/// Before a sequence said whose it is.
#[derive(Archive, Serialize, Deserialize)]
struct FourthCheckpoint {
    sequence: u64,
    current: u64,
    learner: ThirdLearner,
    ledger: Option<Ledger>,
    best: Option<Best>,
}

impl From<FirstCheckpoint> for Checkpoint {
    fn from(first: FirstCheckpoint) -> Self {
        let FirstCheckpoint { sequence, current, learner, ledger } = first;
        let (learner, ledger) = (learner.into(), ledger.map(Ledger::from));
        Self { sequence, current, learner, ledger, best: None }
    }
}

impl From<SecondCheckpoint> for Checkpoint {
    fn from(second: SecondCheckpoint) -> Self {
        let SecondCheckpoint { sequence, current, learner, ledger, best } = second;
        let (learner, ledger) = (learner.into(), ledger.map(Ledger::from));
        Self { sequence, current, learner, ledger, best }
    }
}

impl From<ThirdCheckpoint> for Checkpoint {
    fn from(third: ThirdCheckpoint) -> Self {
        let ThirdCheckpoint { sequence, current, learner, ledger, best } = third;
        Self { sequence, current, learner: learner.into(), ledger, best }
    }
}

impl From<FourthCheckpoint> for Checkpoint {
    fn from(fourth: FourthCheckpoint) -> Self {
        let FourthCheckpoint { sequence, current, learner, ledger, best } = fourth;
        Self { sequence, current, learner: learner.into(), ledger, best }
    }
}
