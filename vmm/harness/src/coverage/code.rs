//! Where the code lies whose coverage is of interest.

use std::ops::Range;
use std::path::Path;

use guest_kernel::KernelFacts;

use crate::error::HarnessError;
use crate::guest::Guest;

/// A part of the kernel, with a map of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The module under test.
    Driver,
    /// The kernel's mm/.
    Mm,
}

/// A place in a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The part.
    pub part: Part,
    /// Bytes of the part's code before it. The same code has the same place whichever
    /// address the module was loaded to.
    pub offset_bytes: u64,
}

/// Where the driver's code and that of mm/ lie.
///
/// mm/ is what the symbols of the kernel's object files say (see `mm_text` of a guest
/// image): some of its stretches are functions of headers that other folders have, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeMap {
    driver: Vec<Range<u64>>,
    mm: Vec<Range<u64>>,
}

impl CodeMap {
    /// That of a guest in which `module` is loaded, by its name as lsmod(8) shows it.
    /// `facts` and `mm_text` are those of the image that was booted.
    ///
    /// # Errors
    /// [`HarnessError::NotLoaded`] and [`HarnessError::CodeMap`]; and when the guest
    /// kernel's list of modules cannot be followed.
    pub fn of(
        guest: &Guest,
        facts: &KernelFacts,
        module: &str,
        mm_text: &Path,
    ) -> Result<Self, HarnessError> {
        let text = guest.kernel(facts)?.module_text(module)?;
        let driver = text.ok_or_else(|| HarnessError::NotLoaded {
            name: module.to_owned(),
        })?;
        let refused = |reason: String| HarnessError::CodeMap {
            path: mm_text.to_owned(),
            reason,
        };
        let text = std::fs::read_to_string(mm_text).map_err(|error| refused(error.to_string()))?;
        Ok(Self {
            driver: vec![driver],
            mm: stretches(&text).map_err(refused)?,
        })
    }

    /// Where an address lies; `None` in other code.
    pub fn place(&self, pc: u64) -> Option<Place> {
        [Part::Driver, Part::Mm].into_iter().find_map(|part| {
            let offset_bytes = offset(self.stretches(part), pc)?;
            Some(Place { part, offset_bytes })
        })
    }

    /// Bytes of a part's code: all its places lie below.
    pub fn len_bytes(&self, part: Part) -> u64 {
        let all = self.stretches(part).iter();
        all.map(|stretch| stretch.end - stretch.start).sum()
    }

    fn stretches(&self, part: Part) -> &[Range<u64>] {
        match part {
            Part::Driver => &self.driver,
            Part::Mm => &self.mm,
        }
    }
}

/// Lines of two addresses, in order.
fn stretches(text: &str) -> Result<Vec<Range<u64>>, String> {
    let address = |word: &str| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok();
    let mut all: Vec<Range<u64>> = Vec::new();
    for line in text.lines() {
        let stretch = line.split_once(' ').and_then(|(start, end)| {
            let stretch = address(start)?..address(end)?;
            let after = all.last().map_or(0, |last| last.end);
            (after <= stretch.start && stretch.start < stretch.end).then_some(stretch)
        });
        all.push(stretch.ok_or_else(|| format!("this line is no stretch of code: {line}"))?);
    }
    match all.is_empty() {
        true => Err("it is empty".to_owned()),
        false => Ok(all),
    }
}

/// Bytes of the stretches before `pc`.
fn offset(stretches: &[Range<u64>], pc: u64) -> Option<u64> {
    let mut before = 0;
    for stretch in stretches {
        if stretch.contains(&pc) {
            return Some(before + (pc - stretch.start));
        }
        before += stretch.end - stretch.start;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_follow_one_another_over_all_stretches() {
        let code = CodeMap {
            driver: vec![0x9000..0x9100],
            mm: stretches("0x1000 0x1010\n0x2000 0x2008\n").expect("two"),
        };
        let place = |pc| code.place(pc).map(|it| (it.part, it.offset_bytes));
        assert_eq!(place(0x1000), Some((Part::Mm, 0)));
        assert_eq!(place(0x100f), Some((Part::Mm, 15)));
        assert_eq!(place(0x1010), None);
        assert_eq!(place(0x2007), Some((Part::Mm, 0x17)));
        assert_eq!(place(0x90ff), Some((Part::Driver, 0xff)));
        assert_eq!(
            (code.len_bytes(Part::Mm), code.len_bytes(Part::Driver)),
            (0x18, 0x100)
        );
    }

    #[test]
    fn what_is_no_list_of_stretches_is_told() {
        for text in [
            "",
            "0x1000",
            "0x2 0x1",
            "1 2",
            "0x1 0x3\n0x2 0x4",
            "0x1 0x1",
        ] {
            assert!(stretches(text).is_err(), "{text:?}");
        }
    }
}
