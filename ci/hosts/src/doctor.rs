//! What this machine can do, and what would make it do more.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use provision::Cache;

use crate::emulator::{self, Emulator};
use crate::kernel;
use crate::needs::{QEMU, find_program};
use crate::probe::{Probe, SecondLevel, probe};
use crate::select::{Choice, choose, pagemap_shows_frames};
use crate::soft_ept;
use crate::virtiofsd;

/// A program that is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Where.
    pub path: PathBuf,
    /// What it says of its version.
    pub version: String,
}

/// Whether the CPU as this machine shows it has virtualization hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// VMX or SVM.
    pub virtualization: bool,
    /// The machine is itself a virtual one.
    pub virtual_machine: bool,
}

/// Everything that was found.
#[derive(Clone, Debug)]
pub struct Doctor {
    /// What KVM did with the tiny guest.
    pub probe: Probe,
    /// CPU flags.
    pub cpu: Cpu,
    /// /proc/self/pagemap tells host frames to this user.
    pub pagemap: bool,
    /// The emulator.
    pub qemu: Option<Installed>,
    /// The file server.
    pub virtiofsd: Option<Installed>,
    /// Package and version of the software host's kernel, when it was fetched.
    pub kernel: Option<String>,
    /// The emulator of soft-ept, when it was built.
    pub bochs: Option<PathBuf>,
    /// The host that a check would run on, or why there is none.
    pub choice: Result<Choice, String>,
}

/// One line of the doctor's report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub subject: &'static str,
    /// All is well.
    pub good: bool,
    /// What was found.
    pub found: String,
    /// What would make it better.
    pub help: Option<String>,
}

/// Looks at everything; changes nothing.
pub fn examine() -> Doctor {
    let cache = Cache::open().ok();
    let emulator = emulator::found(cache.as_ref());
    let programs = emulator.map(|Emulator { qemu, virtiofsd }| (qemu, virtiofsd));
    let (qemu, virtiofsd) = programs.unzip();
    let qemu = qemu.or_else(|| find_program(QEMU)).map(|path| Installed {
        version: first_line(&path),
        path,
    });
    let virtiofsd = virtiofsd.or_else(virtiofsd::find).map(|path| Installed {
        version: virtiofsd::version(&path).unwrap_or_default(),
        path,
    });
    let bochs = cache.as_ref().and_then(soft_ept::bochs_in_cache);
    Doctor {
        probe: probe(),
        cpu: cpu(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
        pagemap: pagemap_shows_frames(),
        qemu,
        virtiofsd,
        kernel: cache
            .and_then(|cache| kernel::cached(&cache))
            .map(|kernel| kernel.origin),
        bochs,
        choice: choose(None).map_err(|error| error.to_string()),
    }
}

fn first_line(program: &PathBuf) -> String {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output();
    output.map_or_else(
        |error| error.to_string(),
        |output| {
            let text = String::from_utf8_lossy(&output.stdout);
            text.lines().next().unwrap_or_default().to_owned()
        },
    )
}

/// The first processor's flags in proc_cpuinfo(5).
fn cpu(cpuinfo: &str) -> Cpu {
    let flags = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("flags"))
        .unwrap_or_default();
    let has = |name: &str| flags.split_whitespace().any(|flag| flag == name);
    Cpu {
        virtualization: has("vmx") || has("svm"),
        virtual_machine: has("hypervisor"),
    }
}

impl Doctor {
    /// The report, line by line.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = vec![self.kvm(), self.second_level(), self.frames()];
        findings.push(installed("QEMU", self.qemu.as_ref(), "qemu-system-x86"));
        findings.push(installed(
            "virtiofsd",
            self.virtiofsd.as_ref(),
            "virtiofsd (Debian 12: qemu-system-common)",
        ));
        findings.push(Finding {
            subject: "software host's kernel",
            good: self.kernel.is_some(),
            found: self
                .kernel
                .clone()
                .unwrap_or_else(|| "not fetched yet".into()),
            help: self
                .kernel
                .is_none()
                .then(|| "it is fetched when a check first needs it (network)".into()),
        });
        findings.push(self.bochs());
        findings.push(self.chosen());
        findings
    }

    fn bochs(&self) -> Finding {
        Finding {
            subject: "Bochs, for EPT without hardware",
            good: self.bochs.is_some(),
            found: self.bochs.as_ref().map_or_else(
                || "not built yet".to_owned(),
                |program| format!("built ({})", program.display()),
            ),
            help: self.bochs.is_none().then(|| {
                "it is built when --host soft-ept is first asked for (network, some minutes); \
                 nothing else needs it"
                    .to_owned()
            }),
        }
    }

    fn kvm(&self) -> Finding {
        let help = match &self.probe {
            Probe::Usable { .. } => None,
            Probe::NoDevice if self.cpu.virtualization => {
                Some("load kvm_intel or kvm_amd (modprobe)".to_owned())
            }
            Probe::NoDevice | Probe::Foreign { .. } => Some(self.hardware_help().to_owned()),
            Probe::NoPermission => Some(
                "run as root, or join the group of the device: \
                 sudo usermod -aG kvm $USER, then log in again"
                    .to_owned(),
            ),
        };
        Finding {
            subject: "KVM",
            good: help.is_none(),
            found: self.probe.to_string(),
            help,
        }
    }

    fn hardware_help(&self) -> &'static str {
        match (self.cpu.virtualization, self.cpu.virtual_machine) {
            (false, true) => {
                "this is a virtual machine that shows no VMX or SVM: turn on nested \
                 virtualization where it is configured, or use another machine"
            }
            (false, false) => "turn on VMX or SVM in the firmware's settings",
            (true, _) => "use the kernel's own kvm_intel or kvm_amd",
        }
    }

    fn second_level(&self) -> Finding {
        let (found, help) = match self.probe {
            Probe::Usable {
                second_level: SecondLevel::Shadow,
                vendor,
            } => (
                "shadow paging: there is no table to witness".to_owned(),
                Some(format!("load {vendor} with ept=1 or npt=1")),
            ),
            Probe::Usable { second_level, .. } => (second_level.to_string(), None),
            _ => (
                "none here; npt or ept in a software host".to_owned(),
                Some("as for KVM".to_owned()),
            ),
        };
        Finding {
            subject: "second level",
            good: help.is_none(),
            found,
            help,
        }
    }

    fn frames(&self) -> Finding {
        let (found, help) = if self.pagemap {
            ("/proc/self/pagemap tells them", None)
        } else {
            (
                "/proc/self/pagemap hides them from this user",
                Some("run as root (CAP_SYS_ADMIN); in the software host they are seen".into()),
            )
        };
        Finding {
            subject: "host frames",
            good: self.pagemap,
            found: found.to_owned(),
            help,
        }
    }

    fn chosen(&self) -> Finding {
        let (found, help) = match &self.choice {
            Ok(choice) => (format!("{}: {}", choice.kind, choice.reason), None),
            Err(error) => (
                error.clone(),
                Some("unset MAPWITNESS_HOST to leave the choice to the program".to_owned()),
            ),
        };
        Finding {
            subject: "host of a check",
            good: self.choice.is_ok(),
            found,
            help,
        }
    }
}

fn installed(subject: &'static str, program: Option<&Installed>, package: &str) -> Finding {
    Finding {
        subject,
        good: program.is_some(),
        found: program.map_or_else(
            || "not installed".to_owned(),
            |program| format!("{} ({})", program.version, program.path.display()),
        ),
        help: program
            .is_none()
            .then(|| format!("sudo apt-get install {package}; a check offers to do it")),
    }
}

impl fmt::Display for Doctor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.findings()
            .iter()
            .try_for_each(|finding| finding.fmt(f))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.good { "ok" } else { "--" };
        writeln!(f, "{mark} {}: {}", self.subject, self.found)?;
        match &self.help {
            Some(help) => writeln!(f, "     would help: {help}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{Failure, Vendor};

    fn machine(probe: Probe) -> Doctor {
        Doctor {
            probe,
            cpu: cpu("processor\t: 0\nflags\t\t: fpu hypervisor sse2\n"),
            pagemap: false,
            qemu: None,
            virtiofsd: None,
            kernel: None,
            bochs: None,
            choice: Err("no".to_owned()),
        }
    }

    #[test]
    fn whatever_is_not_well_comes_with_help() {
        let foreign = Probe::Foreign {
            vendor: Vendor::KvmPvm,
            failure: Failure::InternalError { suberror: 1 },
        };
        for probe in [foreign, Probe::NoDevice, Probe::NoPermission] {
            for finding in machine(probe).findings() {
                assert!(!finding.good && finding.help.is_some(), "{finding:?}");
            }
        }
    }

    #[test]
    fn a_virtual_machine_is_told_from_a_real_one() {
        let text = machine(Probe::NoDevice).to_string();
        assert!(text.contains("turn on nested"), "{text}");
        let mut real = machine(Probe::NoDevice);
        real.cpu = cpu("flags\t\t: fpu vmx\n");
        assert!(real.to_string().contains("modprobe"));
    }
}
