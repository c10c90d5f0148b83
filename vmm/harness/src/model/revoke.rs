//! Windows that the driver takes away from its mappings.

use contract::{Backing, FileContract};

use super::{Device, Meaningless, Model, Shows, Wanted, nothing};

impl Model {
    /// Every page of the window is gone from every process (`unmap_mapping_range` of
    /// mm/memory.c).
    pub(super) fn revoke(&mut self, window: usize) -> Result<Wanted, Meaningless> {
        let name = self.controlled(window)?;
        for state in self.processes.values_mut() {
            for area in state.space.areas_mut() {
                if let Shows::File(pages) = &mut area.shows
                    && shows_window(&pages.file, &name)
                {
                    pages.clear();
                }
            }
        }
        self.device.revoked.insert(window);
        Ok(Wanted::Done)
    }

    /// Pages come back when they are touched, where that brings any in.
    pub(super) fn restore(&mut self, window: usize) -> Result<Wanted, Meaningless> {
        self.controlled(window)?;
        self.device.revoked.remove(&window);
        Ok(Wanted::Done)
    }

    /// A window that the driver has a control file for.
    fn controlled(&self, window: usize) -> Result<String, Meaningless> {
        match self.device.is_bound {
            true => self.window_name(window),
            false => Err(nothing("the control file of a driver without its device")),
        }
    }

    pub(super) fn window_name(&self, window: usize) -> Result<String, Meaningless> {
        let found = self.device.plan.windows.get(window);
        found
            .map(|one| one.name.clone())
            .ok_or_else(|| nothing(format!("window {window}")))
    }
}

impl Device {
    /// Whether a window that a file shows is revoked.
    pub(super) fn is_revoked(&self, file: &FileContract) -> bool {
        let windows = &self.plan.windows;
        let mut names = self.revoked.iter().filter_map(|at| windows.get(*at));
        names.any(|one| shows_window(file, &one.name))
    }
}

fn shows_window(file: &FileContract, window: &str) -> bool {
    file.ranges.iter().any(|range| match &range.backing {
        Backing::Window { name, .. } => name == window,
        Backing::Buffer { .. } => false,
    })
}
