//! Where the members of the kernel's structures lie, by the kernel's own BTF.

use btf_rs::{Backend, Btf, BtfType, Member, Type};

use crate::error::Error;
use crate::memory::{HostMemory, ReadError};

const KERNEL: &str = "/sys/kernel/btf/vmlinux";
const KVM: &str = "/sys/kernel/btf/kvm";
/// Deeper than anonymous structures and chains of qualifiers nest in any kernel.
const MOST_NESTED: usize = 16;

/// A member of a structure: at most a word of 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    /// Byte offset within the structure.
    pub offset: u64,
    shift: u32,
    width_bits: u32,
}

impl Field {
    /// A whole word.
    pub(crate) const fn word(offset: u64) -> Self {
        Self {
            offset,
            shift: 0,
            width_bits: 64,
        }
    }

    fn new(bit_offset: u64, width_bits: u32) -> Option<Self> {
        let shift = u32::try_from(bit_offset % 8).ok()?;
        (width_bits >= 1 && shift + width_bits <= 64).then_some(Self {
            offset: bit_offset / 8,
            shift,
            width_bits,
        })
    }

    /// Reads it out of the structure at `base`.
    pub(crate) fn read<M: HostMemory>(self, memory: &M, base: u64) -> Result<u64, ReadError> {
        let mut word = [0; 8];
        let len_bytes = usize::try_from((self.shift + self.width_bits).div_ceil(8)).unwrap_or(8);
        let bytes = word.get_mut(..len_bytes).unwrap_or_default();
        memory.read(base.wrapping_add(self.offset), bytes)?;
        let value = u64::from_le_bytes(word) >> self.shift;
        Ok(value & (u64::MAX >> (64 - self.width_bits)))
    }
}

/// KVM's list of TDP roots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Roots {
    /// `kvm.arch.tdp_mmu_roots`
    pub head: Field,
    /// `kvm_mmu_page.link`
    pub link: Field,
    /// `kvm_mmu_page.spt`
    pub table: Field,
    /// `kvm_mmu_page.role.invalid`
    pub invalid: Field,
}

/// The members that are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// `task_struct.tasks`
    pub task_node: Field,
    /// `task_struct.tasks.prev`
    pub task_prev: Field,
    pub task_tgid: Field,
    pub task_files: Field,
    pub task_mm: Field,
    pub files_table: Field,
    pub table_length: Field,
    pub table_array: Field,
    pub file_operations: Field,
    pub file_private: Field,
    pub vcpu_kvm: Field,
    /// `kvm_vcpu.arch.mmu`
    pub vcpu_mmu: Field,
    pub kvm_mm: Field,
    /// `kvm.memslots[0]`, those of the address space that guests use outside of SMM.
    pub kvm_memslots: Field,
    /// `kvm_memslots.generation`
    pub memslots_generation: Field,
    /// `kvm_mmu.root.hpa`, once `root_hpa`
    pub mmu_root: Field,
    /// `kvm_mmu.root_role.level`
    pub mmu_level: Field,
    /// `kvm_mmu.root_role.direct`
    pub mmu_direct: Field,
    /// `list_head.next`
    pub list_next: Field,
    /// Absent in kernels before the TDP MMU.
    pub roots: Option<Roots>,
}

impl Layout {
    pub(crate) fn read() -> Result<Self, Error> {
        let failed = |path| move |source| Error::Btf { path, source };
        // A few dozen look-ups do not pay for parsing all types.
        let kernel = Btf::from_file_with_backend(KERNEL, Backend::Cache).map_err(failed(KERNEL))?;
        // Built into the kernel, KVM has no file of its own.
        let kvm = std::path::Path::new(KVM)
            .exists()
            .then(|| Btf::from_split_file(KVM, &kernel))
            .transpose()
            .map_err(failed(KVM))?;
        Self::of(&Types(kvm.as_ref().unwrap_or(&kernel)))
    }

    fn of(types: &Types<'_>) -> Result<Self, Error> {
        Ok(Self {
            task_node: types.field("task_struct", &["tasks", "next"])?,
            task_prev: types.field("task_struct", &["tasks", "prev"])?,
            task_tgid: types.field("task_struct", &["tgid"])?,
            task_files: types.field("task_struct", &["files"])?,
            task_mm: types.field("task_struct", &["mm"])?,
            files_table: types.field("files_struct", &["fdt"])?,
            table_length: types.field("fdtable", &["max_fds"])?,
            table_array: types.field("fdtable", &["fd"])?,
            file_operations: types.field("file", &["f_op"])?,
            file_private: types.field("file", &["private_data"])?,
            vcpu_kvm: types.field("kvm_vcpu", &["kvm"])?,
            vcpu_mmu: types.field("kvm_vcpu", &["arch", "mmu"])?,
            kvm_mm: types.field("kvm", &["mm"])?,
            kvm_memslots: types.field("kvm", &["memslots"])?,
            memslots_generation: types.field("kvm_memslots", &["generation"])?,
            mmu_root: types
                .field("kvm_mmu", &["root", "hpa"])
                .or_else(|_| types.field("kvm_mmu", &["root_hpa"]))?,
            mmu_level: types.field("kvm_mmu", &["root_role", "level"])?,
            mmu_direct: types.field("kvm_mmu", &["root_role", "direct"])?,
            list_next: types.field("list_head", &["next"])?,
            roots: match types.field("kvm", &["arch", "tdp_mmu_roots", "next"]) {
                Ok(head) => Some(Roots {
                    head,
                    link: types.field("kvm_mmu_page", &["link", "next"])?,
                    table: types.field("kvm_mmu_page", &["spt"])?,
                    invalid: types.field("kvm_mmu_page", &["role", "invalid"])?,
                }),
                Err(_) => None,
            },
        })
    }
}

/// A member with its place, in bits from the start of the outermost structure.
struct Place {
    bit_offset: u64,
    /// Of a bit field.
    width_bits: Option<u32>,
    kind: Type,
}

struct Types<'b>(&'b Btf);

impl Types<'_> {
    /// The member that `path` leads to from a structure of this name; of an array, its
    /// first element.
    fn field(&self, structure: &'static str, path: &[&str]) -> Result<Field, Error> {
        self.candidates(structure)
            .iter()
            .find_map(|members| self.resolve(members, path))
            .ok_or_else(|| Error::Member {
                structure,
                member: path.join("."),
            })
    }

    /// Structures of this name; there can be several, above all with modules.
    fn candidates(&self, structure: &str) -> Vec<Vec<Member>> {
        let found = self.0.resolve_types_by_name(structure).unwrap_or_default();
        found
            .into_iter()
            .filter_map(|found| match found {
                Type::Struct(it) if !it.members.is_empty() => Some(it.members),
                _ => None,
            })
            .collect()
    }

    fn resolve(&self, members: &[Member], path: &[&str]) -> Option<Field> {
        let (first, rest) = path.split_first()?;
        let mut place = self.member(members, first, MOST_NESTED)?;
        for name in rest {
            let (Type::Struct(inner) | Type::Union(inner)) = &place.kind else {
                return None;
            };
            let below = self.member(&inner.members, name, MOST_NESTED)?;
            place = Place {
                bit_offset: place.bit_offset.checked_add(below.bit_offset)?,
                ..below
            };
        }
        if let Type::Array(array) = &place.kind {
            place.kind = self.plain(array)?;
        }
        let width_bits = match (place.width_bits, &place.kind) {
            (Some(width), _) => width,
            (None, Type::Ptr(_)) => 64,
            (None, Type::Int(int)) => u32::try_from(int.size()).ok()?.checked_mul(8)?,
            _ => return None,
        };
        Field::new(place.bit_offset, width_bits)
    }

    /// A member by its name, also within members that have none.
    fn member(&self, members: &[Member], wanted: &str, nesting: usize) -> Option<Place> {
        let deeper = nesting.checked_sub(1)?;
        members.iter().find_map(|member| {
            let bit_offset = u64::from(member.bit_offset());
            let name = self.0.resolve_name(member).unwrap_or_default();
            if name == wanted {
                return Some(Place {
                    bit_offset,
                    width_bits: member.bitfield_size().filter(|width| *width > 0),
                    kind: self.plain(member)?,
                });
            }
            if !name.is_empty() {
                return None;
            }
            let (Type::Struct(inner) | Type::Union(inner)) = self.plain(member)? else {
                return None;
            };
            let below = self.member(&inner.members, wanted, deeper)?;
            Some(Place {
                bit_offset: bit_offset.checked_add(below.bit_offset)?,
                ..below
            })
        })
    }

    /// The type of a member or an element without typedefs and qualifiers.
    fn plain(&self, of: &dyn BtfType) -> Option<Type> {
        let mut kind = self.0.resolve_chained_type(of).ok()?;
        for _ in 0..MOST_NESTED {
            let chained: &dyn BtfType = match &kind {
                Type::Typedef(it) => it,
                Type::Const(it) | Type::Volatile(it) | Type::Restrict(it) => it,
                Type::TypeTag(it) => it,
                _ => return Some(kind),
            };
            kind = self.0.resolve_chained_type(chained).ok()?;
        }
        None
    }
}
