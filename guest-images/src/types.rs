//! The guest kernel's types, as its compiler describes them.
//!
//! Describing a whole kernel (CONFIG_DEBUG_INFO_BTF) would double the time of its build
//! and take another tool. The few structures that the host reads are described by
//! compiling one small file, with that kernel's headers and configuration.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::{Object, ObjectSection};
use provision::{Cache, Key, Progress};

use crate::flavour::Compiler;
use crate::kernel::Kernel;
use crate::toolchain::Toolchain;
use crate::{Error, run};

/// What is compiled, in `guest-images/types`.
const SOURCES: [&str; 2] = ["Kbuild", "types.c"];
/// The result, in the entry.
const FILE_NAME: &str = "types.btf";

/// The types of `kernel` in BTF, made on first use.
///
/// # Errors
/// When the compiler cannot compile or describe them.
pub fn ensure(
    root: &Path,
    kernel: &Kernel,
    toolchain: &Toolchain,
    cache: &Cache,
    progress: &Progress,
) -> Result<PathBuf, Error> {
    let from = root.join("guest-images/types");
    let mut key = Key::new().text("kernel", kernel.hex());
    for name in SOURCES {
        key = key.file(name, &from.join(name))?;
    }
    let entry = cache.get_or_build("types", &key, progress, |dir| {
        let work = dir.join("build");
        fs::create_dir(&work).map_err(Error::at("make folder", &work))?;
        for name in SOURCES {
            let path = from.join(name);
            fs::copy(&path, work.join(name)).map_err(Error::at("copy", &path))?;
        }
        let mut make = toolchain.make(&kernel.tree(), None);
        make.arg(format!("M={}", work.display())).arg("types.o");
        let ran = run::logged(&mut make, &work.join("build.log"), |_| ())?;
        if !ran.status.success() {
            return Err(Error::Make {
                what: "describing the kernel's types".to_owned(),
                status: ran.status.to_string(),
                output: run::whole(&ran.log),
                log: ran.log,
            });
        }
        let path = dir.join(FILE_NAME);
        match toolchain.compiler() {
            Compiler::Gcc => {
                let btf = section(&work.join("types.o"))?;
                fs::write(&path, btf).map_err(Error::at("write", &path))?;
            }
            Compiler::Clang => translate(&work, &path)?,
        }
        fs::remove_dir_all(&work).map_err(Error::at("remove", &work))
    })?;
    Ok(entry.join(FILE_NAME))
}

/// Types that an object file in `work` describes in DWARF, in BTF.
fn translate(work: &Path, path: &Path) -> Result<(), Error> {
    let mut pahole = Command::new("pahole");
    let mut option = OsString::from("--btf_encode_detached=");
    option.push(path);
    pahole.arg(option).arg(work.join("types.o"));
    let ran = run::logged(&mut pahole, &work.join("pahole.log"), |_| ())?;
    if ran.status.success() && path.is_file() {
        return Ok(());
    }
    Err(Error::Make {
        what: "translating the kernel's types (pahole)".to_owned(),
        status: ran.status.to_string(),
        output: run::whole(&ran.log),
        log: ran.log,
    })
}

/// What an object file holds of BTF.
fn section(path: &Path) -> Result<Vec<u8>, Error> {
    let bytes = fs::read(path).map_err(Error::at("read", path))?;
    let file = object::File::parse(&*bytes).ok();
    let section = file.as_ref().and_then(|file| file.section_by_name(".BTF"));
    let data = section.and_then(|section| section.data().ok());
    match data {
        Some(data) if !data.is_empty() => Ok(data.to_vec()),
        _ => Err(Error::NoTypes {
            object: path.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_without_a_description_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("types.o");
        fs::write(&path, "no object").unwrap();
        let error = section(&path).unwrap_err().to_string();
        assert!(error.contains("-gbtf"), "{error}");
        let this_program = std::env::current_exe().unwrap();
        assert!(section(&this_program).is_err());
    }
}
