//! How numbers lie in a GGUF file: plainly, or quantised in blocks.
//!
//! - Never here: the numbers themselves (`weights`).
//!
//! Source: `ggml.h`, `enum ggml_type`; the blocks' sizes are those of `gguf.GGML_QUANT_SIZES`.

/// An encoding that we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// 32 bits.
    F32,
    /// 16 bits, IEEE's.
    F16,
    /// 16 bits, the upper half of an f32.
    Bf16,
    /// 4 bits and a scale for 32.
    Q4_0,
    /// 4 bits, a scale and a minimum for 32.
    Q4_1,
    /// 5 bits and a scale for 32.
    Q5_0,
    /// 5 bits, a scale and a minimum for 32.
    Q5_1,
    /// 8 bits and a scale for 32.
    Q8_0,
    /// 2 bits in blocks of 256.
    Q2K,
    /// 3 bits in blocks of 256.
    Q3K,
    /// 4 bits in blocks of 256.
    Q4K,
    /// 5 bits in blocks of 256.
    Q5K,
    /// 6 bits in blocks of 256.
    Q6K,
}

/// ggml's number and name, elements and bytes of a block.
const ENCODINGS: [(u32, &str, usize, usize, Encoding); 13] = [
    (0, "F32", 1, 4, Encoding::F32),
    (1, "F16", 1, 2, Encoding::F16),
    (30, "BF16", 1, 2, Encoding::Bf16),
    (2, "Q4_0", 32, 18, Encoding::Q4_0),
    (3, "Q4_1", 32, 20, Encoding::Q4_1),
    (6, "Q5_0", 32, 22, Encoding::Q5_0),
    (7, "Q5_1", 32, 24, Encoding::Q5_1),
    (8, "Q8_0", 32, 34, Encoding::Q8_0),
    (10, "Q2_K", 256, 84, Encoding::Q2K),
    (11, "Q3_K", 256, 110, Encoding::Q3K),
    (12, "Q4_K", 256, 144, Encoding::Q4K),
    (13, "Q5_K", 256, 176, Encoding::Q5K),
    (14, "Q6_K", 256, 210, Encoding::Q6K),
];

/// ggml's numbers and names of what we do not read.
const OTHERS: [(u32, &str); 24] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

impl Encoding {
    /// By ggml's number, or the name of one that we do not read.
    pub(super) fn numbered(number: u32) -> Result<Self, String> {
        let known = ENCODINGS.iter().find(|(own, ..)| *own == number);
        let other = || OTHERS.iter().find(|(own, _)| *own == number);
        match known {
            Some((.., encoding)) => Ok(*encoding),
            None => {
                Err(other().map_or_else(|| format!("of type {number}"), |(_, name)| (*name).into()))
            }
        }
    }

    /// The names of all of them.
    pub(super) fn names() -> String {
        ENCODINGS.map(|(_, name, ..)| name).join(", ")
    }

    fn row(self) -> (&'static str, usize, usize) {
        let row = ENCODINGS.iter().find(|(.., own)| *own == self);
        row.map_or(("F32", 1, 4), |&(_, name, elements, bytes, _)| (name, elements, bytes))
    }

    /// ggml's name.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// Bytes of a tensor, innermost axis first; none if its rows are not whole blocks, or too many.
    pub fn bytes(self, shape: &[usize]) -> Option<u64> {
        let (_, elements, bytes) = self.row();
        let (inner, outer) = shape.split_first()?;
        let blocks = inner.is_multiple_of(elements).then_some(inner / elements)?;
        let row = (blocks as u64).checked_mul(bytes as u64)?;
        let all =
            outer.iter().try_fold(row, |product, &width| product.checked_mul(width as u64))?;
        // So that the elements too can be counted and held as f32.
        all.checked_mul(elements as u64 * 4).map(|_| all)
    }
}
