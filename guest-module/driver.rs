// SPDX-License-Identifier: GPL-2.0

//! Platform driver for the synthetic device of mapwitness.
//!
//! The device has a page of registers and some windows of memory; `regs.rs` describes them. The driver
//! offers each window to user space through device files, which differ in how and when pages are mapped; so it
//! does with buffers of RAM that it shares with the device.

mod control;
mod files;
// The host uses the same files, where their items are public.
#[allow(unreachable_pub)]
mod ioctls;
mod mm;
mod personas;
mod planted;
#[allow(unreachable_pub)]
mod regs;
mod shared;
mod strategy;
mod table;

use control::{Control, Everything};
use files::DeviceFiles;
use kernel::{
    acpi, c_str,
    device::{Core, Device},
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
use mm::{Buffer, Memory, Window};
use personas::Personas;
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
    files: DeviceFiles,
    personas: Personas,
    control: Option<Pin<KBox<Control>>>,
    offered: Arc<Everything>,
    _claims: KVec<Region>,
    regs: ExclusiveIoMem<'bound, { table::REGS_LEN }>,
    _only: OnlyDevice,
}

impl BoundDevice<'_> {
    /// Gives the device the pages of its buffers.
    ///
    /// No IOMMU stands before the device, so their bus addresses are the physical ones.
    fn give_buffers(&self) {
        for (index, buffer) in (0..).zip(&self.offered.buffers) {
            let npages = buffer.memory().npages();

            for page in 0..npages {
                if let Some(address) = buffer.memory().address(planted::told_page(page, npages)) {
                    table::set_buffer_page(&self.regs, index, page, address);
                }
            }
        }
    }

    /// Takes all pages of buffers back from the device, which uses them no more.
    fn take_buffers_back(&self) {
        for (index, buffer) in (0..).zip(&self.offered.buffers) {
            for page in 0..buffer.memory().npages() {
                table::set_buffer_page(&self.regs, index, page, regs::BUFFER_ADDRESS_NONE);
            }
        }
    }

    /// Shows everything to user space.
    fn add_files(&mut self, dev: &Device) -> Result {
        for (index, window) in self.offered.windows.iter().enumerate() {
            self.files.add_window(index, window).inspect_err(|e| {
                dev_err!(
                    dev,
                    "cannot create the device files of window {index}: {e:?}\n"
                );
            })?;
        }
        for (index, buffer) in self.offered.buffers.iter().enumerate() {
            self.files.add_buffer(index, buffer).inspect_err(|e| {
                dev_err!(
                    dev,
                    "cannot create the device files of buffer {index}: {e:?}\n"
                );
            })?;
        }
        self.personas = Personas::new(&self.offered.windows)
            .inspect_err(|e| dev_err!(dev, "cannot create the personas: {e:?}\n"))?;
        let control = Control::new(self.offered.clone()).inspect_err(|e| {
            dev_err!(dev, "cannot create the control file: {e:?}\n");
        })?;
        self.control = Some(control);
        Ok(())
    }
}

impl Drop for BoundDevice<'_> {
    fn drop(&mut self) {
        // First what user space can reach.
        self.control = None;
        self.files = DeviceFiles::new();
        self.personas = Personas::none();
        for window in &self.offered.windows {
            window.unbind();
        }
        for buffer in &self.offered.buffers {
            buffer.unbind();
        }
        // Their pages go with the last mapping of them, or here.
        if planted::takes_back() {
            self.take_buffers_back();
        }
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
        planted::check(dev)?;
        let only = OnlyDevice::claim().ok_or(EBUSY).inspect_err(|_| {
            dev_err!(dev, "another such device is bound; only one is supported\n")
        })?;

        let request = pdev.io_request_by_index(0).ok_or(ENODEV).inspect_err(|_| {
            dev_err!(dev, "no memory resource for the register page\n");
        })?;
        let regs = request.iomap_exclusive_sized().inspect_err(|e| {
            dev_err!(dev, "cannot map the register page: {e:?}\n");
        })?;

        // Both tables are checked before anything of them can be seen from user space.
        let (windows, claims) = windows(pdev, &Regs::new(&regs, dev))?;
        let buffers = buffers(&Regs::new(&regs, dev))?;
        dev_info!(
            dev,
            "{} windows, {} buffers\n",
            windows.len(),
            buffers.len()
        );

        // From here on its dropping undoes everything.
        let mut bound = BoundDevice {
            files: DeviceFiles::new(),
            personas: Personas::none(),
            control: None,
            offered: Arc::new(Everything { windows, buffers }, GFP_KERNEL)?,
            _claims: claims,
            regs,
            _only: only,
        };
        bound.give_buffers();
        bound.add_files(dev)?;
        Ok(bound)
    }
}

/// The windows of the device, and the claims that keep other drivers from their memory.
fn windows(
    pdev: &platform::Device<Core<'_>>,
    regs: &Regs<'_>,
) -> Result<(KVec<Arc<Shared<Window>>>, KVec<Region>)> {
    let dev = pdev.as_ref();
    let count = regs.window_count()?;
    let mut windows = KVec::with_capacity(count as usize, GFP_KERNEL)?;
    let mut claims = KVec::with_capacity(count as usize, GFP_KERNEL)?;

    for index in 0..count {
        let entry = regs.window(index)?;
        let resource = window_resource(pdev, index, &entry)?;
        let window = Window::from_resource(resource, entry.access).inspect_err(|e| {
            dev_err!(
                dev,
                "window {index} is not made of whole pages outside the RAM map: {e:?}\n"
            );
        })?;

        claims.push(claim(pdev, index, resource)?, GFP_KERNEL)?;
        windows.push(Shared::new(window, AfterUnbind::Revoked)?, GFP_KERNEL)?;
    }
    if pdev.resource_by_index(count + 1).is_some() {
        dev_err!(
            dev,
            "there are more memory resources than the {count} windows of the table\n"
        );
        return Err(ENODEV);
    }
    Ok((windows, claims))
}

/// RAM for the buffers of the device, which does not know of it yet.
fn buffers(regs: &Regs<'_>) -> Result<KVec<Arc<Shared<Buffer>>>> {
    let count = regs.buffer_count()?;
    let mut buffers = KVec::with_capacity(count as usize, GFP_KERNEL)?;

    for index in 0..count {
        let buffer = Buffer::new(regs.buffer_npages(index)?)?;

        buffers.push(Shared::new(buffer, AfterUnbind::Kept)?, GFP_KERNEL)?;
    }
    Ok(buffers)
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
