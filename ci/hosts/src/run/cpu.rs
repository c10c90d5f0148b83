//! The emulated CPU's depth of paging, which is also that of its nested tables.

use std::env;

/// Chooses 4 or 5 levels.
pub const LEVELS_VARIABLE: &str = "MAPWITNESS_HOST_LEVELS";

/// The value is no depth of paging.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{LEVELS_VARIABLE}: `{value}` is no depth of page tables; use 4 or 5")]
pub struct UnknownLevels {
    /// What was given.
    pub value: String,
}

/// QEMU's name for the CPU that the environment asks for; 5 levels if for none.
pub fn wished() -> Result<&'static str, UnknownLevels> {
    match env::var_os(LEVELS_VARIABLE) {
        Some(value) if !value.is_empty() => of_levels(&value.to_string_lossy()),
        _ => of_levels("5"),
    }
}

/// Without fast byte strings (ERMS): QEMU emulates them a byte at a time, and a kernel that is
/// told of them clears and copies all pages so.
fn of_levels(value: &str) -> Result<&'static str, UnknownLevels> {
    match value {
        "4" => Ok("max,la57=off,-erms"),
        "5" => Ok("max,-erms"),
        _ => Err(UnknownLevels {
            value: value.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_has_4_or_5_levels() {
        assert_ne!(of_levels("4"), of_levels("5"));
        let error = of_levels("3").expect_err("none");
        assert!(error.to_string().contains("use 4 or 5"), "{error}");
    }
}
