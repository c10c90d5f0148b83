//! Contracts of drivers whose mmap is known: the kernel's own hpet driver, and the
//! personas of guest-module (`guest-module/personas`), which answer as four drivers of
//! the kernel do or did.

use std::sync::Arc;

use contract::{Access, Backing, FileContract, Offset, RangeContract, When};
use monitor::HPET_NAME;
use walk::MemoryType;

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
