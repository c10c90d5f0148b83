//! Looking things up in a maple tree, in which a kernel keeps a process's areas.
//!
//! A node covers a range of indices, which its pivots cut into pieces: slot i is for
//! those after pivot i - 1, up to and with pivot i. See Documentation/core-api/
//! maple_tree.rst and include/linux/maple_tree.h of the kernel.

use crate::error::ViewError;
use crate::facts::MapleLayout;
use crate::memory::KernelMemory;

/// Bits of a pointer to a node that are not its address (`MAPLE_NODE_MASK`).
const NOT_ADDRESS: u64 = 0xff;
/// Where such a pointer has the node's type, in 4 bits.
const TYPE_SHIFT: u32 = 3;
const TYPE_MASK: u64 = 0xf;
/// Entries below it that look like a node are marks (`MAPLE_RESERVED_RANGE`).
const RESERVED: u64 = 4096;
/// Greatest height that a tree can note (`MAPLE_HEIGHT_MAX`).
const MOST_LEVELS: usize = 31;

/// What stands at an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The entry; 0 for none.
    pub entry: u64,
    /// The last index for which this is so, at least the one looked up.
    pub last: u64,
}

/// The pieces of one node.
struct Pieces {
    pivots: btf::Array,
    slots: btf::Array,
    is_leaf: bool,
}

impl MapleLayout {
    fn pieces(&self, node: u64) -> Result<Pieces, ViewError> {
        let kind = (node >> TYPE_SHIFT) & TYPE_MASK;
        if kind == self.arange_64 {
            return Ok(Pieces {
                pivots: self.arange_pivots,
                slots: self.arange_slots,
                is_leaf: false,
            });
        }
        if kind != self.leaf_64 && kind != self.range_64 {
            return Err(ViewError::Nonsense {
                what: "the type of a maple tree's node",
                value: kind,
            });
        }
        Ok(Pieces {
            pivots: self.range_pivots,
            slots: self.range_slots,
            is_leaf: kind == self.leaf_64,
        })
    }
}

/// Whether `ma_root` points to a node.
fn is_node(root: u64) -> bool {
    root & 3 == 2 && root > RESERVED
}

/// What the tree with this `ma_root` has at `index`.
pub(crate) fn lookup<M: KernelMemory>(
    memory: &M,
    layout: &MapleLayout,
    root: u64,
    index: u64,
) -> Result<Found, ViewError> {
    if !is_node(root) {
        // A tree without a node has an entry at index 0 at most.
        let (entry, last) = if index == 0 { (root, 0) } else { (0, u64::MAX) };
        return Ok(Found { entry, last });
    }
    let (mut node, mut last) = (root, u64::MAX);
    for _ in 0..MOST_LEVELS {
        let pieces = layout.pieces(node)?;
        let base = node & !NOT_ADDRESS;
        let mut at = 0;
        while let Some(pivot) = pieces.pivots.element(at) {
            let pivot = memory.field("a pivot of a maple tree", base, pivot)?;
            if pivot >= index {
                last = last.min(pivot);
                break;
            }
            // Pivots that a node does not use are 0.
            if pivot == 0 && at > 0 {
                break;
            }
            at += 1;
        }
        let Some(slot) = pieces.slots.element(at) else {
            return Err(ViewError::Nonsense {
                what: "the number of a maple tree's slot",
                value: at,
            });
        };
        node = memory.field("a slot of a maple tree", base, slot)?;
        if pieces.is_leaf {
            return Ok(Found { entry: node, last });
        }
    }
    Err(ViewError::Endless {
        what: "a maple tree",
        steps: MOST_LEVELS,
    })
}
/// All entries of the tree with this `ma_root`, in the order of their indices, at most
/// `most`.
pub(crate) fn entries<M: KernelMemory>(
    memory: &M,
    layout: &MapleLayout,
    root: u64,
    most: usize,
) -> Result<Vec<u64>, ViewError> {
    let mut all = Vec::new();
    if !is_node(root) {
        all.extend((root != 0).then_some(root));
        return Ok(all);
    }
    // Those that are to come, the next one last, each with its height and last index.
    let mut left = vec![(root, 0, u64::MAX)];
    let mut steps = 0;
    while let Some((node, height, last)) = left.pop() {
        steps += 1;
        if height >= MOST_LEVELS || steps > most || all.len() > most {
            return Err(ViewError::Endless {
                what: "a maple tree",
                steps,
            });
        }
        let pieces = layout.pieces(node)?;
        let slots = slots(memory, &pieces, node & !NOT_ADDRESS, last)?;
        if pieces.is_leaf {
            all.extend(
                slots
                    .into_iter()
                    .map(|(entry, _)| entry)
                    .filter(|it| *it != 0),
            );
        } else {
            let below = slots.into_iter().rev();
            left.extend(below.map(|(node, last)| (node, height + 1, last)));
        }
    }
    Ok(all)
}

/// The slots in use of a node whose indices end with `end`, each with its last index.
fn slots<M: KernelMemory>(
    memory: &M,
    pieces: &Pieces,
    base: u64,
    end: u64,
) -> Result<Vec<(u64, u64)>, ViewError> {
    let mut slots = Vec::new();
    for at in 0.. {
        let Some(slot) = pieces.slots.element(at) else {
            break;
        };
        let pivot = match pieces.pivots.element(at) {
            Some(pivot) => memory.field("a pivot of a maple tree", base, pivot)?,
            None => 0,
        };
        // Pivots that a node does not use are 0: the slot is the last one.
        let last = match pivot {
            0 if at > 0 || pieces.pivots.element(at).is_none() => end,
            pivot => pivot.min(end),
        };
        let entry = memory.field("a slot of a maple tree", base, slot)?;
        slots.push((entry, last));
        if last == end {
            break;
        }
    }
    Ok(slots)
}
