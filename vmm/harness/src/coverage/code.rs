//! Where the code lies whose coverage is of interest.

use std::ops::Range;
use std::path::Path;

use guest_kernel::KernelFacts;

use crate::coverage::Coverage;
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
    driver: Stretches,
    mm: Stretches,
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
            driver: Stretches::of([driver]),
            mm: Stretches::parse(&text).map_err(refused)?,
        })
    }

    /// Where an address lies; `None` in other code.
    pub fn place(&self, pc: u64) -> Option<Place> {
        [Part::Driver, Part::Mm].into_iter().find_map(|part| {
            let offset_bytes = self.stretches(part).offset(pc)?;
            Some(Place { part, offset_bytes })
        })
    }

    /// Counts in `map` the edges of `part` that ran: the ways from one of its places to
    /// the one that ran next in the same part, whatever ran elsewhere between them. Each
    /// edge has an entry, which stays at 255; two may share one, the less the longer `map`
    /// is. The same edge has the same entry in every guest of one image.
    ///
    /// With a map for each part, what is new in the driver is told from what is new in mm/.
    pub fn count_edges(&self, ran: &Coverage, part: Part, map: &mut [u8]) {
        let stretches = self.stretches(part);
        let mut from = ENTRY;
        for to in ran.pcs.iter().filter_map(|pc| stretches.offset(*pc)) {
            let edge = mixed(from, to) % map.len().max(1) as u64;
            let entry = usize::try_from(edge).ok();
            if let Some(entry) = entry.and_then(|entry| map.get_mut(entry)) {
                *entry = entry.saturating_add(1);
            }
            from = to;
        }
    }

    /// Bytes of a part's code: all its places lie below.
    pub fn len_bytes(&self, part: Part) -> u64 {
        let last = self.stretches(part).0.last();
        last.map_or(0, |(before, stretch)| {
            before + (stretch.end - stretch.start)
        })
    }

    fn stretches(&self, part: Part) -> &Stretches {
        match part {
            Part::Driver => &self.driver,
            Part::Mm => &self.mm,
        }
    }
}

/// Where a part is entered from: no place in it.
const ENTRY: u64 = u64::MAX;

/// A number for an edge. Multiplying by an odd number loses nothing, and the upper half
/// of the product depends on all bits.
fn mixed(from: u64, to: u64) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let once = from.wrapping_mul(ODD).rotate_left(32) ^ to;
    once.wrapping_mul(ODD) >> 32
}

/// Stretches of code, in order, which do not overlap, each with the bytes of those before.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stretches(Vec<(u64, Range<u64>)>);

impl Stretches {
    fn of(all: impl IntoIterator<Item = Range<u64>>) -> Self {
        let mut before = 0;
        let with_before = all.into_iter().map(|stretch| {
            let here = before;
            before += stretch.end - stretch.start;
            (here, stretch)
        });
        Self(with_before.collect())
    }

    /// Reads lines of two addresses, in order.
    fn parse(text: &str) -> Result<Self, String> {
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
            false => Ok(Self::of(all)),
        }
    }

    /// Bytes of the stretches before `pc`.
    fn offset(&self, pc: u64) -> Option<u64> {
        // A case runs some ten thousand blocks, and mm/ has some hundred stretches.
        let after = self.0.partition_point(|(_, stretch)| stretch.start <= pc);
        let (before, stretch) = self.0.get(after.checked_sub(1)?)?;
        (pc < stretch.end).then(|| before + (pc - stretch.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretches(text: &str) -> Stretches {
        Stretches::parse(text).expect("stretches")
    }

    #[test]
    fn places_follow_one_another_over_all_stretches() {
        let code = CodeMap {
            driver: stretches("0x9000 0x9100\n"),
            mm: stretches("0x1000 0x1010\n0x2000 0x2008\n"),
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
            assert!(Stretches::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn edges_of_a_part_are_counted_by_themselves() {
        let code = CodeMap {
            driver: stretches("0x9000 0x9100\n"),
            mm: stretches("0x1000 0x2000\n"),
        };
        let counted = |pcs: &[u64], part| {
            let mut map = [0; 1 << 12];
            let ran = Coverage {
                pcs: pcs.to_vec(),
                is_whole: true,
            };
            code.count_edges(&ran, part, &mut map);
            map
        };
        let sum = |map: [u8; 1 << 12]| map.iter().map(|it| u64::from(*it)).sum::<u64>();
        let pcs = [0x9000, 0x1000, 0x9010, 0x5000, 0x9000];
        assert_eq!(sum(counted(&pcs, Part::Driver)), 3);
        assert_eq!(sum(counted(&pcs, Part::Mm)), 1);
        // What ran elsewhere between them makes no other edge, and order does.
        let driver = counted(&[0x9000, 0x9010, 0x9000], Part::Driver);
        assert_eq!(driver, counted(&pcs, Part::Driver));
        let other = counted(&[0x9010, 0x9000, 0x9000], Part::Driver);
        assert_ne!(driver, other);
        // A loop does not come round to nothing, and no map is no fault.
        let often = counted(&[0x9000; 300], Part::Driver);
        assert_eq!(often.iter().max(), Some(&255));
        code.count_edges(&Coverage::default(), Part::Mm, &mut []);
    }
}
