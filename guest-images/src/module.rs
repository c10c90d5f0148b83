//! Out-of-tree modules: the project's driver in its variants, and any other.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use provision::{Cache, Key, Progress};
use walkdir::{DirEntry, WalkDir};

use crate::kernel::Kernel;
use crate::toolchain::Toolchain;
use crate::versions::Versions;
use crate::{Error, GuestImage, run, workspace};

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
    let toolchain = Toolchain::of_tree(&versions, kernel_tree)?;
    let title = format!("build the module in {}", dir.display());
    build_in(title, dir, kernel_tree, variables, &toolchain, progress)
}

fn build_in(
    title: String,
    dir: &Path,
    kernel_tree: &Path,
    variables: &[(&str, &str)],
    toolchain: &Toolchain,
    progress: &Progress,
) -> Result<Vec<PathBuf>, Error> {
    let dir = fs::canonicalize(dir).map_err(Error::at("find", dir))?;
    let step = progress.step(title.clone(), None);
    let mut make = toolchain.make(kernel_tree, None);
    make.arg(format!("M={}", dir.display()));
    for (name, value) in variables {
        make.arg(format!("{name}={value}"));
    }
    let log = dir.join("build.log");
    let ran = run::logged(&mut make, &log, |line| step.message(line.trim()))?;
    if !ran.status.success() {
        return Err(Error::Make {
            what: title,
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
            let copy = Copy {
                dir: &self.dir,
                sources: &sources,
                work: &dir.join("build"),
            };
            let variables = [("MAPWITNESS_VARIANT", variant)];
            copy.build(&self.kernel.tree(), &variables, self.toolchain, progress)?;
            let built = copy.work.join(FILE_NAME);
            fs::rename(&built, dir.join(FILE_NAME)).map_err(Error::at("find", &built))?;
            fs::remove_dir_all(copy.work).map_err(Error::at("remove", copy.work))
        })?;
        Ok((entry.join(FILE_NAME), key))
    }
}

/// A copy of a module's sources that is built, so that the sources stay as they are.
struct Copy<'a> {
    /// The sources' folder.
    dir: &'a Path,
    /// The sources.
    sources: &'a [PathBuf],
    /// The copy's folder.
    work: &'a Path,
}

impl Copy<'_> {
    /// Makes the copy, builds it, and gives every module that came out.
    fn build(
        &self,
        kernel_tree: &Path,
        variables: &[(&str, &str)],
        toolchain: &Toolchain,
        progress: &Progress,
    ) -> Result<Vec<PathBuf>, Error> {
        for from in self.sources {
            let to = self.work.join(from.strip_prefix(self.dir).unwrap_or(from));
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent).map_err(Error::at("make folder", parent))?;
            }
            // Follows links: the copy stands by itself.
            fs::copy(from, &to).map_err(Error::at("copy", from))?;
        }
        let title = format!("build the module in {}", self.dir.display());
        build_in(
            title,
            self.work,
            kernel_tree,
            variables,
            toolchain,
            progress,
        )
    }
}

/// The modules of the sources in `dir`, for the kernel of `image`; built in the cache
/// on first use, so that `dir` stays as it is.
///
/// # Errors
/// When there is nothing to build in `dir`, a compiler is missing, or one finds fault
/// with the module; then its whole output is in the error.
pub fn ensure_modules(
    dir: &Path,
    image: &GuestImage,
    progress: &Progress,
) -> Result<Vec<PathBuf>, Error> {
    let nothing = || Error::NoModule {
        dir: dir.to_owned(),
    };
    if !["Kbuild", "Makefile"]
        .iter()
        .any(|name| dir.join(name).is_file())
    {
        return Err(nothing());
    }
    let toolchain = Toolchain::of_tree(&Versions::read(&workspace::root()?)?, &image.kernel_tree)?;
    let cache = Cache::open()?;
    let symbols = image.kernel_tree.join("Module.symvers");
    let configuration = image.kernel_tree.join(".config");
    let mut key = toolchain
        .add_to_key(Key::new().text("release", &image.release))
        .file("kernel's symbols", &symbols)?
        .file("kernel's configuration", &configuration)?;
    let sources = sources(dir, &BUILT)?;
    for path in &sources {
        let relative = path.strip_prefix(dir).unwrap_or(path);
        key = key.file(&relative.display().to_string(), path)?;
    }
    let entry = cache.get_or_build("module", &key, progress, |out| {
        let copy = Copy {
            dir,
            sources: &sources,
            work: &out.join("build"),
        };
        let built = copy.build(&image.kernel_tree, &[], &toolchain, progress)?;
        if built.is_empty() {
            return Err(nothing());
        }
        for module in &built {
            let name = module.file_name().unwrap_or_default();
            fs::rename(module, out.join(name)).map_err(Error::at("find", module))?;
        }
        fs::remove_dir_all(copy.work).map_err(Error::at("remove", copy.work))
    })?;
    let is_module = |path: &PathBuf| path.extension() == Some(OsStr::new("ko"));
    Ok(self::sources(&entry, &[])?
        .into_iter()
        .filter(is_module)
        .collect())
}

/// Name of the file `module`, which is one.
///
/// # Errors
/// When it is none, or cannot be read.
pub fn file_name(module: &Path) -> Result<&str, Error> {
    const MAGIC: [u8; 4] = *b"\x7fELF";
    let mut head = [0; MAGIC.len()];
    let mut file = fs::File::open(module).map_err(Error::at("open", module))?;
    // A file that is too short is none, either.
    let read = file.read_exact(&mut head);
    let name = module.file_name().and_then(OsStr::to_str);
    match name.filter(|_| read.is_ok() && head == MAGIC) {
        Some(name) => Ok(name),
        None => Err(Error::NotModule {
            path: module.to_owned(),
        }),
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
