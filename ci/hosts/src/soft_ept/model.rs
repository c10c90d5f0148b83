//! The CPUs that can be emulated.

use std::env;
use std::str::FromStr;

/// Chooses the CPU: `haswell` or `sandy-bridge`.
pub const MODEL_VARIABLE: &str = "MAPWITNESS_EPT_CPU";

/// A model of a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Model {
    /// EPT entries have accessed and dirty bits.
    #[default]
    Haswell,
    /// They have none.
    SandyBridge,
}

impl Model {
    /// Bochs' name for it.
    pub const fn bochs_name(self) -> &'static str {
        match self {
            Self::Haswell => "corei7_haswell_4770",
            Self::SandyBridge => "corei7_sandy_bridge_2600k",
        }
    }
}

/// The value names no model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MODEL_VARIABLE}: `{value}` names no CPU; use haswell or sandy-bridge")]
pub struct UnknownModel {
    /// What was given.
    pub value: String,
}

impl FromStr for Model {
    type Err = UnknownModel;

    fn from_str(value: &str) -> Result<Self, UnknownModel> {
        match value {
            "haswell" => Ok(Self::Haswell),
            "sandy-bridge" => Ok(Self::SandyBridge),
            _ => Err(UnknownModel {
                value: value.to_owned(),
            }),
        }
    }
}

/// The model that the environment asks for, or the default one.
///
/// # Errors
/// [`UnknownModel`].
pub fn wished() -> Result<Model, UnknownModel> {
    match env::var_os(MODEL_VARIABLE) {
        Some(value) if !value.is_empty() => value.to_string_lossy().parse(),
        _ => Ok(Model::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_chosen_by_its_name() {
        assert_eq!("sandy-bridge".parse(), Ok(Model::SandyBridge));
        let error = "386".parse::<Model>().expect_err("unknown");
        assert!(error.to_string().contains("use haswell"), "{error}");
    }
}
