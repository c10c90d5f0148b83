//! The memory type in effect, where a guest's tables and a second level both have
//! a say.

use addr::Hpa;

use crate::MemoryType::{
    self, Uncacheable, UncachedMinus, WriteBack, WriteCombining, WriteProtected, WriteThrough,
};
use crate::Translation;

impl Translation<Hpa> {
    /// The type in effect for accesses of a guest whose own tables ask for `guest`,
    /// with caching on (CR0.CD clear).
    ///
    /// Under EPT that is final: its type stands in for the MTRRs', which have no
    /// say (SDM volume 3C, "Memory Type Used for Translated Guest-Physical
    /// Addresses"). Under NPT the nested entry's type and the host's MTRRs have a say
    /// too (APM volume 2, "Combining Memory Types, MTRRs"). Where both are write-back
    /// the guest's type is left, and that is the case which is answered here: KVM
    /// makes no other nested entries, and Linux gives up RAM that the MTRRs do not
    /// call write-back (arch/x86/kernel/cpu/mtrr/cleanup.c).
    ///
    /// `None` when `guest` is no type, or where neither manual's rule above applies.
    pub fn type_in_effect(&self, guest: MemoryType) -> Option<MemoryType> {
        match &self.ept {
            Some(leaf) if leaf.ignore_pat => Some(self.memory_type),
            Some(_) => combined(self.memory_type, guest),
            None if self.memory_type == WriteBack => combined(WriteBack, guest),
            None => None,
        }
    }
}

/// SDM volume 3A, "Effective Page-Level Memory Types for Pentium III and More
/// Recent Processor Families", the type of the range against that of the page.
fn combined(range: MemoryType, page: MemoryType) -> Option<MemoryType> {
    let effective = match (range, page) {
        (UncachedMinus | MemoryType::Reserved(_), _) | (_, MemoryType::Reserved(_)) => return None,
        (_, WriteCombining) => WriteCombining,
        (_, Uncacheable) | (Uncacheable, _) => Uncacheable,
        (WriteCombining | WriteProtected, UncachedMinus) => WriteCombining,
        (WriteThrough | WriteBack, UncachedMinus) => Uncacheable,
        (WriteCombining, WriteBack) => WriteCombining,
        (WriteCombining, WriteThrough | WriteProtected) => Uncacheable,
        (range, WriteBack) => range,
        (_, page) => page,
    };
    Some(effective)
}
