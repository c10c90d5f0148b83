//! What the kernel's records say.

use std::fmt;

use addr::{Gfn, Gpa};

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Place in the order of all records of all CPUs.
    pub order: u64,
    /// CPU that made it.
    pub cpu: u32,
    /// Thread that ran there.
    pub tid: i32,
    /// What it says.
    pub what: What,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The recorder's own mark of this number.
    Mark(u32),
    /// An entry of the TDP MMU's tables went from one value to another
    /// (`kvm_tdp_mmu_spte_changed`).
    Changed {
        /// First guest frame below the entry.
        gfn: Gfn,
        /// Level of its table, 1 to 5 in any sound record.
        level: u8,
        /// Address space: 0, or 1 for system management mode.
        address_space: u8,
        /// The entry before.
        old: u64,
        /// The entry after.
        new: u64,
    },
    /// A fault was served by this entry, whether or not it was there already
    /// (`kvm_mmu_set_spte`).
    Served {
        /// First guest frame below the entry.
        gfn: Gfn,
        /// Level of its table.
        level: u8,
        /// The entry.
        spte: u64,
    },
    /// An entry was given more rights without a lock (`fast_page_fault`).
    Widened {
        /// The address that faulted.
        gpa: Gpa,
        /// The entry before.
        old: u64,
        /// The entry after.
        new: u64,
    },
    /// An entry says that there is no memory behind this frame (`mark_mmio_spte`).
    Mmio {
        /// The guest frame.
        gfn: Gfn,
    },
    /// A whole table is on its way out (`kvm_mmu_prepare_zap_page`).
    TableZapped {
        /// First guest frame below the table.
        gfn: Gfn,
    },
    /// All roots were declared invalid (`kvm_mmu_zap_all_fast`).
    AllZapped,
    /// An entry that maps a large page gave way to a table of smaller ones, whose
    /// entries have no records (`kvm_mmu_split_huge_page`).
    Split {
        /// First guest frame below the entry.
        gfn: Gfn,
        /// Level of its table.
        level: u8,
    },
    /// A vCPU left the guest over an access (`kvm_page_fault`).
    Fault {
        /// The address that was accessed.
        gpa: Gpa,
        /// Error code of AMD, exit qualification of Intel.
        error_code: u64,
    },
}

/// Records that are not to be had.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// The buffer was full and the oldest records gave way (`overrun`).
    Overwritten {
        /// The CPU.
        cpu: u32,
        /// How many.
        records: u64,
    },
    /// The buffer could not take a record (`dropped events`, `commit overrun`).
    Dropped {
        /// The CPU.
        cpu: u32,
        /// How many.
        records: u64,
    },
    /// The kernel marked a page as following lost records.
    Marked {
        /// The CPU.
        cpu: u32,
        /// How many, if the page had room to say so.
        records: Option<u64>,
    },
    /// A page or record makes no sense by the kernel's own formats.
    Unreadable {
        /// The CPU.
        cpu: u32,
        /// What is wrong.
        reason: String,
    },
    /// The kernel's count of records read is not the number that came.
    Miscounted {
        /// The CPU.
        cpu: u32,
        /// The kernel's count.
        kernel: u64,
        /// The number that came.
        here: u64,
    },
    /// More records than are kept.
    NotKept {
        /// How many.
        records: u64,
    },
    /// Reading did not come to the end of what was there.
    Unread {
        /// The CPU.
        cpu: u32,
    },
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overwritten { cpu, records } => {
                write!(f, "cpu {cpu}: {records} records overwritten")
            }
            Self::Dropped { cpu, records } => write!(f, "cpu {cpu}: {records} records dropped"),
            Self::Marked {
                cpu,
                records: Some(records),
            } => write!(f, "cpu {cpu}: a page follows {records} lost records"),
            Self::Marked { cpu, records: None } => {
                write!(f, "cpu {cpu}: a page follows lost records")
            }
            Self::Unreadable { cpu, reason } => write!(f, "cpu {cpu}: {reason}"),
            Self::Miscounted { cpu, kernel, here } => write!(
                f,
                "cpu {cpu}: the kernel handed out {kernel} records, {here} came"
            ),
            Self::NotKept { records } => write!(f, "{records} records were more than is kept"),
            Self::Unread { cpu } => write!(f, "cpu {cpu}: records come faster than they are read"),
        }
    }
}
