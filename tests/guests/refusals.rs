//! What the good driver refuses, and with which errno.

use crate::common::{Ask, errno, guest, map, mapped, open, signal, window};
use addr::PAGE_SIZE;
use harness::own_driver::{EAGER, LAZY};
use harness::{Presence, Strategy};
use rstest::rstest;
use wire::{OpenMode, Prot, Sharing};

/// Every case is one mmap: window, offset, length, protection, sharing, how the
/// file is open, and the errno that must come.
#[rstest]
fn hostile_requests(#[values(EAGER, LAZY)] strategy: Strategy) {
    use OpenMode::{ReadOnly, ReadWrite};
    use Sharing::{Private, Shared};
    const RX: Prot = Prot {
        exec: true,
        ..Prot::READ
    };
    let rw = Prot::READ_WRITE;
    let pages = |npages: u64| npages * PAGE_SIZE;
    let beyond_every_offset = u64::MAX - (PAGE_SIZE - 1);
    let cases = [
        (
            "one page too long",
            "odd",
            0,
            pages(14),
            rw,
            Shared,
            ReadWrite,
            libc::EINVAL,
        ),
        (
            "longer than any window",
            "odd",
            0,
            pages(1 << 20),
            rw,
            Shared,
            ReadWrite,
            libc::EINVAL,
        ),
        (
            "begins past the end",
            "odd",
            pages(13),
            pages(1),
            rw,
            Shared,
            ReadWrite,
            libc::EINVAL,
        ),
        (
            "reaches past the end",
            "odd",
            pages(12),
            pages(2),
            rw,
            Shared,
            ReadWrite,
            libc::EINVAL,
        ),
        (
            "a page past a page",
            "page",
            pages(1),
            pages(1),
            rw,
            Shared,
            ReadWrite,
            libc::EINVAL,
        ),
        (
            "a byte too long",
            "page",
            0,
            PAGE_SIZE + 1,
            rw,
            Shared,
            ReadWrite,
            libc::EINVAL,
        ),
        (
            "an offset near 2^63",
            "odd",
            1 << 62,
            pages(1),
            rw,
            Shared,
            ReadWrite,
            libc::EINVAL,
        ),
        (
            "offset and length wrap",
            "odd",
            beyond_every_offset,
            pages(2),
            rw,
            Shared,
            ReadWrite,
            libc::EOVERFLOW,
        ),
        (
            "an unaligned offset",
            "odd",
            8,
            pages(1),
            rw,
            Shared,
            ReadWrite,
            libc::EINVAL,
        ),
        (
            "no length",
            "odd",
            0,
            0,
            rw,
            Shared,
            ReadWrite,
            libc::EINVAL,
        ),
        (
            "private",
            "odd",
            0,
            pages(1),
            Prot::READ,
            Private,
            ReadWrite,
            libc::EINVAL,
        ),
        (
            "private and writable",
            "odd",
            0,
            pages(1),
            rw,
            Private,
            ReadWrite,
            libc::EINVAL,
        ),
        (
            "executable",
            "odd",
            0,
            pages(1),
            RX,
            Shared,
            ReadWrite,
            libc::EACCES,
        ),
        (
            "writable, of a window that is not",
            "readonly",
            0,
            pages(1),
            rw,
            Shared,
            ReadWrite,
            libc::EACCES,
        ),
        (
            "writable, by a file that is not",
            "odd",
            0,
            pages(1),
            rw,
            Shared,
            ReadOnly,
            libc::EACCES,
        ),
        (
            "by a file that is only writable",
            "odd",
            0,
            pages(1),
            rw,
            Shared,
            OpenMode::WriteOnly,
            libc::EACCES,
        ),
    ];
    let mut guest = guest();
    for (name, window_name, offset_bytes, len_bytes, prot, sharing, mode, wanted) in cases {
        let index = window(&guest, window_name);
        let fd = open(&mut guest, strategy, index, mode);
        let answer = guest.mmap(fd, offset_bytes, len_bytes, prot, sharing);
        assert_eq!(errno(answer.expect("an answer")), wanted, "{name}");
        guest.close(fd).expect("an answer").expect("closed");
    }
    assert_eq!(guest.kernel_complaints().expect("its log"), [""; 0]);
}

#[rstest]
#[case::read_only_window("readonly", Prot::READ, Prot::READ_WRITE)]
#[case::read_only_file("odd", Prot::READ, Prot::READ_WRITE)]
#[case::never_executable("odd", Prot::READ_WRITE, Prot { exec: true, ..Prot::READ })]
fn rights_cannot_be_raised_later(
    #[case] window: &'static str,
    #[case] at_first: Prot,
    #[case] later: Prot,
    #[values(EAGER, LAZY)] strategy: Strategy,
) {
    let mut guest = guest();
    let ask = Ask {
        strategy,
        window,
        first_page: 0,
        npages: 2,
        prot: at_first,
    };
    let mapping = mapped(&mut guest, ask);
    let raised = guest
        .mprotect(mapping.gva, 2 * PAGE_SIZE, later)
        .expect("an answer");
    assert_eq!(errno(raised), libc::EACCES);
    let judged = guest.witness_in_use(&mapping).expect("walked");
    assert_eq!(judged.mismatch, None);
}

#[rstest]
fn a_mapping_does_not_grow(#[values(EAGER, LAZY)] strategy: Strategy) {
    let mut guest = guest();
    let ask = Ask {
        strategy,
        window: "odd",
        first_page: 0,
        npages: 2,
        prot: Prot::READ_WRITE,
    };
    let mapping = mapped(&mut guest, ask);
    let grown = guest
        .mremap(mapping.gva, 2 * PAGE_SIZE, 3 * PAGE_SIZE, true)
        .expect("an answer");
    assert_eq!(errno(grown), libc::EFAULT);
}

#[test]
fn an_unmapped_page_cannot_be_touched() {
    let mut guest = guest();
    let ask = Ask {
        strategy: EAGER,
        window: "odd",
        first_page: 0,
        npages: 1,
        prot: Prot::READ,
    };
    let mapping = mapped(&mut guest, ask);
    guest
        .munmap(mapping.gva, PAGE_SIZE)
        .expect("an answer")
        .expect("unmapped");
    let load = guest.load(mapping.gva, PAGE_SIZE, 1).expect("an answer");
    assert_eq!(signal(load), libc::SIGSEGV);
    let judged = guest.witness(&mapping, &Presence::Nothing).expect("walked");
    assert_eq!(judged.mismatch, None);
}

#[test]
fn an_empty_ask_is_never_granted() {
    let mut guest = guest();
    let ask = Ask {
        strategy: LAZY,
        window: "page",
        first_page: 0,
        npages: 0,
        prot: Prot::READ,
    };
    assert_eq!(errno(map(&mut guest, ask)), libc::EINVAL);
}
