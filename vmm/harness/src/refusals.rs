//! The part of the standard check that asks for what the driver must refuse.

use std::sync::Arc;

use addr::PAGE_SIZE;
use contract::FileContract;
use wire::{Prot, Sharing};

use crate::error::HarnessError;
use crate::guest::Guest;
use crate::mapping::MappingSpec;
use crate::outcome::Refusal;
use crate::report::{RefusalReport, Verdict};
use crate::steps::{needed, open};

/// Something that the driver must refuse.
struct Hostile {
    name: &'static str,
    offset_pages: u64,
    /// Pages beyond the window's own number.
    extra_pages: u64,
    prot: Prot,
    sharing: Sharing,
    errno: i32,
}

const HOSTILE: [Hostile; 4] = [
    Hostile {
        name: "one page too long",
        offset_pages: 0,
        extra_pages: 1,
        prot: Prot::READ,
        sharing: Sharing::Shared,
        errno: libc::EINVAL,
    },
    Hostile {
        name: "whole length from page 1",
        offset_pages: 1,
        extra_pages: 0,
        prot: Prot::READ,
        sharing: Sharing::Shared,
        errno: libc::EINVAL,
    },
    Hostile {
        name: "MAP_PRIVATE",
        offset_pages: 0,
        extra_pages: 0,
        prot: Prot::READ,
        sharing: Sharing::Private,
        errno: libc::EINVAL,
    },
    Hostile {
        name: "PROT_EXEC",
        offset_pages: 0,
        extra_pages: 0,
        prot: Prot {
            exec: true,
            ..Prot::READ
        },
        sharing: Sharing::Shared,
        errno: libc::EACCES,
    },
];

/// Asks `file` for everything in [`HOSTILE`].
pub(crate) fn check_refusals(
    guest: &mut Guest,
    file: &Arc<FileContract>,
) -> Result<Vec<RefusalReport>, HarnessError> {
    let mut reports = Vec::new();
    for range in &file.ranges {
        for hostile in &HOSTILE {
            let spec = MappingSpec::whole(file, range);
            reports.push(check_refusal(guest, &spec, hostile)?);
        }
    }
    Ok(reports)
}

fn check_refusal(
    guest: &mut Guest,
    spec: &MappingSpec,
    hostile: &Hostile,
) -> Result<RefusalReport, HarnessError> {
    let fd = open(guest, spec)?;
    let answer = guest.mmap(
        fd,
        hostile.offset_pages * PAGE_SIZE,
        spec.len_bytes() + hostile.extra_pages * PAGE_SIZE,
        hostile.prot,
        hostile.sharing,
    )?;
    needed(|| "close".into(), guest.close(fd)?)?;
    let found = match answer {
        Ok(gva) => {
            needed(|| "munmap".into(), guest.munmap(gva, spec.len_bytes())?)?;
            format!("mapped at {gva}")
        }
        Err(refusal) => refusal.to_string(),
    };
    let expected = Refusal::Errno(hostile.errno).to_string();
    Ok(RefusalReport {
        name: format!("{}: {}", spec.file.name, hostile.name),
        verdict: if found == expected {
            Verdict::Pass
        } else {
            Verdict::Fail
        },
        expected,
        found,
    })
}
