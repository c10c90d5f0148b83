//! Address spaces as types.
//!
//! The words are those of KVM's `Documentation/virt/kvm/x86/mmu.rst`: gva, gpa,
//! hva and hpa are byte addresses; gfn and pfn are frame numbers, of the guest
//! and of the host. What a guest driver calls a pfn is a [`Gfn`] here.
//!
//! No operator mixes two spaces and none wraps: arithmetic is by checked methods.
#![no_std]
#![forbid(unsafe_code)]

use core::fmt;

/// log2 of the base page size.
pub const PAGE_SHIFT: u32 = 12;
/// Base page size in bytes.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

macro_rules! byte_address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The address with this raw value.
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }
            /// The raw value.
            pub const fn raw(self) -> u64 {
                self.0
            }
            /// The address `bytes` further on, or `None` past the end of the space.
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(raw) => Some(Self(raw)),
                    None => None,
                }
            }
            /// Bytes from `base` to this address, or `None` when it lies below `base`.
            pub const fn checked_offset_from(self, base: Self) -> Option<u64> {
                self.0.checked_sub(base.0)
            }
            /// Start of the base page that holds this address.
            pub const fn page_base(self) -> Self {
                Self(self.0 & !(PAGE_SIZE - 1))
            }
            /// Byte offset within the base page.
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }
            /// Whether the address is the first of a base page.
            pub const fn is_page_aligned(self) -> bool {
                self.page_offset() == 0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

macro_rules! frame_number {
    ($(#[$doc:meta])* $name:ident, $address:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The frame with this number.
            pub const fn new(number: u64) -> Self {
                Self(number)
            }
            /// The frame's number.
            pub const fn raw(self) -> u64 {
                self.0
            }
            /// The frame that holds `address`.
            pub const fn containing(address: $address) -> Self {
                Self(address.raw() >> PAGE_SHIFT)
            }
            /// First byte of the frame, or `None` when it lies past 2^64.
            pub const fn base(self) -> Option<$address> {
                if self.0 >> (u64::BITS - PAGE_SHIFT) != 0 {
                    return None;
                }
                Some($address::new(self.0 << PAGE_SHIFT))
            }
            /// The frame `npages` further on, or `None` on overflow.
            pub const fn checked_add(self, npages: u64) -> Option<Self> {
                match self.0.checked_add(npages) {
                    Some(number) => Some(Self(number)),
                    None => None,
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

byte_address! {
    /// Guest virtual address.
    Gva
}
byte_address! {
    /// Guest physical address.
    Gpa
}
byte_address! {
    /// Host virtual address, in the address space of the VMM's process.
    Hva
}
byte_address! {
    /// Host physical address.
    Hpa
}
frame_number! {
    /// Guest frame number: a [`Gpa`] without its page offset.
    Gfn, Gpa
}
frame_number! {
    /// Host frame number: an [`Hpa`] without its page offset.
    Pfn, Hpa
}

/// Level of a table, counted as KVM counts: the leaves of 4 KiB are level 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Level {
    /// Page table; its leaves map 4 KiB.
    Pte = 1,
    /// Page directory; its leaves map 2 MiB.
    Pmd = 2,
    /// Page directory pointer table; its leaves map 1 GiB.
    Pud = 3,
    /// Fourth level; 512 GiB an entry.
    P4d = 4,
    /// Fifth level; 256 TiB an entry.
    Pgd = 5,
}

impl Level {
    /// The level's number, 1 to 5.
    pub const fn number(self) -> u8 {
        self as u8
    }
    /// The level of this number, if there is one.
    pub const fn numbered(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Pte),
            2 => Some(Self::Pmd),
            3 => Some(Self::Pud),
            4 => Some(Self::P4d),
            5 => Some(Self::Pgd),
            _ => None,
        }
    }
    /// The level below, or `None` below [`Level::Pte`].
    pub const fn lower(self) -> Option<Self> {
        match self {
            Self::Pte => None,
            Self::Pmd => Some(Self::Pte),
            Self::Pud => Some(Self::Pmd),
            Self::P4d => Some(Self::Pud),
            Self::Pgd => Some(Self::P4d),
        }
    }
    /// log2 of the bytes that one entry of this level spans.
    pub const fn shift(self) -> u32 {
        PAGE_SHIFT + 9 * (self as u32 - 1)
    }
    /// Bytes that one entry of this level spans.
    pub const fn bytes(self) -> u64 {
        1 << self.shift()
    }
    /// Index, 0 to 511, of the entry for `address` in a table of this level.
    pub const fn index(self, address: u64) -> u64 {
        (address >> self.shift()) & 0x1ff
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_past_the_address_space_has_no_base() {
        assert_eq!(Gfn::new(1 << 52).base(), None);
        assert_eq!(
            Gfn::new((1 << 52) - 1).base(),
            Some(Gpa::new(0xffff_ffff_ffff_f000))
        );
    }

    #[test]
    fn arithmetic_never_wraps() {
        assert_eq!(Gva::new(u64::MAX).checked_add(1), None);
        assert_eq!(Hva::new(4).checked_offset_from(Hva::new(5)), None);
        assert_eq!(Pfn::new(u64::MAX).checked_add(1), None);
    }

    #[test]
    fn numbers_and_levels_are_one_to_one() {
        let levels: [_; 256] = core::array::from_fn(|number| {
            let number = u8::try_from(number).expect("small");
            Level::numbered(number).inspect(|level| assert_eq!(level.number(), number))
        });
        assert_eq!(levels.iter().flatten().count(), 5);
    }

    #[test]
    fn levels_span_what_the_manual_says() {
        let spans = [Level::Pte, Level::Pmd, Level::Pud].map(Level::bytes);
        assert_eq!(spans, [0x1000, 0x20_0000, 0x4000_0000]);
        assert_eq!(Level::Pgd.index(0x01ff_0000_0000_0000), 0x1ff);
    }
}
