//! One adapter folder: read as a stranger's, compared, written in one move.
//!
//! - In: a path. Out: an adapter of Sapwood with its meta, checked by `sapwood::adapter::peft`; or a
//!   new folder.
//! - Invariant: the name a folder is written under appears only once all its files are on disk.

use anyhow::{Context, Result, ensure};
use sapwood::adapter::peft::{
    self, CONFIG_FILE, Files, META_FILE, Meta, Role, TENSORS_FILE, base_name,
};
use sapwood::adapter::{Adapter, Module};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

const JSON_BYTES_MAX: u64 = 16 << 20;
const TENSORS_BYTES_MAX: u64 = 4 << 30;

/// A checked adapter folder.
pub(crate) struct Folder {
    path: PathBuf,
    /// What PEFT would load the base from.
    base_name: String,
    /// BLAKE3 of configuration and tensors.
    pub(crate) hash: [u8; 32],
    pub(crate) meta: Meta,
    pub(crate) adapter: Adapter,
}

impl Folder {
    /// Reads a folder; `base_hash`: of the base that it must be for.
    pub(crate) fn read(path: &Path, base_hash: Option<[u8; 32]>) -> Result<Self> {
        let load = || -> Result<Self> {
            let config = bytes(path, CONFIG_FILE, JSON_BYTES_MAX)?;
            let meta = bytes(path, META_FILE, JSON_BYTES_MAX)
                .with_context(|| format!("{META_FILE} of an adapter of Sapwood is expected"))?;
            let tensors = bytes(path, TENSORS_FILE, TENSORS_BYTES_MAX)?;
            let files = Files { config: &config, tensors: &tensors, meta: Some(&meta) };
            let (adapter, meta) = peft::read_alone(files, base_hash)?;
            let meta = meta.context("an adapter of Sapwood is expected")?;
            ensure!(
                meta.role == Role::Slow,
                "`role` is \"fast\", expected \"slow\": fast adapters are not shared"
            );
            let mut hash = blake3::Hasher::new();
            hash.update(&config).update(&tensors);
            let (path, hash) = (path.to_owned(), *hash.finalize().as_bytes());
            Ok(Self { path, base_name: base_name(&config)?, hash, meta, adapter })
        };
        load().with_context(|| format!("{} cannot be merged", path.display()))
    }

    /// The path, for a message.
    pub(crate) fn shown(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    /// Whether both can be of one sum: the same layers of the same widths. Ranks and alphas may differ, and
    /// how each device learned is its own affair.
    pub(crate) fn agrees(&self, other: &Self) -> Result<()> {
        let (expected, got) = (&self.adapter.spec, &other.adapter.spec);
        for module in &expected.modules {
            let place = named(module);
            let Some(got) = got.module(module.layer, module.target) else {
                anyhow::bail!("{place} is not adapted, expected as in the other");
            };
            same(module, got)?;
        }
        for module in &got.modules {
            let known = expected.module(module.layer, module.target).is_some();
            ensure!(known, "{} is adapted, expected not as in the other", named(module));
        }
        Ok(())
    }

    /// The adapter of several devices in the place of this one's.
    pub(crate) fn replaced(self, meta: Meta, adapter: Adapter) -> Self {
        Self { meta, adapter, ..self }
    }

    /// Writes a new folder: to a hidden name beside it first, then renamed.
    pub(crate) fn write(&self, out: &Path) -> Result<()> {
        let name = out.file_name().context("the path has no last part")?.to_string_lossy();
        let parent = match out.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let partial = parent.join(format!(".{name}.partial-{}", std::process::id()));
        fs::create_dir(&partial).with_context(|| format!("{}", partial.display()))?;
        let written = self.fill(&partial).and_then(|()| {
            fs::rename(&partial, out)?;
            Ok(File::open(parent)?.sync_all()?)
        });
        if written.is_err() {
            // Best effort: the error that matters is the one above.
            let _ = fs::remove_dir_all(&partial);
        }
        written
    }

    fn fill(&self, folder: &Path) -> Result<()> {
        for (file, bytes) in peft::write(&self.adapter, &self.meta, &self.base_name)? {
            let mut file = File::create_new(folder.join(file))?;
            file.write_all(&bytes)?;
            file.sync_all()?;
        }
        Ok(File::open(folder)?.sync_all()?)
    }
}

fn named(module: &Module) -> String {
    format!("{} of layer {}", module.target.name(), module.layer)
}

/// Whether two modules of one place are as wide.
fn same(expected: &Module, got: &Module) -> Result<()> {
    let shapes = |module: &Module| [[got.rank, module.fan_in], [module.fan_out, got.rank]];
    let place = named(expected);
    for (factor, (expected, got)) in ["A", "B"].iter().zip(shapes(expected).iter().zip(shapes(got)))
    {
        ensure!(*expected == got, "{factor} of {place}: expected shape {expected:?}, got {got:?}");
    }
    Ok(())
}

fn bytes(folder: &Path, file: &str, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let opened = File::open(folder.join(file)).with_context(|| file.to_owned())?;
    opened.take(most + 1).read_to_end(&mut bytes).with_context(|| file.to_owned())?;
    ensure!(bytes.len() as u64 <= most, "{file}: expected at most {most} bytes");
    Ok(bytes)
}
