//! Link gpa -> hva: the VMM's own slot table.

use addr::{Gpa, Hva, PAGE_SIZE};
use monitor::{MemSlot, SlotUse};

/// The memslot behind a guest physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// KVM's slot number.
    pub slot: u32,
    /// What the slot is for.
    pub used_for: SlotUse,
    /// Page within the slot.
    pub page: u64,
    /// Host virtual address.
    pub hva: Hva,
    /// Whether the slot refuses the guest's stores.
    pub read_only: bool,
}

/// Looks `gpa` up; `None` when no slot backs it.
pub fn find(table: &[MemSlot], gpa: Gpa) -> Option<Hit> {
    table.iter().find_map(|slot| {
        Some(Hit {
            slot: slot.id,
            used_for: slot.used_for,
            page: gpa.checked_offset_from(slot.base)? / PAGE_SIZE,
            hva: slot.translate(gpa)?,
            read_only: slot.read_only,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(id: u32, base: u64, npages: u64, hva: u64) -> MemSlot {
        MemSlot {
            id,
            used_for: SlotUse::Window(id as usize),
            base: Gpa::new(base),
            len_bytes: npages * PAGE_SIZE,
            hva: Hva::new(hva),
            read_only: false,
        }
    }

    #[test]
    fn a_gpa_is_found_in_its_slot_and_nowhere_else() {
        let table = [
            slot(0, 0, 16, 0x7000_0000),
            slot(1, 0xd100_0000, 2, 0x5000_0000),
        ];
        let hit = find(&table, Gpa::new(0xd100_1008)).expect("backed");
        assert_eq!((hit.slot, hit.page), (1, 1));
        assert_eq!(hit.hva, Hva::new(0x5000_1008));
        assert_eq!(find(&table, Gpa::new(0xd100_2000)), None);
        assert_eq!(find(&table, Gpa::new(0x1_0000)), None);
    }
}
