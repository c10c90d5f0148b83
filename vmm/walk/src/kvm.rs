//! What KVM means by a second-level entry that the processor will not translate
//! by.
//!
//! Sources: arch/x86/kvm/mmu/spte.h and spte.c of Linux 6.1, 6.12 and 7.3. Only what
//! holds in all is used; the bits "host-writable" and "MMU-writable" moved
//! between them and are not named here.

use core::fmt;

/// The entry is backed by memory, by KVM's own account.
const MMU_PRESENT: u64 = 1 << 11;
/// KVM sets it in entries that are not present: suppress-#VE of EPT, ignored in
/// NPT. Older kernels leave it clear.
const NON_PRESENT: u64 = 1 << 63;
/// FROZEN_SPTE without [`NON_PRESENT`], of 7.3 and of earlier kernels (there also
/// called REMOVED_SPTE).
const FROZEN: [u64; 2] = [0x1a0, 0x5a0];
const EPT_RWX: u64 = 0b111;
/// Stores and fetches without loads: the processor calls it a misconfiguration.
const EPT_MMIO: u64 = 0b110;
const NPT_PRESENT: u64 = 1 << 0;
/// Reserved on every processor with fewer than 52 bits of physical addresses; with 52
/// KVM makes no such entries.
const NPT_MMIO: u64 = NPT_PRESENT | 1 << 51;

/// An entry of second-level tables, in KVM's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spte {
    /// Nothing is mapped.
    NonPresent,
    /// Another CPU is exchanging the entry. In tables at rest there is none.
    Frozen,
    /// An address without memory: the access is to leave the guest.
    Mmio,
    /// Names a table or maps a page.
    Present,
    /// Maps a page, with all access taken away to notice the next one; used where
    /// the processor does not record accesses itself.
    AccessTracked,
    /// None that KVM makes.
    Unknown,
}

impl Spte {
    /// What KVM means by an entry of EPT.
    pub const fn of_ept(raw: u64) -> Self {
        Self::named(raw, raw & EPT_RWX != 0, raw & EPT_RWX == EPT_MMIO)
    }

    /// What KVM means by an entry of NPT.
    pub const fn of_npt(raw: u64) -> Self {
        Self::named(raw, raw & NPT_PRESENT != 0, raw & NPT_MMIO == NPT_MMIO)
    }

    const fn named(raw: u64, translates: bool, mmio: bool) -> Self {
        let rest = raw & !NON_PRESENT;
        if raw & MMU_PRESENT != 0 {
            if translates {
                Self::Present
            } else {
                Self::AccessTracked
            }
        } else if rest == 0 {
            Self::NonPresent
        } else if rest == FROZEN[0] || rest == FROZEN[1] {
            Self::Frozen
        } else if mmio {
            Self::Mmio
        } else {
            Self::Unknown
        }
    }
}

impl fmt::Display for Spte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NonPresent => "KVM's non-present entry",
            Self::Frozen => "KVM's frozen entry",
            Self::Mmio => "KVM's MMIO entry",
            Self::Present => "a present entry of KVM's",
            Self::AccessTracked => "KVM's access-tracked entry",
            Self::Unknown => "no entry of KVM's",
        })
    }
}
