//! What an instance is told before it records.

use std::ops::Range;

use addr::{Gfn, PAGE_SHIFT};

use crate::decode::{Formats, Kind, Place};
use crate::error::Error;
use crate::format::PageFormat;
use crate::instance::Instance;

/// Turns one tracepoint on, filtered as far as it can be.
pub(crate) fn enable(
    instance: &Instance,
    kind: &Kind,
    gfns: &Range<Gfn>,
    formats: &Formats,
) -> Result<(), Error> {
    if formats.absent().contains(&kind.name) {
        return Ok(());
    }
    let folder = format!("events/{}/{}", kind.system, kind.name);
    if let Some(filter) = filter(kind.place, gfns) {
        instance.set(&format!("{folder}/filter"), &filter)?;
    }
    instance.set(&format!("{folder}/enable"), "1")
}

/// The expression by which the kernel leaves out records about other addresses.
fn filter(place: Place, gfns: &Range<Gfn>) -> Option<String> {
    let (start, end) = (gfns.start.raw(), gfns.end.raw());
    let within =
        |name: &str, start: u64, end: u64| format!("{name} >= {start:#x} && {name} < {end:#x}");
    match place {
        // Entries of higher levels are few, and cover frames after the one they name.
        Place::Entry => Some(format!("({}) || level > 1", within("gfn", start, end))),
        Place::Frame(name) => Some(within(name, start, end)),
        Place::Address(name) => {
            // An address past 2^64 is past all addresses.
            let address = |gfn: u64| gfn.saturating_mul(1 << PAGE_SHIFT);
            Some(within(name, address(start), address(end)))
        }
        Place::Anywhere => None,
    }
}

pub(crate) fn page_format(instance: &Instance) -> Result<PageFormat, Error> {
    let page = instance.read("events/header_page")?;
    let event = instance.read("events/header_event")?;
    PageFormat::parse(&page, &event).map_err(|source| Error::Format {
        of: "the buffers' pages".into(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_name_the_frames_and_all_that_covers_them() {
        let gfns = Gfn::new(0xd1000)..Gfn::new(0xd2000);
        assert_eq!(
            filter(Place::Entry, &gfns).as_deref(),
            Some("(gfn >= 0xd1000 && gfn < 0xd2000) || level > 1")
        );
        assert_eq!(
            filter(Place::Address("gpa"), &gfns).as_deref(),
            Some("gpa >= 0xd1000000 && gpa < 0xd2000000")
        );
        assert_eq!(filter(Place::Anywhere, &gfns), None);
    }
}
