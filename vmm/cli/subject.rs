//! What a check is of: the project's own driver, or one that its user brings along.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Context;
use contract::Contract;
use guest_images::GuestImage;
use harness::{Driver, Guest, equip};
use monitor::VmConfig;
use provision::Progress;
use serde::{Deserialize, Serialize};

/// Tells the carried process what it checks: it may not see the files.
const VARIABLE: &str = "MAPWITNESS_SUBJECT";

/// A driver that the user brings along.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    contract: Contract,
    /// Its modules' paths in the guest.
    modules: Vec<String>,
}

impl Subject {
    /// What the options bring along, with the image that holds it; `None` for the
    /// project's own driver.
    pub fn of(
        (module, contract): (&[PathBuf], Option<&Path>),
        image: &mut GuestImage,
        progress: &Progress,
    ) -> anyhow::Result<Option<Self>> {
        let Some(path) = contract else {
            return Ok(None);
        };
        if let Some(value) = std::env::var_os(VARIABLE) {
            let subject = serde_json::from_str(&value.to_string_lossy());
            let subject = subject.with_context(|| format!("{VARIABLE} holds no subject: unset it"));
            return subject.map(Some);
        }
        let contract = Contract::read(path)?;
        let (with_modules, modules) = guest_images::with_modules(image, module, progress)?;
        *image = with_modules;
        Ok(Some(Self { contract, modules }))
    }

    /// What a carried process is told.
    pub fn environment(&self) -> anyhow::Result<(OsString, OsString)> {
        Ok((VARIABLE.into(), serde_json::to_string(self)?.into()))
    }

    /// Gives the VM the device that the driver is for.
    pub fn equip(&self, config: &mut VmConfig) {
        equip(config, &self.contract.device);
    }

    /// The driver, as it is loaded and checked.
    pub fn driver(&self) -> Driver {
        Driver::of_contract(&self.contract, &self.modules)
    }

    /// The driver's name, for the report.
    pub fn name(&self) -> &str {
        let path = self.modules.last().map_or("", String::as_str);
        path.rsplit('/').next().unwrap_or(path)
    }
}

/// The driver that is checked: what was brought along, or the project's own.
pub fn driver(subject: Option<&Subject>, guest: &Guest) -> Driver {
    subject.map_or_else(|| Driver::own(guest.plan()), Subject::driver)
}
