//! One carried process and everything that it starts.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use rustix::fs::Mode;

use super::port::Line;
use crate::messages::{CHUNK_LEN_BYTES, Command, FromHost, Stream, WINDOW_LEN_BYTES};

/// Status of a process whose end could not be learned.
const EXIT_UNKNOWN: i32 = 255;

/// Output that may be sent before the runner has taken what was sent earlier.
#[derive(Debug)]
pub struct Window {
    /// Bytes left; `None` when nobody takes them any more.
    left: Mutex<Option<u32>>,
    is_limited: bool,
    changed: Condvar,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            left: Mutex::new(Some(WINDOW_LEN_BYTES)),
            is_limited: true,
            changed: Condvar::new(),
        }
    }
}

impl Window {
    /// For a reader that takes everything at once.
    pub fn without_limit() -> Self {
        Self {
            is_limited: false,
            ..Self::default()
        }
    }

    /// Waits until `len_bytes` may be sent; false when they should be dropped.
    fn take(&self, len_bytes: u32) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match *left {
                None => return false,
                Some(_) if !self.is_limited => return true,
                Some(bytes) if bytes >= len_bytes => {
                    *left = Some(bytes - len_bytes);
                    return true;
                }
                Some(_) => {
                    left = self
                        .changed
                        .wait(left)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// The runner took so much.
    pub fn give_back(&self, len_bytes: u32) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = left.map(|bytes| bytes.saturating_add(len_bytes).min(WINDOW_LEN_BYTES));
        self.changed.notify_all();
    }

    /// Nobody takes output any more.
    pub fn close(&self) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.changed.notify_all();
    }
}

/// A running process.
#[derive(Debug)]
pub struct Process {
    session: u64,
    child: Child,
}

/// The control group of a session: whatever a process starts is in it, and can be
/// ended at one stroke (cgroup.kill, Documentation/admin-guide/cgroup-v2.rst).
fn group(session: u64) -> PathBuf {
    Path::new("/sys/fs/cgroup").join(format!("session-{session}"))
}

/// Ends a process and everything that it started.
pub fn kill_session(session: u64) {
    // Gone when the session has ended by itself.
    let _ = fs::write(group(session).join("cgroup.kill"), "1");
}

impl Process {
    /// Starts it, in a group of its own.
    pub fn spawn(session: u64, command: Command) -> io::Result<Self> {
        let mut words = command.argv.into_iter().map(OsString::from_vec);
        let program = words
            .next()
            .ok_or_else(|| io::Error::other("no program to start"))?;
        fs::create_dir(group(session))?;
        let joining = join_group(session)?;
        let env = command.env.into_iter();
        let mut child = std::process::Command::new(&program);
        child
            .args(words)
            .env_clear()
            .envs(env.map(|(name, value)| (OsString::from_vec(name), OsString::from_vec(value))))
            .current_dir(PathBuf::from(OsString::from_vec(command.cwd)))
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let umask = Mode::from_raw_mode(command.umask);
        let prepare = move || {
            rustix::process::umask(umask);
            rustix::io::write(&joining, b"0")?;
            Ok(())
        };
        // SAFETY: `prepare` makes two system calls and neither allocates nor locks,
        // which is all that a child may do between fork and exec.
        unsafe { child.pre_exec(prepare) };
        match child.spawn() {
            Ok(child) => Ok(Self { session, child }),
            Err(error) => {
                // Empty; if it stays it does no harm.
                let _ = fs::remove_dir(group(session));
                let program = Path::new(&program).display();
                Err(io::Error::other(format!(
                    "cannot start {program} in the software host: {error}"
                )))
            }
        }
    }

    /// Passes on its output until it has ended; returns its status, 128 + n for
    /// signal n.
    pub fn attend(self, line: &Line, window: &Window) -> i32 {
        let Self { session, mut child } = self;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let status = thread::scope(|scope| {
            if let Some(stdout) = stdout {
                scope.spawn(move || pump(session, stdout, Stream::Stdout, line, window));
            }
            if let Some(stderr) = stderr {
                scope.spawn(move || pump(session, stderr, Stream::Stderr, line, window));
            }
            let status = child.wait();
            // What it left behind would hold the pipes open, and keep running.
            kill_session(session);
            status
        });
        // Refused while an orphan waits to be collected; an empty group is harmless.
        let _ = fs::remove_dir(group(session));
        status.map_or(EXIT_UNKNOWN, |status| {
            status
                .code()
                .or_else(|| status.signal().map(|signal| 128 + signal))
                .unwrap_or(EXIT_UNKNOWN)
        })
    }
}

fn join_group(session: u64) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .open(group(session).join("cgroup.procs"))
}

/// Sends what comes out of a pipe until its end.
fn pump(session: u64, mut pipe: impl Read, stream: Stream, line: &Line, window: &Window) {
    let mut chunk = vec![0; CHUNK_LEN_BYTES];
    loop {
        let bytes = match pipe.read(&mut chunk) {
            Ok(0) => return,
            Ok(len_bytes) => chunk.get(..len_bytes).unwrap_or_default().to_vec(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let Ok(len_bytes) = u32::try_from(bytes.len()) else {
            return;
        };
        let output = FromHost::Output {
            session,
            stream,
            bytes,
        };
        // Read on even when nobody listens: a full pipe would stop the process.
        if window.take(len_bytes) && line.send(&output).is_err() {
            window.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_used_up_and_given_back() {
        let window = Window::default();
        assert!(window.take(WINDOW_LEN_BYTES));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| window.take(10));
            window.give_back(10);
            assert!(waiting.join().expect("no panic"));
        });
        window.give_back(u32::MAX);
        assert!(window.take(WINDOW_LEN_BYTES));
    }

    #[test]
    fn a_window_without_limit_lets_nobody_wait() {
        let window = Window::without_limit();
        assert!(window.take(u32::MAX) && window.take(u32::MAX));
        window.close();
        assert!(!window.take(1));
    }

    #[test]
    fn a_closed_window_lets_nobody_wait() {
        let window = Window::default();
        assert!(window.take(WINDOW_LEN_BYTES));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| window.take(1));
            window.close();
            assert!(!waiting.join().expect("no panic"));
        });
    }
}
