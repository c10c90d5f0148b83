//! What a vCPU that does not get on is waiting for, told to a person.

use kvm_bindings::{KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE};
use kvm_ioctls::VcpuFd;

use crate::snapshot::tsc;
use crate::vcpu;

/// `IA32_TSC_DEADLINE`: 0 when no timer is armed.
const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// RFLAGS.IF.
const INTERRUPT_FLAG: u64 = 1 << 9;
/// Registers of the local APIC (SDM volume 3A, table "Local APIC Register Address Map"):
/// bits of vectors in service and requested, 32 to a register, 16 bytes apart; the timer's
/// entry of the vector table and the count that it started from.
const IN_SERVICE: usize = 0x100;
const REQUESTED: usize = 0x200;
const TIMER: usize = 0x320;
const INITIAL_COUNT: usize = 0x380;
/// Mask and mode of the timer's entry.
const MASKED: u32 = 1 << 16;
const MODE_SHIFT: u32 = 17;

/// One line: where it stands, whether it sleeps, its timer, and interrupts on their way.
/// What KVM does not tell is left out.
pub(crate) fn describe(vcpu: &VcpuFd) -> String {
    let mut parts = Vec::new();
    if let Ok(regs) = vcpu.get_regs() {
        let state = if regs.rflags & INTERRUPT_FLAG == 0 {
            "off"
        } else {
            "on"
        };
        parts.push(format!("at rip {:#x}, interrupts {state}", regs.rip));
    }
    if let Ok(mp) = vcpu.get_mp_state() {
        parts.push(match mp.mp_state {
            KVM_MP_STATE_RUNNABLE => "runnable".to_owned(),
            KVM_MP_STATE_HALTED => "halted".to_owned(),
            other => format!("multiprocessing state {other}"),
        });
    }
    if let Ok(lapic) = vcpu.get_lapic() {
        let word = |at: usize| register(&lapic.regs, at);
        parts.push(timer(vcpu, word(TIMER), word(INITIAL_COUNT)));
        parts.push(format!(
            "vectors requested {:x?}, in service {:x?}",
            vectors(|at| word(REQUESTED + at)),
            vectors(|at| word(IN_SERVICE + at))
        ));
    }
    parts.join("; ")
}

fn register(bytes: &[libc::c_char], at: usize) -> u32 {
    let bytes = bytes.get(at..).and_then(<[_]>::first_chunk::<4>);
    bytes.map_or(0, |bytes| {
        u32::from_le_bytes(bytes.map(libc::c_char::cast_unsigned))
    })
}

/// Numbers of the bits that are set in eight registers.
fn vectors(register: impl Fn(usize) -> u32) -> Vec<u32> {
    (0..256_u32)
        .filter(|vector| {
            let at = (vector / 32) as usize * 16;
            register(at) & 1 << (vector % 32) != 0
        })
        .collect()
}

fn timer(vcpu: &VcpuFd, entry: u32, initial_count: u32) -> String {
    let masked = if entry & MASKED == 0 { "" } else { ", masked" };
    let deadline = vcpu::read_msr(vcpu, MSR_TSC_DEADLINE).unwrap_or(0);
    let when = match (entry >> MODE_SHIFT & 3, deadline, tsc::read(vcpu)) {
        (2, 0, _) => "not armed".to_owned(),
        (2, deadline, Ok(now)) if deadline <= now => {
            format!("overdue by {} ticks", now - deadline)
        }
        (2, deadline, Ok(now)) => format!("due in {} ticks", deadline - now),
        (mode, ..) => format!("mode {mode}, initial count {initial_count:#x}"),
    };
    format!("timer {when}{masked}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_numbered_through_all_registers() {
        let mut bytes = [0; 1024];
        bytes[REQUESTED + 0x10] = 4;
        bytes[REQUESTED + 0x73] = i8::MIN;
        let found = vectors(|at| register(&bytes, REQUESTED + at));
        assert_eq!(found, [34, 255]);
        assert_eq!(register(&bytes, 1022), 0, "outside");
    }
}
