// SPDX-License-Identifier: GPL-2.0

//! Shows the memory of a small device to user space, through `/dev/rust-example`.

use kernel::{
    acpi, bindings, container_of,
    device::Core,
    error::to_result,
    fs::File,
    miscdevice::{MiscDevice, MiscDeviceOptions, MiscDeviceRegistration},
    mm::virt::{flags, VmaNew},
    page::PAGE_SHIFT,
    platform,
    prelude::*,
};

/// What user space may map: pages of the device.
#[derive(Clone, Copy)]
struct Memory {
    pfn: usize,
    npages: usize,
}

#[pin_data]
struct Example {
    memory: Memory,
    #[pin]
    misc: MiscDeviceRegistration<Memory>,
}

kernel::acpi_device_table!(
    ACPI_TABLE,
    <Example as platform::Driver>::IdInfo,
    [(acpi::DeviceId::new(c"EXMP0010"), ())]
);

impl platform::Driver for Example {
    type IdInfo = ();
    type Data<'bound> = Self;
    const ACPI_ID_TABLE: Option<acpi::IdTable<Self::IdInfo>> = Some(&ACPI_TABLE);

    fn probe<'bound>(
        pdev: &'bound platform::Device<Core<'_>>,
        _info: Option<&'bound Self::IdInfo>,
    ) -> impl PinInit<Self, Error> + 'bound {
        let name = c"rust-example";
        try_pin_init!(Self {
            memory: {
                let resource = pdev.resource_by_index(0).ok_or(ENODEV)?;
                let pages = |bytes| usize::try_from(bytes >> PAGE_SHIFT);
                Memory { pfn: pages(resource.start())?, npages: pages(resource.size())? }
            },
            misc <- MiscDeviceRegistration::register(MiscDeviceOptions { name }),
        })
    }
}

#[vtable]
impl MiscDevice for Memory {
    type Ptr = KBox<Self>;

    fn open(_file: &File, misc: &MiscDeviceRegistration<Self>) -> Result<KBox<Self>> {
        // SAFETY: There is no such registration but the field of an `Example`.
        let example = unsafe { container_of!(core::ptr::from_ref(misc), Example, misc) };
        // SAFETY: It outlives its registration, and has its memory from before that on.
        let memory = unsafe { (*example).memory };
        Ok(KBox::new(memory, GFP_KERNEL)?)
    }

    fn mmap(memory: &Self, _file: &File, vma: &VmaNew) -> Result {
        let (start, len_bytes) = (vma.start(), vma.end() - vma.start());
        // SAFETY: A vma that is being set up is nobody else's.
        let (first, prot) = unsafe { ((*vma.as_ptr()).vm_pgoff, (*vma.as_ptr()).vm_page_prot) };

        if vma.flags() & flags::MAYSHARE == 0 {
            return Err(EINVAL);
        }
        vma.try_clear_mayexec().map_err(|_| EACCES)?;
        if len_bytes >> PAGE_SHIFT > memory.npages.saturating_sub(first) {
            return Err(ENXIO);
        }
        // SAFETY: The function only computes.
        let prot = unsafe { bindings::pgprot_writecombine(prot) };
        let pfn = memory.pfn + first;
        // SAFETY: The range is that of the vma, whose set-up this call is, and which gets frames
        // of the device alone.
        to_result(unsafe { bindings::remap_pfn_range(vma.as_ptr(), start, pfn, len_bytes, prot) })
    }
}

kernel::module_platform_driver! {
    type: Example,
    name: "rust_example",
    authors: ["The mapwitness authors"],
    description: "Shows the memory of a small device to user space, in Rust",
    license: "GPL",
}
