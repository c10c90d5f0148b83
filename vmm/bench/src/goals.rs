//! What is measured, and how good it is to be.

use serde::Serialize;

/// A part of the measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// From a process's start to its guest's greeting.
    Boot,
    /// What a VMM takes besides its guest's memory.
    Memory,
    /// Back to a snapshot.
    Reset,
    /// Walks of page tables.
    Walk,
    /// The whole check of a mapping.
    Check,
}

impl Part {
    /// All of them, in the order in which they are measured.
    pub const ALL: [Self; 5] = [
        Self::Boot,
        Self::Memory,
        Self::Reset,
        Self::Walk,
        Self::Check,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Memory => "memory",
            Self::Reset => "reset",
            Self::Walk => "walk",
            Self::Check => "check",
        }
    }
}

/// Which side of a goal is the good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The figure may be no more.
    AtMost,
    /// The figure may be no less.
    AtLeast,
}

impl Bound {
    /// As it is written before a number.
    pub fn sign(self) -> &'static str {
        match self {
            Self::AtMost => "≤",
            Self::AtLeast => "≥",
        }
    }
}

/// One figure as it is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    /// Name of the figure.
    pub name: &'static str,
    /// The part that measures it.
    pub part: Part,
    /// Unit of both sides.
    pub unit: &'static str,
    /// What it is measured against; empty for a figure that stands alone.
    pub rival: &'static str,
    /// What is wanted: of the ratio of ours to the rival, or of a figure that stands alone
    /// itself.
    pub goal: f64,
    /// Which side of that.
    pub bound: Bound,
}

const fn ratio(name: &'static str, part: Part, unit: &'static str, rival: &'static str) -> Goal {
    Goal {
        name,
        part,
        unit,
        rival,
        goal: 1.0,
        bound: Bound::AtMost,
    }
}

impl Goal {
    const fn at_most(self, goal: f64) -> Self {
        Self {
            goal,
            bound: Bound::AtMost,
            ..self
        }
    }

    const fn at_least(self, goal: f64) -> Self {
        Self {
            goal,
            bound: Bound::AtLeast,
            ..self
        }
    }

    /// Whether a value is good enough.
    pub fn is_met(&self, value: f64) -> bool {
        match self.bound {
            Bound::AtMost => value <= self.goal,
            Bound::AtLeast => value >= self.goal,
        }
    }
}

pub(crate) const BOOT_VS_QEMU: Goal = ratio(
    "boot_vs_qemu_microvm",
    Part::Boot,
    "ms",
    "QEMU's microvm with the same kernel, initramfs and RAM",
)
.at_most(0.4);
pub(crate) const SNAPSHOT_VS_BOOT: Goal = ratio(
    "snapshot_start_vs_boot",
    Part::Boot,
    "ms",
    "a boot of the same guest",
)
.at_most(0.05);
pub(crate) const MEMORY_MIB: Goal = Goal {
    name: "vmm_memory_mib",
    part: Part::Memory,
    unit: "MiB",
    rival: "",
    goal: 5.0,
    bound: Bound::AtMost,
};
pub(crate) const MEMORY_VS_QEMU: Goal = ratio(
    "vmm_memory_vs_qemu",
    Part::Memory,
    "MiB",
    "QEMU's microvm with the same guest",
)
.at_most(0.1);
pub(crate) const RESET_VS_COPY: Goal = ratio(
    "reset_vs_full_copy",
    Part::Reset,
    "us",
    "copying all of the guest's memory",
)
.at_most(0.05);
pub(crate) const RESET_VS_LOADVM: Goal = ratio(
    "reset_vs_qemu_loadvm",
    Part::Reset,
    "us",
    "loadvm of QEMU's microvm with the same guest, from a file in memory",
)
.at_most(0.02);
pub(crate) const WALK_VS_TRANSLATE: Goal = ratio(
    "guest_walk_vs_kvm_translate",
    Part::Walk,
    "pages/s",
    "one KVM_TRANSLATE for each page",
)
.at_least(100.0);
pub(crate) const WALK_VS_TABLES: Goal = ratio(
    "guest_walk_vs_table_read",
    Part::Walk,
    "pages/s",
    "reading the same tables and nothing else",
)
.at_least(0.25);
pub(crate) const SECOND_VS_GUEST: Goal = ratio(
    "second_level_vs_guest_walk",
    Part::Walk,
    "pages/s",
    "the guest walk of the same range",
)
.at_least(0.2);
pub(crate) const CHECK_LARGE_VS_ONE: Goal = ratio(
    "check_per_page_large_vs_one",
    Part::Check,
    "us/page",
    "the check of one page alone",
)
.at_most(0.05);
pub(crate) const GROWTH_WALK: Goal = growth("growth_exponent_walk", Part::Walk);
pub(crate) const GROWTH_RESET: Goal = growth("growth_exponent_reset", Part::Reset);
pub(crate) const GROWTH_CHECK: Goal = growth("growth_exponent_check", Part::Check);

/// Linear, and a little for what cannot be told from it.
const fn growth(name: &'static str, part: Part) -> Goal {
    Goal {
        name,
        part,
        unit: "power of the number of pages",
        rival: "",
        goal: 1.1,
        bound: Bound::AtMost,
    }
}

/// All figures, in the order in which they are printed.
pub const GOALS: [Goal; 13] = [
    BOOT_VS_QEMU,
    SNAPSHOT_VS_BOOT,
    RESET_VS_COPY,
    RESET_VS_LOADVM,
    WALK_VS_TRANSLATE,
    WALK_VS_TABLES,
    SECOND_VS_GUEST,
    CHECK_LARGE_VS_ONE,
    MEMORY_MIB,
    MEMORY_VS_QEMU,
    GROWTH_WALK,
    GROWTH_RESET,
    GROWTH_CHECK,
];
