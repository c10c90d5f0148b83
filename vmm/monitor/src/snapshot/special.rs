//! Special registers: what of them counts, and how they differ.

use kvm_bindings::{kvm_segment, kvm_sregs};

/// A segment without what means nothing: of an unusable one all but selector, base and
/// SS's privilege level is undefined (SDM volume 3C, 25.4.1), and KVM does not set it on Intel's
/// processors.
pub(super) fn meaning(segment: kvm_segment) -> kvm_segment {
    if segment.unusable == 0 {
        return segment;
    }
    kvm_segment {
        base: segment.base,
        selector: segment.selector,
        dpl: segment.dpl,
        unusable: 1,
        ..Default::default()
    }
}

/// Names the special registers that differ, with their values.
pub(super) fn differences(ours: &kvm_sregs, theirs: &kvm_sregs) -> Vec<String> {
    let segments = |sregs: &kvm_sregs| {
        let kvm_sregs {
            cs,
            ds,
            es,
            fs,
            gs,
            ss,
            tr,
            ldt,
            ..
        } = *sregs;
        [cs, ds, es, fs, gs, ss, tr, ldt].map(|segment| format!("{segment:x?}"))
    };
    let others = |sregs: &kvm_sregs| {
        let kvm_sregs {
            gdt,
            idt,
            cr0,
            cr2,
            cr3,
            cr4,
            cr8,
            efer,
            apic_base,
            interrupt_bitmap,
            ..
        } = *sregs;
        let words = [cr0, cr2, cr3, cr4, cr8, efer, apic_base].map(|word| format!("{word:#x}"));
        let tables = [format!("{gdt:x?}"), format!("{idt:x?}")];
        let pending = format!("{interrupt_bitmap:x?}");
        tables.into_iter().chain(words).chain([pending])
    };
    let names = [
        "CS",
        "DS",
        "ES",
        "FS",
        "GS",
        "SS",
        "TR",
        "LDTR",
        "GDTR",
        "IDTR",
        "CR0",
        "CR2",
        "CR3",
        "CR4",
        "CR8",
        "EFER",
        "APIC base",
        "pending interrupts",
    ];
    let all = |sregs| segments(sregs).into_iter().chain(others(sregs));
    let pairs = names.into_iter().zip(all(ours).zip(all(theirs)));
    pairs
        .filter(|(_, (ours, theirs))| ours != theirs)
        .map(|(name, (ours, theirs))| format!("{name}: {ours}, {theirs}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_guest_can_tell_of_a_segment_counts() {
        let usable = kvm_segment {
            base: 0x1000,
            selector: 0x2b,
            type_: 3,
            s: 1,
            ..Default::default()
        };
        assert_eq!(meaning(usable), usable);
        let unusable = kvm_segment {
            unusable: 1,
            ..usable
        };
        let other_type = kvm_segment {
            type_: 0,
            ..unusable
        };
        assert_eq!(meaning(unusable), meaning(other_type));
        let other_base = kvm_segment {
            base: 0,
            ..unusable
        };
        assert_ne!(meaning(unusable), meaning(other_base));
    }

    #[test]
    fn a_special_register_that_differs_is_named() {
        let sregs = kvm_sregs::default();
        assert!(differences(&sregs, &sregs).is_empty());
        let mut other = sregs;
        (other.cr3, other.ldt.selector) = (0x1000, 8);
        let found = differences(&sregs, &other);
        assert!(found[0].starts_with("LDTR: ") && found[1] == "CR3: 0x0, 0x1000");
        assert_eq!(found.len(), 2);
    }
}
