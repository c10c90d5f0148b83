//! Every planted fault is there and can be seen: each variant of the driver fails the
//! one examination that is about its fault, and the good driver passes all of them.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use addr::{Gpa, Gva, PAGE_SIZE};
use common::{Ask, bind, boot, chain, config, control, map, open, unbind, window, window_target};
use contract::When;
use guest_images::MODULE_PATH;
use harness::{Guest, HarnessError, Mapping, Outcome, Presence, Refusal, Strategy};
use monitor::{BufferConfig, VmConfig, VmError};
use wire::ioctls::{RESTORE, REVOKE};
use wire::{OpenMode, Prot, Reply, Request, Sharing, Value};
use witness::guest_walk::FrozenTables;

/// What an examination found to be wrong, in words.
type Found = Result<(), String>;

/// One look at the driver.
type Examination = fn(&mut Guest) -> Found;

const fn eager(name: &'static str) -> Strategy {
    Strategy {
        name,
        present: When::AtMmap,
    }
}

const fn lazy(name: &'static str) -> Strategy {
    Strategy {
        name,
        present: When::OnTouch,
    }
}

const EAGER: Strategy = eager("eager");
const LAZY: Strategy = lazy("lazy");
const BOTH: [Strategy; 2] = [EAGER, LAZY];
const RW: Prot = Prot::READ_WRITE;
const EXEC: Prot = Prot {
    exec: true,
    ..Prot::READ
};

/// Every examination, by its name.
const EXAMINATIONS: [(&str, Examination); 12] = [
    ("pages", pages),
    ("neighbours", neighbours),
    ("huge pages", huge_pages),
    ("bounds", bounds),
    ("sharing", sharing),
    ("rights", rights),
    ("flags", flags),
    ("buffers", buffers),
    ("revoke", revoke),
    ("unbind", unbinding),
    ("counts", counts),
    ("memory", memory),
];

/// Which examination each fault is for.
const FAULTS: [(&str, &[&str]); 12] = [
    (
        "pages",
        &[
            "off-by-one",
            "first-shows-next",
            "middle-shows-next",
            "last-shows-previous",
            "last-shows-first",
            "swapped-pair",
            "reversed",
            "wrong-offset",
            "offset-in-bytes",
            "offset-twice",
            "base-one-page-early",
            "neighbours-page",
            "constant-protection",
            "write-combining",
            "cached",
            "lazy-maps-at-once",
            "eager-maps-nothing",
            "tail-unmapped",
            "head-unmapped",
            "error-ignored",
            "touch-brings-next-too",
            "fault-refuses-last-page",
            "one-page-too-few",
        ],
    ),
    ("neighbours", &["neighbours-in-pairs"]),
    (
        "huge pages",
        &["huge-without-bound", "huge-shows-other-half", "huge-never"],
    ),
    (
        "bounds",
        &[
            "one-page-too-many",
            "only-start-checked",
            "offset-not-counted",
            "sum-wraps-at-32-bits",
            "no-bound-at-all",
            "length-rounded-up",
            "beyond-wrong-errno",
            "state-in-prepare",
        ],
    ),
    (
        "sharing",
        &[
            "private-accepted",
            "private-wrong-errno",
            "read-only-file-refused",
        ],
    ),
    (
        "rights",
        &[
            "exec-accepted",
            "mayexec-left",
            "write-accepted",
            "maywrite-left",
        ],
    ),
    (
        "flags",
        &[
            "dontexpand-missing",
            "dontdump-missing",
            "io-missing",
            "mixedmap-for-pfnmap",
            "not-inherited",
        ],
    ),
    ("buffers", &["device-told-wrong-page"]),
    (
        "revoke",
        &[
            "no-zap-at-revoke",
            "zap-misses-first-page",
            "zap-one-page-only",
            "zap-first-file-only",
            "faults-while-revoked",
            "maps-while-revoked",
            "never-restored",
        ],
    ),
    (
        "unbind",
        &[
            "no-zap-at-unbind",
            "device-keeps-pages",
            "page-freed-while-mapped",
        ],
    ),
    ("counts", &["copies-not-counted", "split-refused"]),
    ("memory", &["reference-leaked", "close-not-counted"]),
];

fn ask(strategy: Strategy, window: &'static str, first_page: u64, npages: u64, prot: Prot) -> Ask {
    Ask {
        strategy,
        window,
        first_page,
        npages,
        prot,
    }
}

fn granted<T>(what: &str, answer: Outcome<T>) -> Result<T, String> {
    answer.map_err(|refusal| format!("{what}: {refusal}"))
}

fn holds(what: &str, is: bool) -> Found {
    is.then_some(()).ok_or_else(|| what.to_owned())
}

fn refused<T>(what: &str, answer: Outcome<T>, errno: i32) -> Found {
    match answer {
        Err(Refusal::Errno(found)) if found == errno => Ok(()),
        Err(refusal) => Err(format!("{what}: {refusal}")),
        Ok(_) => Err(format!("{what}: granted")),
    }
}

/// The mapping shows exactly these pages.
fn shows(guest: &Guest, mapping: &Mapping, pages: impl IntoIterator<Item = u64>) -> Found {
    let pages = Presence::Only(pages.into_iter().collect());
    let judged = guest.witness(mapping, &pages).expect("walked");
    let wrong = judged
        .mismatch
        .map(|it| format!("{}: {}", it.link, it.found));
    wrong.map_or(Ok(()), Err)
}

/// Every page of the mapping is right, and can be used.
fn in_use(guest: &mut Guest, mapping: &Mapping) -> Found {
    let judged = guest.witness_in_use(mapping).expect("walked");
    let wrong = judged
        .mismatch
        .map(|it| format!("{}: {}", it.link, it.found));
    wrong.map_or(Ok(()), Err)
}

fn touch(guest: &mut Guest, mapping: &Mapping, page: u64) {
    let gva = mapping.page_gva(page).expect("in the mapping");
    // What a refusal leaves behind is seen by whoever looks next.
    let _ = guest.load(gva, PAGE_SIZE, 1).expect("an answer");
}

fn unmap(guest: &mut Guest, mapping: &Mapping) -> Found {
    let answer = guest.munmap(mapping.gva, mapping.spec.len_bytes());
    granted("munmap", answer.expect("an answer"))?;
    shows(guest, mapping, [])
}

fn pages(guest: &mut Guest) -> Found {
    for strategy in BOTH {
        for (first, npages) in [(0, 13), (5, 4)] {
            for prot in [RW, Prot::READ] {
                let mapping = granted(
                    "mmap",
                    map(guest, ask(strategy, "odd", first, npages, prot)),
                )?;
                if strategy == EAGER {
                    shows(guest, &mapping, 0..npages)?;
                } else {
                    shows(guest, &mapping, [])?;
                    touch(guest, &mapping, 1);
                    shows(guest, &mapping, [1])?;
                }
                in_use(guest, &mapping)?;
                unmap(guest, &mapping)?;
            }
        }
    }
    Ok(())
}

fn neighbours(guest: &mut Guest) -> Found {
    let mapping = granted("mmap", map(guest, ask(lazy("around"), "odd", 0, 13, RW)))?;
    in_use(guest, &mapping)?;
    unmap(guest, &mapping)
}

fn huge_pages(guest: &mut Guest) -> Found {
    let mapping = granted("mmap", map(guest, ask(lazy("huge"), "large", 0, 511, RW)))?;
    touch(guest, &mapping, 5);
    shows(guest, &mapping, [5])?;
    unmap(guest, &mapping)?;
    let mapping = granted("mmap", map(guest, ask(lazy("huge"), "large", 0, 1024, RW)))?;
    touch(guest, &mapping, 5);
    shows(guest, &mapping, 0..512)?;
    unmap(guest, &mapping)
}

/// What mmap answers; what it grants is unmapped again.
fn answer(
    guest: &mut Guest,
    strategy: Strategy,
    name: &str,
    (first, npages): (u64, u64),
    prot: Prot,
    sharing: Sharing,
) -> Outcome<()> {
    let index = window(guest, name);
    let fd = open(guest, strategy, index, OpenMode::ReadWrite);
    let (offset, len) = (first * PAGE_SIZE, npages * PAGE_SIZE);
    let answer = guest
        .mmap(fd, offset, len, prot, sharing)
        .expect("an answer");
    guest.close(fd).expect("an answer").expect("closed");
    answer.map(|gva| {
        let unmapped = guest.munmap(gva, len).expect("an answer");
        unmapped.expect("unmapped");
    })
}

fn bounds(guest: &mut Guest) -> Found {
    for strategy in [EAGER, LAZY, eager("prepare-eager")] {
        for ask in [(0, 14), (13, 1), (12, 2), (1 << 32, 1)] {
            let found = answer(guest, strategy, "odd", ask, RW, Sharing::Shared);
            refused(&format!("{} {ask:?}", strategy.name), found, libc::EINVAL)?;
        }
        for ask in [(0, 13), (12, 1)] {
            let found = answer(guest, strategy, "odd", ask, RW, Sharing::Shared);
            granted(&format!("{} {ask:?}", strategy.name), found)?;
        }
    }
    Ok(())
}

fn sharing(guest: &mut Guest) -> Found {
    let private = answer(guest, EAGER, "odd", (0, 13), RW, Sharing::Private);
    refused("MAP_PRIVATE", private, libc::EINVAL)?;
    // The file is open for reading only.
    let mapping = map(guest, ask(EAGER, "odd", 0, 1, Prot::READ));
    granted("a read-only file", mapping).map(drop)
}

fn rights(guest: &mut Guest) -> Found {
    for strategy in BOTH {
        let exec = answer(guest, strategy, "odd", (0, 1), EXEC, Sharing::Shared);
        refused("PROT_EXEC", exec, libc::EACCES)?;
        let write = answer(guest, strategy, "readonly", (0, 1), RW, Sharing::Shared);
        refused("PROT_WRITE", write, libc::EACCES)?;
        let index = window(guest, "readonly");
        let fd = open(guest, strategy, index, OpenMode::ReadWrite);
        let read = guest.mmap(fd, 0, PAGE_SIZE, Prot::READ, Sharing::Shared);
        let gva = granted("PROT_READ", read.expect("an answer"))?;
        for prot in [RW, EXEC] {
            let raised = guest.mprotect(gva, PAGE_SIZE, prot).expect("an answer");
            refused("mprotect", raised, libc::EACCES)?;
        }
        guest.close(fd).expect("an answer").expect("closed");
    }
    Ok(())
}

fn flags(guest: &mut Guest) -> Found {
    for strategy in BOTH {
        let mapping = granted("mmap", map(guest, ask(strategy, "odd", 0, 13, RW)))?;
        let smaps = guest.read_file("/proc/self/smaps").expect("an answer");
        let smaps = String::from_utf8_lossy(&smaps.expect("read")).into_owned();
        let start = format!("{:x}-", mapping.gva.raw());
        let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&start));
        let flags = lines.find(|line| line.starts_with("VmFlags:"));
        let flags: BTreeSet<&str> = flags.expect("flags").split_whitespace().collect();
        for flag in ["io", "pf", "de", "dd"] {
            holds(&format!("{flag} is not set"), flags.contains(flag))?;
        }
        for flag in ["dc", "mm"] {
            holds(&format!("{flag} is set"), !flags.contains(flag))?;
        }
        unmap(guest, &mapping)?;
    }
    Ok(())
}

/// Pages of each of the guest's buffers, which are all alike.
fn buffer_npages(guest: &Guest) -> u64 {
    guest.vm().buffers()[0].pages.len() as u64
}

/// Maps the whole of a buffer and touches every page.
fn map_buffer(guest: &mut Guest, name: &str, index: usize) -> Result<Gva, String> {
    let path = format!("/dev/mapwitness-{name}{index}");
    let fd = guest.open(&path, OpenMode::ReadWrite).expect("an answer");
    let fd = granted(&path, fd)?;
    let npages = buffer_npages(guest);
    let len = npages * PAGE_SIZE;
    let gva = guest.mmap(fd, 0, len, RW, Sharing::Shared);
    guest.close(fd).expect("an answer").expect("closed");
    let gva = granted(&path, gva.expect("an answer"))?;
    let words = vec![0; usize::try_from(npages).expect("few")];
    let stored = guest.store(gva, PAGE_SIZE, words).expect("an answer");
    granted(&path, stored)?;
    Ok(gva)
}

fn shows_buffer(guest: &Guest, gva: Gva, pages: &[Option<Gpa>]) -> Found {
    let tables = FrozenTables::of(guest.vm()).expect("tables");
    for (page, wanted) in (0..).zip(pages) {
        let gva = gva.checked_add(page * PAGE_SIZE).expect("an address");
        let found = tables.walk(gva).ok().map(|found| found.address);
        holds(&format!("page {page} is {found:?}"), found == *wanted)?;
    }
    Ok(())
}

fn buffers(guest: &mut Guest) -> Found {
    let pages = guest.vm().buffers()[0].pages.clone();
    for name in ["pages", "pagefault"] {
        let gva = map_buffer(guest, name, 0)?;
        shows_buffer(guest, gva, &pages)?;
        unmap_buffer(guest, gva)?;
    }
    Ok(())
}

fn unmap_buffer(guest: &mut Guest, gva: Gva) -> Found {
    let len = buffer_npages(guest) * PAGE_SIZE;
    let answer = guest.munmap(gva, len);
    granted("munmap", answer.expect("an answer"))
}

fn revoke(guest: &mut Guest) -> Found {
    let target = window_target(guest, "odd");
    let mut mappings = Vec::new();
    for strategy in BOTH {
        let mapping = granted("mmap", map(guest, ask(strategy, "odd", 0, 13, RW)))?;
        in_use(guest, &mapping)?;
        mappings.push(mapping);
    }
    granted("revoke", control(guest, REVOKE, target))?;
    for mapping in &mappings {
        shows(guest, mapping, [])?;
        touch(guest, mapping, 3);
        shows(guest, mapping, [])?;
    }
    for strategy in BOTH {
        let found = answer(guest, strategy, "odd", (0, 1), RW, Sharing::Shared);
        refused("a revoked window", found, libc::ENXIO)?;
    }
    granted("restore", control(guest, RESTORE, target))?;
    in_use(guest, &mappings[1])
}

fn unbinding(guest: &mut Guest) -> Found {
    let mut mappings = Vec::new();
    for strategy in BOTH {
        let mapping = granted("mmap", map(guest, ask(strategy, "odd", 0, 13, RW)))?;
        in_use(guest, &mapping)?;
        mappings.push(mapping);
    }
    let pages = guest.vm().buffers()[0].pages.clone();
    let buffer = map_buffer(guest, "pages", 0)?;
    unbind(guest);
    for mapping in &mappings {
        shows(guest, mapping, [])?;
    }
    shows_buffer(guest, buffer, &pages)?;
    let forgotten = guest.vm().buffers()[0].pages.iter().all(Option::is_none);
    holds("the device still has pages", forgotten)?;
    // Pages that are still shown must not be given to anybody else.
    bind(guest);
    let others = guest.vm().buffers();
    let mut others = others.iter().flat_map(|buffer| &buffer.pages);
    let is_given_away = others.any(|page| pages.contains(page));
    holds("a page that is still mapped is given away", !is_given_away)?;
    unmap_buffer(guest, buffer)?;
    no_complaints(guest)
}

fn counts(guest: &mut Guest) -> Found {
    let mapping = granted("mmap", map(guest, ask(LAZY, "odd", 0, 13, RW)))?;
    for _ in 0..3 {
        guest.fork().expect("an answer").expect("a child");
        in_use(guest, &mapping)?;
        guest.exit_child(0).expect("an answer").expect("ended");
    }
    let hole = mapping.page_gva(4).expect("in the mapping");
    let split = guest.munmap(hole, PAGE_SIZE).expect("an answer");
    granted("munmap of a part", split)?;
    unmap(guest, &mapping)?;
    unbind(guest);
    bind(guest);
    no_complaints(guest)
}

/// Free memory of the guest in KiB, by its own account.
fn free_kib(guest: &mut Guest) -> u64 {
    let text = guest.read_file("/proc/meminfo").expect("an answer");
    let text = String::from_utf8_lossy(&text.expect("read")).into_owned();
    let line = text.lines().find(|line| line.starts_with("MemFree:"));
    let word = line.and_then(|line| line.split_whitespace().nth(1));
    word.expect("a number").parse().expect("a number")
}

/// Buffers that are mapped and unmapped leave nothing behind when the driver goes.
fn memory(guest: &mut Guest) -> Found {
    let npages = guest.vm().buffers().len() as u64 * buffer_npages(guest);
    // What is allocated once and for all is so afterwards.
    unbind(guest);
    bind(guest);
    let before = free_kib(guest);
    for name in ["pages", "pagefault"] {
        for index in 0..guest.vm().buffers().len() {
            let gva = map_buffer(guest, name, index)?;
            unmap_buffer(guest, gva)?;
        }
    }
    unbind(guest);
    bind(guest);
    let after = free_kib(guest);
    let lost = before.saturating_sub(after);
    let wanted = npages * PAGE_SIZE / 1024;
    holds(&format!("{lost} KiB are lost"), lost < wanted / 2)
}

fn no_complaints(guest: &mut Guest) -> Found {
    match &guest.kernel_complaints().expect("its log")[..] {
        [] => Ok(()),
        [first, ..] => Err(first.clone()),
    }
}

/// A guest whose buffers are large enough to be missed.
fn config_with_buffers(variant: &str) -> VmConfig {
    let buffer = |index| BufferConfig {
        name: format!("buffer{index}"),
        npages: 64,
    };
    VmConfig {
        buffers: (0..8).map(buffer).collect(),
        ..config(variant)
    }
}

fn load(guest: &mut Guest, fault: &str) {
    let request = Request::LoadModule {
        path: MODULE_PATH.to_owned(),
        parameters: format!("variant={fault}"),
    };
    let reply = guest.request(&request).expect("an answer");
    assert_eq!(reply, Reply::Done(Value::Unit), "{fault}");
    let is_bound = !guest.vm().buffers()[0].pages.contains(&None);
    assert!(is_bound, "{fault}: {:?}", guest.kernel_log());
}

/// Every variant in the list of the driver's sources.
fn listed() -> BTreeSet<String> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("guest-module/variants.txt")).expect("read");
    let words = text.lines().filter(|line| !line.starts_with('#'));
    words
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| !["good", "any"].contains(name))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_variant_has_its_examination() {
    let mut here = BTreeSet::new();
    for (examination, faults) in FAULTS {
        assert!(EXAMINATIONS.iter().any(|(name, _)| *name == examination));
        here.extend(faults.iter().map(|fault| (*fault).to_owned()));
    }
    assert_eq!(here, listed());
}

/// The build that carries all faults, none of them chosen, and the good one.
#[test]
fn the_good_driver_passes_every_examination() {
    for variant in ["good", "any"] {
        let mut guest = boot(&config_with_buffers(variant));
        match variant {
            "good" => guest
                .load_driver()
                .unwrap_or_else(|error| panic!("{}", chain(&error))),
            _ => load(&mut guest, "good"),
        }
        for (name, examine) in EXAMINATIONS {
            assert_eq!(examine(&mut guest), Ok(()), "{variant}: {name}");
        }
        assert_eq!(no_complaints(&mut guest), Ok(()), "{variant}");
    }
}

/// What an examination finds; a guest that dies of its driver is a finding, too.
fn examined(guest: &mut Guest, examine: Examination) -> Found {
    let found = catch_unwind(AssertUnwindSafe(|| examine(guest)));
    found.unwrap_or_else(|panic| match guest.kernel_log() {
        Err(HarnessError::Vm(VmError::Ended(ended))) => Err(format!("the guest: {ended}")),
        _ => resume_unwind(panic),
    })
}

#[test]
fn every_fault_is_seen() {
    let examinations: BTreeMap<&str, Examination> = EXAMINATIONS.into_iter().collect();
    let mut missed = Vec::new();
    let mut config = config("any");
    let mut guest = boot(&config);
    for (name, faults) in FAULTS {
        if matches!(name, "unbind" | "memory") && config.buffers.len() == 1 {
            config = config_with_buffers("any");
            guest = boot(&config);
        }
        for fault in faults {
            load(&mut guest, fault);
            let found = examined(&mut guest, examinations[name]);
            match &found {
                Ok(()) => missed.push(*fault),
                Err(words) => println!("{fault}: {words}"),
            }
            // A kernel that a fault has damaged is no ground for the next one.
            let unloaded = guest.unload_module("mapwitness");
            if !matches!(unloaded, Ok(Ok(()))) || no_complaints(&mut guest).is_err() {
                guest = boot(&config);
            }
        }
    }
    assert_eq!(missed, [""; 0]);
}
