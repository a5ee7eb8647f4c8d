//! `sapwood doctor`: what this build and this machine can do, and what a job would need.

use super::args::Doctor;
use super::console::{Console, bytes};
use super::host;
use sapwood::base::Base;
use sapwood::head::Backend;
use sapwood::learner::{
    Memory, Tokens, multiplies_in_bf16, multiplies_in_whole_numbers, precision, spec, threads,
};
use sapwood::settings::{Device, Reader};
use serde_json::json;
use std::fmt::Write;

/// Shows devices, features, and with `--model` the memory of a job with these settings.
pub(crate) fn run(args: &Doctor, console: &Console) -> anyhow::Result<()> {
    // It tells of a job: what `sapwood adapt` takes of a file is right here.
    let settings = super::settings(super::wishes(&args.learn, Reader::Adapt)?)?;
    let devices: Vec<(String, String)> = [Device::Cpu, Device::Cuda(0), Device::Metal]
        .into_iter()
        .map(|device| {
            let found =
                Backend::open(device).map_or_else(|error| error.to_string(), |_| "ready".into());
            let named = format!("device {device}: ");
            (device.to_string(), found.trim_start_matches(&named).to_owned())
        })
        .collect();
    let available = host::available_bytes();
    let mut text = format!("sapwood {}\n", env!("CARGO_PKG_VERSION"));
    for (device, found) in &devices {
        writeln!(text, "device {device}: {found}")?;
    }
    let (bf16, whole) = (multiplies_in_bf16(), multiplies_in_whole_numbers());
    let products = ["f32"].into_iter();
    let products = products.chain(bf16.then_some("bf16 at medium precision"));
    let products = products.chain(whole.then_some("whole numbers of int8 weights"));
    writeln!(text, "products of the CPU: {}", products.collect::<Vec<_>>().join(", "))?;
    writeln!(text, "threads: {}", threads(&settings))?;
    if let Some(available) = available {
        writeln!(text, "memory to be had: {}", bytes(available))?;
    }
    let mut value = json!({
        "event": "doctor",
        "version": env!("CARGO_PKG_VERSION"),
        "devices": devices.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        "bf16_products": bf16,
        "int8_products": whole,
        "threads": threads(&settings),
        "available_bytes": available,
    });
    if let Some(model) = &settings.model {
        let base = Base::open(model)?;
        let spec = spec(base.config(), &settings)?;
        let products = serde_json::to_value(precision(&base, &settings))?;
        let memory = Memory::estimate(&base, &spec, &settings, Tokens::default());
        let rows = [
            ("program", memory.program),
            ("weights", memory.weights),
            ("learners", memory.learners),
            ("step", memory.step),
            ("hidden", memory.hidden),
            ("loading", memory.loading),
        ];
        writeln!(
            text,
            "{}: {} parameters, {} learn; a job needs about {}",
            model.display(),
            base.config().parameters(),
            spec.len(),
            bytes(memory.total())
        )?;
        if let Some(products) = products.as_str() {
            writeln!(text, "  products at {products} precision")?;
        }
        for (name, count) in rows {
            writeln!(text, "  {name:<9}{:>12}", bytes(count))?;
        }
        value["matmul_precision"] = products;
        value["memory"] = json!(memory);
        value["parameters"] = json!(base.config().parameters());
        value["trained"] = json!(spec.len());
    }
    Ok(console.result(&value, &text)?)
}
