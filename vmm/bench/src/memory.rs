//! What a VMM takes besides its guest's memory.

use harness::Start;

use crate::Field;
use crate::boot::RAM_LEN_BYTES;
use crate::error::{BenchError, chain};
use crate::figure::Figure;
use crate::goals::{MEMORY_MIB, MEMORY_VS_QEMU};
use crate::guests::Vmm;
use crate::qemu::Qemu;
use crate::report::{Curve, Report};
use crate::samples::{alternate, timed};

const TURNS: usize = 3;
/// VMs at once, of one snapshot.
const VMS: usize = 8;

pub(crate) fn measure(field: &Field<'_>, report: &mut Report) -> Result<(), BenchError> {
    let ours = |start| {
        move |_: &mut ()| {
            let own = Vmm::start(field, start, RAM_LEN_BYTES)?.own_kib();
            own.map(mib).map_err(look())
        }
    };
    Vmm::leave_snapshot(field, RAM_LEN_BYTES)?;
    let turns = field.plan.turns(TURNS);
    let (mut booted, mut taken_up) = (ours(Start::Boot), ours(Start::Quickest));
    let takes = [&mut booted as _, &mut taken_up as _];
    let [booted, taken_up] = alternate(&mut (), turns, takes)?;
    let note = taken_up
        .median()
        .map(|mib| format!("of a guest that booted; of one taken up from a snapshot {mib:.2} MiB"));
    report.add(Figure::alone(&MEMORY_MIB, &booted).noted(note.unwrap_or_default()));
    let mut qemu = |_: &mut ()| {
        let own = Qemu::start(field, RAM_LEN_BYTES)?.own_kib();
        own.map(mib).map_err(look())
    };
    let rival = alternate(&mut (), turns, [&mut qemu as _]);
    report.add(match rival.map_err(|error| chain(&error)) {
        Ok([rival]) => Figure::against(&MEMORY_VS_QEMU, &booted, &rival),
        Err(why) => Figure::unmeasured(&MEMORY_VS_QEMU, why),
    });
    many(field, report)
}

/// VMs of one snapshot, one more at a time: what each takes of this machine's memory,
/// with what they share counted once.
fn many(field: &Field<'_>, report: &mut Report) -> Result<(), BenchError> {
    let (mut vms, mut memory, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    for count in 1..=VMS {
        let (seconds, vmm) = timed(|| Vmm::start(field, Start::Quickest, RAM_LEN_BYTES));
        vms.push(vmm?);
        starts.push((count as f64, seconds * 1e3));
        let mut kib = 0;
        for vmm in &vms {
            let mappings = vmm.process().mappings().map_err(look())?;
            kib += mappings.iter().map(|it| it.pss_kib).sum::<u64>();
        }
        memory.push((count as f64, mib(kib)));
    }
    if let [(_, one), .., (count, all)] = memory[..] {
        let each = (all - one) / (count - 1.0);
        report.note(format!(
            "VMs of one snapshot, guest memory included: the first {one:.1} MiB, each further one {each:.1} MiB"
        ));
    }
    for (name, unit, points) in [
        ("memory of VMs", "MiB", memory),
        ("start of one more VM", "ms", starts),
    ] {
        report.curves.push(Curve {
            name,
            size: "VMs of one snapshot",
            unit,
            points,
        });
    }
    Ok(())
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

fn look() -> impl FnOnce(std::io::Error) -> BenchError {
    BenchError::io("read what a process has in memory")
}
