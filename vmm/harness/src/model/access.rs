//! Loads and stores, a process's own and those through another one.

use addr::Gva;
use wire::Sharing;

use super::fault::Touch;
use super::{
    Area, BUS_ADRERR, Meaningless, Model, Place, Process, SEGV_ACCERR, SEGV_MAPERR, Shows, Stretch,
    Wanted, nothing,
};

impl Model {
    pub(super) fn touch(
        &mut self,
        by: Process,
        at: Place,
        is_store: bool,
    ) -> Result<Wanted, Meaningless> {
        let gva = Gva::new(self.range(&Stretch { at, npages: 1 })?.start);
        let (space, device) = self.space_mut(by)?;
        let is_private = |area: &Area| match &area.shows {
            Shows::File(pages) => pages.sharing == Sharing::Private,
            Shows::Nothing => false,
        };
        if is_store && space.area_at(gva).is_some_and(|(_, area)| is_private(area)) {
            // Copies of pages are nothing of the device.
            return Err(nothing(at));
        }
        let signal = |number, code| Wanted::Signal {
            number,
            code,
            page: gva,
        };
        match space.touch(device, gva, is_store) {
            Touch::Nothing => Ok(signal(libc::SIGSEGV, SEGV_MAPERR)),
            Touch::Denied => Ok(signal(libc::SIGSEGV, SEGV_ACCERR)),
            Touch::NoPage => Ok(signal(libc::SIGBUS, BUS_ADRERR)),
            Touch::Unclear => Err(nothing(at)),
            Touch::Page(page) => self.reaches(by, gva, page, is_store),
        }
    }

    /// The device page that page `page` of the area at `gva` shows.
    fn reaches(
        &mut self,
        by: Process,
        gva: Gva,
        page: u64,
        is_store: bool,
    ) -> Result<Wanted, Meaningless> {
        let (space, device) = self.space_mut(by)?;
        let area = space.area_at(gva).map(|(_, area)| area);
        let device_page = area.and_then(|area| match &area.shows {
            Shows::File(pages) => pages.spec(area).device_page(&device.plan, page),
            Shows::Nothing => None,
        });
        let device_page = device_page.ok_or_else(|| nothing(gva))?;
        Ok(self.arrives(device_page, is_store))
    }

    /// Access through another process: `check_vma_flags` of mm/gup.c refuses `VM_IO` and
    /// `VM_PFNMAP`, and so does all of it where the driver has no `vm_ops->access`
    /// (`__access_remote_vm` of mm/memory.c). Where nothing is mapped it is refused
    /// alike. RAM of the driver is reached, by a fault if need be; frames that the kernel
    /// takes for RAM's until it has them at hand (`VM_MIXEDMAP`) come in and are refused.
    pub(super) fn debug(
        &mut self,
        by: Process,
        of: Process,
        at: Place,
        is_store: bool,
    ) -> Result<Wanted, Meaningless> {
        if by == of {
            return Err(nothing(of));
        }
        let gva = Gva::new(self.range(&Stretch { at, npages: 1 })?.start);
        let (space, device) = self.space_mut(of)?;
        let area = space.area_at(gva).map(|(_, area)| area);
        let (is_ram, comes_in) = match area.map(|area| &area.shows) {
            Some(Shows::File(pages)) => (pages.is_ram(), pages.comes_in_for_others()),
            Some(Shows::Nothing) | None => (false, false),
        };
        if area.is_some_and(|area| matches!(area.shows, Shows::Nothing)) {
            // Ordinary memory, which may be read and written so whatever its rights.
            return Err(nothing(at));
        }
        // With FOLL_FORCE more may be had than the area's rights; nobody asks for it here.
        if comes_in && area.is_some_and(|area| !area.is_reachable() || is_store && !area.prot.write)
        {
            return Err(nothing(at));
        }
        match comes_in.then(|| space.touch(device, gva, is_store)) {
            Some(Touch::Page(page)) if is_ram => self.reaches(of, gva, page, is_store),
            Some(Touch::Unclear) => Err(nothing(at)),
            _ => Ok(Wanted::Errno(libc::EIO)),
        }
    }
}
