//! What an x86-64 has of the kernels: AVX-512 or AVX2 for f32, AVX-512 VNNI for whole numbers.

use super::right::Right;
use super::{Rows, Tile, avx2, avx512};
use crate::products::frozen::Floats;
use crate::products::wide;

/// Whether this processor can run the products of this module in f32.
pub(in crate::products) fn available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Whether it can run those in whole numbers.
pub(in crate::products) fn whole_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni")
}

/// Whether it can run those in bf16.
pub(in crate::products) fn bf16_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bf16")
}

/// What of this processor chooses the kernels.
pub(in crate::products) fn kernels() -> String {
    let found = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
    ];
    let names = found.iter().filter(|(_, found)| *found).map(|(name, _)| *name);
    names.collect::<Vec<_>>().join(" ")
}

/// The kernel of products in f32.
#[derive(Clone, Copy)]
pub(super) enum Floating {
    Avx2,
    Avx512,
}

impl Floating {
    /// The widest that the processor has; one of them it has where this module serves.
    pub(super) fn widest() -> Self {
        if is_x86_feature_detected!("avx512f") { Self::Avx512 } else { Self::Avx2 }
    }

    /// Widens and packs.
    pub(super) fn pack(self, numbers: Floats<'_>, right: &Right, panel: &mut [f32]) {
        match self {
            // SAFETY: the processor was asked.
            Self::Avx512 => unsafe { avx512::pack(numbers, right, panel) },
            Self::Avx2 => wide(
                #[inline(always)]
                || right.pack_plainly(numbers, panel),
            ),
        }
    }

    /// Adds rows x panel to a tile.
    ///
    /// # Safety
    /// The rows have `depth` numbers each; `panel` points to `depth * COLUMNS`; the tile's numbers may
    /// be written and are nobody else's.
    pub(super) unsafe fn tile(self, left: Rows, panel: *const f32, depth: usize, tile: &Tile) {
        // SAFETY: as the caller vouches; the processor was asked, and has AVX2 at least.
        unsafe {
            match self {
                Self::Avx512 => avx512::tile(left, panel, depth, tile),
                Self::Avx2 => avx2::tile(left, panel, depth, tile),
            }
        }
    }
}
