//! What the products take of the settings.

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum HeadWeights {
    #[default]
    Auto,
    F32,
    Bf16,
    Int8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum MatmulPrecision {
    #[default]
    Highest,
    Medium,
}
