//! What a mapping must be, as plain data.
//!
//! Everything here follows from the VM's configuration and from what was asked of
//! mmap(2); nothing is ever read from the guest.

pub use ::contract::Access;
use addr::{Gpa, PAGE_SIZE};
use walk::MemoryType;

/// A page of the device: which window, which page of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevicePage {
    /// Index of the window in the device's window table.
    pub window: usize,
    /// Page within the window.
    pub page: u64,
}

/// Where the host put a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowPlan {
    /// Name for people.
    pub name: String,
    /// Guest physical address of the first page.
    pub base: Gpa,
    /// Number of 4 KiB pages.
    pub npages: u64,
    /// Whether the guest may only read it.
    pub read_only: bool,
}

/// Where the host put everything of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The windows, in the order of the device's window table.
    pub windows: Vec<WindowPlan>,
}

impl Plan {
    /// The plan by which `vm` was built.
    pub fn of(vm: &monitor::Vm) -> Self {
        let window = |window: &monitor::Window| WindowPlan {
            name: window.config().name.clone(),
            base: window.base(),
            npages: window.npages(),
            read_only: window.config().read_only,
        };
        Self {
            windows: vm.windows().iter().map(window).collect(),
        }
    }

    /// Guest physical address of a device page; `None` when there is no such page.
    pub fn gpa(&self, page: DevicePage) -> Option<Gpa> {
        let window = self.windows.get(page.window)?;
        if page.page >= window.npages {
            return None;
        }
        window.base.checked_add(page.page.checked_mul(PAGE_SIZE)?)
    }

    /// The device page at a guest physical address.
    pub fn page_at(&self, gpa: Gpa) -> Option<DevicePage> {
        self.windows.iter().enumerate().find_map(|(index, window)| {
            let page = gpa.checked_offset_from(window.base)? / PAGE_SIZE;
            (page < window.npages).then_some(DevicePage {
                window: index,
                page,
            })
        })
    }

    /// A device page in words, such as `odd[3]`.
    pub fn name(&self, page: DevicePage) -> String {
        match self.windows.get(page.window) {
            Some(window) => format!("{}[{}]", window.name, page.page),
            None => format!("window {}[{}]", page.window, page.page),
        }
    }

    /// A guest physical address in words: its number, and the device page there.
    pub fn describe(&self, gpa: Gpa) -> String {
        match self.page_at(gpa) {
            Some(page) => format!("{gpa} ({})", self.name(page)),
            None => format!("{gpa} (no page of the device)"),
        }
    }
}

/// What one page of a mapping must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing is mapped there.
    Absent,
    /// A page of the device is.
    Present {
        /// Which.
        page: DevicePage,
        /// What user space may do with it.
        access: Access,
        /// Memory type that the guest's tables ask for.
        memory_type: MemoryType,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let window = |name: &str, base, npages| WindowPlan {
            name: name.into(),
            base: Gpa::new(base),
            npages,
            read_only: false,
        };
        Plan {
            windows: vec![window("a", 0xd100_0000, 1), window("b", 0xd100_2000, 3)],
        }
    }

    #[test]
    fn pages_and_addresses_are_two_names_of_one_thing() {
        let last = DevicePage { window: 1, page: 2 };
        assert_eq!(plan().gpa(last), Some(Gpa::new(0xd100_4000)));
        assert_eq!(plan().page_at(Gpa::new(0xd100_4fff)), Some(last));
        assert_eq!(plan().name(last), "b[2]");
    }

    #[test]
    fn what_is_no_page_of_the_device_has_no_name() {
        assert_eq!(plan().gpa(DevicePage { window: 1, page: 3 }), None);
        assert_eq!(plan().gpa(DevicePage { window: 2, page: 0 }), None);
        // The gap between the windows, and the page after the last.
        for outside in [0xd100_1000, 0xd100_5000, 0] {
            assert_eq!(plan().page_at(Gpa::new(outside)), None);
        }
    }
}
