//! Memory that is taken away from its mappings, and what is left of them.

use crate::common::{
    Ask, bind, control, errno, guest, mapped, open, signal, unbind, window, window_target,
};
use addr::PAGE_SIZE;
use contract::When;
use harness::{Guest, Mapping, Presence, Strategy};
use rstest::rstest;
use wire::ioctls::{RESTORE, REVOKE, Target};
use wire::{OpenMode, Prot, Sharing};

const fn strategy(name: &'static str, present: When) -> Strategy {
    Strategy { name, present }
}

const EAGER: [Strategy; 4] = [
    strategy("eager", When::AtMmap),
    strategy("iomap", When::AtMmap),
    strategy("prepare-remap", When::AtMmap),
    strategy("prepare-iomap", When::AtMmap),
];
const LAZY: [Strategy; 5] = [
    strategy("lazy", When::OnTouch),
    strategy("prot", When::OnTouch),
    strategy("huge", When::OnTouch),
    strategy("prepare-around", When::OnTouch),
    strategy("prepare-lazy", When::OnTouch),
];

fn ask(strategy: Strategy, window: &'static str, npages: u64) -> Ask {
    Ask {
        strategy,
        window,
        first_page: 0,
        npages,
        prot: Prot::READ_WRITE,
    }
}

/// A mapping with all its pages in use.
fn in_use(guest: &mut Guest, ask: Ask) -> Mapping {
    let mapping = mapped(guest, ask);
    assert_in_use(guest, &mapping);
    mapping
}

#[track_caller]
fn assert_in_use(guest: &mut Guest, mapping: &Mapping) {
    let judged = guest.witness_in_use(mapping).expect("walked");
    assert_eq!(judged.mismatch, None, "{}", mapping.spec.file.name);
    assert_eq!(judged.links.stamp, mapping.spec.npages);
}

#[track_caller]
fn assert_gone(guest: &mut Guest, mapping: &Mapping) {
    let name = &mapping.spec.file.name;
    let judged = guest.witness(mapping, &Presence::Nothing).expect("walked");
    assert_eq!(
        (judged.mismatch, judged.absent),
        (None, mapping.spec.npages),
        "{name}"
    );
    for page in [0, mapping.spec.npages - 1] {
        let gva = mapping.page_gva(page).expect("in the mapping");
        let load = guest.load(gva, PAGE_SIZE, 1).expect("an answer");
        assert_eq!(signal(load), libc::SIGBUS, "{name}");
    }
}

/// What mmap answers for page 0 of a window.
fn ask_for_a_page(
    guest: &mut Guest,
    strategy: Strategy,
    name: &str,
) -> harness::Outcome<addr::Gva> {
    let index = window(guest, name);
    let fd = open(guest, strategy, index, OpenMode::ReadWrite);
    let answer = guest.mmap(fd, 0, PAGE_SIZE, Prot::READ, Sharing::Shared);
    guest.close(fd).expect("an answer").expect("closed");
    answer.expect("an answer")
}

#[test]
fn a_revoked_window_is_gone_from_all_mappings_and_from_no_other() {
    let mut guest = guest();
    let target = window_target(&guest, "odd");
    for strategy in EAGER.into_iter().chain(LAZY) {
        let revoked = in_use(&mut guest, ask(strategy, "odd", 13));
        let other = in_use(&mut guest, ask(strategy, "large", 600));
        control(&mut guest, REVOKE, target).expect("revoked");
        assert_gone(&mut guest, &revoked);
        assert_in_use(&mut guest, &other);
        assert_eq!(
            errno(ask_for_a_page(&mut guest, strategy, "odd")),
            libc::ENXIO
        );
        control(&mut guest, RESTORE, target).expect("restored");
        for mapping in [revoked, other] {
            guest
                .munmap(mapping.gva, mapping.spec.len_bytes())
                .expect("an answer")
                .expect("unmapped");
        }
    }
    assert_eq!(guest.kernel_complaints().expect("its log"), [""; 0]);
}

#[test]
fn a_restored_window_comes_back_where_faults_are_answered() {
    let mut guest = guest();
    let target = window_target(&guest, "odd");
    for strategy in LAZY {
        let mapping = in_use(&mut guest, ask(strategy, "odd", 13));
        for _ in 0..2 {
            control(&mut guest, REVOKE, target).expect("revoked");
            assert_gone(&mut guest, &mapping);
            control(&mut guest, RESTORE, target).expect("restored");
            assert_in_use(&mut guest, &mapping);
        }
    }
}

#[test]
fn a_restored_window_must_be_mapped_anew_where_they_are_not() {
    let mut guest = guest();
    let target = window_target(&guest, "odd");
    for strategy in EAGER {
        let old = in_use(&mut guest, ask(strategy, "odd", 13));
        control(&mut guest, REVOKE, target).expect("revoked");
        control(&mut guest, RESTORE, target).expect("restored");
        assert_gone(&mut guest, &old);
        in_use(&mut guest, ask(strategy, "odd", 13));
    }
}

#[test]
fn a_revocation_reaches_other_processes() {
    let mut guest = guest();
    let target = window_target(&guest, "odd");
    let lazy = LAZY[0];
    let mapping = in_use(&mut guest, ask(lazy, "odd", 13));
    guest.fork().expect("an answer").expect("a child");
    assert_in_use(&mut guest, &mapping);
    control(&mut guest, REVOKE, target).expect("revoked");
    assert_gone(&mut guest, &mapping);
    guest.exit_child(0).expect("an answer").expect("ended");
    assert_gone(&mut guest, &mapping);
}

#[rstest]
fn an_unbound_driver_leaves_nothing_of_a_window(#[values(false, true)] bind_again: bool) {
    let mut guest = guest();
    let all = EAGER.into_iter().chain(LAZY);
    let mappings: Vec<Mapping> = all
        .map(|strategy| in_use(&mut guest, ask(strategy, "odd", 13)))
        .collect();
    unbind(&mut guest);
    if bind_again {
        bind(&mut guest);
    }
    for mapping in &mappings {
        assert_gone(&mut guest, mapping);
    }
    if bind_again {
        for strategy in [EAGER[0], LAZY[0]] {
            in_use(&mut guest, ask(strategy, "odd", 13));
        }
    }
    assert_eq!(guest.kernel_complaints().expect("its log"), [""; 0]);
}

#[test]
fn a_file_that_was_open_before_cannot_be_mapped_after() {
    let mut guest = guest();
    let index = window(&guest, "odd");
    for strategy in [EAGER[0], EAGER[2], LAZY[0], LAZY[4]] {
        let fd = open(&mut guest, strategy, index, OpenMode::ReadWrite);
        unbind(&mut guest);
        let answer = guest.mmap(fd, 0, PAGE_SIZE, Prot::READ, Sharing::Shared);
        assert_eq!(errno(answer.expect("an answer")), libc::ENODEV);
        bind(&mut guest);
        let answer = guest.mmap(fd, 0, PAGE_SIZE, Prot::READ, Sharing::Shared);
        assert_eq!(errno(answer.expect("an answer")), libc::ENODEV);
        guest.close(fd).expect("an answer").expect("closed");
    }
}

#[test]
fn memory_that_is_not_there_cannot_be_revoked() {
    let mut guest = guest();
    for is_buffer in [false, true] {
        for command in [REVOKE, RESTORE] {
            let index = u32::MAX;
            let answer = control(&mut guest, command, Target { is_buffer, index });
            assert_eq!(errno(answer), libc::EINVAL);
        }
    }
    let target = window_target(&guest, "odd");
    assert_eq!(
        errno(control(&mut guest, REVOKE + 0x40, target)),
        libc::ENOTTY
    );
}
