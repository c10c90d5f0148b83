// SPDX-License-Identifier: GPL-2.0

//! Platform driver for the synthetic device of mapwitness.
//!
//! The device has a page of registers and some windows of memory; `regs.rs` describes them. The driver
//! offers each window to user space through two device files, which differ in when pages are mapped.

mod files;
mod mm;
mod planted;
// The VMM uses the same file, where its items are public.
#[allow(unreachable_pub)]
mod regs;
mod shared;
mod strategy;
mod table;

use files::DeviceFiles;
use kernel::{
    acpi, c_str,
    device::Core,
    io::{
        mem::ExclusiveIoMem,
        resource::{Flags, Region},
        Resource, //
    },
    page::PAGE_SIZE,
    platform,
    prelude::*,
    sync::{
        atomic::{AtomicFlag, Full, Release},
        Arc, //
    },
};
use mm::Window;
use shared::{AfterUnbind, Shared};
use table::{Regs, WindowEntry};

// The window table counts pages of 4 KiB.
const _: () = assert!(PAGE_SIZE == 4096);

// The id table wants a C string.
const HID: &CStr = c"MAPW0001";
const _: () = assert!(table::same_bytes(HID.to_bytes(), regs::ACPI_HID.as_bytes()));

struct MapwitnessDriver;

kernel::acpi_device_table!(
    ACPI_TABLE,
    <MapwitnessDriver as platform::Driver>::IdInfo,
    [(acpi::DeviceId::new(HID), ())]
);

/// What exists while the driver is bound to the device.
struct BoundDevice<'bound> {
    // Dropped in this order: first what user space can reach.
    _files: DeviceFiles,
    _windows: KVec<Offered>,
    _claims: KVec<Region>,
    _regs: ExclusiveIoMem<'bound, { table::REGS_LEN }>,
    _only: OnlyDevice,
}

/// A window as long as the driver is bound; dropping it revokes all its mappings.
struct Offered(Arc<Shared<Window>>);

impl Drop for Offered {
    fn drop(&mut self) {
        self.0.unbind();
    }
}

impl platform::Driver for MapwitnessDriver {
    type IdInfo = ();
    type Data<'bound> = BoundDevice<'bound>;

    const ACPI_ID_TABLE: Option<acpi::IdTable<Self::IdInfo>> = Some(&ACPI_TABLE);

    fn probe<'bound>(
        pdev: &'bound platform::Device<Core<'_>>,
        _info: Option<&'bound Self::IdInfo>,
    ) -> impl PinInit<Self::Data<'bound>, Error> + 'bound {
        let dev = pdev.as_ref();
        let only = OnlyDevice::claim().ok_or(EBUSY).inspect_err(|_| {
            dev_err!(dev, "another such device is bound; only one is supported\n")
        })?;

        let request = pdev.io_request_by_index(0).ok_or(ENODEV).inspect_err(|_| {
            dev_err!(dev, "no memory resource for the register page\n");
        })?;
        let regs = request.iomap_exclusive_sized().inspect_err(|e| {
            dev_err!(dev, "cannot map the register page: {e:?}\n");
        })?;
        let count = Regs::new(&regs, dev).window_count()?;

        // The whole table is checked before anything of it can be seen from user space.
        let mut windows = KVec::with_capacity(count as usize, GFP_KERNEL)?;
        let mut claims = KVec::with_capacity(count as usize, GFP_KERNEL)?;
        for index in 0..count {
            let entry = Regs::new(&regs, dev).window(index)?;
            let resource = window_resource(pdev, index, &entry)?;
            let window = Window::from_resource(resource, entry.access).inspect_err(|e| {
                dev_err!(
                    dev,
                    "window {index} is not made of whole pages outside the RAM map: {e:?}\n"
                );
            })?;

            windows.push(window, GFP_KERNEL)?;
            claims.push(claim(pdev, index, resource)?, GFP_KERNEL)?;
        }
        if pdev.resource_by_index(count + 1).is_some() {
            dev_err!(
                dev,
                "there are more memory resources than the {count} windows of the table\n"
            );
            return Err(ENODEV);
        }

        let mut offered = KVec::with_capacity(count as usize, GFP_KERNEL)?;
        let mut files = DeviceFiles::new();
        for (index, window) in windows.into_iter().enumerate() {
            let window = Shared::new(window, AfterUnbind::Revoked)?;
            offered.push(Offered(window.clone()), GFP_KERNEL)?;
            files.add_window(index, &window).inspect_err(|e| {
                dev_err!(
                    dev,
                    "cannot create the device files of window {index}: {e:?}\n"
                );
            })?;
        }

        dev_info!(dev, "{count} windows\n");
        Ok(BoundDevice {
            _files: files,
            _windows: offered,
            _claims: claims,
            _regs: regs,
            _only: only,
        })
    }
}

/// The resource of window `index`, which must be what its table entry says.
fn window_resource<'a>(
    pdev: &'a platform::Device<Core<'_>>,
    index: u32,
    entry: &WindowEntry,
) -> Result<&'a Resource> {
    let dev = pdev.as_ref();
    // Resource 0 is the register page.
    let resource = pdev
        .resource_by_index(index + 1)
        .ok_or(ENODEV)
        .inspect_err(|_| {
            dev_err!(dev, "window {index} has no memory resource\n");
        })?;
    let (start, size) = (resource.start(), resource.size());

    if (start, Some(size)) != (entry.base, entry.len_bytes()) {
        dev_err!(
            dev,
            "window {index}: the resource has {size:#x} bytes at {start:#x}, the table {} pages at {:#x}\n",
            entry.npages,
            entry.base
        );
        return Err(ENODEV);
    }
    Ok(resource)
}

/// Keeps other drivers from the memory of window `index`.
fn claim(pdev: &platform::Device<Core<'_>>, index: u32, resource: &Resource) -> Result<Region> {
    resource
        .request_region(
            resource.start(),
            resource.size(),
            c_str!("mapwitness window").to_cstring()?,
            Flags::IORESOURCE_MEM,
        )
        .ok_or(EBUSY)
        .inspect_err(|_| {
            dev_err!(
                pdev.as_ref(),
                "window {index} is in use by another driver\n"
            )
        })
}

/// The right to use the names of the device files, which only one device can have.
struct OnlyDevice(());

static DEVICE_BOUND: AtomicFlag = AtomicFlag::new(false);

impl OnlyDevice {
    fn claim() -> Option<Self> {
        (!DEVICE_BOUND.xchg(true, Full)).then_some(Self(()))
    }
}

impl Drop for OnlyDevice {
    fn drop(&mut self) {
        DEVICE_BOUND.store(false, Release);
    }
}

kernel::module_platform_driver! {
    type: MapwitnessDriver,
    name: "mapwitness",
    authors: ["The mapwitness authors"],
    description: "Offers the memory windows of a synthetic device through mmap",
    license: "GPL",
}
