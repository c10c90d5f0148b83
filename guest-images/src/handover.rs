//! Hands images that are ready to another process, such as one that a software
//! host carries: it then builds nothing and asks no tool for its version.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::{Flavour, GuestImage};

/// Variable that holds the images, by the driver's variant, as JSON.
pub const VARIABLE: &str = "MAPWITNESS_GUESTS";

/// Images by their names (see [`name`]).
pub type Images = BTreeMap<String, GuestImage>;

/// The name of an image: the driver's variant, and the kernel's flavour unless it is plain.
pub fn name(variant: &str, flavour: Flavour) -> String {
    match flavour {
        Flavour::Plain => variant.to_owned(),
        other => format!("{variant}@{other}"),
    }
}

/// Variable that holds modules of other drivers, by name, as JSON.
pub const MODULES_VARIABLE: &str = "MAPWITNESS_MODULES";

/// Modules by a name.
pub type Modules = BTreeMap<String, PathBuf>;

/// Another process handed over something that is no set of images.
#[derive(Debug, thiserror::Error)]
#[error("{VARIABLE} does not hold guest images: unset it, and they are built as needed")]
pub struct NotImages(#[from] serde_json::Error);

/// The variable's value for `images`.
///
/// # Errors
/// [`NotImages`] when a path is not UTF-8.
pub fn export(images: &Images) -> Result<String, NotImages> {
    Ok(serde_json::to_string(images)?)
}

/// What was handed to this process; `None` when nothing was.
///
/// # Errors
/// [`NotImages`] when the variable holds something else.
pub fn import() -> Result<Option<Images>, NotImages> {
    let Some(value) = std::env::var_os(VARIABLE) else {
        return Ok(None);
    };
    Ok(Some(serde_json::from_str(&value.to_string_lossy())?))
}

/// The variable's value for `modules`.
///
/// # Errors
/// [`NotImages`] when a path is not UTF-8.
pub fn export_modules(modules: &Modules) -> Result<String, NotImages> {
    Ok(serde_json::to_string(modules)?)
}

/// The modules that were handed to this process; `None` when none were.
///
/// # Errors
/// [`NotImages`] when the variable holds something else.
pub fn import_modules() -> Result<Option<Modules>, NotImages> {
    let Some(value) = std::env::var_os(MODULES_VARIABLE) else {
        return Ok(None);
    };
    Ok(Some(serde_json::from_str(&value.to_string_lossy())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_arrive_as_they_were_sent() {
        let image = GuestImage {
            release: "7.3.4".into(),
            vmlinux: "/a".into(),
            system_map: "/m".into(),
            types: "/t".into(),
            mm_text: Some("/x".into()),
            config: "/b".into(),
            kernel_tree: "/c".into(),
            initramfs: "/d".into(),
            module: "/e".into(),
        };
        let images = Images::from([("good".to_owned(), image)]);
        let text = export(&images).expect("plain paths");
        assert_eq!(
            serde_json::from_str::<Images>(&text).expect("as sent"),
            images
        );
    }
}
