//! The contracts of the project's own driver, `guest-module`.
//!
//! A new strategy of the driver is one more line of [`STRATEGIES`]; a file that
//! follows other rules is one more entry of [`files`].

use std::sync::Arc;

use contract::{
    Access, Backing, Condition, Errno, FileContract, Fork, Offset, RangeContract, Refusal, When,
};
use monitor::HPET_NAME;
use walk::MemoryType;
use witness::{Plan, WindowPlan};

/// A way in which the driver offers each of its windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strategy {
    /// What its device files are called, before the window's number.
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

/// Every strategy that is checked, in this order. Those through the `mmap_prepare`
/// hook have its name before that of the same through the `mmap` hook.
pub const STRATEGIES: [Strategy; 12] = [
    EAGER,
    Strategy::at_mmap("remap"),
    Strategy::at_mmap("iomap"),
    LAZY,
    Strategy::on_touch("prot"),
    HUGE,
    Strategy::at_mmap("prepare-eager"),
    Strategy::at_mmap("prepare-remap"),
    Strategy::at_mmap("prepare-iomap"),
    Strategy::on_touch("prepare-lazy"),
    Strategy::on_touch("prepare-prot"),
    Strategy::huge("prepare-huge"),
];

impl Strategy {
    /// The device file that offers the window of this index.
    pub fn path(self, window: usize) -> String {
        format!("/dev/mapwitness-{}{window}", self.name)
    }

    /// When pages of a window are there: one without 2 MiB has none at once.
    const fn present_in(self, window: &WindowPlan) -> When {
        const HUGE_NPAGES: u64 = 512;
        match self.present {
            When::OnTouchHuge if window.npages < HUGE_NPAGES => When::OnTouch,
            present => present,
        }
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
        Some(FileContract {
            name: format!("{}/{}", self.name, window.name),
            strategy: self.name.to_owned(),
            path: self.path(index),
            ranges: vec![RangeContract {
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
            }],
            refusals: refusals(window.read_only),
            copy_on_write: false,
            refuses_writers: None,
            growth: Errno::EFAULT,
            fork: Fork::Pages,
        })
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

/// Every file of the driver, for a device with these windows.
pub fn files(plan: &Plan) -> Vec<Arc<FileContract>> {
    let of_strategy =
        |strategy: Strategy| (0..plan.windows.len()).map_while(move |at| strategy.file(plan, at));
    let files = STRATEGIES.into_iter().flat_map(of_strategy);
    files.map(Arc::new).collect()
}
