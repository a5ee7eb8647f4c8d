//! What the golden tests share: tensors of the oracle's files, closeness, and a base to learn on.

use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

/// Any failure of a test's preparation.
pub(crate) type Surprise = Box<dyn std::error::Error>;

/// A folder of the oracle's files.
pub(crate) fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

/// Tensors that the oracle computed.
pub(crate) struct Golden(Vec<u8>);

impl Golden {
    /// Opens `tests/golden/<path>.safetensors`.
    pub(crate) fn load(path: &str) -> Result<Self, Surprise> {
        Ok(Self(std::fs::read(golden(&format!("{path}.safetensors")))?))
    }

    /// The shape of a tensor.
    pub(crate) fn shape(&self, name: &str) -> Result<Vec<usize>, Surprise> {
        Ok(SafeTensors::deserialize(&self.0)?.tensor(name)?.shape().to_vec())
    }

    /// An f32 tensor, row-major.
    pub(crate) fn f32(&self, name: &str) -> Result<Vec<f32>, Surprise> {
        let tensors = SafeTensors::deserialize(&self.0)?;
        let bytes = tensors.tensor(name)?.data();
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    /// An i64 tensor, row-major.
    pub(crate) fn i64(&self, name: &str) -> Result<Vec<i64>, Surprise> {
        let tensors = SafeTensors::deserialize(&self.0)?;
        let bytes = tensors.tensor(name)?.data();
        let number = |b: &[u8]| b.try_into().map(i64::from_le_bytes).map_err(Into::into);
        bytes.chunks_exact(8).map(number).collect()
    }
}

/// How far apart two vectors are, relative to the length of the expected one.
pub(crate) fn relative_error(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len(), "lengths differ");
    let norm = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut got.iter().zip(expected).map(|(a, b)| f64::from(a - b)));
    difference / norm(&mut expected.iter().map(|&x| f64::from(x))).max(1e-12)
}

/// A bound on an error, and why it is that and not less.
pub(crate) struct Within {
    /// The bound, relative.
    pub relative: f64,
    /// The reason.
    pub because: &'static str,
}

/// Fails when `got` is farther from `expected` than the bound allows.
pub(crate) fn assert_close(what: &str, got: &[f32], expected: &[f32], within: &Within) {
    let error = relative_error(got, expected);
    let Within { relative, because } = within;
    assert!(
        error <= *relative,
        "{what}: relative error {error:.2e} above {relative:.0e} ({because})"
    );
}

/// A tokenizer of one word.
const TOKENIZER: &str =
    r#"{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}"#;

/// A Hugging Face folder of the oracle's as a model folder, in a temporary place.
pub(crate) fn exported(hf: &str) -> Result<(tempfile::TempDir, sapwood::base::Base), Surprise> {
    let place = tempfile::tempdir()?;
    let source = place.path().join("hf");
    std::fs::create_dir(&source)?;
    for entry in std::fs::read_dir(golden(hf))? {
        let entry = entry?;
        std::fs::copy(entry.path(), source.join(entry.file_name()))?;
    }
    // Numbers alone are tested here; any tokenizer that the model has rows for satisfies the exporter.
    std::fs::write(source.join("tokenizer.json"), TOKENIZER)?;
    let model = place.path().join("model");
    sapwood::base::export(&source, &model, sapwood::base::ExportOptions::default())?;
    let base = sapwood::base::Base::open(&model)?;
    Ok((place, base))
}
