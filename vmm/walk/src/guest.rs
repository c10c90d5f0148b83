//! A guest's own tables: 4- and 5-level paging of x86-64.

use addr::{Gpa, Gva, Level};

use crate::descend::{Leaf, Root, descend};
use crate::format::{ADDRESS_BITS, Format, Grant, Grants, beyond_physical, bits};
use crate::range::{Extent, Frames, RangeWalk, Tables, Untranslated};
use crate::x86::{ACCESSED, DIRTY, GLOBAL, NO_EXECUTE, USER, WRITABLE, X86Limits, x86_format};
use crate::{MemoryType, TableRead, Translation, UnsupportedMode, WalkError};

const CR0_PE: u64 = 1 << 0;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_PGE: u64 = 1 << 7;
const CR4_LA57: u64 = 1 << 12;
const CR4_PKE: u64 = 1 << 22;
const CR4_PKS: u64 = 1 << 24;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;
/// LAM_U57 and LAM_U48: they change which addresses may be used, not the tables.
const CR3_LAM: u64 = bits(62, 61);

const GRANTS: Grants = Grants {
    read: Grant::ALWAYS,
    write: Grant::if_set(WRITABLE),
    user: Grant::if_set(USER),
    // Without NXE bit 63 is reserved, and no walk gets past it.
    exec: Grant::if_clear(NO_EXECUTE),
};

/// Whose rules a processor follows where the manuals differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// Intel, and those whose CPUID does not name AMD or Hygon.
    Intel,
    /// AMD and Hygon: bit 8 of level 4 and 5 entries must be zero.
    Amd,
}

/// The vCPU's registers and limits that shape translation; raw values, as
/// KVM_GET_SREGS, KVM_GET_MSRS and the guest's CPUID give them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagingRegs {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// IA32_PAT, MSR 0x277.
    pub pat: u64,
    /// Bits of a physical address: CPUID leaf 0x8000_0008, EAX bits 7:0.
    pub maxphyaddr: u8,
    /// Pages of 1 GiB exist: CPUID leaf 0x8000_0001, EDX bit 26.
    pub gib_pages: bool,
    /// CPUID leaf 0.
    pub vendor: Vendor,
}

/// Translates `gva` as the processor with these registers would.
///
/// Linear-address masking is not applied: give the address without its metadata.
///
/// # Errors
/// [`WalkError`], with every entry read until then.
pub fn walk_guest<R: TableRead<Addr = Gpa>>(
    mem: &R,
    regs: &PagingRegs,
    gva: Gva,
) -> Result<Translation<Gpa>, WalkError<Gpa, R::Error>> {
    GuestTables::new(regs)
        .map_err(WalkError::UnsupportedMode)?
        .walk(mem, gva)
}

/// The tables that one vCPU's registers select, for many walks.
#[derive(Clone, Copy, Debug)]
pub struct GuestTables {
    format: Format,
    root: Root,
    pat: u64,
    cr4: u64,
}

impl GuestTables {
    /// The tables that `regs` select.
    ///
    /// # Errors
    /// [`UnsupportedMode`] when the processor is not in 64-bit or compatibility
    /// mode with paging on, or the registers cannot be those of a processor.
    pub fn new(regs: &PagingRegs) -> Result<Self, UnsupportedMode> {
        let PagingRegs {
            cr0,
            cr3,
            cr4,
            efer,
            ..
        } = *regs;
        if cr0 & (CR0_PE | CR0_PG) != CR0_PE | CR0_PG {
            return Err(UnsupportedMode::PagingOff { cr0 });
        }
        if cr4 & CR4_PAE == 0 || efer & EFER_LMA == 0 {
            return Err(UnsupportedMode::NotLongMode { cr4, efer });
        }
        let beyond = beyond_physical(regs.maxphyaddr)?;
        let reserved = cr3 & (beyond | bits(63, 52)) & !CR3_LAM;
        if reserved != 0 {
            return Err(UnsupportedMode::Root { raw: cr3, reserved });
        }
        let top = if cr4 & CR4_LA57 == 0 {
            Level::P4d
        } else {
            Level::Pgd
        };
        Ok(Self {
            format: x86_format(
                X86Limits {
                    nxe: efer & EFER_NXE != 0,
                    gib_pages: regs.gib_pages,
                    upper_bit_8_reserved: regs.vendor == Vendor::Amd,
                },
                ADDRESS_BITS,
                beyond,
                GRANTS,
            ),
            root: Root {
                table: cr3 & ADDRESS_BITS,
                top,
            },
            pat: regs.pat,
            cr4,
        })
    }

    /// Translates `gva`; see [`walk_guest`].
    ///
    /// # Errors
    /// [`WalkError`], with every entry read until then.
    pub fn walk<R: TableRead<Addr = Gpa>>(
        &self,
        mem: &R,
        gva: Gva,
    ) -> Result<Translation<Gpa>, WalkError<Gpa, R::Error>> {
        self.translated_to(gva.raw()).map_err(Untranslated::error)?;
        descend(mem, &self.format, self.root, gva.raw()).map(|leaf| self.interpret(leaf))
    }

    /// Walks the range from `start` for `len_bytes`, cut off at the end of the
    /// address space: its pages, its holes and its errors, without a gap. The frames of
    /// a run follow one another.
    pub fn range<'a, R: TableRead<Addr = Gpa>>(
        &'a self,
        mem: &'a R,
        start: Gva,
        len_bytes: u64,
    ) -> RangeWalk<'a, Self, R> {
        RangeWalk::new(self, mem, start, len_bytes, Frames::Consecutive)
    }

    /// As [`GuestTables::range`], by runs that stand by themselves.
    pub fn extents<'a, R: TableRead<Addr = Gpa>>(
        &'a self,
        mem: &'a R,
        start: Gva,
        len_bytes: u64,
    ) -> impl Iterator<Item = Extent<Gva, Gpa, R::Error>> + 'a {
        self.range(mem, start, len_bytes).extents()
    }

    /// Keys stand in bits 62:59 of every leaf and count only when CR4 turns them
    /// on for pages of this kind.
    fn pkey(&self, leaf: &Leaf<Gpa>) -> Option<u8> {
        let enable = if leaf.access.user { CR4_PKE } else { CR4_PKS };
        let [key, ..] = ((leaf.raw & bits(62, 59)) >> 59).to_le_bytes();
        (self.cr4 & enable != 0).then_some(key)
    }
}

impl Tables for GuestTables {
    type From = Gva;
    type To = Gpa;

    fn format(&self) -> &Format {
        &self.format
    }

    fn root(&self) -> Root {
        self.root
    }

    fn translated_to(&self, address: u64) -> Result<u64, Untranslated> {
        let translated_bits = self.root.top.shift() + 9;
        if !is_canonical(address, translated_bits) {
            return Err(Untranslated {
                address,
                translated_bits,
                is_virtual: true,
            });
        }
        // The half of the space that it lies in.
        Ok(address | (u64::MAX >> (65 - translated_bits)))
    }

    fn interpret(&self, leaf: Leaf<Gpa>) -> Translation<Gpa> {
        Translation {
            address: leaf.address,
            page_size: leaf.level,
            access: leaf.access,
            memory_type: MemoryType::selected(self.pat, leaf.level, leaf.raw),
            accessed: Some(leaf.raw & ACCESSED != 0),
            dirty: Some(leaf.raw & DIRTY != 0),
            global: self.cr4 & CR4_PGE != 0 && leaf.raw & GLOBAL != 0,
            pkey: self.pkey(&leaf),
            ept: None,
            steps: leaf.steps,
        }
    }
}

const fn is_canonical(address: u64, translated_bits: u32) -> bool {
    let upper = address >> (translated_bits - 1);
    upper == 0 || upper == u64::MAX >> (translated_bits - 1)
}
