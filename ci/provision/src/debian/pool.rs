//! Files of a Debian archive's pool that are known by their hash.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Error, check_hash, sources};
use crate::command;
use crate::progress::Progress;

/// apt's own program for fetching a single file, with its settings for proxies.
const HELPER: &str = "/usr/lib/apt/apt-helper";

/// A file of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolFile {
    /// Its path from the archive's root.
    pub path: &'static str,
    /// Hash of its content, in hex.
    pub sha256: &'static str,
    /// Its size.
    pub len_bytes: u64,
}

impl PoolFile {
    fn name(&self) -> &'static str {
        self.path.rsplit('/').next().unwrap_or(self.path)
    }
}

/// Downloads the file into the folder `into` from the first of the machine's mirrors
/// that has it, and checks its hash.
///
/// # Errors
/// When no mirror is known or none has it.
pub fn pool_file(file: &PoolFile, into: &Path, progress: &Progress) -> Result<PathBuf, Error> {
    if !Path::new(HELPER).exists() {
        return Err(Error::NoApt { program: HELPER });
    }
    let target = into.join(file.name());
    let step = progress.step_bytes(format!("download {}", file.name()), Some(file.len_bytes));
    let mut tried = Vec::new();
    let mut output = String::new();
    for mirror in sources::mirrors(false) {
        let uri = format!("{}/{}", mirror.uri.trim_end_matches('/'), file.path);
        let mut fetch = Command::new(HELPER);
        fetch
            .env("LC_ALL", "C.UTF-8")
            // The folder belongs to this user: apt's own user could not write there.
            .args(["-o", "APT::Sandbox::User=", "download-file", &uri])
            .arg(&target)
            .arg(format!("SHA256:{}", file.sha256));
        let ran = command::run(&mut fetch, |_| true).map_err(|source| Error::Io {
            action: "run",
            path: HELPER.into(),
            source,
        })?;
        if ran.status.success() && target.exists() {
            check_hash(&target, file.sha256)?;
            step.done("hash is right");
            return Ok(target);
        }
        tried.push(mirror.uri);
        output = ran.tail;
    }
    Err(Error::Pool {
        file: file.path,
        tried: tried.join(", "),
        output,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_part_of_the_path_is_the_name() {
        let file = PoolFile {
            path: "pool/main/x/x/x_1.orig.tar.xz",
            sha256: "00",
            len_bytes: 1,
        };
        assert_eq!(file.name(), "x_1.orig.tar.xz");
    }
}
