//! The guest's kernel: configure, build, keep what is needed later.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use provision::{Cache, Key, Progress};

use crate::config::Fragments;
use crate::source::{self, Pin};
use crate::toolchain::{Toolchain, advice};
use crate::versions::Versions;
use crate::{Error, Flavour, prune, run, text};

/// Raised when the same inputs are to give another kernel.
const RECIPE: &str = "1";
/// Lines that make prints for the project's configuration; for the progress only.
const EXPECTED_LINES: u64 = 1470;
/// What make would otherwise take from the clock and the machine.
const REPRODUCIBLE: [(&str, &str); 3] = [
    ("KBUILD_BUILD_TIMESTAMP", "1970-01-01"),
    ("KBUILD_BUILD_USER", "mapwitness"),
    ("KBUILD_BUILD_HOST", "mapwitness"),
];

/// Where the code of mm/ lies, in the entry of a kernel that tells its coverage.
const MM_TEXT: &str = "mm-text";

/// A built kernel, in the cache.
#[derive(Clone, Debug)]
pub struct Kernel {
    entry: PathBuf,
    hex: String,
}

impl Kernel {
    /// The uncompressed, stripped image.
    pub fn vmlinux(&self) -> PathBuf {
        self.entry.join("vmlinux")
    }

    /// Where its functions and variables lie.
    pub fn system_map(&self) -> PathBuf {
        self.entry.join("System.map")
    }

    /// The configuration it was built with.
    pub fn config(&self) -> PathBuf {
        self.entry.join("config")
    }

    /// Where the code of its mm/ lies; see [`text::write`].
    pub fn mm_text(&self) -> PathBuf {
        self.entry.join(MM_TEXT)
    }

    /// The tree to build modules against.
    pub fn tree(&self) -> PathBuf {
        self.entry.join("tree")
    }

    /// What `uname -r` says in the guest.
    pub fn release(&self) -> Result<String, Error> {
        let path = self.entry.join("release");
        let text = fs::read_to_string(&path).map_err(Error::at("read", &path))?;
        Ok(text.trim().to_owned())
    }

    /// The name of its inputs' hash.
    pub fn hex(&self) -> &str {
        &self.hex
    }
}

/// Where the kernel's source comes from, once it is here.
enum Source {
    Package(PathBuf),
    Tree(PathBuf),
}

/// What a kernel is built with.
pub struct Builder<'a> {
    /// The project's sources.
    pub root: &'a Path,
    /// The pins.
    pub versions: &'a Versions,
    /// The compilers.
    pub toolchain: &'a Toolchain,
    /// What it tells besides being right.
    pub flavour: Flavour,
    /// Where it is kept.
    pub cache: &'a Cache,
    /// Where it is said how far it is.
    pub progress: &'a Progress,
}

impl Builder<'_> {
    /// The kernel from the pinned source, or from the tree `kernel_src`; built on
    /// first use.
    ///
    /// # Errors
    /// When a source, a tool or an option is missing, or the build fails.
    pub fn ensure(&self, kernel_src: Option<&Path>) -> Result<Kernel, Error> {
        let kconfig = self.root.join("guest-images/kconfig");
        let fragments = self.flavour.fragments(&kconfig)?;
        if let Some(tree) = kernel_src {
            source::check_tree(tree)?;
            let tree = std::path::absolute(tree).map_err(Error::at("find", tree))?;
            let key = source::add_tree_to_key(Key::new(), &tree)?;
            return self.get_or_build(key, &fragments, &Source::Tree(tree));
        }
        let pinned = &self.versions.kernel;
        let pin = Pin::resolve(pinned, self.cache);
        let key = self.complete(pin.add_to_key(Key::new()), &fragments);
        if let Some(entry) = self.cache.get("kernel", &key) {
            let hex = key.hex();
            return Ok(Kernel { entry, hex });
        }
        // Fetching may lead to another version, and so to another key.
        let (pin, deb) = pin.fetch(pinned, self.cache, self.progress)?;
        let key = pin.add_to_key(Key::new());
        self.get_or_build(key, &fragments, &Source::Package(deb))
    }

    fn complete(&self, key: Key, fragments: &Fragments) -> Key {
        let key = self
            .toolchain
            .add_to_key(key)
            .text("configuration", &fragments.merged())
            .text("recipe", RECIPE);
        match self.flavour {
            Flavour::Plain => key,
            other => key.text("flavour", other.name()),
        }
    }

    fn get_or_build(
        &self,
        key: Key,
        fragments: &Fragments,
        source: &Source,
    ) -> Result<Kernel, Error> {
        let key = self.complete(key, fragments);
        let hex = key.hex();
        if let Some(entry) = self.cache.get("kernel", &key) {
            return Ok(Kernel { entry, hex });
        }
        let bindgen = self.toolchain.bindgen(self.cache, self.progress)?;
        let entry = self
            .cache
            .get_or_build("kernel", &key, self.progress, |dir| {
                let make = Make {
                    builder: self,
                    work: &dir.join("work"),
                    bindgen: &bindgen,
                    log: self.cache.folder("logs")?.join(format!("kernel-{hex}.log")),
                };
                self.build(source, fragments, &make, dir)
            })?;
        Ok(Kernel { entry, hex })
    }

    fn build(
        &self,
        source: &Source,
        fragments: &Fragments,
        make: &Make,
        dir: &Path,
    ) -> Result<(), Error> {
        let work = make.work;
        fs::create_dir(work).map_err(Error::at("make folder", work))?;
        match source {
            Source::Package(deb) => source::unpack(deb, work, self.progress)?,
            Source::Tree(tree) => {
                source::copy_tree(tree, work, self.progress)?;
                // It may have been built in, with another configuration.
                make.run("cleaning the copied tree", &["mrproper"])?;
            }
        }
        make.rust_available()?;
        make.configure(fragments, &dir.join("asked.config"))?;
        make.kernel()?;
        if self.flavour.has_coverage() {
            text::write(&work.join("vmlinux"), &work.join("mm"), &dir.join(MM_TEXT))?;
        }
        keep(work, dir)?;
        fs::remove_dir_all(work).map_err(Error::at("remove", work))
    }
}

/// make in one kernel tree.
struct Make<'a> {
    builder: &'a Builder<'a>,
    work: &'a Path,
    bindgen: &'a Path,
    log: PathBuf,
}

impl Make<'_> {
    fn command(&self) -> Command {
        let mut make = self.builder.toolchain.make(self.work, Some(self.bindgen));
        make.envs(REPRODUCIBLE);
        make
    }

    fn rust_available(&self) -> Result<(), Error> {
        let mut make = self.command();
        make.arg("rustavailable");
        let ran = run::logged(&mut make, &self.log, |_| ())?;
        if ran.status.success() {
            return Ok(());
        }
        let output = run::whole(&ran.log);
        Err(Error::RustAvailable {
            advice: advice(&output),
            output,
        })
    }

    fn configure(&self, fragments: &Fragments, asked: &Path) -> Result<(), Error> {
        fs::write(asked, fragments.merged()).map_err(Error::at("write", asked))?;
        let mut make = self.command();
        make.arg("allnoconfig").env("KCONFIG_ALLCONFIG", asked);
        let ran = run::logged(&mut make, &self.log, |_| ())?;
        check("configuring the kernel", ran)?;
        let dot_config = self.work.join(".config");
        let text = fs::read_to_string(&dot_config).map_err(Error::at("read", &dot_config))?;
        fragments.check(&text)
    }

    fn kernel(&self) -> Result<(), Error> {
        let step = self
            .builder
            .progress
            .step("build the kernel", Some(EXPECTED_LINES));
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let mut make = self.command();
        make.arg(format!("-j{jobs}")).args(["vmlinux", "modules"]);
        let ran = run::logged(&mut make, &self.log, |line| {
            // kbuild's short lines: two spaces, what is done, to which file.
            if let Some(what) = line.strip_prefix("  ") {
                step.inc(1);
                step.message(what.split_whitespace().collect::<Vec<_>>().join(" "));
            }
        })?;
        check("building the kernel", ran)?;
        step.done("vmlinux");
        Ok(())
    }

    fn run(&self, what: &str, arguments: &[&str]) -> Result<(), Error> {
        let mut make = self.command();
        let ran = run::logged(make.args(arguments), &self.log, |_| ())?;
        check(what, ran)
    }
}

fn check(what: &str, ran: run::Ran) -> Result<(), Error> {
    if ran.status.success() {
        return Ok(());
    }
    Err(Error::Make {
        what: what.to_owned(),
        status: ran.status.to_string(),
        output: run::excerpt(&ran.log),
        log: ran.log,
    })
}

/// Takes out of the built tree `work` what the entry keeps.
fn keep(work: &Path, dir: &Path) -> Result<(), Error> {
    strip(&work.join("vmlinux"), &dir.join("vmlinux"), "--strip-all")?;
    let copies = [
        ("System.map", "System.map"),
        (".config", "config"),
        ("include/config/kernel.release", "release"),
    ];
    for (from, to) in copies {
        let from = work.join(from);
        fs::copy(&from, dir.join(to)).map_err(Error::at("copy", &from))?;
    }
    prune::module_tree(work, &dir.join("tree"))
}

/// strip(1) from one file to another.
pub fn strip(from: &Path, to: &Path, what: &str) -> Result<(), Error> {
    let mut strip = Command::new("strip");
    strip.arg(what).arg("-o").arg(to).arg(from);
    let status = strip.status().map_err(|source| Error::Start {
        program: "strip".to_owned(),
        source,
    })?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Make {
        what: format!("stripping {}", from.display()),
        status: status.to_string(),
        log: from.to_owned(),
        output: String::new(),
    })
}
