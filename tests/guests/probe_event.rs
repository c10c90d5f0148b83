//! The other way to a root: a probe event of the kernel on the function by which KVM
//! loads it. It sees a root at the moment of its loading only, and reads no memory of
//! the kernel, so that it is a witness of its own.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use addr::{Hpa, Level};

const TRACING: &str = "/sys/kernel/tracing";

/// A root as it was handed to the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The vCPU, by its address in the kernel.
    pub vcpu: u64,
    pub table: Hpa,
    pub top: Level,
}

/// An event with a buffer of its own.
pub struct ProbeEvent {
    group: String,
    buffer: PathBuf,
}

impl ProbeEvent {
    /// Loads are noted from now on.
    pub fn on_root_loads() -> Self {
        let name = format!("mapwitness_{}", std::process::id());
        let probe = Self {
            buffer: Path::new(TRACING).join("instances").join(&name),
            group: name,
        };
        // The arguments are those of the function, by the ABI: vCPU, root, level.
        let function = if Path::new("/sys/module/kvm_amd").exists() {
            "svm_load_mmu_pgd"
        } else {
            "vmx_load_mmu_pgd"
        };
        let arguments = "vcpu=%di root=%si level=%dx";
        let definition = format!("p:{}/root {function} {arguments}", probe.group);
        append(&definition).expect("tracefs and CONFIG_KPROBE_EVENTS");
        fs::create_dir(&probe.buffer).expect("a buffer");
        probe.switch("1").expect("on");
        probe
    }

    /// What was loaded last by the vCPU that loaded `table` last.
    pub fn last_of_its_vcpu(&self, table: Hpa) -> Option<Loaded> {
        let loads = self.loads();
        let its = loads.iter().rfind(|load| load.table == table)?.vcpu;
        loads.into_iter().rfind(|load| load.vcpu == its)
    }

    /// What all vCPUs loaded, oldest first: tests run side by side.
    fn loads(&self) -> Vec<Loaded> {
        let trace = fs::read_to_string(self.buffer.join("trace")).expect("readable");
        let events = trace.lines().filter(|line| !line.starts_with('#'));
        events.map(parse).collect()
    }

    fn switch(&self, value: &str) -> io::Result<()> {
        let event = self.buffer.join("events").join(&self.group).join("root");
        fs::write(event.join("enable"), value)
    }
}

impl Drop for ProbeEvent {
    fn drop(&mut self) {
        // Whatever was not made cannot be taken away.
        let _ = self.switch("0");
        let _ = fs::remove_dir(&self.buffer);
        let _ = append(&format!("-:{}/root", self.group));
    }
}

fn append(definition: &str) -> io::Result<()> {
    let events = Path::new(TRACING).join("kprobe_events");
    OpenOptions::new()
        .append(true)
        .open(events)?
        .write_all(format!("{definition}\n").as_bytes())
}

/// `NAME-THREAD [CPU] FLAGS TIME: root: (FUNCTION) FIELD=0x...`
/// (Documentation/trace/kprobetrace.rst).
fn parse(line: &str) -> Loaded {
    let field = |name: &str| {
        let value = line
            .split_whitespace()
            .find_map(|word| word.strip_prefix(name)?.strip_prefix("=0x"));
        let value = value.unwrap_or_else(|| panic!("no {name} in: {line}"));
        u64::from_str_radix(value, 16).expect("hexadecimal")
    };
    Loaded {
        vcpu: field("vcpu"),
        table: Hpa::new(field("root")),
        // An `int`: the register's upper half is anything.
        top: match field("level") & u64::from(u32::MAX) {
            4 => Level::P4d,
            5 => Level::Pgd,
            other => panic!("level {other} in: {line}"),
        },
    }
}
