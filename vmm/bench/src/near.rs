//! Programs and files in this machine's own memory, where they lie on another machine's
//! folder: a software host would fetch each page of them anew for each process, and that
//! would be most of what a start takes, whoever starts.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// `FUSE_SUPER_MAGIC` of include/uapi/linux/magic.h; virtiofs has the same.
const FUSE: u64 = 0x6573_5546;
/// The dynamic loader of every program (System V ABI, AMD64 supplement, 5.2.1).
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";
/// QEMU's option for a folder with firmware.
const FIRMWARE_OPTION: &str = "-L";

/// How a program is started.
#[derive(Debug)]
pub(crate) struct Program {
    argv: Vec<PathBuf>,
    /// Where the copies are, for as long as this lives.
    _folder: Option<TempDir>,
}

impl Program {
    /// One that stays where it is.
    pub(crate) fn at(path: &Path) -> Self {
        Self {
            argv: vec![path.to_owned()],
            _folder: None,
        }
    }

    /// The program that process `pid` runs, with its libraries, brought near if they are
    /// far.
    pub(crate) fn of_process(pid: u32) -> io::Result<Self> {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let program = fs::read_link(proc.join("exe"))?;
        if !is_far(&program)? {
            return Ok(Self::at(&program));
        }
        let listed = Command::new(LOADER)
            .arg("--list")
            .arg(&program)
            .env_remove(LIBRARY_PATH)
            .envs(library_path(&fs::read(proc.join("environ"))?))
            .output()?;
        let folder = tempfile::tempdir()?;
        for (name, file) in libraries(&String::from_utf8_lossy(&listed.stdout)) {
            fs::copy(file, folder.path().join(name))?;
        }
        let [loader, own] = ["loader", "program"].map(|name| folder.path().join(name));
        for (file, copy) in [(Path::new(LOADER), &loader), (&program, &own)] {
            fs::copy(file, copy)?;
            fs::set_permissions(copy, fs::Permissions::from_mode(0o700))?;
        }
        let beside = folder.path().to_owned();
        let mut argv = vec![loader, "--library-path".into(), beside, own];
        argv.extend(firmware(&fs::read(proc.join("cmdline"))?));
        Ok(Self {
            argv,
            _folder: Some(folder),
        })
    }

    pub(crate) fn command(&self) -> Command {
        let mut words = self.argv.iter();
        let mut command = Command::new(words.next().map_or(Path::new(""), PathBuf::as_path));
        command.args(words);
        command
    }
}

/// A file that is read as a whole by each process.
#[derive(Debug)]
pub(crate) struct Copy {
    path: PathBuf,
    _folder: Option<TempDir>,
}

impl Copy {
    /// Brings it near if it is far.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        if !is_far(path)? {
            return Ok(Self {
                path: path.to_owned(),
                _folder: None,
            });
        }
        let folder = tempfile::tempdir()?;
        let copy = folder.path().join("file");
        fs::copy(path, &copy)?;
        Ok(Self {
            path: copy,
            _folder: Some(folder),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn is_far(path: &Path) -> io::Result<bool> {
    let found = rustix::fs::statfs(path)?;
    Ok(u64::try_from(found.f_type).is_ok_and(|kind| kind == FUSE))
}

/// Libraries by the names by which they are looked for, as the loader lists them (ld.so(8)).
fn libraries(listed: &str) -> Vec<(&str, &Path)> {
    let lines = listed.lines().filter_map(|line| {
        let (name, file) = line.trim().split_once(" => ")?;
        let (file, _) = file.rsplit_once(" (")?;
        Some((name, Path::new(file)))
    });
    let is_plain = |name: &str| Path::new(name).file_name() == Some(name.as_ref());
    lines.filter(|(name, _)| is_plain(name)).collect()
}

/// Where else a process looks for libraries, out of its environment.
fn library_path(environ: &[u8]) -> Option<(&str, String)> {
    let words = environ.split(|byte| *byte == 0);
    let mut pairs = words.filter_map(|word| word.strip_prefix(LIBRARY_PATH.as_bytes()));
    let value = pairs.find_map(|rest| rest.strip_prefix(b"="))?;
    Some((LIBRARY_PATH, String::from_utf8_lossy(value).into_owned()))
}

/// The options that tell QEMU where its firmware is, out of its command line.
fn firmware(cmdline: &[u8]) -> Vec<PathBuf> {
    let words: Vec<_> = cmdline
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let pairs = words.windows(2).filter(|pair| pair[0] == FIRMWARE_OPTION);
    pairs.flatten().map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_go_by_the_names_that_are_looked_for() {
        let listed = "\
\tlinux-vdso.so.1 (0x00007ffe)
\tlibfdt.so.1 => /tree/lib/libfdt-1.6.1.so (0x00007f01)
\t/lib64/ld-linux-x86-64.so.2 => /lib64/ld-linux-x86-64.so.2 (0x00007f02)
\tlibc.so.6 => /lib/libc.so.6 (0x00007f03)
";
        let wanted = [
            ("libfdt.so.1", Path::new("/tree/lib/libfdt-1.6.1.so")),
            ("libc.so.6", Path::new("/lib/libc.so.6")),
        ];
        assert_eq!(libraries(listed), wanted);
        let environ = b"HOME=/\0LD_LIBRARY_PATH=/a:/b\0PATH=/c\0";
        assert_eq!(
            library_path(environ),
            Some(("LD_LIBRARY_PATH", "/a:/b".to_owned()))
        );
        assert_eq!(library_path(b"HOME=/\0"), None);
    }

    #[test]
    fn firmware_stays_where_the_wrapper_says() {
        let line = b"/tree/qemu\0-L\0/tree/share\0-L\0/tree/bios\0-M\0microvm\0";
        let wanted = ["-L", "/tree/share", "-L", "/tree/bios"].map(PathBuf::from);
        assert_eq!(firmware(line), wanted);
    }

    #[test]
    fn what_is_near_stays_there() {
        let program = Program::of_process(std::process::id()).expect("this process");
        let own = fs::read_link("/proc/self/exe").expect("a program");
        if !is_far(&own).expect("there") {
            assert_eq!(Copy::of(&own).expect("there").path(), own);
            assert_eq!(program.argv, [own]);
        }
    }
}
