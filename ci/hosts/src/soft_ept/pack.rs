//! Packs a program with all that it needs, at the paths that it knows.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};

use guest_images::initramfs::Entry;

use super::elf::Elf;
use crate::init::packed::{TASK_PATH, Task};
use crate::messages::Command;

/// Where the modules stand.
const MODULES_PATH: &str = "/.mapwitness/modules";

/// What goes into the machine.
pub struct Cargo<'c> {
    /// Process 1.
    pub init: &'c Path,
    /// What it runs.
    pub program: &'c Path,
    /// Files that the program reads.
    pub data: &'c [PathBuf],
    /// Modules in the order of loading.
    pub modules: &'c [PathBuf],
    /// How it runs the program.
    pub command: &'c Command,
}

/// Why it cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {path}, which {why}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What it is for.
        why: &'static str,
        /// Cause.
        source: io::Error,
    },
    /// The libraries of a program are not known.
    #[error("cannot find the libraries of {program}: {what}")]
    Libraries {
        /// The program.
        program: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A path is no text.
    #[error("the path {0} is not UTF-8; move the file, or build into another folder")]
    Path(PathBuf),
    /// The task cannot be written down.
    #[error("cannot write down what is to be run: {0}")]
    Task(String),
}

impl Cargo<'_> {
    /// The root file system.
    ///
    /// # Errors
    /// [`Error`], with the file at fault.
    pub fn entries(&self) -> Result<Vec<Entry>, Error> {
        let mut root = Root {
            entries: vec![
                Entry::directory("/dev"),
                // The kernel opens it for process 1, before anything is mounted.
                Entry::char_device("/dev/console", 0o600, 5, 1),
                Entry::directory("/tmp"),
            ],
            taken: BTreeSet::new(),
        };
        root.take_program(self.init)?;
        root.take_program(self.program)?;
        for path in self.data {
            root.take(path, "the program is to read", <[u8]>::to_vec)?;
        }
        let mut modules = Vec::new();
        for (number, module) in self.modules.iter().enumerate() {
            let path = format!("{MODULES_PATH}/{number}.ko");
            let bytes = fs::read(module).map_err(|source| Error::Read {
                path: module.clone(),
                why: "is a module of the kernel",
                source,
            })?;
            root.entries.push(Entry::bytes(&path, 0o644, bytes));
            modules.push(path.into_bytes());
        }
        let task = Task {
            modules,
            command: self.command.clone(),
        };
        let bytes = postcard::to_extend(&task, Vec::new())
            .map_err(|error| Error::Task(error.to_string()))?;
        root.entries.push(Entry::bytes(TASK_PATH, 0o600, bytes));
        Ok(root.entries)
    }
}

/// A root file system as it grows.
struct Root {
    entries: Vec<Entry>,
    taken: BTreeSet<PathBuf>,
}

impl Root {
    /// Takes a program and its libraries.
    fn take_program(&mut self, path: &Path) -> Result<(), Error> {
        let path = std::path::absolute(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            why: "is to be run",
            source,
        })?;
        let mut interpreter = None;
        self.take(&path, "is to be run", |bytes| match Elf::parse(bytes) {
            Ok(elf) => {
                interpreter = elf
                    .interpreter()
                    .map(|path| PathBuf::from(OsStr::from_bytes(path)));
                elf.without_sections()
            }
            // Not every program is ELF; the kernel will say what it thinks of it.
            Err(_) => bytes.to_vec(),
        })?;
        let Some(interpreter) = interpreter else {
            return Ok(());
        };
        for library in libraries(&interpreter, &path)? {
            self.take(&library, "is a library", |bytes| {
                Elf::parse(bytes).map_or_else(|_| bytes.to_vec(), |elf| elf.without_sections())
            })?;
        }
        Ok(())
    }

    /// Takes a file to its own path, once.
    fn take(
        &mut self,
        path: &Path,
        why: &'static str,
        shorten: impl FnOnce(&[u8]) -> Vec<u8>,
    ) -> Result<(), Error> {
        let name = plain(path)?;
        if !self.taken.insert(PathBuf::from(&name)) {
            return Ok(());
        }
        let bytes = fs::read(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            why,
            source,
        })?;
        self.entries
            .push(Entry::bytes(name, 0o755, shorten(&bytes)));
        Ok(())
    }
}

/// The path as text, without `.` and `..`.
fn plain(path: &Path) -> Result<String, Error> {
    let mut plain = PathBuf::from("/");
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => plain.push(name),
            std::path::Component::ParentDir => {
                plain.pop();
            }
            _ => {}
        }
    }
    plain
        .into_os_string()
        .into_string()
        .map_err(|path| Error::Path(path.into()))
}

/// The libraries that a program loads, as its interpreter finds them, which is among
/// them.
fn libraries(interpreter: &Path, program: &Path) -> Result<Vec<PathBuf>, Error> {
    let wrong = |what: String| Error::Libraries {
        program: program.to_owned(),
        what,
    };
    let output = Process::new(interpreter)
        .arg("--list")
        .arg(program)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| wrong(format!("{}: {error}", interpreter.display())))?;
    if !output.status.success() {
        return Err(wrong(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    let listing = String::from_utf8_lossy(&output.stdout);
    let mut found = vec![interpreter.to_owned()];
    for line in listing.lines() {
        if line.ends_with("=> not found") {
            return Err(wrong(line.trim().to_owned()));
        }
        found.extend(library_in(line));
    }
    Ok(found)
}

/// `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)`.
fn library_in(line: &str) -> Option<PathBuf> {
    let (place, _) = line.trim().rsplit_once(" (0x")?;
    let path = place.rsplit_once("=> ").map_or(place, |(_, path)| path);
    path.starts_with('/').then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_the_listing() {
        let path = |line| library_in(line).map(|path| path.display().to_string());
        assert_eq!(
            path("\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f32)").as_deref(),
            Some("/lib/x86_64-linux-gnu/libc.so.6")
        );
        assert_eq!(
            path("\t/lib64/ld-linux-x86-64.so.2 (0x00007f66)").as_deref(),
            Some("/lib64/ld-linux-x86-64.so.2")
        );
        assert_eq!(path("\tlinux-vdso.so.1 (0x00007ffe)"), None);
    }

    #[test]
    fn this_program_comes_with_its_libraries() {
        let program = std::env::current_exe().expect("its path");
        let mut root = Root {
            entries: Vec::new(),
            taken: BTreeSet::new(),
        };
        root.take_program(&program).expect("packed");
        root.take_program(&program).expect("packed once");
        assert!(root.taken.contains(&program));
        let libc = |path: &PathBuf| path.ends_with("libc.so.6");
        assert!(root.taken.iter().any(libc), "{:?}", root.taken);
        assert_eq!(root.entries.len(), root.taken.len());
    }

    #[test]
    fn a_path_is_taken_without_detours() {
        assert_eq!(plain(Path::new("/a/./b/../c")).expect("text"), "/a/c");
    }

    #[test]
    fn a_missing_file_is_named_with_its_purpose() {
        let mut root = Root {
            entries: Vec::new(),
            taken: BTreeSet::new(),
        };
        let error = root
            .take_program(Path::new("/nowhere/x"))
            .expect_err("none");
        let text = error.to_string();
        assert!(text.contains("/nowhere/x, which is to be run"), "{text}");
    }
}
