//! New areas: what mmap(2) makes of a device file, or of nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use addr::Gva;
use contract::{Request, When};
use wire::{OpenMode, Prot, Sharing};

use super::advance::in_bytes;
use super::rules::{self, Refused};
use super::{
    Anchor, Area, Call, Handle, Learned, Meaningless, Model, OpenFile, Pages, Place, Process,
    Shows, Stretch, Wanted, is_covered, nothing, range_of,
};

/// What is asked of mmap(2) for a device file.
pub(super) struct Asked {
    handle: Handle,
    offset_bytes: u64,
    len_bytes: u64,
    prot: Prot,
    sharing: Sharing,
    fixed: Option<Place>,
    anchor: Anchor,
}

impl Asked {
    pub(super) fn of(call: &Call) -> Result<Self, Meaningless> {
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
    pub(super) fn open(
        &mut self,
        by: Process,
        file: usize,
        mode: OpenMode,
        handle: Handle,
        learned: &Learned,
    ) -> Result<Wanted, Meaningless> {
        let contract = self.files.get(file).ok_or_else(|| nothing(file))?;
        if !self.is_as_told(contract) {
            return Err(nothing(file));
        }
        if !self.device.is_bound {
            // `misc_deregister` has taken its node away.
            return Ok(Wanted::Errno(libc::ENOENT));
        }
        self.opened += 1;
        let open = OpenFile {
            serial: self.opened,
            fd: learned.fd,
            file,
            mode,
            unbound: self.device.unbound,
        };
        if self.state(by)?.open.insert(handle, open).is_some() {
            return Err(nothing(handle));
        }
        Ok(Wanted::Fd)
    }

    pub(super) fn map(
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
        // What the driver looks at before all else.
        let gone = if open.unbound != self.device.unbound || !self.device.is_bound {
            Some(libc::ENODEV)
        } else {
            self.device.is_revoked(&file).then_some(libc::ENXIO)
        };
        let answer = rules::answer(&file, &request, gone);
        if let (Some(range), Ok(_) | Err(Refused::ByDriver(_))) = (&target, &answer) {
            // Gone before the driver is asked, and for good: `vms_clean_up_area` and
            // `vms_abort_munmap_vmas` of mm/vma.c.
            if let Err(errno) = self.state(by)?.space.unmap(range) {
                return Ok(Wanted::Errno(errno));
            }
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
                huge: BTreeSet::new(),
                gone: false,
                moved: false,
            }),
        };
        let start = target.map_or(learned.gva, |range| Gva::new(range.start));
        self.put(by, start, area, anchor)?;
        Ok(match fixed {
            Some(_) => Wanted::At(start),
            None => Wanted::Free { npages },
        })
    }

    pub(super) fn reserve(
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
}
