//! A driver under test: its modules, and what its files promise.

use std::sync::Arc;

use contract::FileContract;
use guest_images::MODULE_PATH;
use wire::OpenMode;
use witness::Plan;

use crate::error::HarnessError;
use crate::guest::Guest;
use crate::outcome::Refusal;
use crate::own_driver;
use crate::steps::needed;

/// A kernel module of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its path in the guest.
    pub path: String,
    /// What it is loaded with: `name=value`, separated by spaces.
    pub parameters: String,
}

/// A driver under test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// What is loaded, in this order.
    pub modules: Vec<Module>,
    /// What each of its files promises.
    pub files: Vec<Arc<FileContract>>,
}

impl Driver {
    /// The project's own driver, for a device with these windows.
    pub fn own(plan: &Plan) -> Self {
        Self {
            modules: vec![Module {
                path: MODULE_PATH.to_owned(),
                parameters: String::new(),
            }],
            files: own_driver::files(plan),
        }
    }
}

impl Guest {
    /// Loads the project's own driver and makes sure that it found its device.
    ///
    /// # Errors
    /// As [`Guest::load_modules`].
    pub fn load_driver(&mut self) -> Result<(), HarnessError> {
        self.load_modules(&Driver::own(self.plan())).map(|_| ())
    }

    /// Loads the modules of a driver and makes sure that its files are there. Gives
    /// the modules' names, the last one loaded first.
    ///
    /// # Errors
    /// [`HarnessError::Module`] or [`HarnessError::NotProbed`].
    pub fn load_modules(&mut self, driver: &Driver) -> Result<Vec<String>, HarnessError> {
        for module in &driver.modules {
            if let Err(refusal) = self.load_module_with(&module.path, &module.parameters)? {
                return Err(HarnessError::Module {
                    module: module.path.clone(),
                    refusal,
                    hint: module_hint(refusal),
                    log: self.last_words()?,
                });
            }
        }
        for file in &driver.files {
            self.require_file(&file.path)?;
        }
        self.loaded_modules()
    }

    /// Unloads modules of these names, in this order.
    ///
    /// # Errors
    /// [`HarnessError::Refused`] when one of them stays.
    pub fn unload_modules(&mut self, names: &[String]) -> Result<(), HarnessError> {
        for name in names {
            let answer = self.unload_module(name)?;
            needed(|| format!("unloading {name}"), answer)?;
        }
        Ok(())
    }

    fn require_file(&mut self, path: &str) -> Result<(), HarnessError> {
        match self.open(path, OpenMode::ReadOnly)? {
            Ok(fd) => needed(|| format!("close {path}"), self.close(fd)?),
            // Any other answer comes from the file itself.
            Err(Refusal::Errno(libc::ENOENT | libc::ENXIO)) => Err(HarnessError::NotProbed {
                path: path.to_owned(),
                log: self.last_words()?,
            }),
            Err(refusal) => Err(HarnessError::Refused {
                operation: format!("open {path}"),
                refusal,
            }),
        }
    }

    /// Names of the modules that the kernel has, the last one loaded first.
    fn loaded_modules(&mut self) -> Result<Vec<String>, HarnessError> {
        let list = self.read_file("/proc/modules")?;
        let list = needed(|| "reading /proc/modules".into(), list)?;
        let list = String::from_utf8_lossy(&list).into_owned();
        let names = list.lines().filter_map(|line| line.split(' ').next());
        Ok(names.map(str::to_owned).collect())
    }
}

fn module_hint(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Errno(libc::ENOEXEC) => {
            "it was built for another kernel: rebuild it with `mapwitness images build`, or with \
             `mapwitness images module DIR` if it is a module of your own"
        }
        Refusal::Errno(libc::ENOENT) => {
            "the initramfs does not have it, or the kernel does not have what it needs: rebuild it \
             with `mapwitness images build`"
        }
        _ => "the kernel's own words follow",
    }
}
