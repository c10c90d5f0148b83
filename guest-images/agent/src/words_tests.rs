use super::*;
use crate::test_support::*;
use wire::Prot;

#[test]
fn words_come_back_in_order() {
    let at = mapped(Some(file_of(2 * PAGE)), 2, Prot::READ_WRITE);
    assert_eq!(put(at + 8, PAGE, &[u64::MAX, 7]), Ok(Value::Unit));
    let expected = vec![0, u64::MAX, 0];
    assert_eq!(load(at, 8, 3), Ok(Value::Words(expected)));
    assert_eq!(load(at + PAGE + 8, 0, 2), Ok(Value::Words(vec![7, 7])));
    assert_eq!(load(at, 8, 0), Ok(Value::Words(vec![])));
}

#[test]
fn a_load_beyond_the_file_is_a_bus_error_at_its_address() {
    let at = mapped(Some(file_of(PAGE)), 3, Prot::READ_WRITE);
    let beyond = at + PAGE;
    assert_eq!(
        load(at + 8, PAGE, 3),
        signal(libc::SIGBUS, BUS_ADRERR, beyond + 8)
    );
    // The handler serves again.
    assert_eq!(load(beyond, 8, 1), signal(libc::SIGBUS, BUS_ADRERR, beyond));
    assert_eq!(load(at, 8, 1), Ok(Value::Words(vec![0])));
}

#[test]
fn a_store_stops_at_its_first_fault() {
    let at = mapped(Some(file_of(PAGE)), 3, Prot::READ_WRITE);
    assert_eq!(
        put(at, PAGE, &[1, 2, 3]),
        signal(libc::SIGBUS, BUS_ADRERR, at + PAGE)
    );
    assert_eq!(load(at, 8, 1), Ok(Value::Words(vec![1])));
}

#[test]
fn protection_is_told_from_absence() {
    let none = mapped(None, 1, Prot::NONE);
    let refused = signal(libc::SIGSEGV, SEGV_ACCERR, none + 16);
    assert_eq!(load(none + 16, 8, 1), refused);
    assert_eq!(put(none + 16, 8, &[1]), refused);

    let read_only = mapped(None, 1, Prot::READ);
    let refused = signal(libc::SIGSEGV, SEGV_ACCERR, read_only);
    assert_eq!(put(read_only, 8, &[1]), refused);

    // The last page of the lower half is never mapped.
    let absent = (1 << 47) - PAGE;
    let refused = signal(libc::SIGSEGV, SEGV_MAPERR, absent);
    assert_eq!(load(absent, 8, 1), refused);
    assert_eq!(put(absent, 8, &[1]), refused);
    assert_eq!(load(0, 8, 1), signal(libc::SIGSEGV, SEGV_MAPERR, 0));
}

#[test]
fn a_non_canonical_address_is_a_signal_without_one() {
    access::survive_faults().expect("handler");
    let refused = signal(libc::SIGSEGV, SI_KERNEL, 0);
    assert_eq!(load(0x8000_0000_0000_0000, 8, 1), refused);
    assert_eq!(put(0x8000_0000_0000_0000, 8, &[0]), refused);
    // Kernel addresses are canonical.
    let kernel = 0xffff_8880_0000_0000;
    assert!(matches!(load(kernel, 8, 1), Err(Refusal::Signal(_))));
}

#[test]
fn unusable_words_are_rejected_before_the_first_access() {
    for outcome in [
        load(4, 8, 1),
        load(8, 4, 2),
        load(0, 8, MAX_WORDS + 1),
        load(0, 8, u32::MAX),
        load(u64::MAX - 7, 8, 2),
        load(8, u64::MAX - 7, 3),
        put(1, 8, &[0]),
        put(u64::MAX - 7, 8, &[0, 0]),
        put(0, 0, &vec![0; MAX_WORDS as usize + 1]),
    ] {
        assert!(matches!(outcome, Err(Refusal::Rejected(_))), "{outcome:?}");
    }
}
