//! `sapwood export`: a Hugging Face folder or a GGUF file becomes a model folder.

use super::args::Export;
use super::console::{Console, bytes};
use super::names::Precision;
use sapwood::base::{self, ExportOptions};
use serde_json::json;

/// Writes the model folder and says what is in it.
pub(crate) fn run(args: &Export, console: &Console) -> anyhow::Result<()> {
    let dtype = match args.dtype {
        Precision::F32 => base::Precision::F32,
        Precision::F16 => base::Precision::F16,
    };
    let options = ExportOptions { dtype, ..ExportOptions::default() };
    let report = base::export(&args.source, &args.model_dir, options)?;
    let value = json!({
        "event": "exported",
        "parameters": report.parameters,
        "tensors": report.tensors,
        "weight_bytes": report.weight_bytes,
        "external": report.external,
        "files": report.files,
    });
    let text = format!(
        "{} parameters, {} tensors, {} of weights{}\nwritten to {}: {}",
        report.parameters,
        report.tensors,
        bytes(report.weight_bytes),
        if report.external { " as external data" } else { "" },
        args.model_dir.display(),
        report.files.join(", "),
    );
    Ok(console.result(&value, &text)?)
}
