use super::*;

fn errno(number: i32) -> Outcome {
    Err(Errno(number).into())
}

fn rejected(outcome: &Outcome) -> bool {
    matches!(outcome, Err(Refusal::Rejected(_)))
}

#[test]
fn own_maps_and_smaps_are_whole() {
    for path in ["/proc/self/maps", "/proc/self/smaps"] {
        let Ok(Value::Bytes(bytes)) = read_file(path.into()) else {
            panic!("{path} not read");
        };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.contains("[stack]") && text.ends_with('\n'), "{text}");
    }
}

#[test]
fn refusals_carry_the_kernels_errno() {
    assert_eq!(read_file("/no/such".into()), errno(libc::ENOENT));
    assert_eq!(read_file("/proc".into()), errno(libc::EISDIR));
    assert_eq!(read_file("/dev/zero".into()), errno(libc::EFBIG));
    assert_eq!(read_file("x".repeat(300_000)), errno(libc::ENAMETOOLONG));
    assert_eq!(
        open("/proc".into(), OpenMode::WriteOnly),
        errno(libc::EISDIR)
    );
    assert_eq!(read(Fd(-1), 0, 1), errno(libc::EBADF));
    assert_eq!(write(Fd(-1), 0, b"x"), errno(libc::EBADF));
    assert_eq!(
        load_module("/no/such".into(), String::new()),
        errno(libc::ENOENT)
    );
}

#[test]
fn hostile_arguments_are_rejected() {
    assert!(rejected(&open("/dev/\0null".into(), OpenMode::ReadOnly)));
    assert!(rejected(&read_file("\0".into())));
    assert!(rejected(&unload_module("\0".into())));
    assert!(rejected(&load_module("/dev/null".into(), "a\0".into())));
    assert!(rejected(&pagemap(0, MAX_WORDS + 1)));
    assert!(rejected(&pagemap(1, 1)));
    assert!(rejected(&pagemap(!0xfff, 1)));
    assert!(rejected(&read(Fd(0), 0, u32::MAX)));
    assert_eq!(pagemap(0, 0), Ok(Value::Words(vec![])));
}

#[test]
fn one_call_reads_and_writes_at_its_offset() {
    // SAFETY: the name is NUL-terminated.
    let fd = Fd(unsafe { libc::memfd_create(c"agent-test".as_ptr(), libc::MFD_CLOEXEC) });
    assert_eq!(write(fd, 3, b"abc"), Ok(Value::Len(3)));
    assert_eq!(read(fd, 2, 100), Ok(Value::Bytes(b"\0abc".to_vec())));
    assert_eq!(read(fd, 1 << 63, 1), errno(libc::EINVAL));
    assert_eq!(close(fd), Ok(Value::Unit));
}

#[test]
fn an_ioctl_gives_back_its_argument() {
    let (mut ends, unread) = ([0; 2], libc::FIONREAD);
    // SAFETY: `ends` has room for two descriptors.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    let command = u32::try_from(unread).expect("32 bits");
    let [from, to] = ends.map(Fd);
    // SAFETY: writes three bytes of a constant to the pipe.
    assert_eq!(unsafe { libc::write(to.0, c"abc".as_ptr().cast(), 3) }, 3);
    let answer = ioctl(from, command, vec![0xff; 4]);
    assert_eq!(answer, Ok(Value::Bytes(vec![3, 0, 0, 0])));
    let unknown = ioctl(from, 0x4d57, Vec::new());
    assert_eq!(unknown, errno(libc::ENOTTY));
    // _IOR('M', 1, 16 bytes)
    assert!(rejected(&ioctl(from, 0x8010_4d01, vec![0; 15])));
    assert_eq!((close(from), close(to)), (Ok(Value::Unit), Ok(Value::Unit)));
}

#[test]
fn pages_beyond_user_space_have_no_entries() {
    // The end of user space with 5-level paging, far beyond it with 4-level.
    let end = (1_u64 << 56) - PAGE_LEN_BYTES;
    assert!(rejected(&pagemap(end, 2)));
    assert_eq!(pagemap(0, 1), Ok(Value::Words(vec![0])));
}
