//! Out-of-tree modules: the project's driver in its variants, and any other.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use provision::{Cache, Key, Progress};
use walkdir::{DirEntry, WalkDir};

use crate::kernel::Kernel;
use crate::toolchain::Toolchain;
use crate::versions::Versions;
use crate::{Error, run, workspace};

/// The module that comes out of `guest-module/`.
pub const FILE_NAME: &str = "mapwitness.ko";

/// Builds the module in `dir` against `kernel_tree` (see
/// [`GuestImage::kernel_tree`](crate::GuestImage::kernel_tree)), with `variables`
/// set on make's command line, and returns every `.ko` file in `dir`.
///
/// # Errors
/// When a compiler is missing or finds fault with the module; then its whole
/// output is in the error.
pub fn build_module(
    dir: &Path,
    kernel_tree: &Path,
    variables: &[(&str, &str)],
    progress: &Progress,
) -> Result<Vec<PathBuf>, Error> {
    let versions = Versions::read(&workspace::root()?)?;
    let toolchain = Toolchain::find(&versions)?;
    build_in(dir, kernel_tree, variables, &toolchain, progress)
}

fn build_in(
    dir: &Path,
    kernel_tree: &Path,
    variables: &[(&str, &str)],
    toolchain: &Toolchain,
    progress: &Progress,
) -> Result<Vec<PathBuf>, Error> {
    let dir = fs::canonicalize(dir).map_err(Error::at("find", dir))?;
    let step = progress.step(format!("build the module in {}", dir.display()), None);
    let mut make = toolchain.make(kernel_tree, None);
    make.arg(format!("M={}", dir.display()));
    for (name, value) in variables {
        make.arg(format!("{name}={value}"));
    }
    let log = dir.join("build.log");
    let ran = run::logged(&mut make, &log, |line| step.message(line.trim()))?;
    if !ran.status.success() {
        return Err(Error::Make {
            what: format!("building the module in {}", dir.display()),
            status: ran.status.to_string(),
            output: run::whole(&ran.log),
            log: ran.log,
        });
    }
    let modules = sources(&dir, &[])?
        .into_iter()
        .filter(|path| path.extension() == Some(OsStr::new("ko")))
        .collect();
    step.done("built");
    Ok(modules)
}

/// The project's driver in one variant.
pub struct Driver<'a> {
    /// Its sources.
    pub dir: PathBuf,
    /// The kernel it is for.
    pub kernel: &'a Kernel,
    /// The compilers of that kernel.
    pub toolchain: &'a Toolchain,
}

impl Driver<'_> {
    /// The module, built on first use, and the key of what went into it.
    ///
    /// # Errors
    /// When it does not compile.
    pub fn ensure(
        &self,
        variant: &str,
        cache: &Cache,
        progress: &Progress,
    ) -> Result<(PathBuf, Key), Error> {
        let mut key = Key::new()
            .text("kernel", self.kernel.hex())
            .text("variant", variant);
        let sources = sources(&self.dir, &BUILT)?;
        for path in &sources {
            let relative = path.strip_prefix(&self.dir).unwrap_or(path);
            key = key.file(&format!("guest-module/{}", relative.display()), path)?;
        }
        let entry = cache.get_or_build("module", &key, progress, |dir| {
            let work = dir.join("build");
            for from in &sources {
                let to = work.join(from.strip_prefix(&self.dir).unwrap_or(from));
                if let Some(parent) = to.parent() {
                    fs::create_dir_all(parent).map_err(Error::at("make folder", parent))?;
                }
                // Follows links: the copy stands by itself.
                fs::copy(from, &to).map_err(Error::at("copy", from))?;
            }
            let variables = [("MAPWITNESS_VARIANT", variant)];
            let tree = self.kernel.tree();
            build_in(&work, &tree, &variables, self.toolchain, progress)?;
            let built = work.join(FILE_NAME);
            fs::rename(&built, dir.join(FILE_NAME)).map_err(Error::at("find", &built))?;
            fs::remove_dir_all(&work).map_err(Error::at("remove", &work))
        })?;
        Ok((entry.join(FILE_NAME), key))
    }
}

/// Checks that the driver in `dir` has this variant, which is cheap, before
/// anything is built for it.
///
/// # Errors
/// Lists the variants that there are.
pub fn check_variant(dir: &Path, variant: &str) -> Result<(), Error> {
    let path = dir.join("variants.txt");
    let text = fs::read_to_string(&path).map_err(Error::at("read", &path))?;
    let known = variant_names(&text);
    if known.iter().any(|name| name == variant) {
        return Ok(());
    }
    Err(Error::UnknownVariant {
        variant: variant.to_owned(),
        known: known.join(", "),
    })
}

/// One name a line, then its description; `#` begins a comment.
fn variant_names(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.split('#').next()?.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

/// What a build in place leaves behind: no source, and stale in a copy.
const BUILT: [&str; 8] = ["o", "ko", "mod", "order", "symvers", "d", "rmeta", "log"];

/// The files below `dir`, links followed, without hidden ones and without those
/// that end in one of `but`.
fn sources(dir: &Path, but: &[&str]) -> Result<Vec<PathBuf>, Error> {
    let visible = |entry: &DirEntry| {
        entry.depth() == 0 || !entry.file_name().to_string_lossy().starts_with('.')
    };
    let mut files = Vec::new();
    let walk = WalkDir::new(dir).follow_links(true).sort_by_file_name();
    for entry in walk.into_iter().filter_entry(visible) {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(dir).to_owned();
            Error::at("read", &path)(error.into())
        })?;
        let path = entry.path();
        let name = entry.file_name().to_string_lossy();
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        let built = !but.is_empty()
            && (but.contains(&&*extension.to_lowercase())
                || name.ends_with(".mod.c")
                || name == "Module.symvers");
        if entry.file_type().is_file() && !built {
            files.push(path.to_owned());
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_are_the_first_words_of_lines() {
        let text = "# all of them\ngood  as it should be\n\noff-by-one  # one page off\n";
        assert_eq!(variant_names(text), ["good", "off-by-one"]);
    }

    #[test]
    fn what_a_build_left_is_no_source() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("mm")).unwrap();
        fs::create_dir(dir.path().join(".tmp")).unwrap();
        let names = [
            "driver.rs",
            "mm/helpers.c",
            "Kbuild",
            "driver.o",
            ".driver.o.cmd",
            "x.mod.c",
            "x.ko",
            "Module.symvers",
            "modules.order",
            ".tmp/a.rs",
        ];
        for name in names {
            fs::write(dir.path().join(name), "").unwrap();
        }
        std::os::unix::fs::symlink("driver.rs", dir.path().join("regs.rs")).unwrap();
        let found = sources(dir.path(), &BUILT).unwrap();
        let found: Vec<&str> = found
            .iter()
            .map(|path| path.strip_prefix(dir.path()).unwrap().to_str().unwrap())
            .collect();
        assert_eq!(found, ["Kbuild", "driver.rs", "mm/helpers.c", "regs.rs"]);
    }
}
