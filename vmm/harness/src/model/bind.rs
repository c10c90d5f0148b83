//! A device that changes, and one that is taken away from its driver.

use contract::{Backing, FileContract};
use witness::DevicePage;

use super::{Call, Meaningless, Model, Offered, Shows, Wanted, nothing};

impl Model {
    /// Nobody is told, so nothing changes but what loads and stores come to.
    pub(super) fn offer(&mut self, window: usize, offer: Offered) -> Result<Wanted, Meaningless> {
        self.window_name(window)?;
        match offer {
            Offered::AsConfigured => self.device.offered.remove(&window),
            less => self.device.offered.insert(window, less),
        };
        Ok(Wanted::Done)
    }

    /// The driver's device files go, and every page of a window from every process, for
    /// good. Buffers that somebody still has are not followed beyond that.
    pub(super) fn unbind(&mut self) -> Result<Wanted, Meaningless> {
        if !self.device.is_bound || self.has_buffers() {
            return Err(nothing(Call::Unbind));
        }
        for state in self.processes.values_mut() {
            for area in state.space.areas_mut() {
                if let Shows::File(pages) = &mut area.shows {
                    pages.clear();
                    pages.gone = true;
                }
            }
        }
        self.device.is_bound = false;
        self.device.unbound += 1;
        // The driver forgets them with the device.
        self.device.revoked.clear();
        Ok(Wanted::Done)
    }

    /// Files are there again. What was opened or mapped before stays without pages.
    pub(super) fn bind(&mut self) -> Result<Wanted, Meaningless> {
        if self.device.is_bound {
            return Err(nothing(Call::Bind));
        }
        self.device.is_bound = true;
        Ok(Wanted::Done)
    }

    /// Whether anybody has a buffer open or mapped.
    fn has_buffers(&self) -> bool {
        self.processes.values().any(|state| {
            let open = state.open.values();
            let mut opened = open.filter_map(|open| self.files.get(open.file));
            let mut areas = state.space.areas();
            opened.any(|file| shows_buffer(file))
                || areas.any(|(_, area)| match &area.shows {
                    Shows::File(pages) => shows_buffer(&pages.file),
                    Shows::Nothing => false,
                })
        })
    }

    /// Whether a file that is opened now has what the model was told of: a driver that got
    /// its device back has other buffers.
    pub(super) fn is_as_told(&self, file: &FileContract) -> bool {
        self.device.unbound == 0 || !shows_buffer(file)
    }

    /// What an access to a device page comes to, by what the device has of it.
    pub(super) fn arrives(&self, page: DevicePage, is_store: bool) -> Wanted {
        match self.device.offered.get(&page.window) {
            Some(Offered::Nothing) => Wanted::ReachesNothing,
            Some(Offered::ReadOnly) if is_store => Wanted::ReachesNothing,
            _ => Wanted::Reaches(page),
        }
    }
}

fn shows_buffer(file: &FileContract) -> bool {
    let mut backings = file.ranges.iter().map(|range| &range.backing);
    backings.any(|backing| matches!(backing, Backing::Buffer { .. }))
}
