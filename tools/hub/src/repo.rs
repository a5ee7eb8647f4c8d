//! A repository of the hub, or what the cache has of it: its small files first, then the weights.
//!
//! - In: a name and settings. Out: a snapshot's folder, or a GGUF file, whose bytes fit their hashes.
//! - The hub is asked which commit a revision is; where it must not be asked or cannot be reached, the cache
//!   answers, and that is told.
//! - Between the small files and the weights a caller may look at the configuration.

use crate::choice::{Choice, INDEX};
use crate::digest::Digest;
use crate::download::{Wanted, blob};
use crate::error::{HubError, shown};
use crate::hash::Hash;
use crate::listing::{self, Entry, INDEX_BYTES_MAX, LISTING_BYTES_MAX, Listing};
use crate::name::Name;
use crate::settings::Settings;
use crate::shelf::Shelf;
use crate::web::{Ask, Web, escaped};
use std::cell::RefCell;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What is told while files come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// What will be fetched, before it is.
    Plan {
        /// The commit.
        commit: &'a str,
        /// Files that are needed.
        files: usize,
        /// Bytes to fetch.
        bytes: u64,
        /// Bytes that are here already.
        cached: u64,
    },
    /// A file begins.
    File {
        /// Its name.
        name: &'a str,
        /// Its length.
        bytes: u64,
    },
    /// More bytes of it came.
    Gained(u64),
    /// Something that a person should know.
    Note(String),
}

/// Hears of events.
pub(crate) type Tell<'a> = &'a mut dyn FnMut(Event<'_>);

/// A repository at one commit.
pub struct Repo {
    name: Name,
    cache: PathBuf,
    shelf: Shelf,
    listing: Listing,
    choice: Choice,
    /// The files of the weights.
    weights: Vec<String>,
    /// None where the cache must do, and why.
    web: Result<Web, String>,
    host: String,
}

impl Repo {
    /// Asks what there is, and chooses what is needed.
    /// # Errors
    /// [`HubError`]; nothing was written.
    pub fn open(name: Name, settings: &Settings, tell: Tell<'_>) -> Result<Self, HubError> {
        let shelf = Shelf::new(&settings.cache, &name.repo);
        let asked = match settings.offline {
            Some(variable) => Err(format!("{variable} is set, so that the hub is not asked")),
            None => {
                let web = Web::new(settings)?;
                match ask(&web, &name, settings.host()) {
                    Ok(listing) => Ok((web, listing)),
                    Err(HubError::Unreachable { host, problem, .. }) => {
                        Err(format!("{host} cannot be reached ({problem})"))
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let (web, listing) = match asked {
            Ok((web, listing)) => (Ok(web), listing),
            Err(why) => {
                let listing = kept(&shelf, &name, settings, &why)?;
                if settings.offline.is_none() {
                    let commit = &listing.commit;
                    tell(Event::Note(format!("{why}; the cache has {name} as commit {commit}")));
                }
                (Err(why), listing)
            }
        };
        let choice = Choice::of(&name, &listing);
        let choice = match (&web, choice) {
            // What the cache lacks, the hub may have.
            (Err(why), Err(error)) => {
                let what = format!("no whole model ({error})");
                return Err(missing(&settings.cache, &name, what, why));
            }
            (_, choice) => choice?,
        };
        let (cache, host) = (settings.cache.clone(), settings.host().to_owned());
        Ok(Self { name, cache, shelf, listing, choice, weights: Vec::new(), web, host })
    }

    /// The commit.
    pub fn commit(&self) -> &str {
        &self.listing.commit
    }

    /// Says what will be fetched, and fetches configuration and tokenizer: the folder with them; none for a
    /// GGUF file, which holds its own.
    /// # Errors
    /// [`HubError`].
    pub fn small(&mut self, tell: Tell<'_>) -> Result<Option<PathBuf>, HubError> {
        let (small, weights) = match self.choice.clone() {
            Choice::Gguf(file) => (Vec::new(), vec![file]),
            Choice::Safetensors { small, index: false } => {
                (small, vec!["model.safetensors".to_owned()])
            }
            Choice::Safetensors { mut small, index: true } => {
                let shards = self.shards()?;
                small.push(INDEX.to_owned());
                (small, shards)
            }
        };
        self.weights = weights;
        let all: Vec<String> = small.iter().chain(&self.weights).cloned().collect();
        self.plan(&all, tell)?;
        for file in &small {
            self.get(file, tell)?;
        }
        let is_gguf = matches!(self.choice, Choice::Gguf(_));
        Ok((!is_gguf).then(|| self.shelf.snapshot(self.commit())))
    }

    /// Fetches the weights: the folder with all, or the GGUF file. After [`Repo::small`].
    /// # Errors
    /// [`HubError`].
    pub fn weights(&self, tell: Tell<'_>) -> Result<PathBuf, HubError> {
        let mut place = self.shelf.snapshot(self.commit());
        for file in &self.weights {
            let got = self.get(file, tell)?;
            if matches!(self.choice, Choice::Gguf(_)) {
                place = got;
            }
        }
        // Noted last: what the cache calls by this revision is whole.
        if self.web.is_ok() {
            self.shelf.note(&self.name.revision, self.commit())?;
        }
        Ok(place)
    }

    /// The shards of the index, each of which must be there.
    fn shards(&mut self) -> Result<Vec<String>, HubError> {
        self.complete(INDEX)?;
        let of = if self.web.is_ok() { self.host.clone() } else { "the cache".to_owned() };
        let size = self.entry(INDEX).size.unwrap_or_default();
        if size > INDEX_BYTES_MAX {
            let problem = format!("it has {size} bytes, expected at most {INDEX_BYTES_MAX}");
            return Err(HubError::Answer { of, what: INDEX.into(), problem });
        }
        let path = self.get(INDEX, &mut |_| {})?;
        let bytes = fs::read(&path).map_err(|source| HubError::Read { path, source })?;
        let shards = listing::shards(&bytes, &of, INDEX)?;
        for shard in &shards {
            if self.listing.files.contains_key(shard) {
                continue;
            }
            if let Err(why) = &self.web {
                return Err(missing(&self.cache, &self.name, format!("no {shard}"), why));
            }
            let problem =
                format!("it names {:?}, which the repository does not have", shown(shard));
            return Err(HubError::Answer { of, what: INDEX.into(), problem });
        }
        Ok(shards.into_iter().collect())
    }

    fn entry(&self, file: &str) -> Entry {
        self.listing.files.get(file).cloned().unwrap_or_default()
    }

    /// Asks for length and hash of a file where the listing does not have them.
    fn complete(&mut self, file: &str) -> Result<(), HubError> {
        let entry = self.entry(file);
        let Ok(web) = &self.web else { return Ok(()) };
        if entry.size.is_some() && entry.hash.is_some() {
            return Ok(());
        }
        let path = self.path(file);
        let answer = web.ask(self.question(file, &path, true))?;
        let header = |names: [&str; 2]| {
            let found = names.iter().find_map(|name| answer.headers().get(*name));
            found.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        let etag = header(["x-linked-etag", "etag"]);
        let hash = Hash::read(etag.trim_start_matches("W/").trim_matches('"'));
        let size = header(["x-linked-size", "content-length"]).parse().ok();
        let entry = Entry { size: entry.size.or(size), hash: entry.hash.or(hash) };
        if entry.size.is_none() || entry.hash.is_none() {
            let problem = format!("it tells no length or no hash, but the etag {:?}", shown(&etag));
            let (of, what) = (self.host.clone(), file.to_owned());
            return Err(HubError::Answer { of, what, problem });
        }
        self.listing.files.insert(file.to_owned(), entry);
        Ok(())
    }

    /// Says what will be fetched, and that there is room for it.
    fn plan(&mut self, files: &[String], tell: Tell<'_>) -> Result<(), HubError> {
        let (mut bytes, mut cached) = (0u64, 0u64);
        for file in files {
            self.complete(file)?;
            let entry = self.entry(file);
            let size = entry.size.unwrap_or_default();
            let length = |path: PathBuf| fs::metadata(path).map_or(0, |about| about.len());
            let here = match entry.hash {
                Some(hash) if self.shelf.blob(&hash).exists() => size,
                Some(hash) => length(self.shelf.incomplete(&hash)).min(size),
                None => size,
            };
            bytes = bytes.saturating_add(size - here);
            cached = cached.saturating_add(here);
        }
        if let Some(free) = self.shelf.free().filter(|free| *free < bytes) {
            return Err(HubError::Full { cache: self.cache.clone(), needed: bytes, free });
        }
        tell(Event::Plan { commit: &self.listing.commit, files: files.len(), bytes, cached });
        Ok(())
    }

    /// A file, from the cache or from the hub; where it lies.
    fn get(&self, file: &str, tell: Tell<'_>) -> Result<PathBuf, HubError> {
        let entry = self.entry(file);
        let web = match (&self.web, entry.hash, entry.size) {
            (Ok(web), Some(hash), Some(size)) => (web, hash, size),
            // The cache alone: what is there is looked at, as far as its name says what it must be.
            (_, hash, size) => {
                let path = self.shelf.snapshot(self.commit()).join(file);
                if let (Some(hash), Some(size)) = (hash, size) {
                    check(&path, file, &hash, size)?;
                }
                return Ok(path);
            }
        };
        let (web, hash, size) = web;
        let whole = self.shelf.blob(&hash);
        if whole.exists() {
            check(&whole, file, &hash, size)?;
            return self.shelf.link(self.commit(), file, &hash);
        }
        tell(Event::File { name: file, bytes: size });
        let path = self.path(file);
        let wanted = Wanted { hash: &hash, size, ask: self.question(file, &path, false) };
        let tell = RefCell::new(tell);
        let wait = || {
            (tell.borrow_mut())(Event::Note(format!(
                "another program fetches {file}: waiting for it"
            )));
        };
        blob(
            web,
            &self.shelf,
            wanted,
            &mut |bytes| (tell.borrow_mut())(Event::Gained(bytes)),
            wait,
        )?;
        self.shelf.link(self.commit(), file, &hash)
    }

    fn path(&self, file: &str) -> String {
        format!("/{}/resolve/{}/{}", self.name.repo, self.commit(), escaped(file, true))
    }

    fn question<'a>(&'a self, file: &'a str, path: &'a str, about: bool) -> Ask<'a> {
        let Name { repo, revision, .. } = &self.name;
        Ask { path, from: 0, about, what: file, repo, revision }
    }
}

/// What the hub has of a revision.
fn ask(web: &Web, name: &Name, host: &str) -> Result<Listing, HubError> {
    let Name { repo, revision, .. } = name;
    let path = format!("/api/models/{repo}/revision/{}?blobs=true", escaped(revision, false));
    let what = "its list of files";
    let answer = web.ask(Ask { path: &path, from: 0, about: false, what, repo, revision })?;
    let wrong = |problem| HubError::Answer { of: host.to_owned(), what: name.to_string(), problem };
    let mut bytes = Vec::new();
    let read = answer.into_body().into_reader().take(LISTING_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|error| wrong(shown(&error.to_string())))?;
    if bytes.len() as u64 > LISTING_BYTES_MAX {
        return Err(wrong(format!("it is longer than {LISTING_BYTES_MAX} bytes")));
    }
    Listing::parse(&bytes).map_err(wrong)
}

/// What the cache has of a revision.
fn kept(shelf: &Shelf, name: &Name, settings: &Settings, why: &str) -> Result<Listing, HubError> {
    let found = shelf.commit(&name.revision).map(|commit| shelf.listing(&commit));
    let found = found.filter(|listing| !listing.files.is_empty());
    found.ok_or_else(|| missing(&settings.cache, name, "nothing".to_owned(), why))
}

fn missing(cache: &Path, name: &Name, what: String, why: &str) -> HubError {
    let (cache, repo, revision) = (cache.to_owned(), name.repo.clone(), name.revision.clone());
    HubError::NotCached { cache, what, repo, revision, why: why.to_owned() }
}

/// Holds a file of the cache against its hash: whoever wrote it may have been cut off.
fn check(path: &Path, file: &str, hash: &Hash, size: u64) -> Result<(), HubError> {
    let mut digest = Digest::like(hash, size);
    let read = digest.update_from(path);
    let length = read.map_err(|source| HubError::Read { path: path.to_owned(), source })?;
    let got = digest.finish();
    if length == size && got == hash.text() {
        return Ok(());
    }
    Err(HubError::Hash {
        file: format!("{file} in the cache"),
        kind: hash.kind(),
        expected: hash.to_string(),
        got,
        holds: format!("remove {} to have it fetched again", path.display()),
    })
}
