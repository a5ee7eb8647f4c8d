//! One file from the hub into the cache: begun, gone on with, and named once its hash fits.
//!
//! - What came of a file that broke off stays as `.incomplete`, and the next try asks for the rest.
//! - Invariant: no more bytes are written than the file has, and none that do not fit stay.

use crate::digest::Digest;
use crate::error::{HubError, shown};
use crate::hash::Hash;
use crate::shelf::{Shelf, make_parent};
use crate::web::{Ask, Web};
use std::fs::{self, File};
use std::io::{Read, Write};
use ureq::Body;
use ureq::http::Response;

/// Tries that bring next to nothing before it is given up.
const TRIES: usize = 5;
/// A try that brings so much is none of those.
const GAIN_BYTES: u64 = 1 << 20;
/// Bytes that are taken at a time.
const SOME: usize = 1 << 18;

/// A file that is wanted.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) hash: &'a Hash,
    pub(crate) size: u64,
    pub(crate) ask: Ask<'a>,
}

/// Fetches a file, unless the cache has it by then. `gained` hears of bytes as they come.
pub(crate) fn blob(
    web: &Web,
    shelf: &Shelf,
    wanted: Wanted<'_>,
    gained: &mut dyn FnMut(u64),
    wait: impl FnOnce(),
) -> Result<(), HubError> {
    let Wanted { hash, size, ask } = wanted;
    let (whole, partial) = (shelf.blob(hash), shelf.incomplete(hash));
    let _alone = shelf.lock(hash, wait)?;
    if whole.exists() {
        return Ok(());
    }
    make_parent(&partial)?;
    let mut part = Part::open(shelf, wanted)?;
    let mut tries = TRIES;
    while part.have < size || size == 0 {
        let before = part.have;
        let problem = match web.ask(Ask { from: part.have, ..ask }) {
            Ok(answer) => part.take(answer, gained)?,
            // The first question has no second try: a wrong name would be told five times.
            Err(error) if part.have == 0 || tries == 1 => return Err(error),
            Err(HubError::Unreachable { problem, .. }) => problem,
            Err(error) => return Err(error),
        };
        if part.have == size {
            break;
        }
        tries = if part.have >= before + GAIN_BYTES { TRIES } else { tries - 1 };
        if tries == 0 {
            let (file, got) = (ask.what.to_owned(), part.have);
            return Err(HubError::Short { file, got, size, problem });
        }
    }
    part.finish()?;
    fs::rename(&partial, &whole).map_err(|source| HubError::Write { path: whole, source })
}

/// What there is of a file.
struct Part<'a> {
    shelf: &'a Shelf,
    wanted: Wanted<'a>,
    file: File,
    digest: Digest,
    have: u64,
}

impl<'a> Part<'a> {
    /// Goes on with what came before, if there is any.
    fn open(shelf: &'a Shelf, wanted: Wanted<'a>) -> Result<Self, HubError> {
        let path = shelf.incomplete(wanted.hash);
        let failed = |source| HubError::Write { path: path.clone(), source };
        let file = File::options().create(true).append(true).open(&path).map_err(failed)?;
        let mut digest = Digest::like(wanted.hash, wanted.size);
        let have = digest.update_from(&path);
        let have = have.map_err(|source| HubError::Read { path: path.clone(), source })?;
        let mut part = Self { shelf, wanted, file, digest, have };
        if have > wanted.size {
            part.begin()?;
        }
        Ok(part)
    }

    /// From nothing.
    fn begin(&mut self) -> Result<(), HubError> {
        self.file.set_len(0).map_err(|source| self.failed(source))?;
        self.digest = Digest::like(self.wanted.hash, self.wanted.size);
        self.have = 0;
        Ok(())
    }

    fn failed(&self, source: std::io::Error) -> HubError {
        HubError::Write { path: self.shelf.incomplete(self.wanted.hash), source }
    }

    /// Takes what an answer brings; why it ended.
    fn take(
        &mut self,
        answer: Response<Body>,
        gained: &mut dyn FnMut(u64),
    ) -> Result<String, HubError> {
        let status = answer.status().as_u16();
        let goes_on = status == 206 && begins(&answer) == Some(self.have);
        if self.have > 0 && !goes_on {
            self.begin()?;
            if status != 200 {
                return Ok(format!("the rest was asked for, {status} came"));
            }
        }
        let mut body = answer.into_body().into_reader();
        let mut buffer = vec![0; SOME];
        loop {
            let got = match body.read(&mut buffer) {
                Ok(0) => return Ok("the connection was closed".to_owned()),
                Ok(got) => got,
                Err(error) => return Ok(shown(&error.to_string())),
            };
            if self.have + got as u64 > self.wanted.size {
                return Err(self.refused(HubError::Long {
                    file: self.wanted.ask.what.to_owned(),
                    size: self.wanted.size,
                }));
            }
            self.file.write_all(&buffer[..got]).map_err(|source| self.failed(source))?;
            self.digest.update(&buffer[..got]);
            self.have += got as u64;
            gained(got as u64);
        }
    }

    /// All of it is on the disk, and is what was wanted.
    fn finish(self) -> Result<(), HubError> {
        let got = self.digest.clone().finish();
        let Wanted { hash, ask, .. } = self.wanted;
        if got != hash.text() {
            return Err(self.refused(HubError::Hash {
                file: ask.what.to_owned(),
                kind: hash.kind(),
                expected: hash.to_string(),
                got,
                holds: "what came was thrown away".to_owned(),
            }));
        }
        self.file.sync_all().map_err(|source| self.failed(source))
    }

    /// What does not fit must not be gone on with.
    fn refused(&self, error: HubError) -> HubError {
        let _gone = fs::remove_file(self.shelf.incomplete(self.wanted.hash));
        error
    }
}

/// From which byte on an answer has a file.
fn begins(answer: &Response<Body>) -> Option<u64> {
    let range = answer.headers().get("content-range")?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}
