//! The part of the standard check for files whose mappings are regions of RAM: pages
//! that the driver allocates when they are touched, each region's its own, cleared
//! when the region ends.

use std::collections::BTreeSet;
use std::sync::Arc;

use addr::{Gpa, PAGE_SIZE};
use contract::{Access, Errno, FileContract, Fork};
use guest_kernel::KernelFacts;
use walk::MemoryType;
use wire::{OpenMode, Prot, Sharing};
use witness::judge::{PageVerdict, RamContent, RamPage, judge_ram};
use witness::{Evidence, Leaves, Link, Mismatch, PageEvidence};

use crate::course::Course;
use crate::error::HarnessError;
use crate::guest::Guest;
use crate::mapping::{Mapping, MappingSpec, Presence};
use crate::observe::Judged;
use crate::promises::flags_report;
use crate::reference::raw_frames;
use crate::report::{MappingReport, PromiseReport};
use crate::steps::{close, needed, open};
use crate::tally::Tally;

/// Looks at a page whose frame and second-level entry disagree: the host may move a
/// page between the reading of one and of the other.
const LOOKS: usize = 4;

/// What a file promises whose mappings are regions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionContract {
    /// Name for people.
    pub name: String,
    /// Its path in the guest.
    pub path: String,
    /// Pages of the region that is checked.
    pub npages: u64,
    /// Memory type that the guest's tables ask for.
    pub memory_type: MemoryType,
}

impl RegionContract {
    /// As a file of which nothing is known page by page.
    fn file(&self) -> FileContract {
        FileContract {
            name: self.name.clone(),
            strategy: "region".into(),
            path: self.path.clone(),
            ranges: Vec::new(),
            refuses_writers: None,
            refusals: Vec::new(),
            copy_on_write: false,
            growth: Errno::EFAULT,
            refuses_split: None,
            vma: raw_frames(),
            fork: Fork::Pages,
        }
    }
}

/// What was found of a region.
pub(crate) struct RegionFound {
    pub(crate) file: FileContract,
    pub(crate) mapping: MappingReport,
    /// The flags of its area; `None` where it could not be mapped.
    pub(crate) flags: Option<PromiseReport>,
}

/// Checks one region from mmap to munmap.
///
/// # Errors
/// [`HarnessError`] when that cannot be done.
pub(crate) fn check_region(
    guest: &mut Guest,
    facts: &KernelFacts,
    region: &RegionContract,
    tally: &mut Tally,
) -> Result<RegionFound, HarnessError> {
    let file = Arc::new(region.file());
    let spec = MappingSpec {
        file: Arc::clone(&file),
        first_page: 0,
        npages: region.npages,
        prot: Prot::READ_WRITE,
        sharing: Sharing::Shared,
    };
    let mut course = Course::new(region.name.clone(), &spec, region.npages);
    let mut flags = None;
    let fd = open(guest, &region.path, OpenMode::ReadWrite)?;
    match guest.map(fd, &spec)? {
        Ok(mapping) => {
            flags = Some(flags_report(guest, facts, &mapping)?);
            let nothing = guest.witness(&mapping, &Presence::Nothing)?;
            let mut sound = course.look("before touch", nothing);
            let mut pages = Vec::new();
            if sound {
                let (judged, shown) = in_use(guest, region, &mapping)?;
                pages = shown;
                sound = course.in_use(judged);
            }
            let unmapped = guest.munmap(mapping.gva, spec.len_bytes())?;
            needed(|| "munmap".into(), unmapped)?;
            if sound {
                let mut judged = guest.witness(&mapping, &Presence::Nothing)?;
                judged.mismatch = judged.mismatch.or(kept(guest, &mapping, &pages));
                course.look("after munmap", judged);
            }
        }
        Err(refusal) => {
            course.refused(&spec, refusal);
        }
    }
    close(guest, fd)?;
    Ok(RegionFound {
        file: FileContract::clone(&file),
        mapping: course.end(tally),
        flags,
    })
}

/// Touches every page, and judges each. Gives the pages that were shown.
fn in_use(
    guest: &mut Guest,
    region: &RegionContract,
    mapping: &Mapping,
) -> Result<(Judged, Vec<Gpa>), HarnessError> {
    let mut touched = Vec::new();
    for page in 0..region.npages {
        let Some(gva) = mapping.page_gva(page) else {
            break;
        };
        let word = word(mapping, page);
        let first = guest.load(gva, PAGE_SIZE, 1)?.map(|words| words[0]);
        let stored = guest.store(gva, PAGE_SIZE, vec![word])?.map(|()| word);
        touched.push(RamContent {
            first: first.map_err(|refusal| refusal.to_string()),
            stored: stored.map_err(|refusal| refusal.to_string()),
            found: None,
        });
    }
    let mut judged = Judged::default();
    let mut wanted = RamPage {
        access: Access::READ_WRITE,
        memory_type: region.memory_type,
        others: BTreeSet::new(),
    };
    let mut shown = Vec::new();
    for (page, mut content) in (0..).zip(touched) {
        judged.present += 1;
        let Some(gva) = mapping.page_gva(page) else {
            break;
        };
        let evidence = look(guest, gva)?;
        let gpa = evidence.walked.as_ref().ok().map(|found| found.address);
        content.found = gpa.and_then(|gpa| guest.vm().read_u64(gpa).ok());
        let (plan, stamps) = (guest.plan(), guest.stamps());
        let (verdict, unheard) = judge_ram(plan, stamps, page, &wanted, &evidence, &content);
        judged.unwitnessed.extend(unheard);
        if let Some(leaves) = Leaves::of(&evidence) {
            *judged.leaves.entry(leaves).or_default() += 1;
        }
        match verdict {
            PageVerdict::Pass(links) => links
                .into_iter()
                .for_each(|link| judged.links.count(link, 1)),
            PageVerdict::Fail(mismatch) => {
                judged.mismatch = Some(*mismatch);
                break;
            }
        }
        wanted.others.extend(gpa);
        shown.extend(gpa);
    }
    Ok((judged, shown))
}

/// All evidence of one page, at one moment.
fn look(guest: &Guest, gva: addr::Gva) -> Result<PageEvidence, HarnessError> {
    let mut found = Evidence::of(guest.vm())?.page(gva, None, None);
    for _ in 1..LOOKS {
        if found.ends_agree() {
            break;
        }
        found = Evidence::of(guest.vm())?.page(gva, None, None);
    }
    Ok(found)
}

/// A word that no other page of any mapping has.
fn word(mapping: &Mapping, page: u64) -> u64 {
    0x6d77_0000_0000_0000 | (mapping.id & 0xffff_ffff) << 16 | (page & 0xff) << 8 | 0x5a
}

/// The first page of a region that ended which still holds what was stored to it.
fn kept(guest: &Guest, mapping: &Mapping, pages: &[Gpa]) -> Option<Mismatch> {
    let held = |(page, gpa): (u64, &Gpa)| {
        let found = guest.vm().read_u64(*gpa).ok()?;
        if found != word(mapping, page) {
            return None;
        }
        Some(Mismatch {
            link: Link::Stamp,
            page,
            gva: mapping.page_gva(page)?.to_string(),
            expected: "the page is cleared when its region ends".into(),
            found: format!("{found:#018x} at gpa {gpa}, as it was stored"),
            guest_walk: Vec::new(),
            host: Vec::new(),
        })
    };
    (0..).zip(pages).find_map(held)
}
