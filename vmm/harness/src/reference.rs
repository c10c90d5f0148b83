//! Contracts of drivers whose mmap is known: the kernel's own hpet driver, and the
//! personas of guest-module (`guest-module/personas`), which answer as four drivers of
//! the kernel do or did.

use std::sync::Arc;

use contract::{Access, Backing, FileContract, Offset, RangeContract, When};
use monitor::HPET_NAME;
use walk::MemoryType;
use witness::WindowPlan;

/// Loads, and instructions too: the driver has no word about them.
const READ_EXEC: Access = Access {
    exec: true,
    ..Access::READ
};

/// /dev/hpet, by drivers/char/hpet.c of the guest's kernel: one page for reading,
/// uncached, all at mmap time.
pub fn real_hpet() -> Arc<FileContract> {
    Arc::new(FileContract {
        name: "kernel/hpet".into(),
        strategy: "kernel".into(),
        path: "/dev/hpet".into(),
        ranges: vec![RangeContract {
            offset: Offset::Page(0),
            npages: 1,
            backing: Backing::Window {
                name: HPET_NAME.into(),
                first_page: 0,
            },
            access: READ_EXEC,
            memory_type: MemoryType::UncachedMinus,
            present: When::AtMmap,
        }],
    })
}

/// A file of a persona that shows pages of `window`, all at mmap time; no driver among
/// the originals has a word about instructions.
fn persona(name: &str, file: &str, range: RangeContract) -> Arc<FileContract> {
    Arc::new(FileContract {
        name: name.into(),
        strategy: "persona".into(),
        path: format!("/dev/mapwitness-{file}"),
        ranges: vec![range],
    })
}

/// hpet: the first page of the first window, for reading, uncached.
pub fn hpet(window: &WindowPlan) -> Arc<FileContract> {
    let range = RangeContract {
        access: READ_EXEC,
        ..shown(window, Offset::Page(0), 1)
    };
    persona("persona/hpet", "hpet", range)
}

/// bsr: the window of this index, uncached. Any offset shows it from its start.
pub fn bsr(index: usize, window: &WindowPlan) -> Arc<FileContract> {
    let range = shown(window, Offset::Any, window.npages);
    persona(
        &format!("persona/bsr{index}"),
        &format!("bsr{index}"),
        range,
    )
}

/// bsr: a register within the first page of `window`. All of that page is shown.
pub fn bsr_small(window: &WindowPlan) -> Arc<FileContract> {
    let range = shown(window, Offset::Any, 1);
    persona("persona/bsr-small", "bsr-small", range)
}

/// agp, to its controller: the whole of `aperture`, write-combined, at any offset.
pub fn agp_controller(aperture: &WindowPlan) -> Arc<FileContract> {
    let range = RangeContract {
        memory_type: MemoryType::WriteCombining,
        ..shown(aperture, Offset::Any, aperture.npages)
    };
    persona("persona/agp controller", "agp", range)
}

/// agp, to a client with a segment of these pages of `aperture`.
pub fn agp_client(aperture: &WindowPlan, start: u64, npages: u64) -> Arc<FileContract> {
    let range = RangeContract {
        backing: Backing::Window {
            name: aperture.name.clone(),
            first_page: start,
        },
        memory_type: MemoryType::WriteCombining,
        ..shown(aperture, Offset::Page(start), npages)
    };
    persona("persona/agp client", "agp", range)
}

/// agp by a bridge that answers faults: page by page from the start of the aperture,
/// whatever the segment's. The vma asks for cached memory; what is not RAM and mapped
/// by nobody else is uncached on x86 all the same.
pub fn agp_lazy(aperture: &WindowPlan) -> Arc<FileContract> {
    let range = RangeContract {
        present: When::OnTouch,
        ..shown(aperture, Offset::Any, aperture.npages)
    };
    persona("persona/agp-lazy", "agp-lazy", range)
}

/// The first `npages` of `window`, uncached and with every right.
fn shown(window: &WindowPlan, offset: Offset, npages: u64) -> RangeContract {
    RangeContract {
        offset,
        npages,
        backing: Backing::Window {
            name: window.name.clone(),
            first_page: 0,
        },
        access: Access {
            exec: true,
            ..Access::READ_WRITE
        },
        memory_type: MemoryType::UncachedMinus,
        present: When::AtMmap,
    }
}
