//! Finding members by their names.

use btf_rs::{Btf, BtfType, Member, Type};

use crate::field::{Array, Field};

/// Deeper than anonymous structures and chains of qualifiers nest in any kernel.
const MOST_NESTED: usize = 16;

/// A type that has another shape than in any kernel known here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this kernel's {structure} has no {member}: its layout is not known to this version, which \
     needs to be taught it"
)]
pub struct NoMember {
    /// The structure.
    pub structure: &'static str,
    /// The member, or what was to be known of the structure itself.
    pub member: String,
}

/// A member with its place, in bits from the start of the outermost structure.
struct Place {
    bit_offset: u64,
    /// Of a bit field.
    width_bits: Option<u32>,
    kind: Type,
}

/// The types that a kernel describes.
#[derive(Clone, Copy)]
pub struct Types<'b>(&'b Btf);

impl<'b> Types<'b> {
    /// Those of this BTF.
    pub const fn new(btf: &'b Btf) -> Self {
        Self(btf)
    }

    /// The member that `path` leads to from a structure of this name.
    ///
    /// # Errors
    /// [`NoMember`] when there is none, or it is no number or pointer.
    pub fn field(&self, structure: &'static str, path: &[&str]) -> Result<Field, NoMember> {
        self.find(structure, path, |place| {
            let width_bits = match place.width_bits {
                Some(width) => width,
                None => self.width_bits(&place.kind)?,
            };
            Field::new(place.bit_offset, width_bits)
        })
    }

    /// As [`Types::field`], for an array of numbers or pointers.
    ///
    /// # Errors
    /// [`NoMember`] when it is none.
    pub fn array(&self, structure: &'static str, path: &[&str]) -> Result<Array, NoMember> {
        self.find(structure, path, |place| {
            let Type::Array(array) = &place.kind else {
                return None;
            };
            let element = self.plain(array)?;
            Some(Array {
                offset: place.bit_offset / 8,
                element_bits: self.width_bits(&element)?,
                len: u64::try_from(array.len()).ok()?,
            })
        })
    }

    /// Bytes of a structure of this name.
    ///
    /// # Errors
    /// [`NoMember`] when there is none, or there are several that differ.
    pub fn size_of(&self, structure: &'static str) -> Result<u64, NoMember> {
        let mut sizes = self.structures(structure).map(|(size, _)| size);
        let first = sizes
            .next()
            .filter(|first| sizes.all(|size| size == *first));
        first
            .and_then(|size| u64::try_from(size).ok())
            .ok_or_else(|| NoMember {
                structure,
                member: "size".to_owned(),
            })
    }

    /// The names of an enumeration with their numbers.
    ///
    /// # Errors
    /// [`NoMember`] when there is none of this name.
    pub fn enumerators(&self, name: &'static str) -> Result<Vec<(String, u64)>, NoMember> {
        let found = self.0.resolve_types_by_name(name).unwrap_or_default();
        let members = found.into_iter().find_map(|found| match found {
            Type::Enum(it) => it
                .members
                .iter()
                .map(|one| Some((self.0.resolve_name(one).ok()?, u64::from(one.val()))))
                .collect(),
            Type::Enum64(it) => it
                .members
                .iter()
                .map(|one| Some((self.0.resolve_name(one).ok()?, one.val())))
                .collect(),
            _ => None,
        });
        members.ok_or_else(|| NoMember {
            structure: name,
            member: "enumerators".to_owned(),
        })
    }

    fn find<T>(
        &self,
        structure: &'static str,
        path: &[&str],
        take: impl Fn(Place) -> Option<T>,
    ) -> Result<T, NoMember> {
        self.structures(structure)
            .find_map(|(_, members)| take(self.resolve(&members, path)?))
            .ok_or_else(|| NoMember {
                structure,
                member: path.join("."),
            })
    }

    /// Structures of this name with their size in bytes; there can be several, above
    /// all with modules.
    fn structures(&self, name: &str) -> impl Iterator<Item = (usize, Vec<Member>)> {
        let found = self.0.resolve_types_by_name(name).unwrap_or_default();
        found.into_iter().filter_map(|found| match found {
            Type::Struct(it) if !it.members.is_empty() => Some((it.size(), it.members)),
            _ => None,
        })
    }

    fn resolve(&self, members: &[Member], path: &[&str]) -> Option<Place> {
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
        Some(place)
    }

    fn width_bits(&self, kind: &Type) -> Option<u32> {
        match kind {
            Type::Ptr(_) => Some(64),
            Type::Int(int) => u32::try_from(int.size()).ok()?.checked_mul(8),
            _ => None,
        }
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

    /// The type that `of` names, without typedefs and qualifiers.
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
