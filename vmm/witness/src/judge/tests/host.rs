//! Links memslot and host frame.

use addr::{Hva, Level, Pfn};
use monitor::SlotUse;

use super::End::{self, Fail, Pass};
use super::fixture::Case;
use super::{RO1, b3, check};
use crate::contract::Access;
use crate::host_frame::FrameError;
use crate::link::Link::{Contract, GuestWalk, HostFrame, Memslot, SecondLevel, Stamp};
use crate::memslot::Hit;

#[test]
fn another_memslot_fails() {
    fn hit(case: &mut Case) -> &mut Hit {
        case.slot.as_mut().expect("a slot")
    }
    let other = |found| Fail(Memslot, "the memslot of b[3], writable", found);
    check(
        b3,
        &[
            ("none", |c| c.slot = None, other("no memslot")),
            (
                "RAM",
                |c| hit(c).used_for = SlotUse::Ram,
                other("page 3 of memslot 2 (Ram), writable"),
            ),
            (
                "other window",
                |c| hit(c).used_for = SlotUse::Window(2),
                other("page 3 of memslot 2 (Window(2)), writable"),
            ),
            (
                "other page",
                |c| hit(c).page = 4,
                other("page 4 of memslot 2 (Window(1)), writable"),
            ),
            (
                "refuses stores",
                |c| hit(c).read_only = true,
                other("page 3 of memslot 2 (Window(1)), read-only"),
            ),
        ],
    );
    check(
        || Case::right(RO1, Access::READ, Level::Pte),
        &[(
            "takes stores to a window that is for loads only",
            |c| hit(c).read_only = false,
            Fail(
                Memslot,
                "the memslot of ro[1], read-only",
                "page 1 of memslot 4 (Window(3)), writable",
            ),
        )],
    );
    check(
        || Case::right(RO1, Access::READ_WRITE, Level::Pte),
        &[(
            "a contract for stores that the slot refuses",
            |_| {},
            Fail(
                Memslot,
                "the memslot of ro[1], writable",
                "page 1 of memslot 4 (Window(3)), read-only",
            ),
        )],
    );
}

fn gone() -> Option<Result<Pfn, FrameError>> {
    let hva = Hva::new(0x7e00_0000_3000);
    Some(Err(FrameError::NotPresent { hva, entry: 0x55 }))
}

fn unreadable() -> std::io::Error {
    std::io::ErrorKind::PermissionDenied.into()
}

#[test]
fn another_frame_or_none_fails_and_a_hidden_one_counts_for_nothing() {
    // Without the device's frame there is nothing to hold the second level against.
    const UNHEARD: End<'_> = Pass(
        &[Contract, GuestWalk, Memslot, Stamp],
        &[HostFrame, SecondLevel],
    );
    const SLOT_UNHEARD: End<'_> = Pass(
        &[Contract, GuestWalk, Memslot, SecondLevel, Stamp],
        &[HostFrame],
    );
    const GONE: End<'_> = Fail(
        HostFrame,
        "a page locked in the host's memory",
        "the host page at 0x7e0000003000 is not in memory (pagemap entry 0x55)",
    );
    check(
        b3,
        &[
            (
                "other frame",
                |c| c.slot_frame = Some(Ok(Pfn::new(0x9_0000))),
                Fail(HostFrame, "pfn 0x80015, the frame of b[3]", "pfn 0x90000"),
            ),
            ("slot's frame gone", |c| c.slot_frame = gone(), GONE),
            ("device's frame gone", |c| c.device_frame = gone(), GONE),
            (
                "slot's gone, device's hidden",
                |c| {
                    c.slot_frame = gone();
                    c.device_frame = Some(Err(FrameError::Hidden));
                },
                GONE,
            ),
            (
                "both hidden",
                |c| {
                    c.slot_frame = Some(Err(FrameError::Hidden));
                    c.device_frame = Some(Err(FrameError::Hidden));
                },
                UNHEARD,
            ),
            (
                "one hidden",
                |c| c.slot_frame = Some(Err(FrameError::Hidden)),
                SLOT_UNHEARD,
            ),
            (
                "pagemap closed",
                |c| c.device_frame = Some(Err(FrameError::Open(unreadable()))),
                UNHEARD,
            ),
            (
                "pagemap unreadable",
                |c| {
                    c.slot_frame = Some(Err(FrameError::Read {
                        hva: Hva::new(0),
                        source: unreadable(),
                    }));
                },
                SLOT_UNHEARD,
            ),
            (
                "slot's not looked at",
                |c| c.slot_frame = None,
                SLOT_UNHEARD,
            ),
            (
                "pages on the move",
                |c| {
                    c.slot_frame = Some(Err(FrameError::Moving));
                    c.device_frame = Some(Err(FrameError::Moving));
                },
                UNHEARD,
            ),
            ("device's not looked at", |c| c.device_frame = None, UNHEARD),
            (
                "neither looked at",
                |c| (c.slot_frame, c.device_frame) = (None, None),
                UNHEARD,
            ),
        ],
    );
}
