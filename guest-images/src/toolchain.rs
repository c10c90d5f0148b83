//! The compilers of the guest's kernel and modules.
//!
//! The kernel compiles the Rust library's sources itself, so it needs a compiler
//! that has them beside it. A rustup toolchain often has not, and it stands first
//! in PATH; therefore the compiler is always named in full.

use std::path::{Path, PathBuf};
use std::process::Command;

use provision::command::output_of;
use provision::{Cache, Consent, Key, Need, Progress, packages};

use crate::flavour::Compiler;
use crate::versions::{Tool, Versions, need_one_of};
use crate::{Error, run};

/// Where a sysroot keeps the library's sources.
const LIBRARY: &str = "lib/rustlib/src/rust/library/core/src/lib.rs";
/// The compiler of Debian's packages.
const DEBIAN_SYSROOT: &str = "/usr";

/// Compilers that were found, with what identifies them.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// The Rust compiler.
    pub rustc: PathBuf,
    /// Its documentation generator, which the kernel's makefiles name.
    pub rustdoc: PathBuf,
    /// Folder of libclang, for bindgen.
    pub libclang_dir: PathBuf,
    bindgen_version: String,
    rustc_version: String,
    gcc_version: String,
    clang: Option<Clang>,
}

/// LLVM's C compiler.
#[derive(Clone, Debug)]
struct Clang {
    /// As its programs' names end.
    release: u32,
    version: String,
}

/// Programs of an LLVM release that a kernel's build runs, as far as they come in packages
/// of their own.
const CLANG_PROGRAMS: [&str; 3] = ["clang", "ld.lld", "llvm-nm"];

/// Installs what the kernel's build needs and the machine has not.
///
/// # Errors
/// When something may not or cannot be installed.
pub fn require(
    versions: &Versions,
    compiler: Compiler,
    consent: Consent,
    progress: &Progress,
) -> Result<(), Error> {
    let mut needs: Vec<Need> = versions.tools.iter().map(Tool::need).collect();
    if compiler == Compiler::Clang {
        needs.push(versions.clang.types.need());
        if find_clang(&versions.clang.releases).is_none() {
            needs.extend(need_one_of(&versions.clang.packages));
        }
    }
    if find_libclang(&versions.libclang.releases).is_none() {
        needs.extend(need_one_of(&versions.libclang.packages));
    }
    if find_rust(versions).is_ok() {
        return Ok(packages::require(&needs, consent, progress)?);
    }
    needs.extend(need_one_of(&versions.rust.packages));
    packages::require(&needs, consent, progress).map_err(|source| Error::RustPackages { source })
}

impl Toolchain {
    /// Finds what [`require`] has made sure of.
    ///
    /// # Errors
    /// Names what is not there, and the package that would bring it.
    pub fn find(versions: &Versions, compiler: Compiler) -> Result<Self, Error> {
        let (sysroot, rustc_version) = find_rust(versions)?;
        let libclang = &versions.libclang;
        let libclang_dir = find_libclang(&libclang.releases).ok_or_else(|| Error::NoLibclang {
            releases: join(&libclang.releases),
            packages: names(&libclang.packages),
        })?;
        let gcc_version = output_of(Command::new("gcc").arg("--version"))
            .and_then(|text| Some(text.lines().next()?.to_owned()))
            .unwrap_or_default();
        let clang = match compiler {
            Compiler::Gcc => None,
            Compiler::Clang => {
                Some(
                    find_clang(&versions.clang.releases).ok_or_else(|| Error::NoClang {
                        releases: join(&versions.clang.releases),
                        packages: names(&versions.clang.packages),
                    })?,
                )
            }
        };
        Ok(Self {
            rustc: sysroot.join("bin/rustc"),
            rustdoc: sysroot.join("bin/rustdoc"),
            libclang_dir,
            bindgen_version: versions.bindgen.version.clone(),
            rustc_version,
            gcc_version,
            clang,
        })
    }

    /// Finds those that a kernel was built with, from the tree that is kept of it.
    ///
    /// # Errors
    /// When its configuration cannot be read, or one of them is not there any more.
    pub fn of_tree(versions: &Versions, kernel_tree: &Path) -> Result<Self, Error> {
        let path = kernel_tree.join(".config");
        let configuration = std::fs::read_to_string(&path).map_err(Error::at("read", &path))?;
        let is_clang = configuration
            .lines()
            .any(|line| line == "CONFIG_CC_IS_CLANG=y");
        let compiler = if is_clang {
            Compiler::Clang
        } else {
            Compiler::Gcc
        };
        Self::find(versions, compiler)
    }

    /// What compiles C.
    pub fn compiler(&self) -> Compiler {
        match self.clang {
            None => Compiler::Gcc,
            Some(_) => Compiler::Clang,
        }
    }

    /// Adds what identifies the compilers to a key.
    pub fn add_to_key(&self, key: Key) -> Key {
        let key = match &self.clang {
            None => key,
            Some(clang) => key.text("clang", &clang.version),
        };
        key.text("rustc", &self.rustc_version)
            .text("gcc", &self.gcc_version)
            .text("bindgen", &self.bindgen_version)
            .text("libclang", &self.libclang_dir.to_string_lossy())
    }

    /// A make for the kernel tree `tree` with these compilers, in a clean
    /// environment.
    pub fn make(&self, tree: &Path, bindgen: Option<&Path>) -> Command {
        let mut make = Command::new("make");
        run::clean_environment(&mut make);
        let assign = |name: &str, path: &Path| {
            let mut text = std::ffi::OsString::from(name);
            text.push("=");
            text.push(path);
            text
        };
        make.arg("-C")
            .arg(tree)
            .arg(self.llvm())
            .arg(assign("RUSTC", &self.rustc))
            .arg(assign("HOSTRUSTC", &self.rustc))
            .arg(assign("RUSTDOC", &self.rustdoc))
            .env("LIBCLANG_PATH", &self.libclang_dir);
        if let Some(bindgen) = bindgen {
            make.arg(assign("BINDGEN", bindgen));
        }
        make
    }

    /// make's variable that chooses the C compiler.
    fn llvm(&self) -> String {
        let clang = self.clang.as_ref();
        clang.map_or_else(|| "LLVM=".to_owned(), |it| format!("LLVM=-{}", it.release))
    }

    /// The bindings generator, built on first use.
    ///
    /// # Errors
    /// When cargo cannot build it.
    pub fn bindgen(&self, cache: &Cache, progress: &Progress) -> Result<PathBuf, Error> {
        let version = &self.bindgen_version;
        let key = Key::new().text("bindgen-cli", version);
        let entry = cache.get_or_build("bindgen", &key, progress, |dir| {
            let log = cache.folder("logs")?.join("bindgen.log");
            install_bindgen(version, dir, &log, progress)
        })?;
        Ok(entry.join("bin/bindgen"))
    }
}

fn install_bindgen(
    version: &str,
    dir: &Path,
    log: &Path,
    progress: &Progress,
) -> Result<(), Error> {
    // About as many crates as it is made of; cargo prints one line for each.
    let step = progress.step(format!("bindgen {version} (cargo install)"), Some(44));
    let target = dir.join("target");
    // The cargo that runs this program, if one does, knows its toolchain.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut install = Command::new(cargo);
    run::clean_environment(&mut install);
    install
        .current_dir(dir)
        .args(["install", "bindgen-cli", "--locked", "--version", version])
        .arg("--root")
        .arg(dir)
        .arg("--target-dir")
        .arg(&target);
    let ran = run::logged(&mut install, log, |line| {
        if let Some(name) = line.trim().strip_prefix("Compiling ") {
            step.inc(1);
            step.message(name);
        }
    })?;
    if !ran.status.success() {
        return Err(Error::Bindgen {
            status: ran.status.to_string(),
            output: run::excerpt(&ran.log),
        });
    }
    std::fs::remove_dir_all(&target).map_err(Error::at("remove", &target))?;
    step.done("built");
    Ok(())
}

/// The sysroot of the first compiler that is new enough and has its library's
/// sources, with its version.
fn find_rust(versions: &Versions) -> Result<(PathBuf, String), Error> {
    let mut tried = Vec::new();
    for sysroot in sysroots() {
        let rustc = sysroot.join("bin/rustc");
        let Some(version) = output_of(Command::new(&rustc).arg("-vV")) else {
            tried.push(format!("{} (does not run)", rustc.display()));
            continue;
        };
        if !sysroot.join(LIBRARY).is_file() {
            tried.push(format!("{} (no library sources)", rustc.display()));
        } else if release(&version) < numbers(&versions.rust.minimum) {
            tried.push(format!("{} (too old)", rustc.display()));
        } else {
            return Ok((sysroot, version));
        }
    }
    Err(Error::NoRust {
        minimum: versions.rust.minimum.clone(),
        tried: tried.join(", "),
        packages: names(&versions.rust.packages),
    })
}

/// Debian's compiler first: it is the one that comes with the sources. The other
/// is only looked for when that one will not do.
fn sysroots() -> impl Iterator<Item = PathBuf> {
    let in_path = || {
        let mut rustc = Command::new("rustc");
        rustc.args(["--print", "sysroot"]);
        output_of(&mut rustc).map(|text| PathBuf::from(text.trim()))
    };
    std::iter::once(PathBuf::from(DEBIAN_SYSROOT)).chain(std::iter::once_with(in_path).flatten())
}

fn find_libclang(releases: &[u32]) -> Option<PathBuf> {
    let dirs = releases
        .iter()
        .map(|release| PathBuf::from(format!("/usr/lib/llvm-{release}/lib")));
    dirs.into_iter()
        .find(|dir| dir.join("libclang.so").exists())
}

fn find_clang(releases: &[u32]) -> Option<Clang> {
    let version = |release: u32, program: &str| {
        let version = output_of(Command::new(format!("{program}-{release}")).arg("--version"))?;
        Some(version.lines().next().unwrap_or_default().to_owned())
    };
    releases.iter().find_map(|&release| {
        let versions = CLANG_PROGRAMS.map(|program| version(release, program));
        let [Some(version), Some(_), Some(_)] = versions else {
            return None;
        };
        Some(Clang { release, version })
    })
}

/// The release that `rustc -vV` prints, as numbers.
fn release(version: &str) -> Vec<u32> {
    let line = version
        .lines()
        .find_map(|line| line.strip_prefix("release: "));
    numbers(line.unwrap_or_default())
}

fn numbers(version: &str) -> Vec<u32> {
    version
        .split(['.', '-'])
        .map_while(|part| part.parse().ok())
        .collect()
}

fn names(alternatives: &[Vec<String>]) -> String {
    let sets: Vec<String> = alternatives.iter().map(|set| set.join(" and ")).collect();
    sets.join(" (or ") + &")".repeat(sets.len().saturating_sub(1))
}

fn join(releases: &[u32]) -> String {
    let texts: Vec<String> = releases.iter().map(u32::to_string).collect();
    texts.join(", ")
}

/// What `make rustavailable` complains about, and the cure.
const ADVICE: [(&str, &str); 8] = [
    (
        "Source code for the 'core' standard library could not be found",
        "the compiler named by RUSTC has no library sources beside it; install rust-web-src \
         (for rustc-web) or rust-src (for rustc)",
    ),
    (
        "*** Rust compiler",
        "RUSTC does not name a compiler that this kernel takes; install rustc-web and \
         rust-web-src of the release's updates",
    ),
    (
        "failure to locate libclang",
        "bindgen cannot load libclang; install libclang-19-dev (LIBCLANG_PATH names its folder)",
    ),
    (
        "*** libclang (used by the Rust bindings generator",
        "libclang is too old for this kernel; install libclang-19-dev",
    ),
    (
        "*** Rust bindings generator",
        "bindgen is not there or too old; raise [bindgen] in guest-images/versions.toml and run \
         `mapwitness images clean`",
    ),
    (
        "to check the Rust compiler version",
        "the compiler named by RUSTC does not work; reinstall rustc-web",
    ),
    (
        "to check the Rust bindings generator version",
        "bindgen does not work; run `mapwitness images clean`, so that it is built again",
    ),
    (
        "Environment variable 'CC' is not set",
        "no C compiler is known; install gcc",
    ),
];

/// The cure for what `make rustavailable` printed.
pub fn advice(output: &str) -> String {
    let known = ADVICE.iter().find(|(message, _)| output.contains(message));
    known.map_or_else(
        || "see what it says below, and Documentation/rust/quick-start.rst in the tree".to_owned(),
        |(_, cure)| (*cure).to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_compare_as_numbers() {
        let of = |text: &str| release(&format!("rustc x\nrelease: {text}\nLLVM version: 1\n"));
        assert!(of("1.96.0") > numbers("1.85.0"));
        assert!(of("1.100.0-nightly") > of("1.96.1"));
        assert!(of("1.63.0") < numbers("1.85.0"));
        assert!(release("nonsense").is_empty());
    }

    #[test]
    fn each_complaint_leads_to_its_own_cure() {
        let cases = [
            ("*** Rust compiler 'rustc' is too old.", "rustc-web"),
            (
                "*** Source code for the 'core' standard library could not be found\n",
                "rust-web-src",
            ),
            (
                "*** Rust bindings generator 'bindgen' could not be found.",
                "[bindgen]",
            ),
            (
                "bindings generator) failed with code 1. This may be caused by\n*** a failure to \
              locate libclang. See",
                "LIBCLANG_PATH",
            ),
            (
                "*** libclang (used by the Rust bindings generator 'b') is too old.",
                "libclang-19-dev",
            ),
            ("something new", "quick-start.rst"),
        ];
        for (complaint, cure) in cases {
            assert!(
                advice(complaint).contains(cure),
                "{complaint}: {}",
                advice(complaint)
            );
        }
    }
}
