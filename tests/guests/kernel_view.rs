//! What the host reads in the guest kernel's own structures, held against what that
//! kernel says of itself in /proc and against its page tables.

use std::collections::BTreeMap;

use crate::common::{self, Ask, guest, kernel_facts, mapped};
use addr::{Gfn, Gpa, Gva, PAGE_SIZE};
use guest_kernel::{KernelFacts, KernelView, PageView, VmaView};
use harness::Guest;
use harness::own_driver::{EAGER, LAZY};
use rstest::rstest;
use wire::{Fd, OpenMode, Prot, Reply, Request, Sharing, Value};

fn view<'g>(guest: &'g Guest, facts: &'g KernelFacts) -> KernelView<'g> {
    guest.kernel(facts).expect("this kernel")
}

fn vma(guest: &Guest, facts: &KernelFacts, gva: Gva) -> VmaView {
    let found = view(guest, facts).vma_at(gva).expect("readable");
    found.expect("an area")
}

fn text(guest: &mut Guest, path: &str) -> String {
    let bytes = guest.read_file(path).expect("an answer").expect("readable");
    String::from_utf8(bytes).expect("text")
}

/// A line of /proc/PID/maps: addresses, permissions, offset in bytes.
fn maps_line(line: &str) -> Option<(u64, u64, String, u64)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let hex = |word| u64::from_str_radix(word, 16).ok();
    let permissions = words.next()?.to_owned();
    Some((hex(start)?, hex(end)?, permissions, hex(words.next()?)?))
}

/// What /proc/PID/maps says of an area.
fn as_maps_says(vma: &VmaView) -> (u64, u64, String, u64) {
    let letter = |flag, yes, no| if vma.flags.has(flag) { yes } else { no };
    let permissions = [
        letter("READ", 'r', '-'),
        letter("WRITE", 'w', '-'),
        letter("EXEC", 'x', '-'),
        letter("MAYSHARE", 's', 'p'),
    ];
    let offset = vma.file.map_or(0, |_| vma.pgoff * PAGE_SIZE);
    let (start, end) = (vma.start.raw(), vma.end.raw());
    (start, end, permissions.into_iter().collect(), offset)
}

#[test]
fn areas_are_those_of_proc_maps() {
    let mut guest = guest();
    let facts = kernel_facts();
    let ask = Ask {
        strategy: EAGER,
        window: "odd",
        first_page: 3,
        npages: 5,
        prot: Prot::READ,
    };
    mapped(&mut guest, ask);
    let told = text(&mut guest, "/proc/self/maps");
    // The vsyscall page lies above all user space and is no area.
    let told: Vec<_> = told
        .lines()
        .filter(|line| !line.ends_with("[vsyscall]"))
        .map(|line| maps_line(line).expect("a line of maps"))
        .collect();
    let view = view(&guest, &facts);
    let task = view.current().expect("the agent");
    assert_eq!(task.pid, guest.current_pid());
    assert_eq!(view.process(task.pid).expect("listed"), task);
    let read = view.vmas(&task).expect("readable");
    assert_eq!(read.iter().map(as_maps_says).collect::<Vec<_>>(), told);
    assert_eq!(task.map_count, told.len() as u64);
    assert!(told.len() > 10, "a tree of more than one node: {told:?}");
    for area in &read {
        for at in [area.start, Gva::new(area.end.raw() - 1)] {
            assert_eq!(view.vma_at(at).expect("readable").as_ref(), Some(area));
        }
    }
}

/// Flags by the two letters of smaps (Documentation/filesystems/proc.rst).
const SMAPS: [(&str, &str); 24] = [
    ("rd", "READ"),
    ("wr", "WRITE"),
    ("ex", "EXEC"),
    ("sh", "SHARED"),
    ("mr", "MAYREAD"),
    ("mw", "MAYWRITE"),
    ("me", "MAYEXEC"),
    ("ms", "MAYSHARE"),
    ("gd", "GROWSDOWN"),
    ("pf", "PFNMAP"),
    ("lo", "LOCKED"),
    ("io", "IO"),
    ("sr", "SEQ_READ"),
    ("rr", "RAND_READ"),
    ("dc", "DONTCOPY"),
    ("de", "DONTEXPAND"),
    ("ac", "ACCOUNT"),
    ("nr", "NORESERVE"),
    ("ht", "HUGETLB"),
    ("wf", "WIPEONFORK"),
    ("dd", "DONTDUMP"),
    ("mm", "MIXEDMAP"),
    ("hg", "HUGEPAGE"),
    ("nh", "NOHUGEPAGE"),
];

/// The `VmFlags` of every area in smaps, by its first address.
fn smaps_flags(smaps: &str) -> BTreeMap<u64, Vec<String>> {
    let mut found = BTreeMap::new();
    let mut start = 0;
    for line in smaps.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            let words = flags.split_ascii_whitespace().map(str::to_owned);
            found.insert(start, words.collect());
        } else if let Some((address, ..)) = maps_line(line) {
            start = address;
        }
    }
    found
}

#[test]
fn flags_are_those_of_smaps() {
    let mut guest = guest();
    let facts = kernel_facts();
    let mut device = Vec::new();
    for (window, prot) in [("odd", Prot::READ_WRITE), ("readonly", Prot::READ)] {
        for strategy in [EAGER, LAZY] {
            let ask = Ask {
                strategy,
                window,
                first_page: 0,
                npages: 4,
                prot,
            };
            device.push((prot, mapped(&mut guest, ask).gva));
        }
    }
    let told = smaps_flags(&text(&mut guest, "/proc/self/smaps"));
    let view = view(&guest, &facts);
    let task = view.current().expect("the agent");
    let mut compared = 0;
    for vma in view.vmas(&task).expect("readable") {
        let letters = &told[&vma.start.raw()];
        for (letter, flag) in SMAPS {
            let says = letters.iter().any(|one| one == letter);
            assert_eq!(vma.flags.has(flag), says, "{flag} of {vma:?}: {letters:?}");
        }
        compared += 1;
    }
    assert!(compared > device.len());
    for (prot, gva) in device {
        let flags = view.vma_at(gva).expect("readable").expect("an area").flags;
        for set in [
            "IO",
            "PFNMAP",
            "DONTEXPAND",
            "DONTDUMP",
            "MAYREAD",
            "MAYSHARE",
        ] {
            assert!(flags.has(set), "{set}: {flags}");
        }
        assert!(!flags.has("MIXEDMAP") && !flags.has("MAYEXEC"), "{flags}");
        assert_eq!(flags.has("MAYWRITE"), prot.write, "{flags}");
    }
}

/// Present, dirty, accessed, global: what a walk sets or the processor, not the area.
const NOT_PROT: u64 = 1 << 5 | 1 << 6;
/// Frame bits of an entry.
const FRAME: u64 = 0x000f_ffff_ffff_f000;

#[rstest]
#[case::writable("odd", Prot::READ_WRITE)]
#[case::read_only("readonly", Prot::READ)]
fn page_protection_is_that_of_the_entries(#[case] window: &'static str, #[case] prot: Prot) {
    let mut guest = guest();
    let facts = kernel_facts();
    let ask = Ask {
        strategy: EAGER,
        window,
        first_page: 1,
        npages: 3,
        prot,
    };
    let mapping = mapped(&mut guest, ask);
    let area = vma(&guest, &facts, mapping.gva);
    assert_eq!((area.start, area.npages(), area.pgoff), (mapping.gva, 3, 1));
    for page in 0..3 {
        let gva = mapping.page_gva(page).expect("in range");
        let walked = view(&guest, &facts).walk(gva).expect("mapped");
        let entry = walked.steps.last().expect("a leaf").raw;
        let of_entry = entry & !FRAME & !NOT_PROT;
        // Bit 9 says that no struct page is behind it (_PAGE_SPECIAL).
        let of_area = area.page_prot & !NOT_PROT | 1 << 9;
        assert_eq!(of_entry, of_area, "entry {entry:#x}, {area:?}");
    }
}

/// Bits of /proc/kpageflags (include/uapi/linux/kernel-page-flags.h) that are the page's
/// own and do not change while it is left alone.
const KPAGEFLAGS: [(u32, &str); 4] = [
    (0, "locked"),
    (3, "uptodate"),
    (14, "swapbacked"),
    (32, "reserved"),
];

/// A word of a file that has one for each frame.
fn word_of(guest: &mut Guest, path: &str, gfn: Gfn) -> u64 {
    let fd = guest.open(path, OpenMode::ReadOnly).expect("an answer");
    let fd = fd.expect("open");
    let word = read_word(guest, fd, gfn.raw() * 8);
    guest.close(fd).expect("an answer").expect("closed");
    word
}

fn read_word(guest: &mut Guest, fd: Fd, offset_bytes: u64) -> u64 {
    let request = Request::Read {
        fd,
        offset_bytes,
        len_bytes: 8,
    };
    match guest.request(&request).expect("an answer") {
        Reply::Done(Value::Bytes(bytes)) => u64::from_le_bytes(bytes.try_into().expect("a word")),
        other => panic!("{other:?}"),
    }
}

fn anonymous_page(guest: &mut Guest) -> Gva {
    let request = Request::Map {
        fd: None,
        fixed_at: None,
        len_bytes: PAGE_SIZE,
        prot: Prot::READ_WRITE,
        sharing: Sharing::Private,
        offset_bytes: 0,
    };
    let gva = match guest.request(&request).expect("an answer") {
        Reply::Done(Value::Address(address)) => Gva::new(address),
        other => panic!("{other:?}"),
    };
    let stored = guest.store(gva, PAGE_SIZE, vec![0x5eed]);
    stored.expect("an answer").expect("stored");
    gva
}

fn page(guest: &Guest, facts: &KernelFacts, gfn: Gfn) -> PageView {
    let found = view(guest, facts).page_of(gfn).expect("readable");
    found.expect("RAM has a struct page")
}

#[test]
fn a_page_counts_who_holds_it() {
    let mut guest = guest();
    let facts = kernel_facts();
    let gva = anonymous_page(&mut guest);
    let walked = view(&guest, &facts).walk(gva).expect("mapped");
    let gfn = Gfn::containing(walked.address);

    let flags = word_of(&mut guest, "/proc/kpageflags", gfn);
    let alone = page(&guest, &facts, gfn);
    assert_held_by(&alone, 1);
    assert_eq!(alone.mapping & 1, 1, "anonymous: {alone:?}");
    assert_eq!(alone.head, None);
    for (bit, name) in KPAGEFLAGS {
        assert_eq!(alone.has(name), flags >> bit & 1 == 1, "{name}: {alone:?}");
    }
    assert_eq!(word_of(&mut guest, "/proc/kpagecount", gfn), 1);

    let pid = guest.fork().expect("an answer").expect("forked");
    let shared = page(&guest, &facts, gfn);
    assert_held_by(&shared, 2);
    assert_eq!(view(&guest, &facts).current().expect("the child").pid, pid);
    guest.exit_child(0).expect("an answer").expect("gone");
    assert_held_by(&page(&guest, &facts, gfn), 1);

    let unmapped = guest.munmap(gva, PAGE_SIZE);
    unmapped.expect("an answer").expect("unmapped");
    assert_held_by(&page(&guest, &facts, gfn), 0);
}

/// So many page tables hold the page, and at most a batch on its way to one of the
/// kernel's own lists besides.
#[track_caller]
fn assert_held_by(page: &PageView, tables: u32) {
    assert_eq!(page.mapcount(), tables, "{page:?}");
    let held = i32::try_from(tables).expect("few");
    assert!((held..=held + 1).contains(&page.refcount), "{page:?}");
}

#[test]
fn each_process_has_an_address_space_of_its_own() {
    let mut guest = guest();
    let facts = kernel_facts();
    let before = anonymous_page(&mut guest);
    let parent = guest.current_pid();
    let child = guest.fork().expect("an answer").expect("forked");
    let after = anonymous_page(&mut guest);
    let view = view(&guest, &facts);
    let task = |pid| view.process(pid).expect("listed");
    let has = |pid, gva| view.vma_of(&task(pid), gva).expect("readable").is_some();
    assert_eq!(view.current().expect("the child"), task(child));
    assert_ne!(task(parent).at, task(child).at);
    assert_ne!(task(parent).mm, task(child).mm);
    assert_ne!(task(parent).pgd, task(child).pgd);
    // Inherited by the child, but not given back to the parent.
    assert!(has(parent, before) && has(child, before));
    assert!(!has(parent, after) && has(child, after));
    let error = view.process(i32::MAX).expect_err("no such process");
    assert!(error.to_string().contains("no process"), "{error}");
}

#[test]
fn the_direct_map_is_linear() {
    let guest = guest();
    let facts = kernel_facts();
    let view = view(&guest, &facts);
    let ram = 128_u64 << 20;
    let every_mib = (1..128).map(|mib| mib << 20);
    for gpa in every_mib.chain([ram - PAGE_SIZE, ram - 1]).map(Gpa::new) {
        let gva = view.direct_map(gpa).expect("an address");
        let walked = view.walk(gva).expect("mapped");
        assert_eq!(walked.address, gpa);
        assert!(!walked.access.user, "{gva}");
        assert_eq!(view.direct_map_gpa(gva), Some(gpa));
    }
    // What is no RAM is not there, the device's windows above all.
    for window in guest.vm().windows() {
        let gva = view.direct_map(window.base()).expect("an address");
        let walked = view.walk(gva);
        assert!(walked.is_err(), "{gva} leads to {walked:?}");
    }
    assert_eq!(view.direct_map_gpa(Gva::new(view.bases().vmalloc)), None);
}

#[test]
fn frames_of_a_device_have_no_page() {
    let guest = guest();
    let facts = kernel_facts();
    let view = view(&guest, &facts);
    for window in guest.vm().windows() {
        let gfn = Gfn::containing(window.base());
        assert_eq!(view.page_of(gfn).expect("readable"), None);
    }
    assert_eq!(view.page_of(Gfn::new(u64::MAX)).expect("no address"), None);
}

#[test]
fn facts_of_another_kernel_are_noticed() {
    let guest = guest();
    let image = common::image("good");
    let map = std::fs::read_to_string(&image.system_map).expect("readable");
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("System.map");
    let moved = map.replace("D init_task", "D init_task_");
    std::fs::write(&path, moved).expect("written");
    let error = KernelFacts::read(&image.types, &path).expect_err("no init_task");
    assert!(error.to_string().contains("init_task"), "{error}");
    // An address that no kernel of this size has.
    let text: String = map
        .lines()
        .map(|line| match line.ends_with(" vmemmap_base") {
            true => "ffffffffc0000000 D vmemmap_base\n".to_owned(),
            false => format!("{line}\n"),
        })
        .collect();
    std::fs::write(&path, text).expect("written");
    let facts = KernelFacts::read(&image.types, &path).expect("complete");
    let error = guest.kernel(&facts).err().expect("nothing there");
    assert!(error.to_string().contains("vmemmap_base"), "{error}");
}
