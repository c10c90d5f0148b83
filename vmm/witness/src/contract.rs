//! What a mapping must be, as plain data.
//!
//! Everything here follows from the VM's configuration, from what was asked of mmap(2)
//! and from what the device was told of its buffers; nothing is ever read from the
//! guest's tables or memory.

pub use ::contract::Access;
use std::fmt;

use addr::{Gpa, PAGE_SIZE};
use monitor::Buffer;
use walk::MemoryType;

/// A page of the device: which window, which page of it. Buffers count as windows, too,
/// from [`FIRST_BUFFER`] on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevicePage {
    /// Index of the window in the device's window table, or [`FIRST_BUFFER`] and the
    /// index of the buffer in the device's buffer table.
    pub window: usize,
    /// Page within the window or buffer.
    pub page: u64,
}

/// The number of the device's first buffer; no window has one so high.
pub const FIRST_BUFFER: usize = 0x80;

// The event timer's page is one window more.
const _: () = assert!(wire::regs::MAX_WINDOWS as usize + 1 < FIRST_BUFFER);

impl DevicePage {
    /// A page of the buffer with this index in the device's buffer table.
    pub const fn of_buffer(index: usize, page: u64) -> Self {
        Self {
            window: FIRST_BUFFER.saturating_add(index),
            page,
        }
    }

    /// Index of its buffer in the device's buffer table; `None` for a page of a window.
    pub const fn buffer(self) -> Option<usize> {
        self.window.checked_sub(FIRST_BUFFER)
    }
}

impl fmt::Display for DevicePage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.buffer() {
            Some(buffer) => write!(f, "page {} of buffer {buffer}", self.page),
            None => write!(f, "page {} of window {}", self.page, self.window),
        }
    }
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

/// Where everything of the device is: its windows, as the host put them, and its
/// buffers, as the driver has told the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The windows, in the order of the device's window table.
    pub windows: Vec<WindowPlan>,
    /// The buffers, in the order of the device's buffer table.
    pub buffers: Vec<Buffer>,
}

impl Plan {
    /// The plan by which `vm` was built, with its device's buffers as they are now.
    pub fn of(vm: &monitor::Vm) -> Self {
        let window = |window: &monitor::Window| WindowPlan {
            name: window.config().name.clone(),
            base: window.base(),
            npages: window.npages(),
            read_only: window.config().read_only,
        };
        Self {
            windows: vm.windows().iter().map(window).collect(),
            buffers: vm.buffers(),
        }
    }

    /// Guest physical address of a device page; `None` when there is no such page.
    pub fn gpa(&self, page: DevicePage) -> Option<Gpa> {
        if let Some(index) = page.buffer() {
            let buffer = self.buffers.get(index)?;
            return *buffer.pages.get(usize::try_from(page.page).ok()?)?;
        }
        let window = self.windows.get(page.window)?;
        if page.page >= window.npages {
            return None;
        }
        window.base.checked_add(page.page.checked_mul(PAGE_SIZE)?)
    }

    /// The device page at a guest physical address.
    pub fn page_at(&self, gpa: Gpa) -> Option<DevicePage> {
        let in_window = self.windows.iter().enumerate().find_map(|(index, window)| {
            let page = gpa.checked_offset_from(window.base)? / PAGE_SIZE;
            (page < window.npages).then_some(DevicePage {
                window: index,
                page,
            })
        });
        in_window.or_else(|| {
            let mut given = self.buffer_pages();
            let found = given.find(|(_, given)| given.page_base() == gpa.page_base());
            found.map(|(page, _)| page)
        })
    }

    /// Every page of a buffer that the device was told of, and where it was told to
    /// find it.
    pub fn buffer_pages(&self) -> impl Iterator<Item = (DevicePage, Gpa)> + '_ {
        let pages = |(index, buffer): (usize, &'_ Buffer)| {
            let given = (0..).zip(buffer.pages.clone());
            given.filter_map(move |(page, gpa)| Some((DevicePage::of_buffer(index, page), gpa?)))
        };
        self.buffers.iter().enumerate().flat_map(pages)
    }

    /// A device page in words, such as `odd[3]`.
    pub fn name(&self, page: DevicePage) -> String {
        let window = self.windows.get(page.window).map(|window| &window.name);
        let buffer = page.buffer().and_then(|index| self.buffers.get(index));
        match window.or(buffer.map(|buffer| &buffer.name)) {
            Some(name) => format!("{name}[{}]", page.page),
            None => page.to_string(),
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
            buffers: vec![Buffer {
                name: "ring".into(),
                pages: vec![Some(Gpa::new(0x7000)), None, Some(Gpa::new(0x3000))],
            }],
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
    fn a_page_of_a_buffer_is_where_the_device_was_told() {
        let page = |page| DevicePage::of_buffer(0, page);
        assert_eq!(plan().gpa(page(0)), Some(Gpa::new(0x7000)));
        assert_eq!(plan().gpa(page(2)), Some(Gpa::new(0x3000)));
        // One that it was told nothing of is nowhere, and so is one that there is not.
        for nowhere in [page(1), page(3), DevicePage::of_buffer(1, 0)] {
            assert_eq!(plan().gpa(nowhere), None);
        }
        assert_eq!(plan().page_at(Gpa::new(0x3008)), Some(page(2)));
        assert_eq!(plan().name(page(2)), "ring[2]");
        assert_eq!(plan().buffer_pages().count(), 2);
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
