//! One adapter folder: read as a stranger's, checked, compared, written in one move.
//!
//! - In: a path. Out: configuration, meta and tensors that agree with themselves; or a new folder.
//! - Tensors are f32, as devices write them; anything else did not come from one.
//! - Invariant: the name a folder is written under appears only once all its files are on disk.

use anyhow::{Context, Result, bail, ensure};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

const CONFIG_FILE: &str = "adapter_config.json";
const TENSORS_FILE: &str = "adapter_model.safetensors";
const META_FILE: &str = "adapter_meta.json";
/// The only version of `adapter_meta.json` there is.
const META_VERSION: u64 = 1;
const JSON_BYTES_MAX: u64 = 16 << 20;
const TENSORS_BYTES_MAX: u64 = 4 << 30;
/// Fields of the configuration that say where it was written, not what it does.
const WITHOUT_EFFECT: [&str; 2] = ["base_model_name_or_path", "peft_version"];

/// A tensor's shape and numbers, row by row.
pub(crate) type Tensor = (Vec<usize>, Vec<f32>);

/// What a device says of its adapter.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Meta {
    /// BLAKE3 of the base, 64 hexadecimal digits.
    pub(crate) base_hash: String,
    pub(crate) generation: u64,
    /// Optimiser steps of the device's life.
    pub(crate) steps: u64,
    pub(crate) retain: f64,
}

/// A checked adapter folder.
pub(crate) struct Folder {
    path: PathBuf,
    /// As read, to be written again.
    config: Vec<u8>,
    pub(crate) meta: Meta,
    pub(crate) tensors: BTreeMap<String, Tensor>,
}

impl Folder {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let load = || -> Result<Self> {
            let config = bytes(path, CONFIG_FILE, JSON_BYTES_MAX)?;
            settings(&config)?;
            let meta = Meta::parse(&bytes(path, META_FILE, JSON_BYTES_MAX)?)
                .with_context(|| format!("{META_FILE} of an adapter of Sapwood is expected"))?;
            let tensors = tensors(&bytes(path, TENSORS_FILE, TENSORS_BYTES_MAX)?)?;
            Ok(Self { path: path.to_owned(), config, meta, tensors })
        };
        load().with_context(|| format!("{} cannot be merged", path.display()))
    }

    /// The path, for a message.
    pub(crate) fn shown(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    /// Whether the mean of both means something: one base, one configuration, one average.
    pub(crate) fn agrees(&self, other: &Self) -> Result<()> {
        let (expected, got) = (&self.meta, &other.meta);
        ensure!(
            expected.base_hash == got.base_hash,
            "expected base {}…, got {}… (BLAKE3)",
            &expected.base_hash[..12],
            &got.base_hash[..12]
        );
        ensure!(
            expected.retain == got.retain,
            "expected retain {}, got {}",
            expected.retain,
            got.retain
        );
        let (expected, got) = (settings(&self.config)?, settings(&other.config)?);
        let names: std::collections::BTreeSet<_> = expected.keys().chain(got.keys()).collect();
        for name in names {
            let [expected, got] = [&expected, &got].map(|of| of.get(name).unwrap_or(&Value::Null));
            ensure!(expected == got, "`{name}` of {CONFIG_FILE}: expected {expected}, got {got}");
        }
        Ok(())
    }

    /// The adapter of several devices in the place of this one's.
    pub(crate) fn replaced(self, meta: Meta, tensors: BTreeMap<String, Tensor>) -> Self {
        Self { meta, tensors, ..self }
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
        let bytes = |(_, numbers): &Tensor| -> Vec<u8> {
            numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
        };
        let buffers: Vec<Vec<u8>> = self.tensors.values().map(bytes).collect();
        let mut views = Vec::new();
        for ((name, (shape, _)), buffer) in self.tensors.iter().zip(&buffers) {
            views.push((name, TensorView::new(Dtype::F32, shape.clone(), buffer)?));
        }
        let facts = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let tensors = safetensors::serialize(views, Some(facts))?;
        for (file, bytes) in [
            (CONFIG_FILE, &self.config),
            (TENSORS_FILE, &tensors),
            (META_FILE, &self.meta.write()?),
        ] {
            let mut file = File::create_new(folder.join(file))?;
            file.write_all(bytes)?;
            file.sync_all()?;
        }
        Ok(File::open(folder)?.sync_all()?)
    }
}

impl Meta {
    fn parse(json: &[u8]) -> Result<Self> {
        let meta: Value = serde_json::from_slice(json).with_context(|| META_FILE.to_owned())?;
        let number = |field: &str| {
            let got = &meta[field];
            got.as_u64().with_context(|| format!("`{field}` is {got}, expected a whole number"))
        };
        let version = number("format_version")?;
        ensure!(version == META_VERSION, "`format_version` is {version}, expected {META_VERSION}");
        ensure!(
            meta["role"] == "slow",
            "`role` is {}, expected \"slow\": fast adapters are not shared",
            meta["role"]
        );
        let base_hash = meta["base_hash"].as_str().unwrap_or_default().to_ascii_lowercase();
        ensure!(
            base_hash.len() == 64 && base_hash.bytes().all(|digit| digit.is_ascii_hexdigit()),
            "`base_hash` is {}, expected 64 hexadecimal digits",
            meta["base_hash"]
        );
        let retain = meta["retain"].as_f64().filter(|retain| (0.0..1.0).contains(retain));
        let retain =
            retain.with_context(|| format!("`retain` is {}, expected [0, 1)", meta["retain"]))?;
        Ok(Self { base_hash, generation: number("generation")?, steps: number("steps")?, retain })
    }

    fn write(&self) -> Result<Vec<u8>> {
        let json = serde_json::json!({
            "format_version": META_VERSION,
            "base_hash": self.base_hash,
            "generation": self.generation,
            "steps": self.steps,
            "role": "slow",
            "retain": self.retain,
            "created_by": concat!("fleet-server ", env!("CARGO_PKG_VERSION")),
        });
        let mut bytes = serde_json::to_vec_pretty(&json)?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

/// The configuration's fields that say what the adapter does.
fn settings(config: &[u8]) -> Result<serde_json::Map<String, Value>> {
    let mut fields: serde_json::Map<String, Value> =
        serde_json::from_slice(config).with_context(|| CONFIG_FILE.to_owned())?;
    ensure!(
        fields.get("peft_type").is_some_and(|kind| kind == "LORA"),
        "`peft_type` of {CONFIG_FILE} is {}, expected \"LORA\"",
        fields.get("peft_type").unwrap_or(&Value::Null)
    );
    for name in WITHOUT_EFFECT {
        fields.remove(name);
    }
    Ok(fields)
}

fn tensors(file: &[u8]) -> Result<BTreeMap<String, Tensor>> {
    let file =
        SafeTensors::deserialize(file).with_context(|| format!("{TENSORS_FILE}: damaged"))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        if view.dtype() != Dtype::F32 {
            bail!("{TENSORS_FILE}: `{name}`: expected F32, got {:?}", view.dtype());
        }
        let chunks = view.data().as_chunks().0.iter();
        let numbers: Vec<f32> = chunks.map(|chunk: &[u8; 4]| f32::from_le_bytes(*chunk)).collect();
        if let Some(place) = numbers.iter().position(|number| !number.is_finite()) {
            bail!(
                "{TENSORS_FILE}: `{name}`: expected finite numbers, got {} at position {place}",
                numbers[place]
            );
        }
        tensors.insert(name, (view.shape().to_vec(), numbers));
    }
    ensure!(!tensors.is_empty(), "{TENSORS_FILE}: expected tensors, got none");
    Ok(tensors)
}

fn bytes(folder: &Path, file: &str, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let opened = File::open(folder.join(file)).with_context(|| file.to_owned())?;
    opened.take(most + 1).read_to_end(&mut bytes).with_context(|| file.to_owned())?;
    ensure!(bytes.len() as u64 <= most, "{file}: expected at most {most} bytes");
    Ok(bytes)
}
