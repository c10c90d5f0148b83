//! Contracts of drivers whose mmap is known: the kernel's own hpet driver, and the
//! personas of guest-module (`guest-module/personas`), which answer as four drivers of
//! the kernel do or did.
//!
//! Which frames the pages of mspec are nobody knows beforehand: its files are promised
//! as [regions](RegionContract), and their test file says what is proven of them.

use std::sync::Arc;

use addr::PAGE_SIZE;
use contract::{
    Access, Backing, Condition, Errno, FileContract, Fork, Offset, RangeContract, Refusal, VmaFlag,
    VmaFlags, When,
};
use monitor::HPET_NAME;
use walk::MemoryType;
use wire::personas::{AGP_ACQUIRE, AGP_MAX_SEGMENTS, AGP_RESERVE, AGP_SEGMENT_LEN_BYTES};
use witness::{Plan, WindowPlan};

use crate::driver::{Command, Preparation};
use crate::regions::RegionContract;

/// Loads, and instructions too: none of the drivers has a word about those.
const READ_EXEC: Access = Access {
    exec: true,
    ..Access::READ
};
const READ_WRITE_EXEC: Access = Access {
    exec: true,
    ..Access::READ_WRITE
};
/// What an aperture is made of.
const MIB: u64 = 1 << 20;

/// A segment of an aperture that a client has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its first page.
    pub start: u64,
    /// Its pages.
    pub npages: u64,
}

/// The segment of the client that the standard check is.
const CHECKED: Segment = Segment {
    start: 16,
    npages: 5,
};

/// Pages of the regions of mspec that it looks at.
const REGION_NPAGES: u64 = 13;
/// The largest register of bsr that the standard check looks at, in pages.
const CHECKED_NPAGES: u64 = 64;

/// Every file of these drivers on a machine with these windows, as the standard check
/// asks for them: of agp, as [`preparations`] leave it.
pub fn files(plan: &Plan) -> Vec<Arc<FileContract>> {
    let mut files = Vec::new();
    if plan.windows.iter().any(|window| window.name == HPET_NAME) {
        files.push(real_hpet());
    }
    let own = || plan.windows.iter().filter(|one| one.name != HPET_NAME);
    if let Some(first) = own().find(|window| !window.read_only) {
        files.push(hpet(first));
        files.push(bsr_small(first));
    }
    // A register is one like another: the small ones tell all that there is to tell.
    let is_checked = |window: &WindowPlan| !window.read_only && window.npages <= CHECKED_NPAGES;
    let registers = (0..).zip(own()).filter(|(_, window)| is_checked(window));
    files.extend(registers.map(|(index, window)| bsr(index, window)));
    if let Some(aperture) = aperture(plan) {
        files.push(agp_client(aperture, CHECKED));
        files.push(agp_lazy_client(aperture, CHECKED));
    }
    files
}

/// The window that agp shares out.
fn aperture(plan: &Plan) -> Option<&WindowPlan> {
    let whole = |window: &WindowPlan| window.npages.is_multiple_of(MIB / PAGE_SIZE);
    let mut windows = plan.windows.iter();
    windows.find(|window| !window.read_only && window.name != HPET_NAME && whole(window))
}

/// mspec: regions of RAM, cached or not.
pub fn regions() -> Vec<RegionContract> {
    let kinds = [
        ("mspec", MemoryType::WriteBack),
        ("mspec-uncached", MemoryType::UncachedMinus),
    ];
    let region = |(file, memory_type)| RegionContract {
        name: format!("persona/{file}"),
        path: format!("/dev/mapwitness-{file}"),
        npages: REGION_NPAGES,
        memory_type,
    };
    kinds.map(region).to_vec()
}

/// Makes the calling process a client of both bridges of agp.
pub fn preparations(plan: &Plan) -> Vec<Preparation> {
    let bridges = aperture(plan).map(|_| ["agp", "agp-lazy"]);
    let controller = |file| Preparation {
        path: format!("/dev/mapwitness-{file}"),
        at_first: vec![Command {
            number: AGP_ACQUIRE,
            with_pid: false,
            argument: Vec::new(),
        }],
        // Whoever closes a client's file ends the client.
        each_time: vec![Command {
            number: AGP_RESERVE,
            with_pid: true,
            argument: reserved(CHECKED),
        }],
    };
    bridges.into_iter().flatten().map(controller).collect()
}

/// What follows the pid in a reservation of one segment for reading and writing.
fn reserved(segment: Segment) -> Vec<u8> {
    const READ_WRITE: u64 = 3;
    let mut argument = 1_u32.to_le_bytes().to_vec();
    for word in [segment.start, segment.npages, READ_WRITE] {
        argument.extend(word.to_le_bytes());
    }
    argument.resize(4 + AGP_MAX_SEGMENTS * AGP_SEGMENT_LEN_BYTES, 0);
    argument
}

/// /dev/hpet, by drivers/char/hpet.c of the guest's kernel: one page for reading,
/// uncached, all at mmap time.
pub fn real_hpet() -> Arc<FileContract> {
    let timer = WindowPlan {
        name: HPET_NAME.into(),
        base: addr::Gpa::new(0),
        npages: 1,
        read_only: false,
    };
    let mut file = FileContract::clone(&hpet(&timer));
    file.name = "kernel/hpet".into();
    file.strategy = "kernel".into();
    file.path = "/dev/hpet".into();
    Arc::new(file)
}

/// hpet: the first page of `window`, for reading, uncached.
pub fn hpet(window: &WindowPlan) -> Arc<FileContract> {
    let range = RangeContract {
        access: READ_EXEC,
        ..shown(window, Offset::Page(0), 1)
    };
    Arc::new(FileContract {
        refuses_writers: Some(Errno::EINVAL),
        refusals: vec![Refusal::new(Condition::Outside, Errno::EINVAL)],
        ..persona("persona/hpet", "hpet", range)
    })
}

/// bsr: the window of this index, uncached. Any offset shows it from its start.
pub fn bsr(index: usize, window: &WindowPlan) -> Arc<FileContract> {
    let range = shown(window, Offset::Any, window.npages);
    let name = format!("persona/bsr{index}");
    Arc::new(FileContract {
        refusals: longer_than(window.npages),
        ..persona(&name, &format!("bsr{index}"), range)
    })
}

/// bsr: a register within the first page of `window`. All of that page is shown.
pub fn bsr_small(window: &WindowPlan) -> Arc<FileContract> {
    let range = shown(window, Offset::Any, 1);
    Arc::new(FileContract {
        refusals: longer_than(1),
        ..persona("persona/bsr-small", "bsr-small", range)
    })
}

fn longer_than(npages: u64) -> Vec<Refusal> {
    vec![Refusal::new(Condition::LongerThan(npages), Errno::EINVAL)]
}

/// agp, to its controller: the whole of `aperture`, write-combined, at any offset.
pub fn agp_controller(aperture: &WindowPlan) -> Arc<FileContract> {
    let range = RangeContract {
        memory_type: MemoryType::WriteCombining,
        ..shown(aperture, Offset::Any, aperture.npages)
    };
    let only = Condition::LengthIsNot(aperture.npages);
    Arc::new(FileContract {
        refusals: vec![Refusal::new(only, Errno::EINVAL)],
        ..persona("persona/agp-controller", "agp", range)
    })
}

/// agp, to a client with this segment of `aperture` for reading and writing.
pub fn agp_client(aperture: &WindowPlan, segment: Segment) -> Arc<FileContract> {
    let range = RangeContract {
        backing: Backing::Window {
            name: aperture.name.clone(),
            first_page: segment.start,
        },
        memory_type: MemoryType::WriteCombining,
        ..shown(aperture, Offset::Page(segment.start), segment.npages)
    };
    Arc::new(FileContract {
        refusals: not_exactly(segment),
        ..persona("persona/agp", "agp", range)
    })
}

/// agp by a bridge that answers faults, to a client with this segment: page by page
/// from the start of the aperture, wherever the segment is. The vma asks for cached
/// memory; what is not RAM and mapped by nobody else is uncached on x86 all the same.
pub fn agp_lazy_client(aperture: &WindowPlan, segment: Segment) -> Arc<FileContract> {
    let range = RangeContract {
        present: When::OnTouch,
        ..shown(aperture, Offset::Page(segment.start), segment.npages)
    };
    Arc::new(FileContract {
        refusals: not_exactly(segment),
        ..persona("persona/agp-lazy", "agp-lazy", range)
    })
}

/// agp by a bridge that answers faults, to its controller.
pub fn agp_lazy_controller(aperture: &WindowPlan) -> Arc<FileContract> {
    let range = RangeContract {
        present: When::OnTouch,
        ..shown(aperture, Offset::Any, aperture.npages)
    };
    let only = Condition::LengthIsNot(aperture.npages);
    Arc::new(FileContract {
        refusals: vec![Refusal::new(only, Errno::EINVAL)],
        ..persona("persona/agp-lazy-controller", "agp-lazy", range)
    })
}

/// A segment is found by its start, its length and the protection of a shared mapping
/// for reading and writing, or not at all.
fn not_exactly(segment: Segment) -> Vec<Refusal> {
    let other = [
        Condition::OffsetIsNot(segment.start),
        Condition::LengthIsNot(segment.npages),
        Condition::NoWrite,
        Condition::Exec,
        Condition::Private,
    ];
    let refuse = |condition| Refusal::new(condition, Errno::EINVAL);
    other.map(refuse).to_vec()
}

/// A file of a persona. None of the originals keeps private mappings away, and what
/// they map the kernel never makes longer.
fn persona(name: &str, file: &str, range: RangeContract) -> FileContract {
    FileContract {
        name: name.into(),
        strategy: "persona".into(),
        path: format!("/dev/mapwitness-{file}"),
        ranges: vec![range],
        refuses_writers: None,
        refusals: Vec::new(),
        copy_on_write: true,
        growth: Errno::EFAULT,
        refuses_split: None,
        vma: raw_frames(),
        fork: Fork::Pages,
    }
}

/// What the kernel notes of mappings of raw frames: `remap_pfn_range` does so by itself,
/// and who brings frames in later must.
pub(crate) fn raw_frames() -> VmaFlags {
    use VmaFlag::{DontDump, DontExpand, Io, MixedMap, PfnMap};
    VmaFlags {
        set: vec![Io, PfnMap, DontExpand, DontDump],
        clear: vec![MixedMap],
    }
}

/// The first `npages` of `window`, uncached, at mmap time and with every right.
fn shown(window: &WindowPlan, offset: Offset, npages: u64) -> RangeContract {
    RangeContract {
        offset,
        npages,
        backing: Backing::Window {
            name: window.name.clone(),
            first_page: 0,
        },
        access: READ_WRITE_EXEC,
        memory_type: MemoryType::UncachedMinus,
        present: When::AtMmap,
    }
}
