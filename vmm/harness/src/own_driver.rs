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
use witness::Plan;

/// A way in which the driver offers each of its windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strategy {
    /// What its device files are called, before the window's number.
    pub name: &'static str,
    /// From when on its pages are mapped.
    pub present: When,
}

/// Everything at mmap time (`io_remap_pfn_range`).
pub const EAGER: Strategy = Strategy {
    name: "eager",
    present: When::AtMmap,
};

/// Each page at its first touch (`vm_ops->fault`, `vmf_insert_pfn`).
pub const LAZY: Strategy = Strategy {
    name: "lazy",
    present: When::OnTouch,
};

/// Every strategy, in the order in which they are checked.
pub const STRATEGIES: [Strategy; 2] = [EAGER, LAZY];

impl Strategy {
    /// The device file that offers the window of this index.
    pub fn path(self, window: usize) -> String {
        format!("/dev/mapwitness-{}{window}", self.name)
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
                present: self.present,
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
