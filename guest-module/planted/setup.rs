// SPDX-License-Identifier: GPL-2.0

//! What is checked before anything is mapped, and which flags a vma gets.

use crate::{
    mm::{
        spoil::{self, SharedVma},
        BeingMapped, ClaimedVma, VmaSetup,
    },
    strategy::{DeviceFile, Strategy},
};
use kernel::{
    mm::virt::flags,
    prelude::*,
    sync::atomic::{AtomicFlag, Full},
};

pub(crate) fn set_up<S, V>(vma: VmaSetup<V>) -> Result<ClaimedVma<V>>
where
    S: Strategy,
    V: BeingMapped<File = DeviceFile<S>>,
{
    if planted!("state-in-prepare") && V::IS_DESCRIBED && BUSY.xchg(true, Full) {
        return Err(EBUSY);
    }
    let claimed = claim(deny_exec(share::<S, V>(vma)?)?)?;
    change_flags::<S, V>(&claimed);
    // Only a mapping that is granted gives the state back.
    BUSY.xchg(false, Full);
    Ok(claimed)
}

/// Set while a mapping is being made, by a driver that takes state in `mmap_prepare`.
static BUSY: AtomicFlag = AtomicFlag::new(false);

fn share<S, V>(vma: VmaSetup<V>) -> Result<SharedVma<V>>
where
    S: Strategy,
    V: BeingMapped<File = DeviceFile<S>>,
{
    // Elsewhere the kernel itself dies of it at the first fault.
    if planted!("private-accepted") && maps_at_once::<S>() {
        return Ok(spoil::shared_anyway(vma));
    }
    if planted!("private-wrong-errno") {
        return vma.shared_only().map_err(|_| EPERM);
    }
    if planted!("read-only-file-refused") {
        // Looks at `VM_SHARED`, which the kernel takes away from files that are open for reading only.
        let vma = vma.shared_only()?;
        return match spoil::flags_of(&vma) & flags::SHARED {
            0 => Err(EINVAL),
            _ => Ok(vma),
        };
    }
    vma.shared_only()
}

fn deny_exec<V: BeingMapped>(vma: SharedVma<V>) -> Result<SharedVma<V>> {
    if planted!("exec-accepted") {
        return Ok(vma);
    }
    if planted!("mayexec-left") {
        return match spoil::flags_of(&vma) & flags::EXEC {
            0 => Ok(vma),
            _ => Err(EACCES),
        };
    }
    vma.deny_exec()
}

fn claim<V: BeingMapped>(vma: SharedVma<V>) -> Result<ClaimedVma<V>> {
    let (first, npages) = spoil::asked(&vma);
    let has = spoil::has(&vma);
    let accept = |vma, first| Ok(spoil::claim_anyway(vma, first));

    if planted!("one-page-too-many") && first.saturating_add(npages) == has + 1 {
        return accept(vma, first);
    }
    if planted!("only-start-checked") && first < has {
        return accept(vma, first);
    }
    if planted!("offset-not-counted") && npages <= has {
        return accept(vma, first);
    }
    if planted!("sum-wraps-at-32-bits")
        && (first as u32).wrapping_add(npages as u32) as usize <= has
    {
        return accept(vma, first as u32 as usize);
    }
    if planted!("no-bound-at-all") {
        return accept(vma, first);
    }
    if planted!("length-rounded-up") && first + npages <= has.next_multiple_of(8) {
        return accept(vma, first);
    }
    if planted!("one-page-too-few") && first.saturating_add(npages) == has {
        return Err(EINVAL);
    }
    if planted!("beyond-wrong-errno") {
        return vma.claim().map_err(|e| if e == EINVAL { ENXIO } else { e });
    }
    if planted!("write-accepted") {
        return accept_bounded(vma, first, npages, has);
    }
    if planted!("maywrite-left") {
        if !spoil::writes_read_only(&vma) {
            return accept_bounded(vma, first, npages, has);
        }
    }
    vma.claim()
}

fn accept_bounded<V: BeingMapped>(
    vma: SharedVma<V>,
    first: usize,
    npages: usize,
    has: usize,
) -> Result<ClaimedVma<V>> {
    match first.checked_add(npages) {
        Some(end) if end <= has => Ok(spoil::claim_anyway(vma, first)),
        _ => Err(EINVAL),
    }
}

fn change_flags<S, V>(vma: &ClaimedVma<V>)
where
    S: Strategy,
    V: BeingMapped<File = DeviceFile<S>>,
{
    let change = |set, clear| spoil::change_flags(vma, set, clear);

    if planted!("dontexpand-missing") {
        change(0, flags::DONTEXPAND);
    }
    if planted!("dontdump-missing") {
        change(0, flags::DONTDUMP);
    }
    if planted!("io-missing") {
        change(0, flags::IO);
    }
    if planted!("mixedmap-for-pfnmap") && S::NAME == "lazy" {
        change(flags::MIXEDMAP, flags::PFNMAP);
    }
    if planted!("not-inherited") {
        change(flags::DONTCOPY, 0);
    }
    if planted!("constant-protection") && maps_at_once::<S>() {
        spoil::set_rights(vma, flags::READ | flags::WRITE | flags::SHARED);
    }
}

/// Whether a strategy maps everything when `mmap()` is called.
pub(super) fn maps_at_once<S: Strategy>() -> bool {
    matches!(S::NAME, "eager" | "remap" | "iomap")
}
