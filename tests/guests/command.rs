//! `mapwitness` itself, as a person or a CI machine uses it.

use std::path::Path;
use std::process::{Command, Output};

use guest_images::Flavour;
use guest_images::handover::{self, Images};
use serde_json::Value;

use crate::common::image_of;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_mapwitness");

/// The command, run on the host that this test was carried to. Its guest's image is that
/// with this variant of the driver.
pub fn mapwitness(variant: &str) -> Command {
    handed(Command::new(PROGRAM), variant, Flavour::Plain)
}

/// Another program that starts it.
pub fn handed(mut command: Command, variant: &str, flavour: Flavour) -> Command {
    let images = Images::from([(variant.to_owned(), image_of(variant, flavour))]);
    let images = handover::export(&images).expect("plain paths");
    command.env(handover::VARIABLE, images);
    command
}

/// What a driver is that somebody brings along.
pub fn brought(command: &mut Command, module: &Path, contract: &Path) {
    command.arg("--module").arg(module);
    command.arg("--contract").arg(contract);
}

/// The document on its standard output, which has nothing else.
#[track_caller]
pub fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "standard output is no single document: {error}\n{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    })
}
