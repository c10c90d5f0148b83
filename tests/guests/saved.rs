//! Guests that are taken up from a file: they are the guest that was saved, to the byte,
//! and a file that is not just so is noticed, said, and made anew.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use crate::command::{PROGRAM, json};
use crate::common::{Ask, chain, config, mapped};
use addr::Gva;
use harness::own_driver::{EAGER, LAZY};
use harness::{Guest, Mapping, Snapshots, Started};
use monitor::{SaveError, Saved, VmConfig};
use provision::Cache;
use tempfile::TempDir;
use wire::{Prot, Reply, Request, Sharing, Value};
use witness::Link;
use witness::host_frame::Pagemap;

/// A cache of its own.
fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn snapshots(folder: &TempDir, config: &VmConfig) -> Snapshots {
    Snapshots::within(Cache::at(folder.path()), config).expect("the image is not new")
}

fn start(folder: &TempDir, config: &VmConfig) -> Guest {
    let guest = Guest::start_by(config, &snapshots(folder, config));
    guest.unwrap_or_else(|error| panic!("{}", chain(&error)))
}

/// The one file of a cache.
fn file(folder: &TempDir) -> PathBuf {
    let entries = entries(folder.path());
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries[0].join("guest")
}

fn entries(cache: &Path) -> Vec<PathBuf> {
    let listing = fs::read_dir(cache.join("snapshot"));
    let listing = listing.into_iter().flatten();
    listing.map(|entry| entry.expect("listed").path()).collect()
}

/// A page of the driver's, followed by all six links.
fn six_links(guest: &mut Guest) {
    for strategy in [EAGER, LAZY] {
        let ask = Ask {
            strategy,
            window: "large",
            first_page: 100,
            npages: 64,
            prot: Prot::READ_WRITE,
        };
        let mapping = mapped(guest, ask);
        let judged = guest.witness_in_use(&mapping).expect("evidence");
        assert_eq!(judged.mismatch, None);
        for link in Link::ALL {
            let heard = judged.links.get(link);
            assert_eq!(heard, 64, "{link}: {:?}", judged.unwitnessed);
        }
    }
}

#[test]
fn a_guest_that_is_taken_up_is_the_one_that_was_saved() {
    for config in [
        config("good"),
        VmConfig {
            vcpus: 2,
            hpet: true,
            ..config("good")
        },
    ] {
        let folder = folder();
        let mut first = start(&folder, &config);
        assert_eq!(first.started(), Started::Boot);
        let then = first.vm_mut().snapshot().expect("its state");
        for _ in 0..2 {
            let mut guest = start(&folder, &config);
            assert_eq!(guest.started(), Started::Snapshot);
            let differences = guest.vm_mut().differences(&then).expect("its state");
            assert_eq!(differences, Vec::<String>::new());
            assert_eq!(guest.vm().console().text(), first.vm().console().text());
            assert_eq!(guest.kernel_release(), first.kernel_release());
            assert_eq!(guest.current_pid(), first.current_pid());
            guest.load_driver().expect("the driver");
            // The look can see: something has happened.
            let differences = guest.vm_mut().differences(&then).expect("its state");
            assert_ne!(differences, Vec::<String>::new());
            six_links(&mut guest);
            assert_eq!(guest.kernel_complaints().expect("a log"), [""; 0]);
        }
        // The one that was saved goes on as if nothing had been.
        first.load_driver().expect("the driver");
        six_links(&mut first);
    }
}

#[test]
fn a_guest_that_was_taken_up_can_be_reset() {
    let (folder, config) = (folder(), config("good"));
    drop(start(&folder, &config));
    let mut guest = start(&folder, &config);
    assert_eq!(guest.started(), Started::Snapshot);
    guest.load_driver().expect("the driver");
    let then = guest.vm_mut().snapshot().expect("its state");
    assert!(then.len_bytes() < 64 << 20, "{}", then.len_bytes());
    for _ in 0..2 {
        six_links(&mut guest);
        let stats = guest.vm_mut().reset(&then).expect("reset");
        assert!(stats.pages > 0);
        let differences = guest.vm_mut().differences(&then).expect("its state");
        assert_eq!(differences, Vec::<String>::new());
    }
}

/// Pages of RAM that each of several guests stores to.
const OWN_NPAGES: u32 = 64;

/// Memory of the agent's own.
fn memory(guest: &mut Guest) -> Gva {
    let anonymous = Request::Map {
        fd: None,
        fixed_at: None,
        len_bytes: u64::from(OWN_NPAGES) * 4096,
        prot: Prot::READ_WRITE,
        sharing: Sharing::Private,
        offset_bytes: 0,
    };
    match guest.request(&anonymous).expect("an answer") {
        Reply::Done(Value::Address(address)) => Gva::new(address),
        other => panic!("{other:?}"),
    }
}

#[test]
fn guests_of_one_file_live_side_by_side() {
    const GUESTS: u64 = 4;
    let (folder, config) = (folder(), config("good"));
    drop(start(&folder, &config));
    let saved = snapshots(&folder, &config).open().expect("a snapshot");
    let ask = Ask {
        strategy: EAGER,
        window: "odd",
        first_page: 0,
        npages: 13,
        prot: Prot::READ_WRITE,
    };
    let begin = |number: u64| {
        let mut guest = Guest::taken_up(&config, &saved).expect("a guest");
        guest.load_driver().expect("the driver");
        let mapping = mapped(&mut guest, ask);
        let words = vec![number; 13];
        let stored = guest.store(mapping.gva, 4096, words);
        stored.expect("an answer").expect("stored");
        let own = memory(&mut guest);
        let stored = guest.store(own, 4096, vec![number; OWN_NPAGES as usize]);
        stored.expect("an answer").expect("stored");
        (guest, mapping, own)
    };
    // After all of them have stored, each has what it stored itself.
    let end = |number: u64, (guest, mapping, own): &mut (Guest, Mapping, Gva)| {
        let seen = guest.load(mapping.gva, 4096, 13);
        let seen = seen.expect("an answer").expect("loaded");
        assert_eq!(seen, vec![number; 13]);
        let seen = guest.load(*own, 4096, OWN_NPAGES);
        let seen = seen.expect("an answer").expect("loaded");
        assert_eq!(seen, [number; OWN_NPAGES as usize]);
        six_links(guest);
        assert_eq!(guest.kernel_complaints().expect("a log"), [""; 0]);
    };
    let mut guests: Vec<_> = thread::scope(|scope| {
        let begin = &begin;
        let threads: Vec<_> = (1..=GUESTS)
            .map(|number| scope.spawn(move || begin(number)))
            .collect();
        let threads = threads.into_iter();
        threads.map(|it| it.join().expect("a guest")).collect()
    });
    thread::scope(|scope| {
        for (number, guest) in (1..).zip(&mut guests) {
            let end = &end;
            scope.spawn(move || end(number, guest));
        }
    });
    let mut frames = HashSet::new();
    let pagemap = Pagemap::open().expect("there");
    for (guest, ..) in &guests {
        let windows = guest.vm().windows().iter();
        let pages = windows.flat_map(|it| (0..it.npages()).filter_map(|page| it.ledger_hva(page)));
        for hva in pages {
            assert!(frames.insert(pagemap.pfn(hva).expect("visible")), "{hva}");
        }
    }
}

#[test]
fn a_file_that_is_not_whole_is_made_anew() {
    let (folder, config) = (folder(), config("good"));
    drop(start(&folder, &config));
    let path = file(&folder);
    // A guest that boots again need not have touched as many pages.
    let len_bytes = || fs::metadata(&path).expect("there").len();
    let flip = |at: u64| {
        let file = File::options().read(true).write(true).open(&path);
        let file = file.expect("opened");
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("there");
        file.write_all_at(&[byte[0] ^ 0x10], at).expect("there");
    };
    let resize = |len_bytes: u64| {
        let file = File::options().write(true).open(&path).expect("opened");
        file.set_len(len_bytes).expect("resized");
    };
    let damages: [(&str, &dyn Fn()); 5] = [
        ("header", &|| flip(40)),
        ("memory", &|| flip(len_bytes() / 2)),
        ("state", &|| flip(len_bytes() - 9)),
        ("cut off", &|| resize(len_bytes() - 4096)),
        ("nothing", &|| resize(0)),
    ];
    for (name, damage) in damages {
        assert_eq!(
            start(&folder, &config).started(),
            Started::Snapshot,
            "{name}"
        );
        damage();
        assert_eq!(start(&folder, &config).started(), Started::Boot, "{name}");
        assert_eq!(file(&folder), path);
    }
    assert_eq!(start(&folder, &config).started(), Started::Snapshot);
}

#[test]
fn no_byte_of_a_file_goes_unchecked() {
    const KEY: monitor::Key = [7; monitor::KEY_LEN];
    let folder = folder();
    let path = folder.path().join("guest");
    let mut guest = Guest::start(&config("good"), harness::Start::Boot).expect("a guest");
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path);
    let mut file = file.expect("made");
    guest.vm_mut().save(&KEY, &mut file).expect("saved");
    let open = |key| Saved::open(File::open(&path).expect("there"), key).map(drop);
    open(&KEY).expect("whole");
    assert!(open(&[8; monitor::KEY_LEN]).is_err());
    let len_bytes = file.metadata().expect("there").len();
    let places = (0..24).map(|part| part * (len_bytes - 1) / 23);
    for at in places.chain([4095, 4096, len_bytes - 1]) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("there");
        file.write_all_at(&[byte[0] ^ 1], at).expect("there");
        assert!(open(&KEY).is_err(), "byte {at}");
        file.write_all_at(&byte, at).expect("there");
    }
    for len in [0, 1, 4095, 4096, len_bytes - 1, len_bytes + 1] {
        file.set_len(len).expect("resized");
        assert!(open(&KEY).is_err(), "{len} bytes");
    }
}

#[test]
fn the_guest_of_another_machine_is_not_taken_up() {
    let (ours, theirs) = (folder(), folder());
    let config = config("good");
    let other = VmConfig {
        ram_len_bytes: config.ram_len_bytes + (2 << 20),
        ..config.clone()
    };
    drop(start(&ours, &config));
    drop(start(&theirs, &other));
    fs::copy(file(&theirs), file(&ours)).expect("copied");
    assert_eq!(start(&ours, &config).started(), Started::Boot);
    // Of the same name, they would be told apart.
    assert_eq!(start(&ours, &other).started(), Started::Boot);
    assert_eq!(entries(ours.path()).len(), 2);
}

#[test]
fn a_guest_whose_driver_has_its_device_is_not_saved() {
    let folder = folder();
    let mut guest = Guest::start(&config("good"), harness::Start::Boot).expect("a guest");
    let save = |guest: &mut Guest, name: &str| {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(folder.path().join(name));
        guest
            .vm_mut()
            .save(&[0; monitor::KEY_LEN], &mut file.expect("made"))
    };
    save(&mut guest, "before").expect("saved");
    guest.load_driver().expect("the driver");
    let refused = save(&mut guest, "after");
    assert!(matches!(refused, Err(SaveError::DeviceUsed)), "{refused:?}");
}

/// `mapwitness check` of one file, with a cache in `folder`.
fn check(folder: &TempDir, options: &[&str]) -> Child {
    Command::new(PROGRAM)
        .args(["check", "--json", "--file", "eager/page"])
        .args(options)
        .env("MAPWITNESS_CACHE", folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started")
}

/// How the guest of a check was started, which passes.
fn started(check: Child) -> String {
    let output = check.wait_with_output().expect("ended");
    let report = json(&output);
    assert_eq!(report["verdict"], "pass", "{report:#}");
    for (link, witnessed) in report["links"].as_object().expect("links") {
        assert_eq!(*witnessed, report["pages_checked"], "{link}");
    }
    report["guest"]["started"]
        .as_str()
        .expect("told")
        .to_owned()
}

#[test]
fn processes_that_come_at_once_or_are_killed_do_no_harm() {
    let folder = folder();
    let both = [check(&folder, &[]), check(&folder, &[])];
    // The first to be there may have left it for the second.
    for how in both.map(started) {
        assert!(["boot", "snapshot"].contains(&how.as_str()), "{how}");
    }
    assert_eq!(started(check(&folder, &[])), "snapshot");
    assert_eq!(started(check(&folder, &["--no-snapshot"])), "boot");
    let entry = file(&folder);
    fs::remove_dir_all(entry.parent().expect("a folder")).expect("removed");

    // Killed while it writes, or just afterwards.
    let mut killed = check(&folder, &[]);
    while entries(folder.path()).is_empty() {
        assert_eq!(
            killed.try_wait().expect("looked at"),
            None,
            "it left nothing"
        );
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    killed.kill().expect("killed");
    killed.wait().expect("ended");
    let is_whole = entries(folder.path())
        .iter()
        .all(|it| it.extension().is_none());
    let wanted = if is_whole { "snapshot" } else { "boot" };
    assert_eq!(started(check(&folder, &[])), wanted);
    assert_eq!(started(check(&folder, &[])), "snapshot");
}
