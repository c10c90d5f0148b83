//! Operations in a real guest.

use addr::{Gva, PAGE_SIZE};
use monitor::Offer;
use wire::ioctls::{CONTROL_PATH, RESTORE, REVOKE, Target};
use wire::{Fd, OpenMode, Prot, Reply, Request, Sharing, Value};
use witness::DevicePage;
use witness::stamp::{IDENTITY, LAST, SLOT};

use super::{Call, Came, Meaningless, Model, Offered, Operation, Place, Process, Stretch};
use crate::error::HarnessError;
use crate::guest::Guest;
use crate::outcome::{Outcome, Refusal};
use crate::steps::needed;

/// The device's name on its bus.
const OWN_DEVICE: &str = "MAPW0001:00";

impl Guest {
    /// Does `operation`. The model says which process, descriptor and address its
    /// names stand for, and nothing more.
    ///
    /// # Errors
    /// As [`Guest::request`], and [`HarnessError::Meaningless`] for names that stand
    /// for nothing.
    pub fn perform(&mut self, model: &Model, operation: &Operation) -> Result<Came, HarnessError> {
        self.go_to(model, operation.by)?;
        let fd = |handle| named(model.fd(operation.by, handle), &operation.call);
        match &operation.call {
            Call::Open { file, mode, .. } => {
                let file = named(model.files().get(*file), &operation.call)?;
                let opened = self.open(&file.path, *mode)?;
                Ok(came(opened, Came::Fd))
            }
            Call::Close { handle } => {
                let closed = self.close(fd(*handle)?)?;
                Ok(came(closed, |()| Came::Done))
            }
            Call::Map { handle, .. } => self.perform_map(model, fd(*handle)?, &operation.call),
            Call::Ask {
                handle,
                offset_bytes,
                len_bytes,
                prot,
                sharing,
                ..
            } => {
                let fd = fd(*handle)?;
                let mapped = self.mmap(fd, *offset_bytes, *len_bytes, *prot, *sharing)?;
                Ok(came(mapped, Came::At))
            }
            Call::Reserve { npages, .. } => self.map_nothing(*npages),
            Call::Unmap(pages) => {
                let (gva, len_bytes) = bytes(model, pages)?;
                let unmapped = self.munmap(gva, len_bytes)?;
                Ok(came(unmapped, |()| Came::Done))
            }
            Call::Protect { pages, prot } => {
                let (gva, len_bytes) = bytes(model, pages)?;
                let changed = self.mprotect(gva, len_bytes, *prot)?;
                Ok(came(changed, |()| Came::Done))
            }
            Call::Advise { pages, advice } => {
                let (gva, len_bytes) = bytes(model, pages)?;
                let advised = self.madvise(gva, len_bytes, *advice)?;
                Ok(came(advised, |()| Came::Done))
            }
            Call::Remap {
                pages,
                new_npages,
                may_move,
                fixed,
                ..
            } => {
                let (gva, old_len_bytes) = bytes(model, pages)?;
                let fixed_at = fixed.map(|at| at_place(model, at)).transpose()?;
                let request = Request::Remap {
                    address: gva.raw(),
                    old_len_bytes,
                    new_len_bytes: new_npages.saturating_mul(PAGE_SIZE),
                    may_move: *may_move,
                    fixed_at: fixed_at.map(Gva::raw),
                };
                Ok(came(self.address(&request)?, Came::At))
            }
            Call::Load(at) => self.load_page(at_place(model, *at)?),
            Call::Store(at) => self.store_page(at_place(model, *at)?),
            Call::Fork { .. } => {
                let forked = self.fork()?;
                Ok(came(forked, Came::Child))
            }
            Call::Exit => {
                let ended = self.exit_child(0)?;
                Ok(came(ended, Came::Ended))
            }
            Call::Peek { of, at } => {
                let request = Request::Peek {
                    pid: named(model.pid(*of), &operation.call)?,
                    address: at_place(model, *at)?.raw(),
                };
                let word = self.words(&request)?;
                Ok(came(word, |words| self.reached_by_load(&words)))
            }
            Call::Poke { of, at } => {
                let pid = named(model.pid(*of), &operation.call)?;
                let address = at_place(model, *at)?.raw() + SLOT;
                let word = self.fresh_word();
                let poked = self.unit(&Request::Poke { pid, address, word })?;
                Ok(came(poked, |()| self.reached_by_store(word)))
            }
            Call::ReadMem { of, at } => {
                let pid = named(model.pid(*of), &operation.call)?;
                self.read_mem(pid, at_place(model, *at)?)
            }
            Call::Revoke { window } => self.control(REVOKE, *window),
            Call::Restore { window } => self.control(RESTORE, *window),
            Call::Offer { window, offer } => self.offer(*window, *offer),
            Call::Unbind => self.tell_driver("unbind"),
            Call::Bind => self.tell_driver("bind"),
        }
    }

    /// Makes the process `process` the one that answers and is walked.
    pub(super) fn go_to(&mut self, model: &Model, process: Process) -> Result<(), HarnessError> {
        let pid = named(model.pid(process), process)?;
        if self.current_pid() != pid {
            let switched = self.switch_to(pid)?;
            needed(|| format!("switching to process {pid}"), switched)?;
        }
        // Else the tables of some other process would be walked.
        match self.current_pid() {
            found if found == pid => Ok(()),
            found => Err(HarnessError::OtherProcess { wanted: pid, found }),
        }
    }

    fn perform_map(&mut self, model: &Model, fd: Fd, call: &Call) -> Result<Came, HarnessError> {
        let Call::Map {
            first_page,
            npages,
            prot,
            sharing,
            fixed,
            ..
        } = *call
        else {
            return Err(Meaningless(format!("{call:?}")).into());
        };
        let fixed_at = fixed.map(|at| at_place(model, at)).transpose()?;
        let request = Request::Map {
            fd: Some(fd),
            fixed_at: fixed_at.map(Gva::raw),
            len_bytes: npages.saturating_mul(PAGE_SIZE),
            prot,
            sharing,
            offset_bytes: first_page.saturating_mul(PAGE_SIZE),
        };
        Ok(came(self.address(&request)?, Came::At))
    }

    fn map_nothing(&mut self, npages: u64) -> Result<Came, HarnessError> {
        let request = Request::Map {
            fd: None,
            fixed_at: None,
            len_bytes: npages.saturating_mul(PAGE_SIZE),
            prot: Prot::NONE,
            sharing: Sharing::Private,
            offset_bytes: 0,
        };
        Ok(came(self.address(&request)?, Came::At))
    }

    /// Loads the first and the last word of a page.
    fn load_page(&mut self, gva: Gva) -> Result<Came, HarnessError> {
        let words = self.load(Gva::new(gva.raw() + IDENTITY), LAST - IDENTITY, 2)?;
        Ok(came(words, |words| self.reached_by_load(&words)))
    }

    /// The page whose first word was loaded, and its last if that was, too.
    fn reached_by_load(&self, words: &[u64]) -> Came {
        let stamps = self.stamps();
        let page = words.first().and_then(|word| stamps.page_of(*word));
        let page = page.filter(|page| {
            let last = words.get(1);
            last.is_none_or(|last| *last == stamps.word(*page, LAST))
        });
        Came::Reached(page.into_iter().collect())
    }

    /// Stores a word that no page holds.
    fn store_page(&mut self, gva: Gva) -> Result<Came, HarnessError> {
        let word = self.fresh_word();
        let stored = self.store(Gva::new(gva.raw() + SLOT), 8, vec![word])?;
        Ok(came(stored, |()| self.reached_by_store(word)))
    }

    fn fresh_word(&mut self) -> u64 {
        let nowhere = DevicePage {
            window: self.plan().windows.len(),
            page: 0,
        };
        let number = self.next_mapping();
        self.stamps().stored(number, nowhere)
    }

    /// The pages that hold `word`. All hold what they held before when this returns.
    fn reached_by_store(&mut self, word: u64) -> Came {
        let changed = self.take_slots(&[word]);
        let arrived = changed.into_iter().filter(|(_, found)| *found == word);
        Came::Reached(arrived.map(|(page, _)| page).collect())
    }

    /// Changes what the device has of a window.
    fn offer(&mut self, window: usize, offer: Offered) -> Result<Came, HarnessError> {
        let offer = match offer {
            Offered::AsConfigured => Offer::AsConfigured,
            Offered::ReadOnly => Offer::ReadOnly,
            Offered::Nothing => Offer::Withdrawn,
        };
        self.vm_mut().offer_window(window, offer)?;
        Ok(Came::Done)
    }

    /// Takes the device away from the project's own driver, or gives it back.
    fn tell_driver(&mut self, what: &str) -> Result<Came, HarnessError> {
        let path = format!("/sys/bus/platform/drivers/mapwitness/{what}");
        let opened = self.open(&path, OpenMode::WriteOnly)?;
        let fd = needed(|| format!("open {path}"), opened)?;
        let request = Request::Write {
            fd,
            offset_bytes: 0,
            bytes: OWN_DEVICE.as_bytes().to_vec(),
        };
        let reply = self.request(&request)?;
        let closed = self.close(fd)?;
        needed(|| format!("close {path}"), closed)?;
        match reply {
            Reply::Done(Value::Len(_)) => Ok(Came::Done),
            Reply::Errno(errno) => Ok(Came::Refused(Refusal::Errno(errno))),
            reply => Err(HarnessError::Mismatched {
                request: format!("{request:?}"),
                reply: Box::new(reply),
            }),
        }
    }

    /// An ioctl(2) of the driver's control file, on a window.
    fn control(&mut self, command: u32, window: usize) -> Result<Came, HarnessError> {
        let target = Target {
            is_buffer: false,
            index: u32::try_from(window).unwrap_or(u32::MAX),
        };
        let opened = self.open(CONTROL_PATH, OpenMode::ReadWrite)?;
        let fd = needed(|| format!("open {CONTROL_PATH}"), opened)?;
        let answer = self.ioctl(fd, command, target.to_bytes().to_vec())?;
        needed(|| format!("close {CONTROL_PATH}"), self.close(fd)?)?;
        Ok(came(answer, |_| Came::Done))
    }

    fn read_mem(&mut self, pid: i32, gva: Gva) -> Result<Came, HarnessError> {
        let path = format!("/proc/{pid}/mem");
        let opened = self.open(&path, OpenMode::ReadOnly)?;
        let fd = needed(|| format!("open {path}"), opened)?;
        let request = Request::Read {
            fd,
            offset_bytes: gva.raw(),
            len_bytes: 8,
        };
        let reply = self.request(&request)?;
        needed(|| format!("close {path}"), self.close(fd)?)?;
        match reply {
            Reply::Done(Value::Bytes(bytes)) => {
                let word = bytes.first_chunk().copied().map(u64::from_le_bytes);
                let words: Vec<u64> = word.into_iter().collect();
                Ok(self.reached_by_load(&words))
            }
            Reply::Errno(errno) => Ok(Came::Refused(Refusal::Errno(errno))),
            reply => Err(HarnessError::Mismatched {
                request: format!("{request:?}"),
                reply: Box::new(reply),
            }),
        }
    }
}

fn came<T>(outcome: Outcome<T>, done: impl FnOnce(T) -> Came) -> Came {
    outcome.map_or_else(Came::Refused, done)
}

fn named<T>(found: Option<T>, name: impl std::fmt::Debug) -> Result<T, Meaningless> {
    found.ok_or_else(|| Meaningless(format!("{name:?}")))
}

fn at_place(model: &Model, at: Place) -> Result<Gva, Meaningless> {
    named(model.gva(at), at)
}

fn bytes(model: &Model, pages: &Stretch) -> Result<(Gva, u64), Meaningless> {
    let len_bytes = named(pages.npages.checked_mul(PAGE_SIZE), pages)?;
    Ok((at_place(model, pages.at)?, len_bytes))
}
