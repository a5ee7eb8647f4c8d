//! `sapwood convert`: an adapter in the layout of another runtime.

use super::args::Convert;
use super::console::Console;
use super::names::{Layout, Precision};
use super::{adapter, chosen};
use sapwood::adapter::{gguf, has_names_elsewhere, mlx, peft};
use sapwood::base::{self, publish};
use serde_json::json;
use std::path::Path;

/// Reads the adapter, writes it as `--to` says and tells how it is used there.
pub(crate) fn run(args: &Convert, console: &Console) -> anyhow::Result<()> {
    anyhow::ensure!(
        args.to == Layout::Gguf || matches!(args.dtype, Precision::F32),
        "--dtype f16 is for --to gguf; the other layouts are written in f32"
    );
    let place = chosen::adapter_place(&args.adapter, console)?;
    let config = adapter::config(&place, args.model.as_deref())?;
    let (adapter, meta) = chosen::adapter_at(&place, &config, None)?;
    let base_name = adapter::name_elsewhere(&place, args.model.as_deref()).unwrap_or_default();
    let out = &args.out;
    match args.to {
        Layout::Gguf => {
            let precision = match args.dtype {
                Precision::F32 => base::Precision::F32,
                Precision::F16 => base::Precision::F16,
            };
            publish::file(out, &gguf::write(&adapter, &config, precision)?)?;
        }
        Layout::Mlx => publish::folder(out, &mlx::write(&adapter, &config, &base_name)?)?,
        Layout::Peft => {
            has_names_elsewhere(&config)?;
            publish::folder(out, &peft::write_with(&adapter, meta.as_ref(), &base_name)?)?
        }
    }
    let modules = adapter.spec.modules.len();
    let value = json!({
        "event": "converted",
        "parameters": adapter.values.len(),
        "modules": modules,
        "to": args.to.word(),
        "out": out,
    });
    let text = format!(
        "{} parameters in {modules} modules\nwritten to {}{}",
        adapter.values.len(),
        out.display(),
        usage(args.to, out)
    );
    Ok(console.result(&value, &text)?)
}

/// How the other runtime is told of the adapter.
fn usage(to: Layout, out: &Path) -> String {
    let out = out.display();
    match to {
        Layout::Gguf => format!(
            "\nllama.cpp: llama-cli -m BASE.gguf --lora {out}\nOllama, in a Modelfile:\nFROM BASE.gguf\nADAPTER {out}"
        ),
        Layout::Mlx => format!("\nmlx-lm: mlx_lm.generate --model BASE --adapter-path {out}"),
        Layout::Peft => String::new(),
    }
}
