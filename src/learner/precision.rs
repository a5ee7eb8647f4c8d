//! The precision that products have where nobody names one.
//!
//! - In: an opened base, settings. Out: highest or medium.
//! - Invariant: it follows from base, processor, device and settings alone, so that it is known before a
//!   weight is loaded, and what is loaded has it.

use crate::base::{Base, Narrowest};
use crate::head::Backend;
use crate::products;
use crate::settings::{HeadWeights, MatmulPrecision, Settings};

/// The precision in force: the one that is asked for; under `auto` medium where it is that of all products
/// with frozen matrices, else highest.
pub fn precision(base: &Base, settings: &Settings) -> MatmulPrecision {
    let is_cpu = || Backend::open(settings.device).is_ok_and(|backend| backend.is_cpu());
    match settings.matmul_precision {
        MatmulPrecision::Auto if products::in_bf16() && is_bf16(base, settings) && is_cpu() => {
            MatmulPrecision::Medium
        }
        MatmulPrecision::Auto => MatmulPrecision::Highest,
        named => named,
    }
}

/// Whether this processor multiplies in bf16, as medium precision does.
pub fn multiplies_in_bf16() -> bool {
    products::in_bf16()
}

/// Whether this processor multiplies in whole numbers what is kept in 8 bits.
pub fn multiplies_in_whole_numbers() -> bool {
    products::in_whole_numbers()
}

/// Whether every matrix that rows are multiplied with is kept in bf16.
fn is_bf16(base: &Base, settings: &Settings) -> bool {
    let config = base.config();
    let Ok(learning) = settings.layers_of(config.layers) else { return false };
    let tap = config.layers - learning;
    let in_head = |name: &str| {
        let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next());
        layer.and_then(|layer| layer.parse().ok()).is_none_or(|layer: usize| layer >= tap)
    };
    let matrices = config.weights().into_iter().map(|(name, _)| name);
    let mut matrices =
        matrices.filter(|name| name.ends_with("_proj.weight") || name == "lm_head.weight");
    matrices.all(|name| match settings.head_weights {
        HeadWeights::F32 | HeadWeights::Int8 if in_head(&name) => false,
        HeadWeights::Bf16 if in_head(&name) => true,
        _ => base.narrowest(&name) == Narrowest::Bf16,
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::base::ExportOptions;
    use crate::base::tests::exported;
    use crate::learner::Engines;
    use MatmulPrecision::{Auto, Highest, Medium};

    /// Goal: `auto` is medium exactly where all products are in bf16 then, and what is loaded has it, in
    /// every form that weights are kept in. Oracle: engines that were loaded at medium.
    #[test]
    fn auto_is_medium_where_all_of_it_can_be_had() {
        use HeadWeights::{Bf16, F32, Int8};
        for (family, by_storage) in
            [("llama2_bf16", true), ("llama2_f16", false), ("llama2", false)]
        {
            let (out, _) = exported(family, ExportOptions::default());
            let model = out.path().join("model");
            for (head_weights, num_layers, expected) in [
                (HeadWeights::Auto, 1, by_storage),
                (HeadWeights::Auto, -1, by_storage),
                (Bf16, 1, by_storage),
                (Bf16, -1, true),
                (F32, 1, false),
                (Int8, 1, false),
            ] {
                let of = |matmul_precision| Settings {
                    matmul_precision,
                    head_weights,
                    num_layers,
                    max_seq_length: 8,
                    threads: 1,
                    ..Settings::default()
                };
                let expected = if expected && products::in_bf16() { Medium } else { Highest };
                let engines = Engines::load(&model, &of(Auto)).unwrap();
                assert_eq!(
                    precision(&engines.base, &of(Auto)),
                    expected,
                    "{family} {head_weights:?}"
                );
                assert_eq!(engines.precision, expected);
                let rounded = [engines.trunk.in_bf16(), engines.head.in_bf16()];
                // Of no layers all are, and none is.
                let is_rounded = rounded[1][0] && rounded[0][0];
                assert_eq!(
                    is_rounded,
                    expected == Medium,
                    "{family} {head_weights:?}: {rounded:?}"
                );
                assert!(engines.notices(&of(Auto)).is_empty());
                let medium = Engines::load(&model, &of(Medium)).unwrap();
                let can = medium.trunk.in_bf16()[0] && medium.head.in_bf16()[0];
                assert_eq!(can, expected == Medium, "{family} {head_weights:?} {num_layers}");
                assert_eq!(precision(&medium.base, &of(Highest)), Highest);
            }
        }
    }
}
