//! From the start of a process to its guest's greeting.

use harness::Start;

use crate::Field;
use crate::error::BenchError;
use crate::figure::Figure;
use crate::goals::{BOOT_VS_QEMU, SNAPSHOT_VS_BOOT};
use crate::guests::Vmm;
use crate::processes::Owned;
use crate::qemu::Qemu;
use crate::report::Report;
use crate::samples::{Samples, alternate};

/// RAM of the guests that boot: that of the standard VM.
pub(crate) const RAM_LEN_BYTES: u64 = 128 << 20;
const TURNS: usize = 5;

/// CPU time of each way, beside its wall time.
#[derive(Default)]
struct Cpu {
    boot: Samples,
    snapshot: Samples,
    qemu: Samples,
}

pub(crate) fn measure(field: &Field<'_>, report: &mut Report) -> Result<(), BenchError> {
    Vmm::leave_snapshot(field, RAM_LEN_BYTES)?;
    let mut cpu = Cpu::default();
    let turns = field.plan.turns(TURNS);
    let own = |start| {
        move |cpu: &mut Cpu| {
            let vmm = Vmm::start(field, start, RAM_LEN_BYTES)?;
            let of = match start {
                Start::Boot => &mut cpu.boot,
                Start::Quickest => &mut cpu.snapshot,
            };
            of.push(used(vmm.process())?);
            Ok(vmm.seconds * 1e3)
        }
    };
    let (mut boot, mut snapshot) = (own(Start::Boot), own(Start::Quickest));
    let (boot, snapshot) = match &field.qemu {
        Ok(_) => {
            let mut qemu = |cpu: &mut Cpu| {
                let qemu = Qemu::start(field, RAM_LEN_BYTES)?;
                cpu.qemu.push(used(qemu.process())?);
                Ok(qemu.seconds * 1e3)
            };
            let takes = [&mut boot as _, &mut snapshot as _, &mut qemu as _];
            let [boot, snapshot, qemu] = alternate(&mut cpu, turns, takes)?;
            report.add(Figure::against(&BOOT_VS_QEMU, &boot, &qemu));
            (boot, snapshot)
        }
        Err(why) => {
            let takes = [&mut boot as _, &mut snapshot as _];
            let [boot, snapshot] = alternate(&mut cpu, turns, takes)?;
            report.add(Figure::unmeasured(&BOOT_VS_QEMU, why.as_str()));
            (boot, snapshot)
        }
    };
    report.add(Figure::against(&SNAPSHOT_VS_BOOT, &snapshot, &boot));
    for (name, samples) in [
        ("boot", cpu.boot),
        ("start from a snapshot", cpu.snapshot),
        ("boot by QEMU", cpu.qemu),
    ] {
        if let Some(ms) = samples.median() {
            report.note(format!("CPU time up to the greeting, {name}: {ms:.1} ms"));
        }
    }
    Ok(())
}

fn used(process: &Owned) -> Result<f64, BenchError> {
    let used = process.cpu_ms();
    used.map_err(BenchError::io("read the CPU time of a process"))
}
