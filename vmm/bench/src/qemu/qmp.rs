//! QEMU's machine protocol, as far as a snapshot takes it (docs/interop/qmp-spec.txt).

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::failed;
use crate::error::BenchError;

/// An answer that takes so long does not come.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of the disk that carries the snapshot and nothing else.
const DISK_LEN_BYTES: u64 = 1 << 20;

pub(super) struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    pub(super) fn connect(socket: &Path) -> Result<Self, BenchError> {
        let stream = UnixStream::connect(socket).map_err(BenchError::io("reach QEMU"))?;
        stream
            .set_read_timeout(Some(PATIENCE))
            .map_err(BenchError::io("reach QEMU"))?;
        let mut qmp = Self {
            stream: BufReader::new(stream),
        };
        qmp.next()?;
        qmp.call("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// One message.
    fn next(&mut self) -> Result<Value, BenchError> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line);
        read.map_err(BenchError::io("read QEMU's answer"))?;
        serde_json::from_str(&line).map_err(|_| failed(format!("an answer that is none: {line}")))
    }

    /// Carries a command out, and gives what it returns.
    fn call(&mut self, command: &str, arguments: Value) -> Result<Value, BenchError> {
        let message = json!({ "execute": command, "arguments": arguments });
        let sent = writeln!(self.stream.get_mut(), "{message}");
        sent.map_err(BenchError::io("tell QEMU"))?;
        loop {
            let answer = self.next()?;
            if let Some(error) = answer.get("error") {
                return Err(failed(format!("{command}: {error}")));
            }
            // All else tells of events.
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
        }
    }

    /// Waits until a job has come to its end, and forgets it.
    fn conclude(&mut self, job: &str) -> Result<(), BenchError> {
        loop {
            let jobs = self.call("query-jobs", json!({}))?;
            let mut jobs = jobs.as_array().into_iter().flatten();
            let found = jobs.find(|it| it["id"] == job);
            let found = found.ok_or_else(|| failed(format!("the job {job} is gone")))?;
            if let Some(error) = found.get("error") {
                return Err(failed(format!("{job}: {error}")));
            }
            if found["status"] == "concluded" {
                return self.call("job-dismiss", json!({ "id": job })).map(drop);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Gives it a disk that can hold snapshots, in a new file.
    pub(super) fn make_disk(&mut self, path: &Path) -> Result<(), BenchError> {
        File::create_new(path).map_err(BenchError::io("make a disk for QEMU"))?;
        let file = json!({ "driver": "file", "node-name": "file", "filename": path });
        self.call("blockdev-add", file)?;
        let disk = json!({ "driver": "qcow2", "file": "file", "size": DISK_LEN_BYTES });
        self.call(
            "blockdev-create",
            json!({ "job-id": "disk", "options": disk }),
        )?;
        self.conclude("disk")?;
        let disk = json!({ "driver": "qcow2", "node-name": "disk", "file": "file" });
        self.call("blockdev-add", disk).map(drop)
    }

    /// A command as a person types it; it says something only when it fails.
    pub(super) fn human(&mut self, line: &str) -> Result<(), BenchError> {
        let said = self.call("human-monitor-command", json!({ "command-line": line }))?;
        match said.as_str() {
            Some("") => Ok(()),
            _ => Err(failed(format!("{line}: {said}"))),
        }
    }
}
