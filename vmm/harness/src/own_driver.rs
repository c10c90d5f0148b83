//! The contracts of the project's own driver, `guest-module`.
//!
//! A new strategy of the driver is one more line of [`STRATEGIES`] or of
//! [`BUFFER_STRATEGIES`]; a file that follows other rules is one more entry of [`files`].

use std::sync::Arc;

use contract::{
    Access, Backing, Condition, Errno, FileContract, Fork, Offset, RangeContract, Refusal, VmaFlag,
    VmaFlags, When,
};
use monitor::HPET_NAME;
use walk::MemoryType;
use witness::{Plan, WindowPlan};

/// A way in which the driver offers each of its windows, or of its buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strategy {
    /// What its device files are called, before the number of what they offer.
    pub name: &'static str,
    /// From when on its pages are mapped.
    pub present: When,
}

impl Strategy {
    const fn at_mmap(name: &'static str) -> Self {
        Self {
            name,
            present: When::AtMmap,
        }
    }

    const fn on_touch(name: &'static str) -> Self {
        Self {
            name,
            present: When::OnTouch,
        }
    }

    const fn around(name: &'static str) -> Self {
        Self {
            name,
            present: When::OnTouchAround(AROUND_NPAGES),
        }
    }

    const fn huge(name: &'static str) -> Self {
        Self {
            name,
            present: When::OnTouchHuge,
        }
    }
}

/// Everything at mmap time (`io_remap_pfn_range`).
pub const EAGER: Strategy = Strategy::at_mmap("eager");
/// Each page at its first touch (`vm_ops->fault`, `vmf_insert_pfn`).
pub const LAZY: Strategy = Strategy::on_touch("lazy");
/// 2 MiB at the first touch where they fit (`vm_ops->huge_fault`).
pub const HUGE: Strategy = Strategy::huge("huge");

/// Pages that a touch brings in together (`AROUND_NPAGES` of `guest-module/mm/fault.rs`).
const AROUND_NPAGES: u64 = 16;

/// Every strategy for windows, in this order. Those through the `mmap_prepare`
/// hook have its name before that of the same through the `mmap` hook.
pub const STRATEGIES: [Strategy; 16] = [
    EAGER,
    Strategy::at_mmap("remap"),
    Strategy::at_mmap("iomap"),
    LAZY,
    Strategy::on_touch("prot"),
    HUGE,
    Strategy::around("around"),
    Strategy::on_touch("whole"),
    Strategy::at_mmap("prepare-eager"),
    Strategy::at_mmap("prepare-remap"),
    Strategy::at_mmap("prepare-iomap"),
    Strategy::on_touch("prepare-lazy"),
    Strategy::on_touch("prepare-prot"),
    Strategy::huge("prepare-huge"),
    Strategy::around("prepare-around"),
    Strategy::on_touch("prepare-whole"),
];

/// Every strategy for buffers, in this order.
pub const BUFFER_STRATEGIES: [Strategy; 6] = [
    Strategy::at_mmap("pages"),
    Strategy::at_mmap("mappages"),
    Strategy::on_touch("pagefault"),
    Strategy::at_mmap("prepare-pages"),
    Strategy::at_mmap("prepare-mappages"),
    Strategy::on_touch("prepare-pagefault"),
];

impl Strategy {
    /// The device file that offers the window or buffer of this index.
    pub fn path(self, index: usize) -> String {
        format!("/dev/mapwitness-{}{index}", self.name)
    }

    /// When pages of a window are there: one without 2 MiB has none at once.
    const fn present_in(self, window: &WindowPlan) -> When {
        const HUGE_NPAGES: u64 = 512;
        match self.present {
            When::OnTouchHuge if window.npages < HUGE_NPAGES => When::OnTouch,
            present => present,
        }
    }

    /// `vm_ops->may_split` of `guest-module/strategy/whole.rs`.
    fn refuses_split(self) -> Option<Errno> {
        let stays_whole = matches!(self.name, "whole" | "prepare-whole");
        stays_whole.then_some(Errno::EINVAL)
    }

    /// The file that offers window `index` of the device by this strategy; `None`
    /// when there is no such window.
    ///
    /// The whole window is there, uncached (UC-); nothing of a device is ever
    /// executable.
    pub fn file(self, plan: &Plan, index: usize) -> Option<FileContract> {
        // The page of the event timer is none of the device's.
        let window = plan
            .windows
            .get(index)
            .filter(|one| one.name != HPET_NAME)?;
        let range = RangeContract {
            offset: Offset::Page(0),
            npages: window.npages,
            backing: Backing::Window {
                name: window.name.clone(),
                first_page: 0,
            },
            access: if window.read_only {
                Access::READ
            } else {
                Access::READ_WRITE
            },
            memory_type: MemoryType::UncachedMinus,
            present: self.present_in(window),
        };
        Some(self.offers(&window.name, index, range, &[VmaFlag::Io, VmaFlag::PfnMap]))
    }

    /// The file that offers buffer `index` of the device by this strategy; `None` when
    /// there is no such buffer.
    ///
    /// The whole buffer is there, cached, as the RAM that it is.
    pub fn buffer_file(self, plan: &Plan, index: usize) -> Option<FileContract> {
        let buffer = plan.buffers.get(index)?;
        let range = RangeContract {
            offset: Offset::Page(0),
            npages: buffer.pages.len() as u64,
            backing: Backing::Buffer {
                name: buffer.name.clone(),
                first_page: 0,
            },
            access: Access::READ_WRITE,
            memory_type: MemoryType::WriteBack,
            present: self.present,
        };
        Some(self.offers(&buffer.name, index, range, &[VmaFlag::MixedMap]))
    }

    /// The file that offers `range`, all of the memory of this name and index, whose
    /// mappings have the flags `of_memory`.
    fn offers(
        self,
        name: &str,
        index: usize,
        range: RangeContract,
        of_memory: &[VmaFlag],
    ) -> FileContract {
        let read_only = !range.access.write;
        FileContract {
            name: format!("{}/{name}", self.name),
            strategy: self.name.to_owned(),
            path: self.path(index),
            ranges: vec![range],
            refusals: refusals(read_only),
            copy_on_write: false,
            refuses_writers: None,
            growth: Errno::EFAULT,
            refuses_split: self.refuses_split(),
            vma: vma_flags(of_memory, read_only),
            fork: Fork::Pages,
        }
    }
}

/// What the kernel notes of each mapping.
fn vma_flags(of_memory: &[VmaFlag], read_only: bool) -> VmaFlags {
    let of_either = [VmaFlag::Io, VmaFlag::PfnMap, VmaFlag::MixedMap];
    let others = of_either.iter().filter(|flag| !of_memory.contains(flag));
    let set = of_memory
        .iter()
        .chain(&[VmaFlag::DontExpand, VmaFlag::DontDump]);
    let clear = others.chain(&[VmaFlag::DontCopy, VmaFlag::MayExec]);
    let may_write = read_only.then_some(VmaFlag::MayWrite);
    VmaFlags {
        set: set.copied().collect(),
        clear: clear.copied().chain(may_write).collect(),
    }
}

/// The checks of the driver's mmap, in the order of guest-module/README.md.
fn refusals(read_only: bool) -> Vec<Refusal> {
    let mut checks = vec![
        Refusal::new(Condition::Private, Errno::EINVAL),
        Refusal::new(Condition::Exec, Errno::EACCES),
        Refusal::new(Condition::Outside, Errno::EINVAL),
    ];
    if read_only {
        checks.push(Refusal::new(Condition::Write, Errno::EACCES));
    }
    checks
}

/// Every file of the driver, for a device with these windows and buffers.
pub fn files(plan: &Plan) -> Vec<Arc<FileContract>> {
    let of_window =
        |strategy: Strategy| (0..plan.windows.len()).map_while(move |at| strategy.file(plan, at));
    let of_buffer = |strategy: Strategy| {
        (0..plan.buffers.len()).map_while(move |at| strategy.buffer_file(plan, at))
    };
    let windows = STRATEGIES.into_iter().flat_map(of_window);
    let buffers = BUFFER_STRATEGIES.into_iter().flat_map(of_buffer);
    windows.chain(buffers).map(Arc::new).collect()
}
