//! Second-level tables, from guest physical to host physical addresses: EPT and
//! NPT.

use addr::{Gpa, Hpa, Level};

use crate::descend::{Leaf, Root, descend};
use crate::format::{
    ADDRESS_BITS, ByLevel, Format, Grant, Grants, PAGE_SIZE_BIT, beyond_physical, bits,
};
use crate::range::{Frames, RangeWalk, Tables, Untranslated};
use crate::x86::{ACCESSED, DIRTY, NO_EXECUTE, USER, WRITABLE, X86Limits, x86_format};
use crate::{EptLeaf, MemoryType, Spte, TableRead, Translation, UnsupportedMode, WalkError};

const EPT_READ: u64 = 1 << 0;
const EPT_WRITE: u64 = 1 << 1;
const EPT_EXEC: u64 = 1 << 2;
const EPT_IGNORE_PAT: u64 = 1 << 6;
const EPT_ACCESSED: u64 = 1 << 8;
const EPT_DIRTY: u64 = 1 << 9;
const EPT_USER_EXEC: u64 = 1 << 10;
const EPT_SUPPRESS_VE: u64 = 1 << 63;
const EPTP_ACCESSED_DIRTY: u64 = 1 << 6;

/// What shapes a walk of EPT tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EptRegs {
    /// EPT pointer, as in the VMCS; [`eptp`] makes one from a root.
    pub eptp: u64,
    /// Bits of the host's physical addresses: CPUID leaf 0x8000_0008, EAX bits 7:0.
    pub maxphyaddr: u8,
    /// Pages of 1 GiB exist: IA32_VMX_EPT_VPID_CAP bit 17.
    pub gib_pages: bool,
    /// Entries may grant fetches alone: IA32_VMX_EPT_VPID_CAP bit 0.
    pub execute_only: bool,
    /// Mode-based execute control is on: bit 10 of entries grants fetches in user
    /// mode, and bit 2 only those in supervisor mode.
    pub mode_based_exec: bool,
}

/// What shapes a walk of NPT tables; the registers are the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NptRegs {
    /// nCR3 of the VMCB: the root.
    pub ncr3: u64,
    /// The host runs with 5-level paging, and nested paging with it.
    pub five_levels: bool,
    /// IA32_PAT of the host.
    pub pat: u64,
    /// EFER.NXE of the host.
    pub nxe: bool,
    /// Bits of the host's physical addresses: CPUID leaf 0x8000_0008, EAX bits 7:0.
    pub maxphyaddr: u8,
    /// Pages of 1 GiB exist: CPUID leaf 0x8000_0001, EDX bit 26.
    pub gib_pages: bool,
    /// Position of the bit that marks encrypted memory, where that is enabled:
    /// CPUID leaf 0x8000_001F, EBX bits 5:0. It is no part of an address.
    pub encryption_bit: Option<u8>,
}

/// The EPT pointer for a root, with tables in write-back memory. `top` is
/// [`Level::Pgd`] for 5 levels; all else means 4.
pub const fn eptp(root: Hpa, top: Level, accessed_dirty: bool) -> u64 {
    let depth = match top {
        Level::Pgd => 4 << 3,
        _ => 3 << 3,
    };
    let recording = if accessed_dirty {
        EPTP_ACCESSED_DIRTY
    } else {
        0
    };
    root.raw() | recording | depth | 6
}

/// A page that an entry maps, whatever leads to the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// First byte of the page.
    pub address: Hpa,
    /// Level of the entry, which tells the page's size.
    pub level: Level,
    /// Whether the entry lets stores through.
    pub write: bool,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Ept { accessed_dirty: bool },
    Npt { host_pat: u64 },
}

/// The tables between a guest's physical addresses and the host's.
#[derive(Clone, Copy, Debug)]
pub struct SecondLevel {
    format: Format,
    root: Root,
    kind: Kind,
}

impl SecondLevel {
    /// Intel's extended page tables.
    ///
    /// # Errors
    /// [`UnsupportedMode`] when the pointer or the width of addresses cannot be
    /// those of a processor.
    pub fn ept(regs: &EptRegs) -> Result<Self, UnsupportedMode> {
        let eptp = regs.eptp;
        let beyond = beyond_physical(regs.maxphyaddr)?;
        let top = match (eptp >> 3) & 7 {
            3 => Level::P4d,
            4 => Level::Pgd,
            _ => return Err(UnsupportedMode::EptPointer { eptp }),
        };
        if !matches!(eptp & 7, 0 | 6) {
            return Err(UnsupportedMode::EptPointer { eptp });
        }
        // Bit 7 enables supervisor shadow-stack control, which translates nothing.
        let reserved = eptp & (beyond | bits(63, 52) | bits(11, 8));
        if reserved != 0 {
            return Err(UnsupportedMode::Root {
                raw: eptp,
                reserved,
            });
        }
        Ok(Self {
            format: ept_format(regs, beyond),
            root: Root {
                table: eptp & ADDRESS_BITS,
                top,
            },
            kind: Kind::Ept {
                accessed_dirty: eptp & EPTP_ACCESSED_DIRTY != 0,
            },
        })
    }

    /// AMD's nested page tables of a host in long mode.
    ///
    /// # Errors
    /// [`UnsupportedMode`] when the root or the width of addresses cannot be
    /// those of a processor.
    pub fn npt(regs: &NptRegs) -> Result<Self, UnsupportedMode> {
        let encryption = match regs.encryption_bit {
            Some(position @ 12..=51) => 1 << position,
            _ => 0,
        };
        let beyond = beyond_physical(regs.maxphyaddr)? & !encryption;
        let reserved = regs.ncr3 & (beyond | bits(63, 52));
        if reserved != 0 {
            return Err(UnsupportedMode::Root {
                raw: regs.ncr3,
                reserved,
            });
        }
        let limits = X86Limits {
            nxe: regs.nxe,
            gib_pages: regs.gib_pages,
            upper_bit_8_reserved: true,
        };
        let frame_mask = ADDRESS_BITS & !encryption;
        Ok(Self {
            format: x86_format(limits, frame_mask, beyond, NPT_GRANTS),
            root: Root {
                table: regs.ncr3 & frame_mask,
                top: if regs.five_levels {
                    Level::Pgd
                } else {
                    Level::P4d
                },
            },
            kind: Kind::Npt { host_pat: regs.pat },
        })
    }

    /// Translates `gpa` as the processor would for an access of the guest.
    ///
    /// # Errors
    /// [`WalkError`], with every entry read until then.
    pub fn walk<R: TableRead<Addr = Hpa>>(
        &self,
        mem: &R,
        gpa: Gpa,
    ) -> Result<Translation<Hpa>, WalkError<Hpa, R::Error>> {
        self.translated_to(gpa.raw()).map_err(Untranslated::error)?;
        descend(mem, &self.format, self.root, gpa.raw()).map(|leaf| self.interpret(leaf))
    }

    /// Walks the range from `start` for `len_bytes`, cut off at the end of the
    /// address space: its pages, its holes and its errors, without a gap. The frames of
    /// a run lie anywhere.
    pub fn range<'a, R: TableRead<Addr = Hpa>>(
        &'a self,
        mem: &'a R,
        start: Gpa,
        len_bytes: u64,
    ) -> RangeWalk<'a, Self, R> {
        RangeWalk::new(self, mem, start, len_bytes, Frames::Scattered)
    }

    /// What KVM means by an entry of these tables.
    pub const fn spte(&self, raw: u64) -> Spte {
        match self.kind {
            Kind::Ept { .. } => Spte::of_ept(raw),
            Kind::Npt { .. } => Spte::of_npt(raw),
        }
    }

    /// What an entry maps by itself, as KVM left it in a table of this level: `None`
    /// for one that names a table, or that KVM does not count as present.
    ///
    /// Entries whose accesses KVM took away to notice the next one still map.
    pub const fn maps(&self, level: Level, raw: u64) -> Option<Mapped> {
        let present = matches!(self.spte(raw), Spte::Present | Spte::AccessTracked);
        if !present || !self.format.is_leaf(level, raw) {
            return None;
        }
        let frame = raw & self.format.frame_mask & !(level.bytes() - 1);
        let translates = self.format.is_present(raw);
        Some(Mapped {
            address: Hpa::new(frame),
            level,
            write: translates && self.format.grants.write.by(raw),
        })
    }
}

impl Tables for SecondLevel {
    type From = Gpa;
    type To = Hpa;

    fn format(&self) -> &Format {
        &self.format
    }

    fn root(&self) -> Root {
        self.root
    }

    fn translated_to(&self, address: u64) -> Result<u64, Untranslated> {
        let translated_bits = self.root.top.shift() + 9;
        let last = u64::MAX >> (64 - translated_bits);
        if address > last {
            return Err(Untranslated {
                address,
                translated_bits,
                is_virtual: false,
            });
        }
        Ok(last)
    }

    fn interpret(&self, leaf: Leaf<Hpa>) -> Translation<Hpa> {
        let (memory_type, accessed, dirty, ept) = match self.kind {
            Kind::Ept { accessed_dirty } => (
                MemoryType::of_leaf_bits(leaf.raw),
                accessed_dirty.then_some(leaf.raw & EPT_ACCESSED != 0),
                accessed_dirty.then_some(leaf.raw & EPT_DIRTY != 0),
                Some(EptLeaf {
                    ignore_pat: leaf.raw & EPT_IGNORE_PAT != 0,
                    suppress_ve: leaf.raw & EPT_SUPPRESS_VE != 0,
                }),
            ),
            Kind::Npt { host_pat } => (
                MemoryType::selected(host_pat, leaf.level, leaf.raw),
                Some(leaf.raw & ACCESSED != 0),
                Some(leaf.raw & DIRTY != 0),
                None,
            ),
        };
        Translation {
            address: leaf.address,
            page_size: leaf.level,
            access: leaf.access,
            memory_type,
            accessed,
            dirty,
            global: false,
            pkey: None,
            ept,
            steps: leaf.steps,
        }
    }
}

/// A nested walk is a user-mode access of the host, whatever the guest does
/// (APM volume 2, "Nested Table Walk"): without U/S an entry grants nothing.
const NPT_GRANTS: Grants = Grants {
    read: Grant::if_set(USER),
    write: Grant::if_set(USER | WRITABLE),
    user: Grant::if_set(USER),
    exec: Grant {
        set: USER,
        clear: NO_EXECUTE,
    },
};

/// SDM volume 3C, tables "Format of an EPT PML4 Entry ..." to "Format of an EPT
/// Page-Table Entry that Maps a 4-KByte Page", and "EPT Misconfigurations".
fn ept_format(regs: &EptRegs, beyond: u64) -> Format {
    let user_exec = if regs.mode_based_exec {
        EPT_USER_EXEC
    } else {
        0
    };
    let no_gib_pages = if regs.gib_pages { 0 } else { PAGE_SIZE_BIT };
    let write_without_read = 1 << 0b010 | 1 << 0b110;
    let exec_alone = if regs.execute_only { 0 } else { 1 << 0b100 };
    let upper = beyond | bits(7, 3);
    let lower = beyond | bits(6, 3);
    Format {
        present: EPT_READ | EPT_WRITE | EPT_EXEC | user_exec,
        frame_mask: ADDRESS_BITS,
        table_reserved: ByLevel([0, lower, lower, upper, upper]),
        leaf_reserved: ByLevel([
            beyond,
            beyond | bits(20, 12),
            beyond | bits(29, 12) | no_gib_pages,
            0,
            0,
        ]),
        forbidden_low_bits: write_without_read | exec_alone,
        also_bit_2: user_exec,
        forbidden_leaf_types: 1 << 2 | 1 << 3 | 1 << 7,
        grants: Grants {
            read: Grant::if_set(EPT_READ),
            write: Grant::if_set(EPT_WRITE),
            user: Grant::ALWAYS,
            exec: Grant::if_set(EPT_EXEC | user_exec),
        },
    }
}
