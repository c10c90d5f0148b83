//! Memory types by the names that a contract gives them; for
//! `#[serde(with = "memory_type")]`.

use serde::{Deserialize, Deserializer, Serializer, de};
use walk::MemoryType;

/// Every memory type that a driver can ask for on x86, with its name.
pub const NAMES: [(&str, MemoryType); 5] = [
    ("wb", MemoryType::WriteBack),
    ("wt", MemoryType::WriteThrough),
    ("wc", MemoryType::WriteCombining),
    ("uc-", MemoryType::UncachedMinus),
    ("uc", MemoryType::Uncacheable),
];

/// The type of this name.
pub fn named(name: &str) -> Option<MemoryType> {
    let entry = NAMES.iter().find(|(known, _)| *known == name);
    entry.map(|(_, memory_type)| *memory_type)
}

/// The name of a type; `None` for one that no driver asks for.
pub fn name(memory_type: MemoryType) -> Option<&'static str> {
    let entry = NAMES.iter().find(|(_, known)| *known == memory_type);
    entry.map(|(name, _)| *name)
}

/// Writes the name.
///
/// # Errors
/// For a type that has none.
pub fn serialize<S: Serializer>(
    memory_type: &MemoryType,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match name(*memory_type) {
        Some(name) => serializer.serialize_str(name),
        None => Err(serde::ser::Error::custom("a memory type without a name")),
    }
}

/// Reads a name.
///
/// # Errors
/// Lists the names that there are.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MemoryType, D::Error> {
    let text = String::deserialize(deserializer)?;
    named(&text).ok_or_else(|| {
        let known = NAMES.map(|(name, _)| name).join(", ");
        de::Error::custom(format!("no memory type {text:?}; there are {known}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_types() {
        for (text, memory_type) in NAMES {
            assert_eq!(
                (named(text), name(memory_type)),
                (Some(memory_type), Some(text))
            );
        }
        assert_eq!(named("UC"), None);
        assert_eq!(name(MemoryType::Reserved(2)), None);
    }
}
