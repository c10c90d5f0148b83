//! Guest tables in memory, and a page with all the evidence for it.

use addr::{Gpa, Gva, Hpa, Hva, Level, PAGE_SIZE, Pfn};
use monitor::{Buffer, MemSlot, SlotUse};
use second_level::ReadError;
use walk::{
    EptRegs, GuestTables, MemoryType, NptRegs, PagingRegs, SecondLevel, TableRead, Vendor, eptp,
};

use super::super::{PageVerdict, Unwitnessed, judge_page};
use crate::contract::{Access, DevicePage, Expected, Plan, WindowPlan};
use crate::evidence::PageEvidence;
use crate::guest_walk::{NoMemory, Walked};
use crate::host_frame::FrameError;
use crate::memslot::{self, Hit};
use crate::second_level::{BroughtIn, Entry};
use crate::stamp::{IDENTITY, LAST, Loaded, Seen, Stamps};

pub const PRESENT: u64 = 1 << 0;
pub const WRITE: u64 = 1 << 1;
pub const USER: u64 = 1 << 2;
pub const PWT: u64 = 1 << 3;
pub const PCD: u64 = 1 << 4;
pub const ACCESSED: u64 = 1 << 5;
pub const DIRTY: u64 = 1 << 6;
/// PAT in a 4 KiB leaf, PS above.
pub const BIT_7: u64 = 1 << 7;
pub const GLOBAL: u64 = 1 << 8;
pub const NO_EXECUTE: u64 = 1 << 63;

/// What Linux sets in an entry that names a table of user space.
pub const TABLE: u64 = PRESENT | WRITE | USER | ACCESSED | DIRTY;
/// What Linux sets in an entry for a device page, UC-, that may be stored to.
pub const LEAF: u64 = TABLE | PCD | NO_EXECUTE;

/// Tables of level 4 to 1, neither in order nor next to each other.
pub const TABLES: [u64; 4] = [0x1000, 0x5000, 0x3000, 0x9000];
/// First byte that is no RAM.
pub const RAM_END: u64 = 0x100_0000;
/// IA32_PAT as Linux programs it: WB WC UC- UC, WB WP UC- WT.
pub const PAT: u64 = 0x0407_0506_0007_0106;
/// Index 0xfe, 0x48, 0x1a2 and 0x7a from the top: none is that of a device page.
pub const GVA: u64 = 0x7f12_3447_a000;
/// Pages of this VM's host begin here, each at a frame of its own.
const SLOT_HVA: u64 = 0x7e00_0000_0000;

/// Window 0 `a` of one page, 1 `b` of 13, 2 `big` of 2 MiB, 3 `ro` of 3 for loads
/// only; buffer 0 `ring` of two pages and one that the device was told nothing of.
pub fn plan() -> Plan {
    let window = |name: &str, base, npages, read_only| WindowPlan {
        name: name.into(),
        base: Gpa::new(base),
        npages,
        read_only,
    };
    Plan {
        windows: vec![
            window("a", 0xd100_0000, 1, false),
            window("b", 0xd100_2000, 13, false),
            window("big", 0xd120_0000, 512, false),
            window("ro", 0xd140_1000, 3, true),
        ],
        buffers: vec![Buffer {
            name: "ring".into(),
            pages: vec![Some(Gpa::new(0x46_5000)), Some(Gpa::new(0x12_3000)), None],
        }],
    }
}

/// The slots of that plan, after one of RAM.
pub fn slots() -> Vec<MemSlot> {
    let ram = MemSlot {
        id: 0,
        used_for: SlotUse::Ram,
        base: Gpa::new(0),
        len_bytes: RAM_END,
        hva: Hva::new(0x7d00_0000_0000),
        read_only: false,
    };
    let window = |(index, window): (usize, WindowPlan)| MemSlot {
        id: u32::try_from(index).expect("few") + 1,
        used_for: SlotUse::Window(index),
        base: window.base,
        len_bytes: window.npages * PAGE_SIZE,
        hva: Hva::new(SLOT_HVA + window.base.raw()),
        read_only: window.read_only,
    };
    let windows = plan().windows.into_iter().enumerate().map(window);
    [ram].into_iter().chain(windows).collect()
}

/// Tables with one path.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    pub gva: u64,
    /// The entries on the way to `gva`, from the root down.
    pub path: [u64; 4],
}

impl Tables {
    /// Tables that lead `gva` to `gpa` by a leaf of `level`.
    pub fn mapping(gva: u64, gpa: u64, level: Level, flags: u64) -> Self {
        let [_, pud, pmd, pte] = TABLES;
        let mut path = [pud | TABLE, pmd | TABLE, pte | TABLE, 0];
        let large = if level == Level::Pte { 0 } else { BIT_7 };
        let leaf = gpa & !(level.bytes() - 1);
        path[4 - usize::from(level.number())] = leaf | large | flags;
        Self { gva, path }
    }

    pub fn walk(&self) -> Walked {
        let regs = PagingRegs {
            cr0: 0x8000_0001,
            cr3: TABLES[0],
            cr4: 0x40_00a0,
            efer: 0xd00,
            pat: PAT,
            maxphyaddr: 46,
            gib_pages: true,
            vendor: Vendor::Intel,
        };
        let tables = GuestTables::new(&regs).expect("long mode");
        tables.walk(self, Gva::new(self.gva))
    }
}

impl TableRead for Tables {
    type Addr = Gpa;
    type Error = NoMemory;

    fn read_entry(&self, at: Gpa) -> Result<u64, NoMemory> {
        if at.raw() >= RAM_END {
            return Err(NoMemory(at));
        }
        let levels = [Level::P4d, Level::Pud, Level::Pmd, Level::Pte];
        let place = |(table, level): (u64, Level)| table + level.index(self.gva) * 8;
        let on_path = TABLES.into_iter().zip(levels).map(place);
        let found = on_path.zip(self.path).find(|(place, _)| *place == at.raw());
        Ok(found.map_or(0, |(_, entry)| entry))
    }
}

/// The nested path to one page, as KVM fills it.
#[derive(Clone, Copy, Debug)]
pub struct Nested {
    pub gpa: u64,
    /// The entries on the way to `gpa`, from the root down.
    pub path: [u64; 4],
}

impl Nested {
    /// Leads `gpa` to a frame; stores are taken where `write`.
    pub fn mapping(gpa: u64, frame: Pfn, write: bool) -> Self {
        let [_, pud, pmd, pte] = TABLES;
        let leaf = frame.raw() << 12 | if write { TABLE } else { TABLE & !WRITE };
        Self {
            gpa,
            path: [pud | TABLE, pmd | TABLE, pte | TABLE, leaf],
        }
    }

    /// As [`Nested::mapping`], in EPT.
    pub fn mapping_of_ept(gpa: u64, frame: Pfn, write: bool) -> Self {
        const RWX: u64 = 0b111;
        const WRITE_BACK: u64 = 6 << 3;
        let [_, pud, pmd, pte] = TABLES;
        let rights = if write { RWX } else { RWX & !0b010 };
        Self {
            gpa,
            path: [
                pud | RWX,
                pmd | RWX,
                pte | RWX,
                frame.raw() << 12 | WRITE_BACK | rights,
            ],
        }
    }

    /// What EPT has, on a processor that does or does not record accesses.
    pub fn entry_of_ept(&self, accessed_dirty: bool) -> Entry {
        let tables = SecondLevel::ept(&EptRegs {
            eptp: eptp(Hpa::new(TABLES[0]), Level::P4d, accessed_dirty),
            maxphyaddr: 46,
            gib_pages: true,
            execute_only: true,
            mode_based_exec: false,
        });
        self.through(&tables.expect("a root"))
    }

    /// What NPT has.
    pub fn entry(&self) -> Entry {
        let regs = NptRegs {
            ncr3: TABLES[0],
            five_levels: false,
            pat: PAT,
            nxe: true,
            maxphyaddr: 46,
            gib_pages: true,
            encryption_bit: None,
        };
        self.through(&SecondLevel::npt(&regs).expect("a root"))
    }

    /// As a walk of any format reads it.
    pub fn through(&self, tables: &SecondLevel) -> Entry {
        let walked = tables.walk(self, Gpa::new(self.gpa));
        let raw = match &walked {
            Ok(found) => found.steps.last().map(|step| step.raw),
            Err(error) => error.raw(),
        };
        Entry {
            means: raw.map(|raw| tables.spte(raw)),
            walked,
            brought_in: BroughtIn::Already,
        }
    }
}

impl TableRead for Nested {
    type Addr = Hpa;
    type Error = ReadError;

    fn read_entry(&self, at: Hpa) -> Result<u64, ReadError> {
        if at.raw() >= RAM_END {
            return Err(ReadError::NotMapped(at));
        }
        let levels = [Level::P4d, Level::Pud, Level::Pmd, Level::Pte];
        let place = |(table, level): (u64, Level)| table + level.index(self.gpa) * 8;
        let on_path = TABLES.into_iter().zip(levels).map(place);
        let found = on_path.zip(self.path).find(|(place, _)| *place == at.raw());
        Ok(found.map_or(0, |(_, entry)| entry))
    }
}

/// A contract for one page and the evidence to hold against it.
#[derive(Debug)]
pub struct Case {
    pub expected: Expected,
    pub tables: Tables,
    pub slot: Option<Hit>,
    pub slot_frame: Option<Result<Pfn, FrameError>>,
    pub device_frame: Option<Result<Pfn, FrameError>>,
    pub second_level: Option<Result<Entry, String>>,
    pub seen: Option<Seen>,
    /// CR0.CD is clear.
    pub caches: bool,
    pub notes_stores: bool,
}

pub const STAMPS: Stamps = Stamps::new(7);
/// Number of the page in its mapping.
pub const PAGE: u64 = 77;

/// What a load from `page` yields.
pub fn loaded(page: DevicePage) -> Loaded {
    Loaded {
        identity: STAMPS.word(page, IDENTITY),
        last: STAMPS.word(page, LAST),
    }
}

impl Case {
    /// A device page that is mapped as its contract says, by a leaf of `level`.
    pub fn right(page: DevicePage, access: Access, level: Level) -> Self {
        let gpa = plan().gpa(page).expect("a page of the device");
        let in_leaf = level.bytes() - 1;
        let gva = GVA & !in_leaf | gpa.raw() & in_leaf;
        let flags = if access.write { LEAF } else { LEAF & !WRITE };
        let frame = Pfn::new(0x8_0000 + page.page * 7);
        Self {
            expected: Expected::Present {
                page,
                access,
                memory_type: MemoryType::UncachedMinus,
            },
            tables: Tables::mapping(gva, gpa.raw(), level, flags),
            slot: memslot::find(&slots(), gpa),
            slot_frame: Some(Ok(frame)),
            device_frame: Some(Ok(frame)),
            second_level: Some(Ok(Nested::mapping(
                gpa.raw(),
                frame,
                !plan().windows[page.window].read_only,
            )
            .entry())),
            seen: Some(Seen {
                loaded: Ok(loaded(page)),
                stored: access.write.then(|| Ok(vec![page])),
            }),
            caches: true,
            notes_stores: false,
        }
    }

    /// A page of a buffer that is mapped as its contract says, for loads and stores.
    pub fn of_buffer(page: DevicePage) -> Self {
        let gpa = plan().gpa(page).expect("a page of a buffer");
        let frame = Pfn::new(0x9_0000 + page.page * 5);
        Self {
            notes_stores: false,
            expected: Expected::Present {
                page,
                access: Access::READ_WRITE,
                memory_type: MemoryType::WriteBack,
            },
            tables: Tables::mapping(GVA, gpa.raw(), Level::Pte, LEAF & !PCD),
            slot: memslot::find(&slots(), gpa),
            slot_frame: Some(Ok(frame)),
            device_frame: Some(Ok(frame)),
            second_level: Some(Ok(Nested::mapping(gpa.raw(), frame, true).entry())),
            seen: Some(Seen {
                loaded: Ok(loaded(page)),
                stored: Some(Ok(vec![page])),
            }),
            caches: true,
        }
    }

    /// Nothing is mapped, nothing is to be, and nobody tried.
    pub fn absent() -> Self {
        Self {
            expected: Expected::Absent,
            tables: Tables {
                gva: GVA,
                path: [0; 4],
            },
            slot: None,
            slot_frame: None,
            device_frame: None,
            second_level: None,
            seen: None,
            caches: true,
            notes_stores: false,
        }
    }

    pub fn evidence(self) -> (Expected, PageEvidence) {
        let evidence = PageEvidence {
            gva: Gva::new(self.tables.gva),
            walked: self.tables.walk(),
            slot: self.slot,
            slot_frame: self.slot_frame,
            device_frame: self.device_frame,
            second_level: self.second_level,
            caches: self.caches,
            notes_stores: self.notes_stores,
            seen: self.seen,
        };
        (self.expected, evidence)
    }

    pub fn judge(self) -> (PageVerdict, Unwitnessed) {
        let (expected, evidence) = self.evidence();
        judge_page(&plan(), &STAMPS, PAGE, &expected, &evidence)
    }
}
