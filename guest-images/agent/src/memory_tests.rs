use super::*;
use crate::access;
use crate::files;
use crate::ops::{State, perform};
use crate::test_support::*;
use crate::words::{load, store};
use wire::{Reply, Request, Signal};

#[test]
fn refusals_of_mmap_carry_the_kernels_errno() {
    let own = Own::nothing();
    let file = file_of(PAGE);
    let good = || request(Some(file), 1, Prot::READ);
    let with = |change: fn(&mut Mapping)| {
        let mut mapping = good();
        change(&mut mapping);
        map(&own, &mapping)
    };
    assert_eq!(with(|m| m.len_bytes = 0), errno(libc::EINVAL));
    assert_eq!(with(|m| m.offset_bytes = 1), errno(libc::EINVAL));
    assert_eq!(with(|m| m.fd = Some(Fd(-1))), errno(libc::EBADF));
    assert_eq!(with(|m| m.fd = Some(Fd(i32::MAX))), errno(libc::EBADF));
    assert_eq!(with(|m| m.len_bytes = u64::MAX), errno(libc::ENOMEM));
    assert_eq!(with(|m| m.fixed_at = Some(123)), errno(libc::EINVAL));
    assert_eq!(
        with(|m| m.offset_bytes = 0xffff_ffff_ffff_f000),
        errno(libc::EOVERFLOW)
    );
}

#[test]
fn a_read_only_file_has_no_writable_shared_mapping() {
    alone(map_a_read_only_file_and_close_it);
}

fn map_a_read_only_file_and_close_it() {
    let own = Own::nothing();
    let path = "/proc/self/exe".to_owned();
    let Ok(Value::Fd(file)) = files::open(path, wire::OpenMode::ReadOnly) else {
        panic!("not opened");
    };
    let shared = request(Some(file), 1, Prot::READ_WRITE);
    assert_eq!(map(&own, &shared), errno(libc::EACCES));
    let private = Mapping {
        sharing: Sharing::Private,
        ..shared
    };
    let at = address(map(&own, &private));
    let changed = put(at, 8, &[5]);
    assert_eq!(changed, Ok(Value::Unit));
    let read_only = mapped(Some(file), 1, Prot::READ);
    let refused = protect(&own, read_only, PAGE, Prot::READ_WRITE);
    assert_eq!(refused, errno(libc::EACCES));
    assert_eq!(files::close(file), Ok(Value::Unit));
    assert_eq!(files::close(file), errno(libc::EBADF));
}

#[test]
fn protection_changes_and_holes_are_refused() {
    alone(change_protection_and_make_holes);
}

fn change_protection_and_make_holes() {
    let own = Own::nothing();
    let at = mapped(None, 4, Prot::READ_WRITE);
    assert_eq!(protect(&own, at, PAGE, Prot::READ), Ok(Value::Unit));
    let refused = signal(libc::SIGSEGV, SEGV_ACCERR, at);
    assert_eq!(put(at, 8, &[1]), refused);
    assert_eq!(put(at + PAGE, 8, &[1]), Ok(Value::Unit));

    assert_eq!(unmap(&own, at + 2 * PAGE, PAGE), Ok(Value::Unit));
    let hole = signal(libc::SIGSEGV, SEGV_MAPERR, at + 2 * PAGE);
    assert_eq!(load(at, PAGE, 4), hole);
    let across = protect(&own, at + 2 * PAGE, PAGE, Prot::READ);
    assert_eq!(across, errno(libc::ENOMEM));
    assert_eq!(unmap(&own, at + 1, PAGE), errno(libc::EINVAL));
    assert_eq!(unmap(&own, at, u64::MAX), errno(libc::EINVAL));
    assert_eq!(unmap(&own, at, 0), errno(libc::EINVAL));
    // Taken again, at the same place.
    let fixed = Mapping {
        fixed_at: Some(at + 2 * PAGE),
        ..request(None, 1, Prot::READ)
    };
    assert_eq!(address(map(&own, &fixed)), at + 2 * PAGE);
    assert_eq!(load(at + 2 * PAGE, 8, 1), Ok(Value::Words(vec![0])));
}

#[test]
fn advice_reaches_the_pages() {
    let own = Own::nothing();
    let private = Mapping {
        sharing: Sharing::Private,
        ..request(None, 2, Prot::READ_WRITE)
    };
    access::survive_faults().expect("handler");
    let at = address(map(&own, &private));
    let present = |npages| {
        let Ok(Value::Words(entries)) = files::pagemap(at, npages) else {
            panic!("no entries");
        };
        entries
            .into_iter()
            .map(|entry| entry >> 63)
            .collect::<Vec<_>>()
    };
    assert_eq!(present(2), [0, 0]);
    assert_eq!(put(at + PAGE, 8, &[9]), Ok(Value::Unit));
    assert_eq!(present(2), [0, 1]);
    let populated = advise(&own, at, 2 * PAGE, Advice::PopulateWrite);
    assert_eq!(populated, Ok(Value::Unit));
    assert_eq!(present(2), [1, 1]);
    let dropped = advise(&own, at + PAGE, PAGE, Advice::DontNeed);
    assert_eq!(dropped, Ok(Value::Unit));
    assert_eq!(present(2), [1, 0]);
    assert_eq!(load(at + PAGE, 8, 1), Ok(Value::Words(vec![0])));
    let odd = advise(&own, at + 1, PAGE, Advice::DontFork);
    assert_eq!(odd, errno(libc::EINVAL));
}

/// mremap(2) of one page.
fn resized(own: &Own, address: u64, new_len_bytes: u64, may_move: bool) -> Outcome {
    let remapping = Remapping {
        address,
        old_len_bytes: PAGE,
        new_len_bytes,
        may_move,
        fixed_at: None,
    };
    remap(own, &remapping)
}

#[test]
fn a_mapping_moves_where_it_is_told() {
    alone(move_a_mapping);
}

fn move_a_mapping() {
    let own = Own::nothing();
    let at = mapped(Some(file_of(PAGE)), 1, Prot::READ_WRITE);
    assert_eq!(put(at, PAGE, &[3]), Ok(Value::Unit));
    let target = mapped(None, 1, Prot::NONE);
    let to = |fixed_at| Remapping {
        address: at,
        old_len_bytes: PAGE,
        new_len_bytes: PAGE,
        may_move: true,
        fixed_at: Some(fixed_at),
    };
    assert_eq!(remap(&own, &to(target + 1)), errno(libc::EINVAL));
    assert_eq!(address(remap(&own, &to(target))), target);
    assert_eq!(load(target, 8, 1), Ok(Value::Words(vec![3])));
    assert!(matches!(load(at, 8, 1), Err(Refusal::Signal(_))));
}

#[test]
fn a_moved_mapping_keeps_its_words() {
    let own = Own::nothing();
    let file = file_of(8 * PAGE);
    let at = mapped(Some(file), 2, Prot::READ_WRITE);
    assert_eq!(put(at, PAGE, &[1, 2]), Ok(Value::Unit));
    let fence = Mapping {
        fixed_at: Some(at + PAGE),
        ..request(None, 1, Prot::NONE)
    };
    assert_eq!(address(map(&own, &fence)), at + PAGE);
    let in_place = resized(&own, at, 8 * PAGE, false);
    assert_eq!(in_place, errno(libc::ENOMEM));
    let moved = address(resized(&own, at, 8 * PAGE, true));
    assert_ne!(moved, at);
    assert_eq!(load(moved, PAGE, 2), Ok(Value::Words(vec![1, 2])));
    assert_eq!(resized(&own, 1, PAGE, true), errno(libc::EINVAL));
}

/// The whole state machine on the agent's own memory: text, stack, heap and area
/// stand where a hostile request points.
#[test]
fn the_agents_own_memory_is_spared() {
    alone(spare_the_agents_own_memory);
}

fn spare_the_agents_own_memory() {
    let own = Own::of_this_process().expect("readable");
    let victim = Box::new(5_u64);
    let word = &raw const *victim as u64;
    let page = word & !(PAGE - 1);
    let fixed = Mapping {
        fixed_at: Some(page),
        ..request(None, 1, Prot::NONE)
    };
    let onto = Remapping {
        address: mapped(None, 1, Prot::READ),
        old_len_bytes: PAGE,
        new_len_bytes: PAGE,
        may_move: true,
        fixed_at: Some(page),
    };
    for outcome in [
        store(&own, word, 8, &[6]),
        unmap(&own, page, 1),
        unmap(&own, 0, (1 << 47) - PAGE),
        protect(&own, page, PAGE, Prot::NONE),
        protect(&own, page, 1 << 60, Prot::NONE),
        advise(&own, page, 1 << 60, Advice::DontNeed),
        advise(&own, page, PAGE, Advice::DontNeed),
        resized(&own, page, 2 * PAGE, true),
        map(&own, &fixed),
        remap(&own, &onto),
    ] {
        assert!(matches!(outcome, Err(Refusal::Rejected(_))), "{outcome:?}");
    }
    assert_eq!(load(word, 8, 1), Ok(Value::Words(vec![5])));
    assert_eq!(*victim, 5);
}

#[test]
fn requests_reach_their_calls() {
    access::survive_faults().expect("handler");
    let mut state = State::unguarded();
    let map = Request::Map {
        fd: Some(file_of(PAGE)),
        fixed_at: None,
        len_bytes: 2 * PAGE,
        prot: Prot::READ_WRITE,
        sharing: Sharing::Shared,
        offset_bytes: 0,
    };
    let Reply::Done(Value::Address(address)) = perform(&mut state, map) else {
        panic!("not mapped");
    };
    let beyond = Request::Store {
        address,
        stride_bytes: PAGE,
        words: vec![1, 2],
    };
    let expected = Signal {
        number: libc::SIGBUS,
        code: BUS_ADRERR,
        address: address + PAGE,
    };
    assert_eq!(perform(&mut state, beyond), Reply::Signal(expected));
    let unmap = Request::Unmap {
        address,
        len_bytes: 2 * PAGE,
    };
    assert_eq!(perform(&mut state, unmap), Reply::Done(Value::Unit));
    let load = Request::Load {
        address: 4,
        stride_bytes: 8,
        count: 1,
    };
    assert!(matches!(perform(&mut state, load), Reply::Rejected { .. }));
    let close = Request::Close { fd: Fd(-1) };
    assert_eq!(perform(&mut state, close), Reply::Errno(libc::EBADF));
}
