//! What is known of a kernel before it runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use btf::{Array, Btf, Field, Types};

use crate::error::FactsError;

/// Variables whose addresses are needed.
const SYMBOLS: [&str; 5] = [
    "init_task",
    "modules",
    "page_offset_base",
    "vmalloc_base",
    "vmemmap_base",
];
/// Before each flag of `guest-images/types/types.c`.
const VM_FLAG_PREFIX: &str = "mapwitness_VM_";
/// Before each flag of the kernel's own `enum pageflags`.
const PAGE_FLAG_PREFIX: &str = "PG_";

/// Where a kernel's structures and variables lie: its types in BTF and its System.map,
/// both made when it was built.
#[derive(Clone, Debug)]
pub struct KernelFacts {
    pub(crate) layout: Layout,
    pub(crate) symbols: Symbols,
    /// Bits of `vm_area_struct.vm_flags`, by name, without `VM_`.
    pub(crate) vm_flags: Arc<[(String, u64)]>,
    /// Bit numbers of `page.flags`, by name, without `PG_`.
    pub(crate) page_flags: Arc<[(String, u64)]>,
}

impl KernelFacts {
    /// Reads the files `types` and `system_map` of a guest image.
    ///
    /// # Errors
    /// [`FactsError`], with the file or the member that is missing.
    pub fn read(types: &Path, system_map: &Path) -> Result<Self, FactsError> {
        let file = |path: &Path| {
            let path = path.to_owned();
            |source| FactsError::File { path, source }
        };
        let bytes = fs::read(types).map_err(file(types))?;
        let map = fs::read_to_string(system_map).map_err(file(system_map))?;
        let symbols = Symbols::from_text(&map).map_err(|symbol| FactsError::NoSymbol {
            path: system_map.to_owned(),
            symbol,
        })?;
        let btf = Btf::from_bytes(&bytes).map_err(|source| FactsError::Types {
            path: types.to_owned(),
            source,
        })?;
        Self::of(&btf, symbols)
    }

    pub(crate) fn of(btf: &Btf, symbols: Symbols) -> Result<Self, FactsError> {
        let types = Types::new(btf);
        Ok(Self {
            layout: Layout::of(types)?,
            symbols,
            vm_flags: named(types.enumerators("mapwitness_vm_flag")?, VM_FLAG_PREFIX),
            page_flags: named(types.enumerators("pageflags")?, PAGE_FLAG_PREFIX),
        })
    }

    /// Whether it is known which bit of `vm_flags` this flag is, named without `VM_`.
    pub fn has_vm_flag(&self, name: &str) -> bool {
        self.vm_flags.iter().any(|(known, _)| known == name)
    }
}

fn named(all: Vec<(String, u64)>, prefix: &str) -> Arc<[(String, u64)]> {
    let strip = |(name, value): (String, u64)| Some((name.strip_prefix(prefix)?.to_owned(), value));
    all.into_iter().filter_map(strip).collect()
}

/// Addresses of the kernel's variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Symbols {
    pub init_task: u64,
    pub modules: u64,
    pub page_offset_base: u64,
    pub vmalloc_base: u64,
    pub vmemmap_base: u64,
}

impl Symbols {
    /// From lines of `address type name`.
    ///
    /// # Errors
    /// The first name that is missing.
    pub(crate) fn from_text(text: &str) -> Result<Self, &'static str> {
        let mut found = BTreeMap::new();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(address), Some(_), Some(name)) = (words.next(), words.next(), words.next())
            else {
                continue;
            };
            if let (true, Ok(address)) = (SYMBOLS.contains(&name), u64::from_str_radix(address, 16))
            {
                found.insert(name, address);
            }
        }
        let take = |name: &'static str| found.get(name).copied().ok_or(name);
        Ok(Self {
            init_task: take("init_task")?,
            modules: take("modules")?,
            page_offset_base: take("page_offset_base")?,
            vmalloc_base: take("vmalloc_base")?,
            vmemmap_base: take("vmemmap_base")?,
        })
    }
}

/// The members that are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub task: TaskLayout,
    pub mm: MmLayout,
    pub vma: VmaLayout,
    pub page: PageLayout,
    pub maple: MapleLayout,
    pub module: ModuleLayout,
}

/// Of `task_struct`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaskLayout {
    /// `tasks.next`
    pub next: Field,
    pub tgid: Field,
    pub mm: Field,
    pub comm: Array,
}

/// Of `mm_struct`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MmLayout {
    pub pgd: Field,
    pub map_count: Field,
    /// `mm_mt.ma_root`
    pub maple_root: Field,
}

/// Of `vm_area_struct`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VmaLayout {
    pub start: Field,
    pub end: Field,
    pub mm: Field,
    /// `vm_page_prot.pgprot`
    pub page_prot: Field,
    pub flags: Field,
    pub pgoff: Field,
    pub file: Field,
    pub ops: Field,
    pub private_data: Field,
}

/// Of `page`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageLayout {
    pub size: u64,
    pub flags: Field,
    /// `_refcount.counter`
    pub refcount: Field,
    /// `_mapcount.counter`
    pub mapcount: Field,
    pub compound: Field,
    pub mapping: Field,
}

/// Of the nodes of a maple tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MapleLayout {
    pub range_pivots: Array,
    pub range_slots: Array,
    pub arange_pivots: Array,
    pub arange_slots: Array,
    pub leaf_64: u64,
    pub range_64: u64,
    pub arange_64: u64,
}

impl Layout {
    fn of(types: Types<'_>) -> Result<Self, FactsError> {
        let field = |structure, path: &[&str]| types.field(structure, path);
        Ok(Self {
            task: TaskLayout {
                next: field("task_struct", &["tasks", "next"])?,
                tgid: field("task_struct", &["tgid"])?,
                mm: field("task_struct", &["mm"])?,
                comm: types.array("task_struct", &["comm"])?,
            },
            mm: MmLayout {
                pgd: field("mm_struct", &["pgd"])?,
                map_count: field("mm_struct", &["map_count"])?,
                maple_root: field("mm_struct", &["mm_mt", "ma_root"])?,
            },
            vma: VmaLayout {
                start: field("vm_area_struct", &["vm_start"])?,
                end: field("vm_area_struct", &["vm_end"])?,
                mm: field("vm_area_struct", &["vm_mm"])?,
                page_prot: field("vm_area_struct", &["vm_page_prot", "pgprot"])?,
                flags: field("vm_area_struct", &["vm_flags"])?,
                pgoff: field("vm_area_struct", &["vm_pgoff"])?,
                file: field("vm_area_struct", &["vm_file"])?,
                ops: field("vm_area_struct", &["vm_ops"])?,
                private_data: field("vm_area_struct", &["vm_private_data"])?,
            },
            page: PageLayout::of(types)?,
            maple: MapleLayout::of(types)?,
            module: ModuleLayout::of(types)?,
        })
    }
}

/// Of `module`: places of words and, at `name`, of letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ModuleLayout {
    /// `list.next`
    pub next: Field,
    pub name: u64,
    /// `mem[MOD_TEXT].base`
    pub text_base: Field,
    /// `mem[MOD_TEXT].size`, half a word.
    pub text_size: Field,
    /// `refcnt`, half a word.
    pub refcnt: Field,
}

impl ModuleLayout {
    fn of(types: Types<'_>) -> Result<Self, FactsError> {
        const PLACES: &str = "mapwitness_module";
        let places = types.enumerators(PLACES)?;
        let place = |member: &str| {
            let wanted = format!("{PLACES}_{member}");
            let found = places.iter().find(|(known, _)| *known == wanted);
            found.map(|(_, place)| *place).ok_or_else(|| btf::NoMember {
                structure: "module",
                member: member.to_owned(),
            })
        };
        Ok(Self {
            next: Field::word(place("next")?),
            name: place("name")?,
            text_base: Field::word(place("text_base")?),
            text_size: Field::word(place("text_size")?),
            refcnt: Field::word(place("refcnt")?),
        })
    }
}

impl PageLayout {
    fn of(types: Types<'_>) -> Result<Self, FactsError> {
        Ok(Self {
            size: types.size_of("page")?,
            // Once a plain number, now wrapped in a type of its own.
            flags: types
                .field("page", &["flags", "f"])
                .or_else(|_| types.field("page", &["flags"]))?,
            refcount: types.field("page", &["_refcount", "counter"])?,
            mapcount: types.field("page", &["_mapcount", "counter"])?,
            compound: types
                .field("page", &["compound_info"])
                .or_else(|_| types.field("page", &["compound_head"]))?,
            mapping: types.field("page", &["mapping"])?,
        })
    }
}

impl MapleLayout {
    fn of(types: Types<'_>) -> Result<Self, FactsError> {
        let kinds = types.enumerators("maple_type")?;
        let kind = |name: &str| {
            let found = kinds.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| *value).ok_or_else(|| btf::NoMember {
                structure: "maple_type",
                member: name.to_owned(),
            })
        };
        Ok(Self {
            range_pivots: types.array("maple_range_64", &["pivot"])?,
            range_slots: types.array("maple_range_64", &["slot"])?,
            arange_pivots: types.array("maple_arange_64", &["pivot"])?,
            arange_slots: types.array("maple_arange_64", &["slot"])?,
            leaf_64: kind("maple_leaf_64")?,
            range_64: kind("maple_range_64")?,
            arange_64: kind("maple_arange_64")?,
        })
    }
}
