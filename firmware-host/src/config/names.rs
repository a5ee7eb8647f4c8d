//! Names of models: what a configuration, a request and a list call them.
//!
//! - `sapwood` is what is in use, `base` the bare base, `sapwood@7` generation 7, where it is kept.

/// What is in use on a device.
pub const IN_USE: &str = "sapwood";
/// The base alone, to compare with.
pub const BASE: &str = "base";
/// Bytes of a model's name.
pub const MODEL_BYTES_MAX: usize = 256;

/// The name of generation `number` of a model.
pub fn kept(model: &str, number: u64) -> String {
    format!("{model}@{number}")
}

/// The generation in the name of a generation of `model`.
pub fn generation_of(model: &str, id: &str) -> Option<u64> {
    let digits = id.strip_prefix(model)?.strip_prefix('@')?;
    let number: u64 = digits.parse().ok()?;
    // One name each: `sapwood@07` and `sapwood@+7` are none.
    (number.to_string() == digits).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_has_one_name() {
        assert_eq!(generation_of(IN_USE, &kept(IN_USE, 7)), Some(7));
        for other in
            ["sapwood", "sapwood@", "sapwood@07", "sapwood@+7", "sapwood@-1", "base@7", "@7", ""]
        {
            assert_eq!(generation_of(IN_USE, other), None, "{other}");
        }
    }
}
