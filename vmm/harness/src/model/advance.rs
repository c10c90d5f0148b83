//! What each operation does to the model.

use std::ops::Range;
use std::sync::Arc;

use addr::{Gva, PAGE_SIZE};
use contract::{Request, When};
use wire::{OpenMode, Prot, Sharing};

use super::changes::{Remapping, Touch};
use super::rules::{self, Refused};
use super::{
    Anchor, Area, BUS_ADRERR, Call, Handle, Learned, Meaningless, Model, OpenFile, Operation,
    Pages, Place, Process, SEGV_ACCERR, SEGV_MAPERR, Shows, State, Stretch, Wanted, is_covered,
    nothing, range_of,
};

/// What is asked of mmap(2) for a device file.
struct Asked {
    handle: Handle,
    offset_bytes: u64,
    len_bytes: u64,
    prot: Prot,
    sharing: Sharing,
    fixed: Option<Place>,
    anchor: Anchor,
}

impl Asked {
    fn of(call: &Call) -> Result<Self, Meaningless> {
        match *call {
            Call::Map {
                handle,
                first_page,
                npages,
                prot,
                sharing,
                fixed,
                anchor,
            } => Ok(Self {
                handle,
                offset_bytes: in_bytes(first_page)?,
                len_bytes: in_bytes(npages)?,
                prot,
                sharing,
                fixed,
                anchor,
            }),
            Call::Ask {
                handle,
                offset_bytes,
                len_bytes,
                prot,
                sharing,
                anchor,
            } => Ok(Self {
                handle,
                offset_bytes,
                len_bytes,
                prot,
                sharing,
                fixed: None,
                anchor,
            }),
            _ => Err(nothing(call)),
        }
    }
}

impl Model {
    pub(super) fn advance(
        &mut self,
        operation: &Operation,
        learned: &Learned,
    ) -> Result<Wanted, Meaningless> {
        let by = operation.by;
        self.state(by)?;
        match &operation.call {
            Call::Open { file, mode, handle } => self.open(by, *file, *mode, *handle, learned),
            Call::Close { handle } => {
                let closed = self.state(by)?.open.remove(handle);
                closed.map(|_| Wanted::Done).ok_or_else(|| nothing(handle))
            }
            map @ (Call::Map { .. } | Call::Ask { .. }) => self.map(by, &Asked::of(map)?, learned),
            Call::Reserve { npages, anchor } => self.reserve(by, *npages, *anchor, learned),
            Call::Unmap(pages) => {
                let range = self.range(pages)?;
                if range.is_empty() {
                    return Ok(Wanted::Errno(libc::EINVAL));
                }
                self.state(by)?.space.unmap(&range);
                Ok(Wanted::Done)
            }
            Call::Protect { pages, prot } => {
                let range = self.range(pages)?;
                Ok(done(self.state(by)?.space.protect(&range, *prot)))
            }
            Call::Advise { pages, advice } => {
                let range = self.range(pages)?;
                Ok(done(self.state(by)?.space.advise(&range, *advice)))
            }
            Call::Remap {
                pages,
                new_npages,
                may_move,
                fixed,
                anchor,
            } => {
                let new_len_bytes = in_bytes(*new_npages)?;
                let target = |at| {
                    self.range(&Stretch {
                        at,
                        npages: *new_npages,
                    })
                };
                let remapping = Remapping {
                    old: self.range(pages)?,
                    new_len_bytes,
                    may_move: *may_move,
                    fixed: fixed.map(target).transpose()?.map(|range| range.start),
                };
                match self.state(by)?.space.remap(&remapping) {
                    Ok(gva) => {
                        self.anchors.insert(*anchor, gva);
                        Ok(Wanted::At(gva))
                    }
                    Err(errno) => Ok(Wanted::Errno(errno)),
                }
            }
            Call::Load(at) => self.touch(by, *at, false),
            Call::Store(at) => self.touch(by, *at, true),
            Call::Fork { child } => self.fork(by, *child, learned.pid),
            Call::Exit if by == Process::FIRST => Ok(Wanted::Errno(libc::EPERM)),
            Call::Exit => {
                self.processes.remove(&by);
                Ok(Wanted::Ended(0))
            }
            Call::Peek { of, at } | Call::Poke { of, at } | Call::ReadMem { of, at } => {
                self.debug(by, *of, *at)
            }
            Call::Revoke { window } => self.revoke(*window),
            Call::Restore { window } => self.restore(*window),
        }
    }

    fn state(&mut self, process: Process) -> Result<&mut State, Meaningless> {
        let state = self.processes.get_mut(&process);
        state.ok_or_else(|| nothing(process))
    }

    /// The addresses of a stretch, which are empty when it is.
    fn range(&self, pages: &Stretch) -> Result<Range<u64>, Meaningless> {
        let start = self.gva(pages.at).ok_or_else(|| nothing(pages))?;
        let range = range_of(start, pages.npages).ok_or_else(|| nothing(pages))?;
        if is_covered(&self.known, &range) {
            Ok(range)
        } else {
            Err(nothing(pages))
        }
    }

    fn open(
        &mut self,
        by: Process,
        file: usize,
        mode: OpenMode,
        handle: Handle,
        learned: &Learned,
    ) -> Result<Wanted, Meaningless> {
        if file >= self.files.len() {
            return Err(nothing(file));
        }
        self.opened += 1;
        let open = OpenFile {
            serial: self.opened,
            fd: learned.fd,
            file,
            mode,
        };
        if self.state(by)?.open.insert(handle, open).is_some() {
            return Err(nothing(handle));
        }
        Ok(Wanted::Fd)
    }

    fn map(
        &mut self,
        by: Process,
        asked: &Asked,
        learned: &Learned,
    ) -> Result<Wanted, Meaningless> {
        let Asked {
            handle,
            sharing,
            prot,
            fixed,
            anchor,
            ..
        } = *asked;
        let open = self.state(by)?.open.get(&handle).copied();
        let open = open.ok_or_else(|| nothing(handle))?;
        let file = Arc::clone(self.files.get(open.file).ok_or_else(|| nothing(open))?);
        let request = Request {
            open: open.mode,
            offset_bytes: asked.offset_bytes,
            len_bytes: asked.len_bytes,
            prot,
            sharing,
        };
        let (first_page, npages) = (request.first_page(), request.npages());
        let target = |at| self.range(&Stretch { at, npages });
        let target = fixed.map(target).transpose()?;
        let answer = rules::answer(&file, &request, self.is_revoked(&file));
        if let (Some(range), Ok(_) | Err(Refused::ByDriver(_))) = (&target, &answer) {
            // Gone before the driver is asked, and for good: `vms_clean_up_area` and
            // `vms_abort_munmap_vmas` of mm/vma.c.
            self.state(by)?.space.unmap(range);
        }
        let may = match answer {
            Ok(may) => may,
            Err(Refused::ByKernel(errno) | Refused::ByDriver(errno)) => {
                return Ok(Wanted::Errno(errno));
            }
            Err(Refused::Perhaps(why)) => return Err(Meaningless(why.to_owned())),
        };
        let at_mmap = |page| {
            let shown = file.shown(first_page, page);
            shown.is_some_and(|shown| shown.range.present == When::AtMmap)
        };
        let entries = (0..npages).map(at_mmap).collect();
        let area = Area {
            npages,
            prot,
            may,
            inherited: true,
            shows: Shows::File(Pages {
                file,
                first_page,
                sharing,
                opened: open.serial,
                entries,
            }),
        };
        let start = target.map_or(learned.gva, |range| Gva::new(range.start));
        self.put(by, start, area, anchor)?;
        Ok(match fixed {
            Some(_) => Wanted::At(start),
            None => Wanted::Free { npages },
        })
    }

    fn reserve(
        &mut self,
        by: Process,
        npages: u64,
        anchor: Anchor,
        learned: &Learned,
    ) -> Result<Wanted, Meaningless> {
        if npages == 0 {
            return Ok(Wanted::Errno(libc::EINVAL));
        }
        let all = Prot {
            exec: true,
            ..Prot::READ_WRITE
        };
        let area = Area {
            npages,
            prot: Prot::NONE,
            may: all,
            inherited: true,
            shows: Shows::Nothing,
        };
        self.put(by, learned.gva, area, anchor)?;
        Ok(Wanted::Free { npages })
    }

    fn put(
        &mut self,
        by: Process,
        start: Gva,
        area: Area,
        anchor: Anchor,
    ) -> Result<(), Meaningless> {
        let range = range_of(start, area.npages).ok_or_else(|| nothing(start))?;
        self.state(by)?.space.insert(start, area);
        self.anchors.insert(anchor, start);
        if !is_covered(&self.known, &range) {
            self.known.push(range);
        }
        Ok(())
    }

    fn touch(&mut self, by: Process, at: Place, is_store: bool) -> Result<Wanted, Meaningless> {
        let gva = Gva::new(self.range(&Stretch { at, npages: 1 })?.start);
        self.state(by)?;
        let area = self.space(by).and_then(|space| space.area_at(gva));
        if is_store
            && let Some((_, Shows::File(pages))) = area.map(|(gva, area)| (gva, &area.shows))
            && pages.sharing == Sharing::Private
        {
            // Copies of pages are nothing of the device.
            return Err(nothing(at));
        }
        if let Some((_, area)) = area
            && matches!(area.shows, Shows::Nothing)
            && (if is_store {
                area.prot.write
            } else {
                area.is_reachable()
            })
        {
            // So is memory that comes where addresses were only taken.
            return Err(nothing(at));
        }
        let is_revoked = match area.map(|(_, area)| &area.shows) {
            Some(Shows::File(pages)) => self.is_revoked(&pages.file),
            Some(Shows::Nothing) | None => false,
        };
        let signal = |number, code| Wanted::Signal {
            number,
            code,
            page: gva,
        };
        let state = self.state(by)?;
        let page = match state.space.touch(gva, is_store, is_revoked) {
            Touch::Nothing => return Ok(signal(libc::SIGSEGV, SEGV_MAPERR)),
            Touch::Denied => return Ok(signal(libc::SIGSEGV, SEGV_ACCERR)),
            Touch::NoPage => return Ok(signal(libc::SIGBUS, BUS_ADRERR)),
            Touch::Page(page) => page,
        };
        let device_page = match state.space.area_at(gva) {
            Some((_, area)) => match &area.shows {
                Shows::File(pages) => pages.spec(area).device_page(&self.plan, page),
                Shows::Nothing => None,
            },
            None => None,
        };
        device_page.map(Wanted::Reaches).ok_or_else(|| nothing(at))
    }

    fn fork(&mut self, by: Process, child: Process, pid: i32) -> Result<Wanted, Meaningless> {
        if self.processes.contains_key(&child) {
            return Err(nothing(child));
        }
        let parent = self.state(by)?;
        let state = State {
            pid,
            parent: Some(by),
            space: parent.space.forked(),
            open: parent.open.clone(),
        };
        self.processes.insert(child, state);
        Ok(Wanted::Child)
    }

    /// Access through another process: `check_vma_flags` of mm/gup.c refuses `VM_IO` and
    /// `VM_PFNMAP`, and so does all of it where the driver has no `vm_ops->access`
    /// (`__access_remote_vm` of mm/memory.c). Where nothing is mapped it is refused
    /// alike.
    fn debug(&mut self, by: Process, of: Process, at: Place) -> Result<Wanted, Meaningless> {
        if by == of {
            return Err(nothing(of));
        }
        self.state(of)?;
        let gva = Gva::new(self.range(&Stretch { at, npages: 1 })?.start);
        let area = self.space(of).and_then(|space| space.area_at(gva));
        if area.is_some_and(|(_, area)| matches!(area.shows, Shows::Nothing)) {
            // Ordinary memory, which may be read and written so whatever its rights.
            return Err(nothing(at));
        }
        Ok(Wanted::Errno(libc::EIO))
    }
}

fn in_bytes(npages: u64) -> Result<u64, Meaningless> {
    npages.checked_mul(PAGE_SIZE).ok_or_else(|| nothing(npages))
}

fn done(result: Result<(), i32>) -> Wanted {
    match result {
        Ok(()) => Wanted::Done,
        Err(errno) => Wanted::Errno(errno),
    }
}
