//! The one walker.

use addr::Level;

use crate::format::{Format, Grants};
use crate::{Access, AddressSpace, MemoryType, Steps, TableRead, Violation, WalkError};

/// A leaf that the walk came to, not yet interpreted beyond its address.
#[derive(Clone, Copy, Debug)]
pub struct Leaf<A: AddressSpace> {
    pub raw: u64,
    pub level: Level,
    pub address: A,
    pub access: Access,
    pub steps: Steps<A>,
}

/// Root of a tree of tables.
#[derive(Clone, Copy, Debug)]
pub struct Root {
    /// First byte of the top table.
    pub table: u64,
    /// Its level.
    pub top: Level,
}

/// Where a descent through the memory `R` ends.
pub(crate) type Descent<R> = Result<
    Leaf<<R as TableRead>::Addr>,
    WalkError<<R as TableRead>::Addr, <R as TableRead>::Error>,
>;

/// Descends from `root` to the leaf for `input`. At most one entry a level is
/// read, so any tables end the walk, also those that name themselves.
pub(crate) fn descend<R: TableRead>(
    mem: &R,
    format: &Format,
    root: Root,
    input: u64,
) -> Descent<R> {
    let mut steps = Steps::new(input, root.table, root.top, format.frame_mask);
    let mut access = Access::ALL;
    let mut level = root.top;
    let mut table = root.table & format.frame_mask;
    loop {
        let entry_at = R::Addr::from_raw(table | (level.index(input) * 8));
        let raw = match mem.read_entry(entry_at) {
            Ok(raw) => raw,
            Err(source) => return Err(WalkError::Read { steps, source }),
        };
        steps.push(raw);
        // Presence comes first: the other bits of an absent entry mean nothing.
        if !format.is_present(raw) {
            return Err(WalkError::NotPresent { steps });
        }
        if let Some(violation) = violation(format, level, raw) {
            return Err(WalkError::Reserved { violation, steps });
        }
        access = narrowed(access, &format.grants, raw);
        match level.lower() {
            Some(below) if !format.is_leaf(level, raw) => {
                level = below;
                table = raw & format.frame_mask;
            }
            _ => {
                let offset_mask = level.bytes() - 1;
                let frame = raw & format.frame_mask & !offset_mask;
                return Ok(Leaf {
                    raw,
                    level,
                    address: R::Addr::from_raw(frame | (input & offset_mask)),
                    access,
                    steps,
                });
            }
        }
    }
}

pub(crate) fn violation(format: &Format, level: Level, raw: u64) -> Option<Violation> {
    let reserved = format.reserved_bits_set(level, raw);
    if format.has_forbidden_low_bits(raw) {
        Some(Violation::Access)
    } else if reserved != 0 {
        Some(Violation::Bits(reserved))
    } else if format.has_forbidden_type(level, raw) {
        Some(Violation::MemoryType(MemoryType::of_leaf_bits(raw)))
    } else {
        None
    }
}

pub(crate) fn narrowed(so_far: Access, grants: &Grants, raw: u64) -> Access {
    Access {
        read: so_far.read && grants.read.by(raw),
        write: so_far.write && grants.write.by(raw),
        user: so_far.user && grants.user.by(raw),
        exec: so_far.exec && grants.exec.by(raw),
    }
}
