//! `sapwood export`: a Hugging Face folder, a GGUF file or a model of the hub becomes a model folder.

use super::args::Export;
use super::console::{Console, bytes};
use super::names::Precision;
use super::source::{self, Source};
use sapwood::base::export::{expect_vacant, export_from};
use sapwood::base::{self, ExportOptions};
use serde_json::json;

/// Writes the model folder and says what is in it.
pub(crate) fn run(args: &Export, console: &mut Console) -> anyhow::Result<()> {
    let dtype = match args.dtype {
        Precision::F32 => base::Precision::F32,
        Precision::F16 => base::Precision::F16,
    };
    let options = ExportOptions { dtype, ..ExportOptions::default() };
    // Before anything is fetched.
    expect_vacant(&args.model_dir)?;
    let Source { path, origin } = source::find(&args.source, console)?;
    let report = export_from(&path, origin.as_ref(), &args.model_dir, options)?;
    let value = json!({
        "event": "exported",
        "parameters": report.parameters,
        "tensors": report.tensors,
        "weight_bytes": report.weight_bytes,
        "external": report.external,
        "files": report.files,
        "source": origin,
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
