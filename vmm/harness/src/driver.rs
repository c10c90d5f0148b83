//! A driver under test: its modules, and what its files promise.

use std::sync::Arc;

use contract::{BufferSpec, Contract, DeviceSpec, FileContract, WindowSpec};
use guest_images::MODULE_PATH;
use monitor::{BufferConfig, Registers, VmConfig, WindowConfig};
use wire::{Fd, OpenMode};
use witness::Plan;

use crate::error::HarnessError;
use crate::guest::Guest;
use crate::outcome::Refusal;
use crate::own_driver;
use crate::reference;
use crate::regions::RegionContract;
use crate::steps::{close, needed, open};

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
    /// Files whose mappings are regions of RAM.
    pub regions: Vec<RegionContract>,
    /// What is done before its files are asked for anything.
    pub preparations: Vec<Preparation>,
}

/// A file that is opened and kept open, and what it is told so that others of the same
/// path do as they promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preparation {
    /// The files' path.
    pub path: String,
    /// What it is told by ioctl(2) when it is opened, in this order.
    pub at_first: Vec<Command>,
    /// What it is told before each of the others is opened.
    pub each_time: Vec<Command>,
}

/// An ioctl(2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The command's number.
    pub number: u32,
    /// Whether the argument begins with the calling process's pid, in 4 bytes.
    pub with_pid: bool,
    /// The argument, or what follows the pid.
    pub argument: Vec<u8>,
}

impl Driver {
    /// The project's own driver, for a device with these windows.
    pub fn own(plan: &Plan) -> Self {
        Self {
            modules: vec![Module {
                path: MODULE_PATH.to_owned(),
                parameters: String::new(),
            }],
            files: own_driver::files(plan)
                .into_iter()
                .chain(reference::files(plan))
                .collect(),
            regions: reference::regions(),
            preparations: reference::preparations(plan),
        }
    }
}

impl Driver {
    /// A driver of somebody else: its contract, and the paths of its modules in the
    /// guest. The parameters are for the last one, which is the driver.
    pub fn of_contract(contract: &Contract, paths: &[String]) -> Self {
        let module = |(index, path): (usize, &String)| Module {
            path: path.clone(),
            parameters: if index + 1 == paths.len() {
                contract.parameters.clone()
            } else {
                String::new()
            },
        };
        Self {
            modules: paths.iter().enumerate().map(module).collect(),
            files: contract.files.iter().cloned().map(Arc::new).collect(),
            regions: Vec::new(),
            preparations: Vec::new(),
        }
    }
}

impl Driver {
    /// What of it is named: files and regions whose name begins so. All of it for an empty
    /// list.
    #[must_use]
    pub fn only(mut self, names: &[String]) -> Self {
        let wanted = |name: &String| names.iter().any(|begin| name.starts_with(begin.as_str()));
        if !names.is_empty() {
            self.files.retain(|file| wanted(&file.name));
            self.regions.retain(|region| wanted(&region.name));
            let files = &self.files;
            self.preparations
                .retain(|held| files.iter().any(|file| file.path == held.path));
        }
        self
    }
}

/// Gives the VM the device that a contract describes, in place of the project's own.
pub fn equip(config: &mut VmConfig, device: &DeviceSpec) {
    let window = |window: &WindowSpec| WindowConfig {
        name: window.name.clone(),
        npages: window.npages,
        read_only: window.read_only,
        align_bytes: window.align_bytes,
    };
    config.acpi_id = device.acpi_id.clone();
    let buffer = |buffer: &BufferSpec| BufferConfig {
        name: buffer.name.clone(),
        npages: buffer.npages,
    };
    config.registers = match &device.registers {
        _ if !device.buffers.is_empty() => Registers::Own,
        None => Registers::Absent,
        Some(list) => Registers::Fixed(list.iter().map(|it| (it.offset, it.value)).collect()),
    };
    config.windows = device.windows.iter().map(window).collect();
    config.buffers = device.buffers.iter().map(buffer).collect();
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
        let files = driver.files.iter().map(|file| &file.path);
        for path in files.chain(driver.regions.iter().map(|region| &region.path)) {
            self.require_file(path)?;
        }
        self.loaded_modules()
    }

    /// Does what the driver's files need to keep their promises, from here on each time
    /// that the check opens one.
    ///
    /// # Errors
    /// [`HarnessError::Refused`] when one of the steps fails.
    pub(crate) fn prepare(&mut self, driver: &Driver) -> Result<(), HarnessError> {
        for preparation in &driver.preparations {
            let fd = open(self, &preparation.path, OpenMode::ReadWrite)?;
            self.tell(fd, &preparation.at_first)?;
            self.held_mut().push((fd, preparation.clone()));
        }
        Ok(())
    }

    /// Closes the files that are held open for that.
    ///
    /// # Errors
    /// [`HarnessError::Refused`] when one of them cannot be closed.
    pub(crate) fn end_preparations(&mut self) -> Result<(), HarnessError> {
        while let Some((fd, _)) = self.held_mut().pop() {
            close(self, fd)?;
        }
        Ok(())
    }

    /// What must be done each time before a file of this path is opened.
    pub(crate) fn prepare_to_open(&mut self, path: &str) -> Result<(), HarnessError> {
        let here = |(_, held): &&(Fd, Preparation)| held.path == path;
        let told = self.held_mut().iter().find(here).cloned();
        match told {
            Some((fd, preparation)) => self.tell(fd, &preparation.each_time),
            None => Ok(()),
        }
    }

    fn tell(&mut self, fd: Fd, commands: &[Command]) -> Result<(), HarnessError> {
        for command in commands {
            let mut argument = Vec::new();
            if command.with_pid {
                argument.extend(self.current_pid().to_le_bytes());
            }
            argument.extend(&command.argument);
            let answer = self.ioctl(fd, command.number, argument)?;
            needed(|| format!("ioctl {:#x}", command.number), answer)?;
        }
        Ok(())
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
