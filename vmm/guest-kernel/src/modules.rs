//! `struct module`: where the code of a loaded module lies.

use std::ops::Range;

use btf::Field;

use crate::error::ViewError;
use crate::facts::KernelFacts;
use crate::memory::KernelMemory;

/// More than any guest loads.
const MOST_MODULES: usize = 1 << 10;
/// Words of `module.name`: MODULE_NAME_LEN of include/linux/moduleparam.h.
const NAME_NWORDS: u64 = 56 / 8;

/// The addresses of the code of the module with this name; `None` when it is not loaded.
pub(crate) fn text_of<M: KernelMemory>(
    memory: &M,
    facts: &KernelFacts,
    name: &str,
) -> Result<Option<Range<u64>>, ViewError> {
    let layout = &facts.layout.module;
    let head = facts.symbols.modules;
    let mut link = memory.field("modules", head, Field::word(0))?;
    for _ in 0..MOST_MODULES {
        if link == head {
            return Ok(None);
        }
        let module = link.wrapping_sub(layout.next.offset);
        if name_of(memory, module.wrapping_add(layout.name))? == name.as_bytes() {
            let start = memory.field("module.mem.base", module, layout.text_base)?;
            let half = memory.field("module.mem.size", module, layout.text_size)?;
            let len_bytes = half & u64::from(u32::MAX);
            return match start.checked_add(len_bytes) {
                Some(end) => Ok(Some(start..end)),
                None => Err(ViewError::Nonsense {
                    what: "module.mem.base",
                    value: start,
                }),
            };
        }
        link = memory.field("module.list", module, layout.next)?;
    }
    Err(ViewError::Endless {
        what: "the list of modules",
        steps: MOST_MODULES,
    })
}

fn name_of<M: KernelMemory>(memory: &M, at: u64) -> Result<Vec<u8>, ViewError> {
    let mut name = Vec::new();
    for word in 0..NAME_NWORDS {
        let letters = memory.field("module.name", at, Field::word(word * 8))?;
        for letter in letters.to_le_bytes() {
            if letter == 0 {
                return Ok(name);
            }
            name.push(letter);
        }
    }
    Ok(name)
}
