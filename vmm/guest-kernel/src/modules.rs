//! `struct module`: where the code of a loaded module lies, and how many use it.

use std::ops::Range;

use btf::Field;

use crate::error::ViewError;
use crate::facts::KernelFacts;
use crate::memory::KernelMemory;

/// More than any guest loads.
const MOST_MODULES: usize = 1 << 10;
/// Words of `module.name`: MODULE_NAME_LEN of include/linux/moduleparam.h.
const NAME_NWORDS: u64 = 56 / 8;

/// `MODULE_REF_BASE` of kernel/module/main.c: the reference of a module that is loaded.
const BASE_REFERENCES: i64 = 1;

/// The addresses of the code of the module with this name; `None` when it is not loaded.
pub(crate) fn text_of<M: KernelMemory>(
    memory: &M,
    facts: &KernelFacts,
    name: &str,
) -> Result<Option<Range<u64>>, ViewError> {
    let layout = &facts.layout.module;
    for module in all(memory, facts)? {
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
    }
    Ok(None)
}

/// Each loaded module by its name, with the number of those who use it, as lsmod(8) shows it.
pub(crate) fn users<M: KernelMemory>(
    memory: &M,
    facts: &KernelFacts,
) -> Result<Vec<(String, i64)>, ViewError> {
    let layout = &facts.layout.module;
    let users = |module: u64| {
        let name = name_of(memory, module.wrapping_add(layout.name))?;
        let count = memory.field("module.refcnt", module, layout.refcnt)?;
        // A counter of 4 bytes, with a sign.
        let count = u32::try_from(count & u64::from(u32::MAX)).unwrap_or_default();
        let users = i64::from(count.cast_signed()) - BASE_REFERENCES;
        Ok((String::from_utf8_lossy(&name).into_owned(), users))
    };
    all(memory, facts)?.into_iter().map(users).collect()
}

/// Where each `struct module` lies, in the order of the kernel's list.
fn all<M: KernelMemory>(memory: &M, facts: &KernelFacts) -> Result<Vec<u64>, ViewError> {
    let layout = &facts.layout.module;
    let head = facts.symbols.modules;
    let mut modules = Vec::new();
    let mut link = memory.field("modules", head, Field::word(0))?;
    while link != head {
        if modules.len() >= MOST_MODULES {
            return Err(ViewError::Endless {
                what: "the list of modules",
                steps: MOST_MODULES,
            });
        }
        let module = link.wrapping_sub(layout.next.offset);
        modules.push(module);
        link = memory.field("module.list", module, layout.next)?;
    }
    Ok(modules)
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
