//! Other processes, as the kernel tells of them in /proc.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;
use std::process::{Child, Command};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// A process that says nothing for so long has nothing to say.
const PATIENCE: Duration = Duration::from_secs(60);

/// A child that ends with this value.
pub(crate) struct Owned(Child);

impl Owned {
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        command.spawn().map(Self)
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// What it says first, up to and with the byte `last`, or all of it if that does not
    /// come. What follows is read and dropped, so that it need not wait for a reader.
    pub(crate) fn first_words(&mut self, last: u8) -> io::Result<Vec<u8>> {
        let output = self.0.stdout.take();
        let mut output = BufReader::new(output.ok_or(io::ErrorKind::NotFound)?);
        let (sender, said) = channel();
        thread::spawn(move || {
            let mut words = Vec::new();
            let read = output.read_until(last, &mut words);
            // Whoever waited may have lost patience.
            let _ = sender.send(read.map(|_| words));
            io::copy(&mut output, &mut io::sink())
        });
        said.recv_timeout(PATIENCE)
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Milliseconds of a CPU that its threads have used so far (schedstat of
    /// Documentation/scheduler/sched-stats.rst).
    pub(crate) fn cpu_ms(&self) -> io::Result<f64> {
        let mut ns = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.0.id()))? {
            let text = fs::read_to_string(thread?.path().join("schedstat"))?;
            let ran = text.split_ascii_whitespace().next();
            ns += ran.and_then(|ran| ran.parse().ok()).unwrap_or(0_u64);
        }
        Ok(ns as f64 / 1e6)
    }

    pub(crate) fn mappings(&self) -> io::Result<Vec<Mapping>> {
        Ok(mappings(&fs::read_to_string(format!(
            "/proc/{}/smaps",
            self.0.id()
        ))?))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // One that has ended by itself needs no end; either way it is waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One mapping of a process (smaps of Documentation/filesystems/proc.rst).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// Its addresses.
    pub(crate) range: Range<u64>,
    /// Its file, or what else it is.
    pub(crate) name: String,
    /// KiB of it in memory.
    pub(crate) rss_kib: u64,
    /// The same, with what is shared divided among those that share it.
    pub(crate) pss_kib: u64,
}

fn mappings(smaps: &str) -> Vec<Mapping> {
    let mut found: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some(range) = addresses(first) {
            let name = words.skip(4).collect::<Vec<_>>().join(" ");
            found.push(Mapping {
                range,
                name,
                ..Mapping::default()
            });
        } else if let Some(mapping) = found.last_mut() {
            let kib = words.next().and_then(|it| it.parse().ok()).unwrap_or(0);
            match first {
                "Rss:" => mapping.rss_kib = kib,
                "Pss:" => mapping.pss_kib = kib,
                _ => {}
            }
        }
    }
    found
}

fn addresses(word: &str) -> Option<Range<u64>> {
    let (start, end) = word.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some(number(start)?..number(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_read_with_their_names() {
        let smaps = "\
7f00-8f00 rw-s 00000000 00:01 1024    /memfd:mapwitness-ram (deleted)
Size:                 4 kB
Rss:                  8 kB
Pss:                  5 kB
Pss_Dirty:            9 kB
VmFlags: rd wr
8f00-9f00 rw-p 00000000 00:00 0
Rss:                  1 kB
";
        let found = mappings(smaps);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].name, "/memfd:mapwitness-ram (deleted)");
        assert_eq!((found[0].rss_kib, found[0].pss_kib), (8, 5));
        assert_eq!(found[1].range, 0x8f00..0x9f00);
        assert_eq!((found[1].rss_kib, found[1].pss_kib), (1, 0));
    }

    #[test]
    fn this_process_has_memory_and_a_child_uses_the_cpu() {
        let command = &mut Command::new("/bin/sh");
        let command = command.args(["-c", "while :; do :; done"]);
        let child = Owned::spawn(command).expect("started");
        while child.cpu_ms().expect("there") < 1.0 {
            std::thread::yield_now();
        }
        let mappings = child.mappings().expect("there");
        assert!(mappings.iter().any(|it| it.name == "[stack]"));
        assert!(mappings.iter().map(|it| it.rss_kib).sum::<u64>() > 100);
    }
}
