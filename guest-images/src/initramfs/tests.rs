use super::*;
use tempfile::TempDir;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A program of `len_bytes`, which is no multiple of the alignment.
    fn program(&self, len_bytes: usize) -> PathBuf {
        let path = self.path("program");
        fs::write(&path, vec![0x90; len_bytes]).expect("written");
        path
    }

    fn base(&self) -> PathBuf {
        let path = self.path("base");
        write(&Entry::of_agent(self.program(1001)), &path).expect("written");
        path
    }
}

fn paths(found: &[Listed]) -> Vec<&str> {
    found.iter().map(|entry| entry.path.as_str()).collect()
}

#[test]
fn what_goes_in_comes_out() {
    let folder = Folder::new();
    let mut entries = Entry::of_agent(folder.program(1001));
    entries.push(Entry::bytes("/lib/modules/x.ko", 0o644, *b"module"));
    let out = folder.path("out");
    write(&entries, &out).expect("written");

    let found = check(&out).expect("whole");
    let expected = [
        ("/dev", 0o040_755, 0),
        ("/dev/console", 0o020_600, 0),
        ("/init", 0o100_755, 1001),
        ("/lib", 0o040_755, 0),
        ("/lib/modules", 0o040_755, 0),
        ("/lib/modules/x.ko", 0o100_644, 6),
        ("/proc", 0o040_755, 0),
        ("/sys", 0o040_755, 0),
    ];
    let expected = expected.map(|(path, mode, len_bytes)| Listed {
        path: path.into(),
        mode,
        len_bytes,
    });
    assert_eq!(found, expected);
}

#[test]
fn bytes_and_nodes_are_as_the_kernel_wants_them() {
    let folder = Folder::new();
    let out = folder.path("out");
    let console = Entry::char_device("/console", 0o600, 5, 1);
    write(&[Entry::bytes("/x", 0o644, *b"content"), console], &out).expect("written");

    let bytes = fs::read(&out).expect("readable");
    let first = newc::Reader::new(bytes.as_slice()).expect("an entry");
    let node = first.entry();
    assert_eq!((node.rdev_major(), node.rdev_minor()), (5, 1));
    assert_eq!((node.uid(), node.gid(), node.mtime()), (0, 0, 0));
    let rest = first.finish().expect("aligned");
    let mut second = newc::Reader::new(rest).expect("an entry");
    let mut content = Vec::new();
    second.read_to_end(&mut content).expect("readable");
    assert_eq!(content, b"content");
}

#[test]
fn the_order_of_the_entries_does_not_matter() {
    let folder = Folder::new();
    let entries = Entry::of_agent(folder.program(9));
    let reversed: Vec<_> = entries.iter().rev().cloned().collect();
    let [one, other] = ["one", "other"].map(|name| folder.path(name));
    write(&entries, &one).expect("written");
    write(&reversed, &other).expect("written");
    assert_eq!(fs::read(one).expect("read"), fs::read(other).expect("read"));
}

#[test]
fn an_appended_archive_adds_and_replaces() {
    let folder = Folder::new();
    let out = folder.path("out");
    let module = Entry::bytes("/lib/m.ko", 0o644, *b"module");
    append(&folder.base(), &[module], &out).expect("appended");
    let found = check(&out).expect("whole");
    let expected = ["/dev", "/dev/console", "/init", "/proc", "/sys"];
    assert_eq!(paths(&found)[..5], expected);
    assert_eq!(paths(&found)[5..], ["/lib", "/lib/m.ko"]);

    // Once more over what was appended to.
    let module = Entry::bytes("/lib/m.ko", 0o644, *b"another module");
    append(&out, &[module], &out).expect("appended");
    let found = check(&out).expect("whole");
    assert_eq!(found.last().map(|entry| entry.len_bytes), Some(14));
}

/// The kernel looks for a header at multiples of four only.
#[test]
fn an_unaligned_base_is_padded() {
    let folder = Folder::new();
    let base = folder.base();
    let mut bytes = fs::read(&base).expect("read");
    bytes.extend([0; 3]);
    fs::write(&base, &bytes).expect("written");
    let out = folder.path("out");
    append(&base, &[Entry::directory("/late")], &out).expect("appended");
    let late = fs::read(&out).expect("read");
    let start = bytes.len().next_multiple_of(4);
    assert_eq!(&late[start..start + 6], b"070701");
}

#[test]
fn every_truncation_is_told() {
    let folder = Folder::new();
    let base = folder.base();
    let whole = fs::read(&base).expect("read");
    let cut = folder.path("cut");
    for len in 0..whole.len() {
        fs::write(&cut, &whole[..len]).expect("written");
        let error = check(&cut).expect_err("cut off");
        let Error::Truncated { len_bytes, .. } = &error else {
            panic!("{len} of {} bytes: {error}", whole.len());
        };
        assert_eq!(*len_bytes, len as u64);
    }
    fs::write(&cut, &whole[..whole.len() / 2]).expect("written");
    let text = check(&cut).expect_err("cut off").to_string();
    assert!(
        text.contains("`/init`") && text.contains("images build"),
        "{text}"
    );
    let refused = append(&cut, &[], &folder.path("out"));
    assert!(matches!(refused, Err(Error::Truncated { .. })));
}

#[test]
fn foreign_bytes_are_told() {
    let folder = Folder::new();
    let path = folder.path("gzip");
    fs::write(&path, [0x1f_u8; 4096]).expect("written");
    let error = check(&path).expect_err("foreign");
    assert!(matches!(error, Error::Foreign { .. }), "{error}");

    let mut garbage_after = fs::read(folder.base()).expect("read");
    garbage_after.extend(*b"garbage");
    fs::write(&path, garbage_after).expect("written");
    assert!(matches!(check(&path), Err(Error::Foreign { .. })));
}

#[test]
fn an_archive_without_an_executable_init_is_refused() {
    let folder = Folder::new();
    let path = folder.path("out");
    for init in [
        Entry::bytes("/init", 0o644, *b"not executable"),
        Entry::bytes("/init", 0o755, *b""),
        Entry::bytes("/sbin/init", 0o755, *b"elsewhere"),
        Entry::directory("/init"),
    ] {
        write(&[init], &path).expect("written");
        let error = check(&path).expect_err("refused");
        assert!(matches!(error, Error::NoInit { .. }), "{error}");
    }
}

#[test]
fn unusable_paths_are_named() {
    let folder = Folder::new();
    let out = folder.path("out");
    for path in [
        "relative",
        "/",
        "",
        "/a//b",
        "/a/../b",
        "/./a",
        "/a/",
        "/a\0",
        "/TRAILER!!!",
    ] {
        let error = write(&[Entry::directory(path)], &out);
        let Err(Error::EntryPath { path: named }) = error else {
            panic!("{path:?} was taken");
        };
        assert_eq!(named, path);
    }
    let twice = [Entry::directory("/a"), Entry::bytes("/a", 0o644, *b"")];
    assert!(matches!(write(&twice, &out), Err(Error::EntryPath { .. })));
    assert!(!out.exists());
}

#[test]
fn a_missing_source_leaves_the_old_archive() {
    let folder = Folder::new();
    let base = folder.base();
    let before = fs::read(&base).expect("read");
    let absent = folder.path("absent");
    let error = write(&[Entry::file("/init", 0o755, &absent)], &base).expect_err("no source");
    let text = error.to_string();
    assert!(text.contains("absent") && text.contains("/init"), "{text}");
    assert_eq!(fs::read(&base).expect("read"), before);
    let files = fs::read_dir(folder.0.path()).expect("listed").count();
    assert_eq!(files, 2, "something was left behind");

    let nowhere = folder.path("no/such/out");
    let error = write(&[Entry::directory("/a")], &nowhere).expect_err("no folder");
    assert!(error.to_string().contains("no/such/out"), "{error}");
}
