//! A finding in a line, for people.

use std::fmt::Write;

use harness::model::{Call, Operation, Place, Process, Stretch};
use wire::{OpenMode, Prot, Sharing};

use crate::finding::Finding;

impl Finding {
    /// What is to be done, in order and in a few words.
    pub fn sequence(&self) -> String {
        let words = self.operations.iter().map(|it| self.words(it));
        words.collect::<Vec<_>>().join("; ")
    }

    /// What was wrong then, in a line.
    pub fn complaint(&self) -> String {
        // What the console showed besides is in the finding's file.
        let line = |text: &str| {
            let line = text.lines().next().unwrap_or_default();
            let said = line.split("; last lines of the console").next();
            said.unwrap_or_default().to_owned()
        };
        let (expected, found) = (line(&self.expected), line(&self.found));
        format!("{}: expected {expected}, found {found}", self.cause.by)
    }

    fn words(&self, operation: &Operation) -> String {
        let mut words = match operation.by {
            Process::FIRST => String::new(),
            Process(number) => format!("process {number}: "),
        };
        // Writing to a String never fails.
        let _ = write!(words, "{}", self.call(&operation.call));
        words
    }

    fn call(&self, call: &Call) -> String {
        let name = |list: &[String], number: usize| {
            list.get(number)
                .cloned()
                .unwrap_or_else(|| number.to_string())
        };
        match call {
            Call::Open { file, mode, .. } => {
                format!("open {} {}", name(&self.files, *file), mode_words(*mode))
            }
            Call::Close { .. } => "close".into(),
            Call::Map {
                first_page,
                npages,
                prot,
                sharing,
                fixed,
                ..
            } => {
                let fixed = fixed.map_or(String::new(), |at| format!(" over {}", place(at)));
                format!(
                    "mmap {npages} pages from page {first_page}, {}{fixed}",
                    rights(*prot, *sharing)
                )
            }
            Call::Ask {
                offset_bytes,
                len_bytes,
                prot,
                sharing,
                ..
            } => format!(
                "mmap {len_bytes:#x} bytes from {offset_bytes:#x}, {}",
                rights(*prot, *sharing)
            ),
            Call::Reserve { npages, .. } => format!("take {npages} pages of address space"),
            Call::Unmap(pages) => format!("munmap {}", stretch(pages)),
            Call::Protect { pages, prot } => {
                format!("mprotect {} to {}", stretch(pages), prot_words(*prot))
            }
            Call::Advise { pages, advice } => format!("madvise {advice:?} {}", stretch(pages)),
            Call::Remap {
                pages, new_npages, ..
            } => format!("mremap {} to {new_npages} pages", stretch(pages)),
            Call::Load(at) => format!("load from {}", place(*at)),
            Call::Store(at) => format!("store to {}", place(*at)),
            Call::Fork { child } => format!("fork process {}", child.0),
            Call::Exit => "exit".into(),
            Call::Peek { of, at } => format!("peek at {} of process {}", place(*at), of.0),
            Call::Poke { of, at } => format!("poke {} of process {}", place(*at), of.0),
            Call::ReadMem { of, at } => {
                format!("read {} in /proc/mem of process {}", place(*at), of.0)
            }
            Call::Revoke { window } => format!("revoke {}", name(&self.windows, *window)),
            Call::Restore { window } => format!("restore {}", name(&self.windows, *window)),
            Call::Offer { window, offer } => {
                format!(
                    "the device offers {}: {offer:?}",
                    name(&self.windows, *window)
                )
            }
            Call::Unbind => "unbind the driver".into(),
            Call::Bind => "bind the driver".into(),
        }
    }
}

fn place(at: Place) -> String {
    format!("page {} of mapping {}", at.page, at.anchor.0)
}

fn stretch(pages: &Stretch) -> String {
    format!("{} pages at {}", pages.npages, place(pages.at))
}

fn rights(prot: Prot, sharing: Sharing) -> String {
    let sharing = match sharing {
        Sharing::Shared => "shared",
        Sharing::Private => "private",
    };
    format!("{} {sharing}", prot_words(prot))
}

fn prot_words(prot: Prot) -> String {
    let letter = |is_set, letter| if is_set { letter } else { '-' };
    [
        letter(prot.read, 'r'),
        letter(prot.write, 'w'),
        letter(prot.exec, 'x'),
    ]
    .iter()
    .collect()
}

const fn mode_words(mode: OpenMode) -> &'static str {
    match mode {
        OpenMode::ReadOnly => "for reading",
        OpenMode::WriteOnly => "for writing",
        OpenMode::ReadWrite => "for both",
    }
}
