//! The runner's side of the conversation with a keeper.

use std::env;
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{self, Stdio};

use provision::Progress;
use sha2::{Digest, Sha256};

use super::{RunError, SoftwareHost, doing};
use crate::keeper::LISTENING;
use crate::keeper::config::Config;
use crate::messages::{Command, FromRunner, Stream, ToRunner, receive, send};
use crate::owner::Process;
use crate::rundir;

/// A conversation with a keeper.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// The host was started for it, which takes some seconds.
    is_new_host: bool,
}

/// Takes what a program says.
pub type Sink<'a> = &'a dyn Fn(Stream, &[u8]) -> io::Result<()>;

/// Connects to the keeper of this owner's host with this number, starting it when there
/// is none.
pub fn connect(owner: Process, lane: usize, host: &SoftwareHost) -> Result<Connection, RunError> {
    let program = env::current_exe().map_err(doing("find the path of this program"))?;
    let base = rundir::base().map_err(doing("make the folder for software hosts"))?;
    let key = key(owner, lane, &program, host).map_err(doing(format!(
        "look at the program {} (if it was built again meanwhile, run this again)",
        program.display()
    )))?;
    // Held until somebody listens, so that two that come at once share one host.
    let _lock = rundir::lock(&base).map_err(doing("lock the folder for software hosts"))?;
    rundir::remove_stale(&base).map_err(doing("remove what an ended software host left"))?;
    let running = rundir::with_key(&base, &key).map_err(doing("look for a software host"))?;
    let connected = running
        .iter()
        .find_map(|run_dir| UnixStream::connect(run_dir.join(rundir::SOCKET)).ok());
    if let Some(stream) = connected {
        return Ok(Connection {
            stream,
            is_new_host: false,
        });
    }
    let run_dir = rundir::create(&base, &key).map_err(doing("make a run folder"))?;
    let config = Config {
        owner,
        init: program.clone(),
        kernel: host.kernel.image.clone(),
        initramfs: host.kernel.initramfs.clone(),
        cpu: host.cpu.clone(),
        modules: host.kernel.modules.clone(),
        qemu: host.qemu.clone(),
        virtiofsd: host.virtiofsd.clone(),
    };
    config
        .write(&run_dir)
        .map_err(doing("write the keeper's task"))?;
    start_keeper(&program, &run_dir)?;
    let stream = UnixStream::connect(run_dir.join(rundir::SOCKET))
        .map_err(doing("connect to the keeper"))?;
    Ok(Connection {
        stream,
        is_new_host: true,
    })
}

/// Hosts of different owners, lanes, programs or kernels are different hosts.
fn key(owner: Process, lane: usize, program: &Path, host: &SoftwareHost) -> io::Result<String> {
    let mut hash = Sha256::new();
    hash.update(lane.to_le_bytes());
    hash.update(rundir::program_identity(program)?);
    for part in [&host.kernel.image, &host.qemu, &host.virtiofsd] {
        hash.update(part.as_os_str().as_encoded_bytes());
        hash.update([0]);
    }
    hash.update(&host.cpu);
    let hash = hash.finalize();
    let short: String = hash
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(format!("{}-{short}", owner.file_name()))
}

fn start_keeper(program: &Path, run_dir: &Path) -> Result<(), RunError> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(run_dir.join(rundir::LOG))
        .map_err(doing("make the keeper's log"))?;
    let mut command = process::Command::new(program);
    command
        .arg("host-keep")
        .arg(run_dir)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    // SAFETY: the closure makes one system call and neither allocates nor locks,
    // which is all that a child may do between fork and exec.
    unsafe { command.pre_exec(close_inherited_on_exec) };
    let mut keeper = command.spawn().map_err(doing("start the keeper"))?;
    let mut first = String::new();
    if let Some(stdout) = keeper.stdout.take() {
        BufReader::new(stdout)
            .read_line(&mut first)
            .map_err(doing("read what the keeper says"))?;
    }
    if first.trim_end() == LISTENING {
        return Ok(());
    }
    let status = keeper.wait().map_err(doing("wait for the keeper"))?;
    let what = if first.is_empty() {
        format!("its keeper ended with {status}")
    } else {
        first.trim_end().to_owned()
    };
    Err(RunError::Keeper { what })
}

/// The keeper outlives this process: whoever waits for the end of a pipe that this
/// process inherited must not wait for the keeper.
fn close_inherited_on_exec() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: marks descriptors of the forked child only, and closes none before exec.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            FIRST,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Hands over the command and passes on what comes back, until its end.
pub fn converse(
    connection: &Connection,
    command: Command,
    progress: &Progress,
    sink: Sink<'_>,
) -> Result<i32, RunError> {
    let stream = &connection.stream;
    send(stream, &FromRunner::Start(command)).map_err(doing("send the command"))?;
    let mut boot = connection
        .is_new_host
        .then(|| progress.step("start the software host soft-npt", None));
    loop {
        match receive::<ToRunner>(stream).map_err(doing("read from the keeper"))? {
            Some(ToRunner::Started) => {
                if let Some(step) = boot.take() {
                    step.done("ready");
                }
            }
            Some(ToRunner::Output(to, bytes)) => {
                sink(to, &bytes).map_err(doing("write the program's output"))?;
            }
            Some(ToRunner::Ended(status)) => return Ok(status),
            Some(ToRunner::Failed(what)) => return Err(RunError::Carried(what)),
            Some(ToRunner::HostLost(what)) => return Err(RunError::HostLost(what)),
            None => return Err(RunError::KeeperGone),
        }
    }
}

/// Passes it on to this process's own output.
pub fn put_out(to: Stream, bytes: &[u8]) -> io::Result<()> {
    match to {
        Stream::Stdout => {
            let mut stdout = io::stdout().lock();
            stdout.write_all(bytes)?;
            stdout.flush()
        }
        Stream::Stderr => io::stderr().lock().write_all(bytes),
    }
}
