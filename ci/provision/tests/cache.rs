//! The cache under two builders, dead builders and a full disk.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, mpsc};
use std::time::Duration;

use provision::cache::{self, Cache, Keep, Key};
use provision::progress::Progress;

#[derive(Debug, thiserror::Error)]
enum BuildError {
    #[error(transparent)]
    Cache(#[from] cache::Error),
    #[error("the build failed")]
    Io(#[from] io::Error),
}

fn write_x(dir: &Path, text: &str) -> Result<(), BuildError> {
    Ok(fs::write(dir.join("x"), text)?)
}

fn key(text: &str) -> Key {
    Key::new().text("input", text)
}

#[test]
fn an_entry_is_built_once_and_says_what_went_into_it() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::at(dir.path());
    let hidden = Progress::hidden();
    let build = |dir: &Path| write_x(dir, "one");
    let first = cache
        .get_or_build("kind", &key("a"), &hidden, build)
        .unwrap();
    let never = |_: &Path| -> Result<(), BuildError> { panic!("built twice") };
    let second = cache
        .get_or_build("kind", &key("a"), &hidden, never)
        .unwrap();
    assert_eq!(first, second);
    assert_eq!(fs::read_to_string(first.join("x")).unwrap(), "one");
    let inputs = fs::read_to_string(first.join("inputs.txt")).unwrap();
    assert_eq!(inputs, "input = \"a\"\n");
    let other = cache
        .get_or_build("kind", &key("b"), &hidden, build)
        .unwrap();
    assert_ne!(first, other);
}

#[test]
fn a_failed_build_leaves_nothing_and_can_be_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::at(dir.path());
    let hidden = Progress::hidden();
    let failing = |dir: &Path| {
        write_x(dir, "half")?;
        Err(BuildError::Io(io::Error::other("no compiler")))
    };
    let error = cache
        .get_or_build("kind", &key("a"), &hidden, failing)
        .unwrap_err();
    assert!(matches!(error, BuildError::Io(_)), "{error}");
    assert!(cache.get("kind", &key("a")).is_none());
    assert!(cache.list().unwrap().is_empty());
    let build = |dir: &Path| write_x(dir, "whole");
    let entry = cache
        .get_or_build("kind", &key("a"), &hidden, build)
        .unwrap();
    assert_eq!(fs::read_to_string(entry.join("x")).unwrap(), "whole");
}

#[test]
fn of_two_builders_one_builds_and_the_other_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::at(dir.path());
    let builds = AtomicUsize::new(0);
    let started = Barrier::new(2);
    std::thread::scope(|scope| {
        let runs = [0, 1].map(|_| {
            scope.spawn(|| {
                started.wait();
                let build = |dir: &Path| {
                    builds.fetch_add(1, Ordering::SeqCst);
                    write_x(dir, "shared")
                };
                cache.get_or_build("kind", &key("a"), &Progress::hidden(), build)
            })
        });
        let paths = runs.map(|run| run.join().unwrap().unwrap());
        assert_eq!(paths[0], paths[1]);
    });
    assert_eq!(builds.load(Ordering::SeqCst), 1);
}

/// Tells the test when a line is said.
struct Said(mpsc::Sender<String>);

impl io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes).into_owned();
        self.0.send(text).map_err(io::Error::other)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn who_has_to_wait_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::at(dir.path());
    let (building, is_building) = mpsc::channel();
    let (finish, may_finish) = mpsc::channel::<()>();
    let (said, heard) = mpsc::channel();
    std::thread::scope(|scope| {
        let slow = cache.clone();
        scope.spawn(move || {
            let build = |dir: &Path| {
                building.send(()).unwrap();
                may_finish.recv().unwrap();
                write_x(dir, "slow")
            };
            let hidden = Progress::hidden();
            slow.get_or_build("kind", &key("a"), &hidden, build)
                .unwrap();
        });
        is_building.recv().unwrap();
        let waiter = scope.spawn(|| {
            let progress = Progress::lines(Said(said), Duration::ZERO);
            let never = |_: &Path| -> Result<(), BuildError> { panic!("built twice") };
            cache
                .get_or_build("kind", &key("a"), &progress, never)
                .unwrap()
        });
        let line = heard.recv().unwrap();
        assert!(line.contains("waiting"), "{line}");
        finish.send(()).unwrap();
        assert!(waiter.join().unwrap().join("x").is_file());
    });
}

const DIES: &str = "PROVISION_TEST_DIES_IN";

/// Not a test of its own: the builder that the next test kills.
#[test]
#[ignore = "started and killed by the next test"]
fn builder_that_waits_to_be_killed() {
    let root = std::env::var_os(DIES).expect("the folder of the cache");
    let hang = |dir: &Path| {
        write_x(dir, "half")?;
        println!("\nbuilding");
        loop {
            std::thread::park();
        }
    };
    let progress = Progress::hidden();
    let _: Result<_, BuildError> = Cache::at(root).get_or_build("kind", &key("a"), &progress, hang);
}

#[test]
fn a_builder_killed_halfway_leaves_nothing_that_counts() {
    // The next builder clears up, whether it builds the same entry or another.
    for next in ["a", "b"] {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let mut builder = Command::new(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--nocapture",
                "builder_that_waits_to_be_killed",
            ])
            .env(DIES, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = io::BufReader::new(builder.stdout.take().unwrap());
        let mut lines = io::BufRead::lines(stdout);
        assert!(lines.any(|line| line.unwrap() == "building"));

        let parts = || {
            let names = fs::read_dir(dir.path().join("kind")).unwrap();
            let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.filter(|name| name.ends_with(".part")).count()
        };
        let cleaned = cache.clean(Keep::Nothing).unwrap();
        assert_eq!(cleaned.busy, 1, "it is at work");
        assert_eq!(parts(), 1);
        builder.kill().unwrap();
        builder.wait().unwrap();
        assert!(cache.get("kind", &key("a")).is_none());

        let build = |dir: &Path| write_x(dir, "whole");
        let entry = cache
            .get_or_build("kind", &key(next), &Progress::hidden(), build)
            .unwrap();
        assert_eq!(parts(), 0, "left of a when {next} is built");
        assert_eq!(fs::read_to_string(entry.join("x")).unwrap(), "whole");
    }
}

#[test]
fn clean_removes_what_was_not_used_lately() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::at(dir.path());
    let hidden = Progress::hidden();
    for name in ["old", "new"] {
        let build = |dir: &Path| write_x(dir, name);
        cache
            .get_or_build("kind", &key(name), &hidden, build)
            .unwrap();
    }
    let year = Duration::from_secs(365 * 86400);
    for name in ["old", "new"] {
        let entry = cache.get("kind", &key(name)).unwrap();
        let manifest = entry.join("inputs.txt");
        let manifest = fs::File::options().append(true).open(manifest).unwrap();
        let long_ago = std::time::SystemTime::now() - 2 * year;
        manifest.set_modified(long_ago).unwrap();
    }
    // Handing it out counts as use.
    cache.get("kind", &key("new")).unwrap();

    let listed = cache.list().unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0].key, key("new").hex(), "the last used one first");
    assert_eq!(listed[1].len_bytes, 3 + "input = \"old\"\n".len() as u64);

    let cleaned = cache.clean(Keep::UsedWithin(year)).unwrap();
    assert_eq!((cleaned.removed, cleaned.busy), (1, 0));
    assert!(cache.get("kind", &key("old")).is_none());
    assert!(cache.get("kind", &key("new")).is_some());
    assert_eq!(cache.clean(Keep::UsedWithin(year)).unwrap().removed, 0);
    assert_eq!(cache.clean(Keep::Nothing).unwrap().removed, 1);
    assert!(cache.list().unwrap().is_empty());
    let build = |dir: &Path| write_x(dir, "again");
    cache
        .get_or_build("kind", &key("new"), &hidden, build)
        .unwrap();
}

#[test]
fn a_full_disk_is_called_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::at(dir.path());
    // What the system answers when the disk is full.
    let enospc = || io::Error::from_raw_os_error(28);
    let build = |_: &Path| Err(BuildError::Io(enospc()));
    let error = cache
        .get_or_build("kind", &key("a"), &Progress::hidden(), build)
        .unwrap_err();
    let BuildError::Cache(error @ cache::Error::Full { .. }) = error else {
        panic!("{error}");
    };
    let text = error.to_string();
    assert!(text.contains(dir.path().to_str().unwrap()), "{text}");
    assert!(text.contains("mapwitness images clean"), "{text}");
    let cause = std::error::Error::source(&error).unwrap();
    assert_eq!(cause.to_string(), "the build failed");
}

#[test]
fn an_unusable_folder_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let cache = Cache::at(file.path());
    let build = |dir: &Path| write_x(dir, "one");
    let error = cache
        .get_or_build("kind", &key("a"), &Progress::hidden(), build)
        .unwrap_err();
    assert!(
        error.to_string().contains(file.path().to_str().unwrap()),
        "{error}"
    );
    assert!(error.to_string().contains("MAPWITNESS_CACHE"), "{error}");
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<String> = entries
        .map(|entry| name(entry).to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn of_two_makers_at_once_the_first_wins_and_nothing_else_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::at(dir.path());
    let both = Barrier::new(2);
    std::thread::scope(|scope| {
        for text in ["one", "two"] {
            let (cache, both) = (&cache, &both);
            scope.spawn(move || {
                let build = |dir: &Path| {
                    both.wait();
                    write_x(dir, text)
                };
                cache.offer("kind", &key("a"), build).unwrap();
            });
        }
    });
    assert_eq!(names(&dir.path().join("kind")), [key("a").hex()]);
    let entry = cache.get("kind", &key("a")).unwrap();
    let text = fs::read_to_string(entry.join("x")).unwrap();
    assert!(["one", "two"].contains(&text.as_str()), "{text}");
}

#[test]
fn an_offer_that_fails_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::at(dir.path());
    let failing = |dir: &Path| {
        write_x(dir, "half")?;
        Err(BuildError::Io(io::Error::other("no")))
    };
    assert!(cache.offer("kind", &key("a"), failing).is_err());
    assert!(names(&dir.path().join("kind")).is_empty());
    assert!(cache.get("kind", &key("a")).is_none());
}

#[test]
fn what_is_withdrawn_is_gone_and_can_be_offered_again() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::at(dir.path());
    for text in ["one", "two"] {
        let build = |dir: &Path| write_x(dir, text);
        cache.offer("kind", &key("a"), build).unwrap();
        let entry = cache.get("kind", &key("a")).unwrap();
        assert_eq!(fs::read_to_string(entry.join("x")).unwrap(), text);
        cache.withdraw("kind", &key("a")).unwrap();
        assert!(cache.get("kind", &key("a")).is_none());
    }
    cache.withdraw("kind", &key("a")).unwrap();
    assert!(names(&dir.path().join("kind")).is_empty());
}

#[test]
fn the_entries_that_were_used_last_are_kept_with_what_is_being_made() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::at(dir.path());
    for text in ["a", "b", "c"] {
        let build = |dir: &Path| write_x(dir, text);
        cache.offer("kind", &key(text), build).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    let made = dir.path().join("kind/x.1.part");
    let abandoned = dir.path().join("kind/x.2.part");
    fs::create_dir(&made).unwrap();
    fs::create_dir(&abandoned).unwrap();
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(7200);
    let times = fs::FileTimes::new().set_modified(long_ago);
    fs::File::open(&abandoned)
        .unwrap()
        .set_times(times)
        .unwrap();
    // The oldest one is used again.
    cache.get("kind", &key("a")).unwrap();
    cache.keep_newest("kind", 2).unwrap();
    let kept = ["a", "b", "c"].map(|text| cache.get("kind", &key(text)).is_some());
    assert_eq!(kept, [true, false, true]);
    assert!(made.exists() && !abandoned.exists());
}
