//! What a study has found so far, in its folder: it goes on from there, and is not begun over another's.

use super::super::console::Console;
use anyhow::Context;
use sapwood::adapter::Adapter;
use sapwood::adapter::peft;
use sapwood::base::Config;
use sapwood::gate::Matrix;
use sapwood::learner::{Domains, Engines, Halt, Rest};
use sapwood::ports::{Disk, Memory, Storage};
use sapwood::settings::{Method, Settings};
use sapwood::state::{OWN_TEXTS, OWN_TEXTS_BYTES_MAX, State};
use sapwood::study::{Curve, Space};
use sapwood::train::Learners;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file of everything that was found.
const RECORD: &str = "study.json";
/// The folder of the adapters.
const ADAPTERS: &str = "adapters";
/// The folder of what a stream that is not learned to its end goes on with, and of the next one.
const STREAM: &str = "stream";
const STREAM_FRESH: &str = "stream.partial";
/// What takes the place of the file of what the base wrote itself.
const OWN_TEXTS_FRESH: &str = "own-texts.partial";
/// Raised when what the file means changes.
const VERSION: u32 = 1;

/// Which learner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Fast,
    Slow,
}

impl Role {
    /// Its word.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Slow => "slow",
        }
    }
}

/// What makes a study this one and no other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Key {
    /// BLAKE3 of the base.
    base: String,
    method: String,
    domains: Vec<String>,
    /// BLAKE3 of every block, learned or scored.
    blocks: String,
    settings: Vec<(String, String)>,
}

impl Key {
    pub(super) fn new(
        base: [u8; 32],
        method: Method,
        settings: &Settings,
        domains: &Domains,
    ) -> anyhow::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        let groups = domains.test.iter().chain([&domains.blocks, &domains.general, &domains.own]);
        for group in groups {
            hasher.update(&(group.len() as u64).to_le_bytes());
            for block in group {
                hasher.update(&(block.tokens.len() as u64).to_le_bytes());
                block.tokens.iter().for_each(|id| _ = hasher.update(&id.to_le_bytes()));
                block.learn.iter().for_each(|&learn| _ = hasher.update(&[learn.into()]));
                hasher.update(&block.domain.to_le_bytes());
            }
        }
        Ok(Self {
            base: blake3::Hash::from_bytes(base).to_string(),
            method: method.title().to_owned(),
            domains: domains.names.clone(),
            blocks: hasher.finalize().to_string(),
            settings: method.apply(settings).identity()?,
        })
    }

    /// The first thing in which two studies differ.
    fn difference(&self, other: &Self) -> Option<String> {
        let told = |what: &str, one: &dyn std::fmt::Debug, two: &dyn std::fmt::Debug| {
            Some(format!("{what} was {one:?} and is {two:?}"))
        };
        let setting = || {
            let differs = |(key, value): &&(String, String)| {
                !self.settings.contains(&(key.clone(), value.clone()))
            };
            let (key, value) = other.settings.iter().find(differs)?;
            let was = self.settings.iter().find(|(own, _)| own == key);
            told(key, &was.map_or("another", |(_, was)| was), value)
        };
        match () {
            () if self == other => None,
            () if self.base != other.base => told("the base", &self.base, &other.base),
            () if self.method != other.method => told("--method", &self.method, &other.method),
            () if self.domains != other.domains => {
                told("the stream", &self.domains, &other.domains)
            }
            () => setting().or_else(|| Some("the text is another".to_owned())),
        }
    }
}

/// How alike two moments see a domain's text, layer by layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Similarity {
    /// The domain that had just been learned, and whose text it is.
    pub(super) domain: String,
    /// Index of each layer in the base.
    pub(super) layers: Vec<usize>,
    /// CKA of the mean of a block's tokens, just learned against the end.
    pub(super) mean: Vec<f64>,
    /// The same of its last token.
    pub(super) last: Vec<f64>,
    /// Blocks that were compared.
    pub(super) blocks: usize,
}

/// Settings that were varied, each with its value.
pub(super) type Choice = BTreeMap<String, Value>;

/// A stream under other settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Swept {
    pub(super) choice: Choice,
    pub(super) seed: u64,
    pub(super) matrix: Matrix,
}

/// What was found on the plane through three adapters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Plane {
    /// What the three are.
    pub(super) names: [String; 3],
    /// Where they lie, in the distance of factors.
    pub(super) places: [[f64; 2]; 3],
    /// Points of a side.
    pub(super) side: usize,
    /// Row by row from below: each place, and the loss of every domain there; what was not scored yet is
    /// not there.
    pub(super) points: Vec<([f64; 2], Vec<f64>)>,
}

/// Everything that was found.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Found {
    version: u32,
    key: Key,
    /// Parameters of the base; none in a study that was begun before they were kept.
    #[serde(default)]
    pub(super) parameters: Option<u64>,
    /// The matrix R of the stream, with a row for every domain that was learned.
    pub(super) matrix: Option<Matrix>,
    pub(super) curves: Vec<Curve>,
    pub(super) similarities: Vec<Similarity>,
    #[serde(default)]
    pub(super) swept: Vec<Swept>,
    #[serde(default)]
    pub(super) plane: Option<Plane>,
}

impl Found {
    /// What was found in a folder.
    ///
    /// # Errors
    /// It holds no study, or one of a later version.
    pub(super) fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(RECORD);
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&bytes, &path)
    }

    fn parse(bytes: &[u8], path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let found: Self = serde_json::from_slice(bytes)
            .with_context(|| format!("{shown} is no study's; it is unchanged"))?;
        anyhow::ensure!(
            found.version == VERSION,
            "{shown} is of version {}, expected {VERSION}; it is unchanged",
            found.version
        );
        Ok(found)
    }

    /// Domains of the stream, each as often as it is met; 0 before it is learned.
    pub(super) fn domains(&self) -> usize {
        self.matrix.as_ref().map_or(0, |matrix| matrix.domains.len())
    }

    /// The method that learned the stream.
    pub(super) fn method(&self) -> &str {
        &self.key.method
    }
}

/// Removes a folder of ours, if it is there.
fn remove(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done.with_context(|| format!("cannot remove {}", folder.display())),
    }
}

/// Refuses a folder of other things, whose files might have the names of ours.
fn check_free(folder: &Path) -> anyhow::Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let name = entry.with_context(|| format!("cannot read {}", folder.display()))?.file_name();
        // What a study that was cut off while it learned has left.
        anyhow::ensure!(
            name == ADAPTERS || name == OWN_TEXTS || name == OWN_TEXTS_FRESH,
            "--out: {} holds {} and no study: expected one, or a folder that is new or empty; it is unchanged",
            folder.display(),
            name.to_string_lossy()
        );
    }
    Ok(())
}

/// What the base of a study wrote itself, as a state folder has it: in memory, so that a folder that turns
/// out to be another study's stays as it is.
pub(super) struct OwnTexts {
    storage: Arc<Memory>,
    pub(super) state: State,
    /// Whether the study's folder has the same.
    kept: Option<Vec<u8>>,
}

impl OwnTexts {
    /// Those that a study's folder has; none where it has none.
    pub(super) fn of(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(OWN_TEXTS);
        let is_small = fs::metadata(&path).is_ok_and(|it| it.len() <= OWN_TEXTS_BYTES_MAX);
        let kept = is_small.then(|| fs::read(&path)).and_then(Result::ok);
        let storage = Arc::new(Memory::default());
        if let Some(bytes) = &kept {
            storage.write(OWN_TEXTS, bytes)?;
        }
        Ok(Self { state: State::open(storage.clone())?, storage, kept })
    }
}

/// A study's folder.
pub(super) struct Record {
    folder: PathBuf,
    pub(super) found: Found,
}

impl Record {
    /// Opens the folder of a study, or begins one.
    ///
    /// # Errors
    /// It holds another study, or one of a later version.
    pub(super) fn open(folder: &Path, key: Key, parameters: u64) -> anyhow::Result<Self> {
        let path = folder.join(RECORD);
        let shown = path.display();
        let fresh = Found {
            version: VERSION,
            key,
            parameters: Some(parameters),
            matrix: None,
            curves: Vec::new(),
            similarities: Vec::new(),
            swept: Vec::new(),
            plane: None,
        };
        let found = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                check_free(folder)?;
                fresh
            }
            bytes => {
                let bytes = bytes.with_context(|| format!("cannot read {shown}"))?;
                let mut found = Found::parse(&bytes, &path)?;
                if let Some(difference) = found.key.difference(&fresh.key) {
                    anyhow::bail!(
                        "--out: {} holds another study: {difference}; expected the same, or another \
                         folder; it is unchanged",
                        folder.display()
                    );
                }
                found.parameters = fresh.parameters;
                found
            }
        };
        fs::create_dir_all(folder.join(ADAPTERS))
            .with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { folder: folder.to_owned(), found })
    }

    /// Writes what was found; the file is whole at any time.
    pub(super) fn save(&self) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(&self.found)?;
        let (path, fresh) =
            (self.folder.join(RECORD), self.folder.join(format!("{RECORD}.partial")));
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Keeps what the base wrote itself; the file is whole at any time.
    pub(super) fn keep_own_texts(&self, own: &OwnTexts) -> anyhow::Result<()> {
        let bytes = match own.storage.len(OWN_TEXTS)? {
            Some(_) => own.storage.read(OWN_TEXTS)?,
            None => return Ok(()),
        };
        if own.kept.as_ref() == Some(&bytes) {
            return Ok(());
        }
        let (path, fresh) = (self.at(OWN_TEXTS), self.at(OWN_TEXTS_FRESH));
        fs::write(&fresh, bytes)
            .and_then(|()| fs::rename(&fresh, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Whether a line was scored at so many points.
    pub(super) fn has(&self, [from, to]: [&str; 2], space: Space, points: usize) -> bool {
        let same = |curve: &Curve| {
            (curve.from == from, curve.to == to, curve.space, curve.points.len())
                == (true, true, space, points)
        };
        self.found.curves.iter().any(same)
    }

    /// Keeps what was found along a line, in place of what was found at fewer or more points of it.
    pub(super) fn add(&mut self, curve: Curve) {
        let is_other =
            |own: &Curve| (&own.from, &own.to, own.space) != (&curve.from, &curve.to, curve.space);
        self.found.curves.retain(is_other);
        self.found.curves.push(curve);
    }

    fn adapter_folder(&self, domain: usize, role: Role) -> PathBuf {
        self.folder.join(ADAPTERS).join(format!("{}-{}", domain + 1, role.name()))
    }

    /// Keeps what both learners were after the last row's domain, the rows, and how the stream goes on.
    ///
    /// The rows come first: one more than were learned is let go of, one fewer would be missed.
    pub(super) fn keep(
        &mut self,
        matrix: &Matrix,
        halt: Halt<'_>,
        engines: &Engines,
    ) -> anyhow::Result<()> {
        let done = matrix.rows.len();
        let Learners { fast, slow, .. } = halt.learners;
        for (role, adapter) in [(Role::Fast, fast), (Role::Slow, slow)] {
            self.keep_adapter(done - 1, role, adapter)?;
        }
        self.found.matrix = Some(matrix.clone());
        self.save()?;
        let (place, fresh) = (self.at(STREAM), self.at(STREAM_FRESH));
        remove(&fresh)?;
        halt.keep(engines, done, Arc::new(Disk::exclusive(&fresh)?))?;
        remove(&place)?;
        fs::rename(&fresh, &place).with_context(|| format!("cannot write {}", place.display()))
    }

    /// What a stream that was cut off goes on with; none where it begins anew, which is told where something
    /// is there to go on with and cannot be read.
    pub(super) fn rest(
        &self,
        engines: &Engines,
        method: Method,
        settings: &Settings,
        console: &Console,
    ) -> anyhow::Result<Option<Rest>> {
        let place = self.at(STREAM);
        let rows = self.found.matrix.as_ref().map_or(0, |matrix| matrix.rows.len());
        if rows == 0 || !place.exists() {
            return Ok(None);
        }
        let disk = Arc::new(Disk::exclusive(&place)?);
        match Halt::take(engines, method, settings, disk) {
            Ok(rest) => Ok(rest.filter(|rest| (1..=rows).contains(&rest.domains()))),
            Err(error) => {
                let shown = place.display();
                console.warn(&format!("{shown}: {error}; the stream is learned anew"))?;
                Ok(None)
            }
        }
    }

    /// The stream is learned: what it would have gone on with goes.
    pub(super) fn end_stream(&self) -> anyhow::Result<()> {
        remove(&self.at(STREAM))
    }

    /// Keeps what a learner was after a domain.
    fn keep_adapter(&self, domain: usize, role: Role, adapter: &Adapter) -> anyhow::Result<()> {
        let folder = self.adapter_folder(domain, role);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for (name, bytes) in peft::write_with(adapter, None, "")? {
            let path = folder.join(name);
            fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// What a learner was after a domain.
    pub(super) fn adapter(
        &self,
        domain: usize,
        role: Role,
        config: &Config,
    ) -> anyhow::Result<Adapter> {
        let folder = self.adapter_folder(domain, role);
        Ok(super::super::chosen::adapter_at(&folder, config, None)?.0)
    }

    /// Writes a file of the study's.
    pub(super) fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Where a file of the study's lies.
    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}
