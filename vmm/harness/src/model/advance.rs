//! What each operation does to the model.

use std::ops::Range;

use addr::PAGE_SIZE;

use super::changes::Remapping;
use super::make::Asked;
use super::space::Space;
use super::{
    Call, Device, Learned, Meaningless, Model, Operation, Process, State, Stretch, Wanted,
    is_covered, nothing, range_of,
};

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
                Ok(done(self.state(by)?.space.unmap(&range)))
            }
            Call::Protect { pages, prot } => {
                let range = self.range(pages)?;
                Ok(done(self.state(by)?.space.protect(&range, *prot)))
            }
            Call::Advise { pages, advice } => {
                let range = self.range(pages)?;
                let (space, device) = self.space_mut(by)?;
                Ok(done(space.advise(device, &range, *advice)))
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
                let space = &mut self.state(by)?.space;
                if space.grows_nothing(&remapping) {
                    return Err(nothing(pages));
                }
                match space.remap(&remapping) {
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
            Call::Peek { of, at } | Call::ReadMem { of, at } => self.debug(by, *of, *at, false),
            Call::Poke { of, at } => self.debug(by, *of, *at, true),
            Call::Revoke { window } => self.revoke(*window),
            Call::Restore { window } => self.restore(*window),
        }
    }

    pub(super) fn state(&mut self, process: Process) -> Result<&mut State, Meaningless> {
        let state = self.processes.get_mut(&process);
        state.ok_or_else(|| nothing(process))
    }

    /// What a process has mapped, and what is behind the files.
    pub(super) fn space_mut(
        &mut self,
        process: Process,
    ) -> Result<(&mut Space, &Device), Meaningless> {
        let state = self.processes.get_mut(&process);
        let state = state.ok_or_else(|| nothing(process))?;
        Ok((&mut state.space, &self.device))
    }

    /// The addresses of a stretch, which are empty when it is.
    pub(super) fn range(&self, pages: &Stretch) -> Result<Range<u64>, Meaningless> {
        let start = self.gva(pages.at).ok_or_else(|| nothing(pages))?;
        let range = range_of(start, pages.npages).ok_or_else(|| nothing(pages))?;
        if is_covered(&self.known, &range) {
            Ok(range)
        } else {
            Err(nothing(pages))
        }
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
}

pub(super) fn in_bytes(npages: u64) -> Result<u64, Meaningless> {
    npages.checked_mul(PAGE_SIZE).ok_or_else(|| nothing(npages))
}

fn done(result: Result<(), i32>) -> Wanted {
    match result {
        Ok(()) => Wanted::Done,
        Err(errno) => Wanted::Errno(errno),
    }
}
