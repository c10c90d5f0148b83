use proptest::prelude::*;
use walk::MemoryType;

use super::*;
use crate::file::{Backing, Fork, When};
use crate::rules::Refusal;
use crate::vma::VmaFlags;

fn range(offset: Offset, npages: u64, access: Access) -> RangeContract {
    RangeContract {
        offset,
        npages,
        backing: Backing::Window {
            name: "w".into(),
            first_page: 0,
        },
        access,
        memory_type: MemoryType::UncachedMinus,
        present: When::AtMmap,
    }
}

fn file(ranges: Vec<RangeContract>, refusals: &[(Condition, Errno)]) -> FileContract {
    FileContract {
        name: "w".into(),
        strategy: "at-mmap".into(),
        path: "/dev/w".into(),
        ranges,
        refusals: refusals
            .iter()
            .map(|(when, errno)| Refusal::new(*when, *errno))
            .collect(),
        copy_on_write: false,
        refuses_writers: None,
        growth: Errno::EFAULT,
        refuses_split: None,
        vma: VmaFlags::default(),
        fork: Fork::Pages,
    }
}

/// 13 pages to be read and written, checked in the order of the project's own driver.
fn usual() -> FileContract {
    file(
        vec![range(Offset::Page(0), 13, Access::READ_WRITE)],
        &[
            (Condition::Private, Errno::ENODEV),
            (Condition::Exec, Errno::EACCES),
            (Condition::Outside, Errno::EINVAL),
        ],
    )
}

fn pages(first: u64, npages: u64) -> Request {
    Request {
        open: OpenMode::ReadWrite,
        offset_bytes: first * PAGE_SIZE,
        len_bytes: npages * PAGE_SIZE,
        prot: Prot::READ_WRITE,
        sharing: Sharing::Shared,
    }
}

const fn refused(errno: Errno) -> Answer {
    Answer::Refused(errno)
}

#[test]
fn what_is_inside_maps_and_what_is_not_is_refused() {
    let file = usual();
    for (first, npages) in [(0, 13), (12, 1), (0, 1), (5, 3)] {
        assert_eq!(file.predict(&pages(first, npages)), Answer::Maps);
    }
    for (first, npages) in [
        (0, 14),
        (13, 1),
        (12, 2),
        (1, 13),
        (1 << 40, 1),
        (0, 1 << 30),
    ] {
        assert_eq!(file.predict(&pages(first, npages)), refused(Errno::EINVAL));
    }
}

#[test]
fn the_first_check_that_holds_decides() {
    let mut request = Request {
        sharing: Sharing::Private,
        prot: Prot {
            exec: true,
            ..Prot::READ
        },
        ..pages(0, 14)
    };
    assert_eq!(usual().predict(&request), refused(Errno::ENODEV));
    request.sharing = Sharing::Shared;
    assert_eq!(usual().predict(&request), refused(Errno::EACCES));
    request.prot.exec = false;
    assert_eq!(usual().predict(&request), refused(Errno::EINVAL));
}

/// mm/mmap.c of Linux 7.3, in the order of `do_mmap`.
#[test]
fn the_kernel_answers_first() {
    let read = |offset_bytes, len_bytes| Request {
        offset_bytes,
        len_bytes,
        prot: Prot::READ,
        ..pages(0, 0)
    };
    let cases = [
        (read(8, 0), Errno::EINVAL),
        (read(0, 0), Errno::EINVAL),
        (read(0, u64::MAX), Errno::ENOMEM),
        (read(0, 1 << 47), Errno::ENOMEM),
        (read(u64::MAX - 4095, 8192), Errno::EOVERFLOW),
        // 2^64 itself is no offset of a last byte plus one.
        (read(u64::MAX - 4095, 4096), Errno::EOVERFLOW),
        (read(u64::MAX - 8191, 4096), Errno::EINVAL),
    ];
    for (request, errno) in cases {
        assert_eq!(usual().predict(&request), refused(errno), "{request:x?}");
    }
    let by = |open, prot| Request {
        open,
        prot,
        ..pages(0, 1)
    };
    for (request, answer) in [
        (by(OpenMode::ReadOnly, Prot::READ), Answer::Maps),
        (
            by(OpenMode::ReadOnly, Prot::READ_WRITE),
            refused(Errno::EACCES),
        ),
        (
            by(OpenMode::WriteOnly, Prot::READ_WRITE),
            refused(Errno::EACCES),
        ),
    ] {
        assert_eq!(usual().predict(&request), answer, "{request:x?}");
    }
    let private = Request {
        sharing: Sharing::Private,
        ..by(OpenMode::ReadOnly, Prot::READ_WRITE)
    };
    assert_eq!(usual().predict(&private), refused(Errno::ENODEV));
}

#[test]
fn rights_are_those_of_the_pages_asked_for() {
    let refusals = [
        (Condition::BeyondAccess, Errno::EPERM),
        (Condition::Outside, Errno::EINVAL),
    ];
    let ranges = vec![
        range(Offset::Page(0), 4, Access::READ),
        range(Offset::Page(4), 4, Access::READ_WRITE),
    ];
    let file = file(ranges, &refusals);
    assert_eq!(file.predict(&pages(4, 4)), Answer::Maps);
    assert_eq!(file.predict(&pages(3, 2)), refused(Errno::EPERM));
    assert_eq!(file.predict(&pages(8, 1)), refused(Errno::EINVAL));
    let exec = Request {
        prot: Prot {
            exec: true,
            ..Prot::READ
        },
        ..pages(8, 1)
    };
    assert_eq!(file.predict(&exec), refused(Errno::EPERM));
}

#[test]
fn several_ranges_can_be_one_too_many() {
    let ranges = vec![
        range(Offset::Page(0), 4, Access::READ_WRITE),
        range(Offset::Page(4), 4, Access::READ_WRITE),
    ];
    let mut file = file(ranges, &[]);
    assert_eq!(file.predict(&pages(3, 2)), Answer::Maps);
    file.refusals
        .push(Refusal::new(Condition::SeveralRanges, Errno::EINVAL));
    assert_eq!(file.predict(&pages(3, 2)), refused(Errno::EINVAL));
    assert_eq!(file.predict(&pages(4, 2)), Answer::Maps);
}

#[test]
fn a_file_that_ignores_the_offset_knows_lengths_alone() {
    let ranges = vec![range(Offset::Any, 4, Access::READ_WRITE)];
    let file = file(ranges, &[(Condition::LongerThan(4), Errno::EINVAL)]);
    for first in [0, 3, 4, 1 << 40] {
        assert_eq!(file.predict(&pages(first, 4)), Answer::Maps);
        assert_eq!(file.predict(&pages(first, 5)), refused(Errno::EINVAL));
    }
}

#[test]
fn what_a_contract_leaves_open_is_not_made_up() {
    let ranges = vec![range(Offset::Page(0), 4, Access::READ)];
    let mut file = file(ranges, &[]);
    let private = Request {
        sharing: Sharing::Private,
        prot: Prot::READ,
        ..pages(0, 4)
    };
    for request in [pages(0, 4), pages(0, 5), private] {
        let answer = file.predict(&request);
        assert!(matches!(answer, Answer::Undetermined(_)), "{answer:?}");
    }
    file.copy_on_write = true;
    assert_eq!(file.predict(&private), Answer::Maps);
}

/// The requests that the standard check is made of, for the usual file.
#[test]
fn requests_reach_every_check_and_every_edge() {
    let file = usual();
    let requests = file.requests();
    let answers: Vec<Answer> = requests
        .iter()
        .map(|named| file.predict(&named.request))
        .collect();
    for errno in [
        Errno::ENODEV,
        Errno::EACCES,
        Errno::EINVAL,
        Errno::ENOMEM,
        Errno::EOVERFLOW,
    ] {
        assert!(answers.contains(&refused(errno)), "{errno}");
    }
    assert!(answers.iter().filter(|it| **it == Answer::Maps).count() >= 5);
    let undetermined = |(_, answer): &(_, &Answer)| matches!(answer, Answer::Undetermined(_));
    let open: Vec<_> = requests.iter().zip(&answers).filter(undetermined).collect();
    assert!(open.is_empty(), "{open:?}");
    let of = |first, npages| Request {
        prot: Prot::READ,
        ..pages(first, npages)
    };
    for edge in [of(0, 14), of(12, 2), of(13, 1), of(12, 1), of(1, 13)] {
        assert!(
            requests.iter().any(|named| named.request == edge),
            "{edge:?}"
        );
    }
}

prop_compose! {
    fn any_request()(
        open in prop_oneof![
            Just(OpenMode::ReadOnly), Just(OpenMode::WriteOnly), Just(OpenMode::ReadWrite)
        ],
        offset_bytes in prop_oneof![any::<u64>(), (0_u64..40).prop_map(|page| page << 12)],
        len_bytes in prop_oneof![any::<u64>(), 0_u64..(40 << 12)],
        write: bool,
        exec: bool,
        private: bool,
    ) -> Request {
        Request {
            open,
            offset_bytes,
            len_bytes,
            prot: Prot { read: true, write, exec },
            sharing: if private { Sharing::Private } else { Sharing::Shared },
        }
    }
}

prop_compose! {
    fn any_range()(
        page: u64,
        small in 0_u64..40,
        kind in 0_u8..3,
        npages in prop_oneof![any::<u64>(), 0_u64..20],
        write: bool,
    ) -> RangeContract {
        let offset = match kind {
            0 => Offset::Page(page),
            1 => Offset::Page(small),
            _ => Offset::Any,
        };
        let access = if write { Access::READ_WRITE } else { Access::READ };
        range(offset, npages, access)
    }
}

proptest! {
    /// A page is shown if and only if the model counts it as the file's own.
    #[test]
    fn the_model_and_the_pages_agree(
        first in 0_u64..40,
        npages in 1_u64..40,
        start in 0_u64..40,
        len in 0_u64..20,
    ) {
        let file = file(vec![range(Offset::Page(start), len, Access::READ_WRITE)], &[]);
        let all_shown = (0..npages).all(|page| file.shown(first, page).is_some());
        prop_assert_eq!(file.predict(&pages(first, npages)) == Answer::Maps, all_shown);
    }

    #[test]
    fn no_contract_and_no_request_makes_the_model_panic(
        ranges in proptest::collection::vec(any_range(), 0..4),
        bound: u64,
        request in any_request(),
    ) {
        let refusals = [
            (Condition::OffsetIsNot(bound), Errno::EINVAL),
            (Condition::LongerThan(bound), Errno::EINVAL),
            (Condition::BeyondAccess, Errno::EPERM),
        ];
        let file = file(ranges, &refusals);
        let _ = file.predict(&request);
        for named in file.requests() {
            let _ = file.predict(&named.request);
        }
    }
}
