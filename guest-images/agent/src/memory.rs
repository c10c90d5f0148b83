//! The calls that make and change mappings.

use wire::{Advice, Fd, Prot, Sharing, Value};

use crate::outcome::{Outcome, Refusal};
use crate::own::Own;
use crate::sys;

/// Arguments of one mmap(2).
#[derive(Debug)]
pub struct Mapping {
    pub fd: Option<Fd>,
    pub fixed_at: Option<u64>,
    pub len_bytes: u64,
    pub prot: Prot,
    pub sharing: Sharing,
    pub offset_bytes: u64,
}

/// mmap(2).
pub fn map(own: &Own, mapping: &Mapping) -> Outcome {
    let mut flags = match mapping.sharing {
        Sharing::Shared => libc::MAP_SHARED,
        Sharing::Private => libc::MAP_PRIVATE,
    };
    if mapping.fd.is_none() {
        flags |= libc::MAP_ANONYMOUS;
    }
    if let Some(address) = mapping.fixed_at {
        spare_if(
            own.is_hit_by_whole(address, mapping.len_bytes),
            address,
            mapping.len_bytes,
        )?;
        flags |= libc::MAP_FIXED;
    }
    let arguments = [
        mapping.fixed_at.unwrap_or(0),
        mapping.len_bytes,
        protection(mapping.prot),
        flag_argument(flags),
        sys::fd_argument(mapping.fd.map_or(-1, |fd| fd.0)),
        mapping.offset_bytes,
    ];
    // SAFETY: without MAP_FIXED the kernel takes free addresses only, and a fixed
    // range was found to spare the agent.
    let address = unsafe { sys::call(libc::SYS_mmap, arguments) }?;
    Ok(Value::Address(address))
}

/// munmap(2).
pub fn unmap(own: &Own, address: u64, len_bytes: u64) -> Outcome {
    spare_if(own.is_hit_by_whole(address, len_bytes), address, len_bytes)?;
    // SAFETY: the range was found to spare the agent.
    unsafe { sys::call(libc::SYS_munmap, [address, len_bytes, 0, 0, 0, 0]) }?;
    Ok(Value::Unit)
}

/// mprotect(2).
pub fn protect(own: &Own, address: u64, len_bytes: u64, prot: Prot) -> Outcome {
    spare(own, address, len_bytes)?;
    let arguments = [address, len_bytes, protection(prot), 0, 0, 0];
    // SAFETY: the range was found to spare the agent.
    unsafe { sys::call(libc::SYS_mprotect, arguments) }?;
    Ok(Value::Unit)
}

/// madvise(2).
pub fn advise(own: &Own, address: u64, len_bytes: u64, advice: Advice) -> Outcome {
    spare(own, address, len_bytes)?;
    let advice = match advice {
        Advice::DontNeed => libc::MADV_DONTNEED,
        Advice::DontFork => libc::MADV_DONTFORK,
        Advice::DoFork => libc::MADV_DOFORK,
        Advice::PopulateRead => libc::MADV_POPULATE_READ,
        Advice::PopulateWrite => libc::MADV_POPULATE_WRITE,
    };
    let arguments = [address, len_bytes, flag_argument(advice), 0, 0, 0];
    // SAFETY: the range was found to spare the agent.
    unsafe { sys::call(libc::SYS_madvise, arguments) }?;
    Ok(Value::Unit)
}

/// Arguments of one mremap(2).
#[derive(Debug)]
pub struct Remapping {
    pub address: u64,
    pub old_len_bytes: u64,
    pub new_len_bytes: u64,
    pub may_move: bool,
    pub fixed_at: Option<u64>,
}

/// mremap(2).
pub fn remap(own: &Own, remapping: &Remapping) -> Outcome {
    let Remapping {
        address,
        old_len_bytes,
        new_len_bytes,
        ..
    } = *remapping;
    spare(own, address, old_len_bytes)?;
    let mut flags = 0;
    if remapping.may_move {
        flags |= libc::MREMAP_MAYMOVE;
    }
    if let Some(target) = remapping.fixed_at {
        // The kernel takes either length for that of what it unmaps there.
        for len_bytes in [old_len_bytes, new_len_bytes] {
            spare(own, target, len_bytes)?;
        }
        flags |= libc::MREMAP_FIXED;
    }
    let arguments = [
        address,
        old_len_bytes,
        new_len_bytes,
        flag_argument(flags),
        remapping.fixed_at.unwrap_or(0),
        0,
    ];
    // SAFETY: the old range and a fixed new one were found to spare the agent; without
    // MREMAP_FIXED the new one is made of free addresses.
    let address = unsafe { sys::call(libc::SYS_mremap, arguments) }?;
    Ok(Value::Address(address))
}

fn spare(own: &Own, address: u64, len_bytes: u64) -> Result<(), Refusal> {
    spare_if(own.is_hit_by(address, len_bytes), address, len_bytes)
}

fn spare_if(is_hit: bool, address: u64, len_bytes: u64) -> Result<(), Refusal> {
    if is_hit {
        return Err(Refusal::Rejected(format!(
            "{len_bytes:#x} bytes at {address:#x} reach into memory of the agent itself"
        )));
    }
    Ok(())
}

fn protection(prot: Prot) -> u64 {
    let bits = [
        (prot.read, libc::PROT_READ),
        (prot.write, libc::PROT_WRITE),
        (prot.exec, libc::PROT_EXEC),
    ];
    bits.into_iter()
        .filter(|(wanted, _)| *wanted)
        .fold(0, |all, (_, bit)| all | flag_argument(bit))
}

fn flag_argument(flags: i32) -> u64 {
    u64::from(flags.cast_unsigned())
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
