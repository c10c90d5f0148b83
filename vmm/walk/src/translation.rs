//! What a successful walk found.

use addr::Level;

use crate::{AddressSpace, MemoryType, Steps};

/// What the entries of one walk allow together: a right is there when every
/// entry on the way grants it.
///
/// These are the tables' own rights. What a given access may do depends also on
/// the processor's mode (CR0.WP, SMEP, SMAP, protection keys), which is not
/// looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Loads. A guest's own tables always grant them.
    pub read: bool,
    /// Stores.
    pub write: bool,
    /// Accesses in user mode. EPT always grants them.
    pub user: bool,
    /// Instruction fetches.
    pub exec: bool,
}

impl Access {
    /// What is allowed before any entry is asked.
    pub(crate) const ALL: Self = Self {
        read: true,
        write: true,
        user: true,
        exec: true,
    };
}

/// Bits of an EPT leaf that no other format has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EptLeaf {
    /// Bit 6: the guest's PAT has no say in the memory type.
    pub ignore_pat: bool,
    /// Bit 63: an EPT violation here is not turned into a virtualization exception.
    pub suppress_ve: bool,
}

/// Where an address leads, and how. `A` is the space that it leads to, in which
/// the tables lie too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation<A: AddressSpace> {
    /// The address in the space below.
    pub address: A,
    /// Level of the leaf; [`Level::bytes`] is the size of the page.
    pub page_size: Level,
    /// What all entries on the way allow.
    pub access: Access,
    /// The memory type that these tables ask for. Other parts of the machine
    /// (MTRRs, a second level, CR0.CD) have a say in the type in effect.
    pub memory_type: MemoryType,
    /// The leaf's accessed bit, or `None` when EPT does not record accesses.
    pub accessed: Option<bool>,
    /// The leaf's dirty bit, or `None` when EPT does not record stores.
    pub dirty: Option<bool>,
    /// Survives a change of CR3 in the TLB: the leaf's G bit under CR4.PGE. False
    /// in second-level tables.
    pub global: bool,
    /// Protection key, when CR4 turns keys on for this kind of page. `None` in
    /// second-level tables.
    pub pkey: Option<u8>,
    /// What only an EPT leaf says.
    pub ept: Option<EptLeaf>,
    /// Every entry read, from the root to the leaf.
    pub steps: Steps<A>,
}

impl<A: AddressSpace> Translation<A> {
    /// Bytes of the page.
    pub const fn page_bytes(&self) -> u64 {
        self.page_size.bytes()
    }
}
