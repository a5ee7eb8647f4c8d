//! Adapter folders in PEFT's layout, as bytes: written so that PEFT loads them, read as strangers.
//!
//! - In: an [`Adapter`] and its [`Meta`]; or the three files' bytes. Out: the other.
//! - `adapter_config.json` and `adapter_model.safetensors` are PEFT's; `adapter_meta.json` is ours
//!   and may be missing, as it is from an adapter that PEFT made.
//! - Never here: the disk. Nothing of a file is used before the whole of it is checked.
//! - Invariant: what is written reads back equal, bit for bit, whatever the ranks and alphas.
//!
//! Source: PEFT 0.21 `save_pretrained`; keys `base_model.model.<module>.lora_{A,B}.weight`.

mod config;
mod meta;
mod packed;
mod pattern;
mod python;

pub use meta::{Global, Meta, Role};

use super::{Adapter, AdapterError, Spec, Strength, Target};
use crate::base::Config;
use crate::base::config::LAYERS_MAX;
pub use config::base_name;
use config::{Lora, short};
use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::{BTreeMap, HashMap};

/// PEFT's configuration.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// PEFT's tensors.
pub const TENSORS_FILE: &str = "adapter_model.safetensors";
/// Our record of where the adapter comes from.
pub const META_FILE: &str = "adapter_meta.json";

/// What PEFT puts before a module's name.
const PREFIX: &str = "base_model.model.";

/// The bytes of an adapter folder's files, not yet believed.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// Of [`CONFIG_FILE`].
    pub config: &'a [u8],
    /// Of [`TENSORS_FILE`].
    pub tensors: &'a [u8],
    /// Of [`META_FILE`], if there is one.
    pub meta: Option<&'a [u8]>,
}

/// One of the two factors of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Factor {
    A,
    B,
}

/// The files of an adapter folder: name and bytes of each, tensors in f32.
///
/// - `base_name`: what PEFT would load the base from; may be empty.
/// # Errors
/// [`AdapterError::Empty`], [`AdapterError::Length`], [`AdapterError::NotFinite`]; and
/// [`AdapterError::MetaField`] for a `retain` outside `[0, 1)`.
pub fn write(
    adapter: &Adapter,
    meta: &Meta,
    base_name: &str,
) -> Result<Vec<(&'static str, Vec<u8>)>, AdapterError> {
    write_with(adapter, Some(meta), base_name)
}

/// The files of such a folder where perhaps nobody knows where the adapter comes from.
/// # Errors
/// As [`write()`].
pub fn write_with(
    adapter: &Adapter,
    meta: Option<&Meta>,
    base_name: &str,
) -> Result<Vec<(&'static str, Vec<u8>)>, AdapterError> {
    let mut files = vec![
        (CONFIG_FILE, config::write(&adapter.spec, base_name)?),
        (TENSORS_FILE, write_tensors(adapter)?),
    ];
    if let Some(meta) = meta {
        files.push((META_FILE, meta.write()?));
    }
    Ok(files)
}

/// Reads an adapter folder made by [`write()`] or by PEFT, in f32, f16 or bf16.
///
/// - `config`: of the base at hand. `base_hash`: its BLAKE3, when the adapter must be its own;
///   an adapter without meta then passes, since PEFT records no hash.
/// - Ranks and alphas may differ by module, and `use_rslora` is honoured: the module's scale is what
///   PEFT multiplies by.
/// # Errors
/// An [`AdapterError`] that names the file and the field or tensor.
pub fn read(
    files: Files<'_>,
    config: &Config,
    base_hash: Option<[u8; 32]>,
) -> Result<(Adapter, Option<Meta>), AdapterError> {
    let fans = |_: &Places<'_>, _: usize, target: Target| target.fans(config);
    read_with(files, base_hash, Some(config), |_| config.layers, fans)
}

/// Reads such a folder where no base is at hand, as [`read`] does but for this: how many layers
/// there are, and how wide they are, is what the tensors say, as far as A, B and rank agree.
///
/// # Errors
/// An [`AdapterError`] that names the file and the field or tensor.
pub fn read_alone(
    files: Files<'_>,
    base_hash: Option<[u8; 32]>,
) -> Result<(Adapter, Option<Meta>), AdapterError> {
    let layers = |tensors: &Places<'_>| tensors.keys().last().map_or(0, |(layer, ..)| layer + 1);
    let fans = |tensors: &Places<'_>, layer, target| {
        let shape = |factor| tensors.get(&(layer, target, factor)).map(TensorView::shape);
        // An absent tensor has its own error, and a width of 0 fits none.
        let width = |side: Option<&usize>| side.copied().unwrap_or(1).max(1);
        let fan_in = shape(Factor::A).and_then(|shape| shape.last());
        (width(fan_in), width(shape(Factor::B).and_then(|shape| shape.first())))
    };
    read_with(files, base_hash, None, layers, fans)
}

/// `layers`: how many the base has; a tensor of a later one is refused. `fans`: of a linear layer.
fn read_with(
    files: Files<'_>,
    base_hash: Option<[u8; 32]>,
    config: Option<&Config>,
    layers: impl Fn(&Places<'_>) -> usize,
    fans: impl Fn(&Places<'_>, usize, Target) -> (usize, usize),
) -> Result<(Adapter, Option<Meta>), AdapterError> {
    let meta = files.meta.map(Meta::parse).transpose()?;
    if let (Some(meta), Some(expected)) = (meta, base_hash)
        && meta.base_hash != expected
    {
        let (expected, got) = (meta::hex(&expected[..6]), meta::hex(&meta.base_hash[..6]));
        return Err(AdapterError::Base { expected, got });
    }
    let tensors = SafeTensors::deserialize(files.tensors).map_err(AdapterError::Tensors)?;
    let packed = config.map_or(Ok(None), |config| packed::by_place(&tensors, config))?;
    let names = if packed.is_some() { Names::Packed } else { Names::Apart };
    let lora = Lora::parse(files.config, names)?;
    let tensors = packed.map_or_else(|| by_place(&tensors), Ok)?;
    let layers = layers(&tensors);
    within(&tensors, layers, names)?;
    let fans = |layer, target| fans(&tensors, layer, target);
    let strengths = strengths(&lora, &tensors, layers, fans)?;
    let spec = Spec::placed(0..layers, |layer, target| {
        strengths.get(&(layer, target)).map(|strength| (*strength, fans(layer, target)))
    });
    let mut values = Vec::with_capacity(spec.len());
    for module in &spec.modules {
        for factor in [Factor::A, Factor::B] {
            let name = names.tensor(module.layer, module.target, factor);
            if let Some(view) = tensors.get(&(module.layer, module.target, factor)) {
                widen(&name, view, &mut values)?;
            }
        }
    }
    if values.is_empty() {
        return Err(AdapterError::Empty);
    }
    Ok((Adapter { spec, values }, meta))
}

/// Whether a file of tensors in f32 holds these numbers, bit for bit and in any order, and no others:
/// what a folder that nobody vouches for can still be asked.
///
/// # Errors
/// [`AdapterError::Tensors`] when it is no such file.
pub fn holds(tensors: &[u8], values: &[f32]) -> Result<bool, AdapterError> {
    let tensors = SafeTensors::deserialize(tensors).map_err(AdapterError::Tensors)?;
    let bits = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes);
    let mut found = Vec::with_capacity(values.len());
    for (_, view) in tensors.iter() {
        if view.dtype() != Dtype::F32 {
            return Ok(false);
        }
        found.extend(view.data().as_chunks::<4>().0.iter().map(bits));
    }
    let mut expected: Vec<u32> = values.iter().map(|value| value.to_bits()).collect();
    found.sort_unstable();
    expected.sort_unstable();
    Ok(found == expected)
}

pub(super) type Places<'a> = BTreeMap<(usize, Target, Factor), TensorView<'a>>;

/// Every tensor under its place in the base.
pub(super) fn by_place<'a>(tensors: &SafeTensors<'a>) -> Result<Places<'a>, AdapterError> {
    let mut places = BTreeMap::new();
    let mut views = tensors.tensors();
    views.sort_by(|(left, _), (right, _)| left.cmp(right));
    for (name, view) in views {
        let Some((layer, target, factor)) = parse_name(&name) else {
            return Err(AdapterError::UnknownTensor { name: short(&name) });
        };
        if layer >= LAYERS_MAX {
            return Err(AdapterError::Layer { name, layers: LAYERS_MAX, layer });
        }
        places.insert((layer, target, factor), view);
    }
    Ok(places)
}

/// No tensor of a layer that is not there.
fn within(tensors: &Places<'_>, layers: usize, names: Names) -> Result<(), AdapterError> {
    match tensors.keys().find(|(layer, ..)| *layer >= layers) {
        None => Ok(()),
        Some(&(layer, target, factor)) => {
            let name = names.tensor(layer, target, factor);
            Err(AdapterError::Layer { name, layers, layer })
        }
    }
}

/// Rank and alpha of every adapted module, once configuration, tensors and base agree.
fn strengths(
    lora: &Lora,
    tensors: &Places<'_>,
    layers: usize,
    fans: impl Fn(usize, Target) -> (usize, usize),
) -> Result<BTreeMap<(usize, Target), Strength>, AdapterError> {
    let mut strengths = BTreeMap::new();
    for layer in 0..layers {
        for target in Target::ALL {
            if !lora.targets(layer, target) {
                untouched(tensors, (layer, target), lora.names)?;
                continue;
            }
            let strength = lora.strength(layer, target)?;
            let (fan_in, fan_out) = fans(layer, target);
            shaped(tensors, (layer, target, Factor::A), [strength.rank, fan_in], lora.names)?;
            shaped(tensors, (layer, target, Factor::B), [fan_out, strength.rank], lora.names)?;
            strengths.insert((layer, target), strength);
        }
    }
    Ok(strengths)
}

/// PEFT would leave such a tensor out without a word.
fn untouched(
    tensors: &Places<'_>,
    (layer, target): (usize, Target),
    names: Names,
) -> Result<(), AdapterError> {
    let present = |factor: &Factor| tensors.contains_key(&(layer, target, *factor));
    match [Factor::A, Factor::B].into_iter().find(present) {
        None => Ok(()),
        Some(factor) => Err(AdapterError::Untargeted { name: names.tensor(layer, target, factor) }),
    }
}

fn shaped(
    tensors: &Places<'_>,
    place: (usize, Target, Factor),
    expected: [usize; 2],
    names: Names,
) -> Result<(), AdapterError> {
    let name = names.tensor(place.0, place.1, place.2);
    match tensors.get(&place) {
        None => Err(AdapterError::MissingTensor { name }),
        Some(view) if view.shape() == expected => Ok(()),
        Some(view) => Err(AdapterError::Shape { name, expected, got: view.shape().to_vec() }),
    }
}

/// Appends a checked tensor's numbers as f32; widening is exact.
pub(super) fn widen(
    name: &str,
    view: &TensorView<'_>,
    values: &mut Vec<f32>,
) -> Result<(), AdapterError> {
    let start = values.len();
    let bytes = view.data();
    match view.dtype() {
        Dtype::F32 => values
            .extend(bytes.as_chunks().0.iter().map(|chunk: &[u8; 4]| f32::from_le_bytes(*chunk))),
        Dtype::F16 => values.extend(
            bytes.as_chunks().0.iter().map(|chunk: &[u8; 2]| f16::from_le_bytes(*chunk).to_f32()),
        ),
        Dtype::BF16 => values.extend(
            bytes.as_chunks().0.iter().map(|chunk: &[u8; 2]| bf16::from_le_bytes(*chunk).to_f32()),
        ),
        got => return Err(AdapterError::Format { name: name.to_owned(), got }),
    }
    finite(name, &values[start..])
}

pub(super) fn finite(name: &str, numbers: &[f32]) -> Result<(), AdapterError> {
    match numbers.iter().enumerate().find(|(_, number)| !number.is_finite()) {
        None => Ok(()),
        Some((position, &value)) => {
            Err(AdapterError::NotFinite { name: name.to_owned(), position, value })
        }
    }
}

fn write_tensors(adapter: &Adapter) -> Result<Vec<u8>, AdapterError> {
    let (expected, got) = (adapter.spec.len(), adapter.values.len());
    if expected != got {
        return Err(AdapterError::Length { expected, got });
    }
    let mut tensors = Vec::new();
    for module in &adapter.spec.modules {
        for (factor, shape, numbers) in [
            (Factor::A, [module.rank, module.fan_in], adapter.a(module)),
            (Factor::B, [module.fan_out, module.rank], adapter.b(module)),
        ] {
            let name = tensor_name(module.layer, module.target, factor);
            finite(&name, numbers)?;
            let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            tensors.push((name, shape, bytes));
        }
    }
    let mut views = Vec::new();
    for (name, shape, bytes) in &tensors {
        let view = TensorView::new(Dtype::F32, shape.to_vec(), bytes);
        views.push((name, view.map_err(AdapterError::Tensors)?));
    }
    // Transformers asks every safetensors file which framework it is for.
    let facts = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(facts)).map_err(AdapterError::Tensors)
}

pub(super) fn tensor_name(layer: usize, target: Target, factor: Factor) -> String {
    Names::Apart.tensor(layer, target, factor)
}

/// How the linear layers that an adapter changes are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    /// Each by itself, as [`Target`] has them.
    Apart,
    /// As Phi-3 packs them.
    Packed,
}

impl Names {
    /// A module's name inside a layer.
    fn module(self, target: Target) -> &'static str {
        let packed = packed::module(target).filter(|_| self == Self::Packed);
        packed.unwrap_or_else(|| target.module())
    }

    /// The module's full name in a Hugging Face causal language model.
    fn full(self, layer: usize, target: Target) -> String {
        format!("model.layers.{layer}.{}", self.module(target))
    }

    fn tensor(self, layer: usize, target: Target, factor: Factor) -> String {
        format!("{PREFIX}{}.lora_{factor:?}.weight", self.full(layer, target))
    }
}

/// The place a tensor's name speaks of, if it is one that [`tensor_name`] gives.
fn parse_name(name: &str) -> Option<(usize, Target, Factor)> {
    let (layer, rest) =
        name.strip_prefix(PREFIX)?.strip_prefix("model.layers.")?.split_once('.')?;
    let layer = layer.parse().ok()?;
    let target = Target::ALL.into_iter().find(|target| {
        rest.strip_prefix(target.module()).is_some_and(|factor| factor.starts_with('.'))
    })?;
    let factor = if rest.ends_with("A.weight") { Factor::A } else { Factor::B };
    (tensor_name(layer, target, factor) == name).then_some((layer, target, factor))
}

#[cfg(test)]
mod tests;
