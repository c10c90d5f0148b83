// SPDX-License-Identifier: GPL-2.0

//! `/dev/mapwitness-atlas`: one page under all the addresses that a kernel has for it.
//!
//! The page is a coherent one, which driver and device share. Its addresses are published to the host,
//! which holds them against the page tables; `abi.rs` describes the ioctls.

// The host uses the same file, where its items are public.
#[allow(unreachable_pub)]
pub(crate) mod abi;
mod areas;
mod helpers;

use crate::regs;
use abi::{DmaCopy, Published, COPY, PUBLISH, RING_VALUE};
use areas::{IoPage, KmapLocal, Vmalloc, Vmap};
use core::ptr::NonNull;
use kernel::{
    bindings,
    container_of,
    device::{Bound, Device},
    dma::Coherent,
    fs::File,
    io::PhysAddr,
    miscdevice::{MiscDevice, MiscDeviceOptions, MiscDeviceRegistration},
    mm::virt::{flags, VmaNew},
    new_mutex,
    page::{BorrowedPage, PAGE_SIZE},
    prelude::*,
    sync::{Arc, ArcBorrow, Mutex},
    uaccess::{UserPtr, UserSlice}, //
};

/// Words of a page.
const PAGE_WORDS: usize = PAGE_SIZE / 8;
const _: () = assert!(Published::WORDS <= PAGE_WORDS);

/// All objects with their addresses.
struct Atlas {
    // Dropped before the pages that it shows.
    vmap: Vmap,
    vmalloc: Vmalloc,
    coherent: Coherent<[u64; PAGE_WORDS]>,
    window: IoPage,
    window_start: PhysAddr,
    registers: IoPage,
}

impl Atlas {
    fn new(dev: &Device<Bound>, registers_start: PhysAddr, window_start: PhysAddr) -> Result<Self> {
        let coherent: Coherent<[u64; PAGE_WORDS]> = Coherent::zeroed(dev, GFP_KERNEL)?;
        let vmalloc = Vmalloc::scattered()?;
        let [.., last] = vmalloc.pages();

        // SAFETY: Both pages belong to fields that are dropped after the area.
        let vmap = unsafe { Vmap::new([last, page_of(&coherent)]) }?;
        Ok(Self {
            vmap,
            vmalloc,
            coherent,
            window: IoPage::new(window_start)?,
            window_start,
            registers: IoPage::new(registers_start)?,
        })
    }

    /// The coherent page, which is a single one: its allocation has just that size.
    fn page(&self) -> *mut bindings::page {
        page_of(&self.coherent)
    }

    /// Rings the device while all addresses are valid.
    fn publish(&self) -> Published {
        let page = self.page();
        let coherent = self.coherent.as_ptr().cast();
        // SAFETY: The page is valid as long as `self`. No other such mapping is made in between.
        let kmap_local = unsafe { KmapLocal::new(page) };
        // SAFETY: The page is valid.
        let pfn = unsafe { helpers::mapwitness_atlas_page_to_pfn(page) };
        let published = Published {
            coherent: coherent as u64,
            bus: self.coherent.dma_address(),
            // SAFETY: A page that the kernel allocates for a device is in the direct map on x86-64.
            physical: unsafe { helpers::mapwitness_virt_to_phys(coherent) },
            page: page as u64,
            pfn: pfn as u64,
            // SAFETY: The frame is that of a valid page.
            page_of_pfn: unsafe { helpers::mapwitness_pfn_to_page(pfn) } as u64,
            // SAFETY: The page is valid.
            page_address: unsafe { helpers::mapwitness_page_address(page) } as u64,
            kmap_local: kmap_local.address() as u64,
            vmap: self.vmap.address() as u64,
            vmalloc: self.vmalloc.address() as u64,
            ioremap: self.window.address() as u64,
            ioremap_physical: self.window_start,
            // SAFETY: Has no requirements.
            pid: unsafe { helpers::mapwitness_current_tgid() } as u64,
            vmalloc_pages: self.vmalloc.pages().map(|page| page as u64),
        };

        self.write_table(&published);
        self.registers
            .write64(published.bus, regs::REG_DMA_BUS_ADDRESS);
        self.registers.write32(RING_VALUE, regs::REG_DOORBELL);
        published
    }

    /// Puts the words where the device finds them.
    fn write_table(&self, published: &Published) {
        let table = self.coherent.as_mut_ptr().cast::<u64>();

        for (index, word) in published.to_words().into_iter().enumerate() {
            // SAFETY: There are fewer words than the page has. It is shared with a device and user
            // space, so the store is volatile.
            unsafe { table.add(index).write_volatile(word.to_le()) };
        }
    }

    /// Lets the device copy, and gives its status.
    fn copy(&self, copy: DmaCopy) -> u32 {
        // The device is sent astray on purpose by an offset: it must refuse what is no RAM. What is
        // RAM it may spoil.
        let bus = self.coherent.dma_address().wrapping_add(copy.bus_offset);

        self.registers.write64(bus, regs::REG_DMA_BUS_ADDRESS);
        self.registers.write32(copy.window, regs::REG_DMA_WINDOW);
        self.registers.write32(copy.page, regs::REG_DMA_PAGE);
        self.registers
            .write32(copy.len_bytes, regs::REG_DMA_LEN_BYTES);
        self.registers.write32(copy.command, regs::REG_DMA_COMMAND);
        self.registers.read32(regs::REG_DMA_STATUS)
    }
}

fn page_of(coherent: &Coherent<[u64; PAGE_WORDS]>) -> *mut bindings::page {
    // SAFETY: As in `Atlas::publish`.
    unsafe { helpers::mapwitness_virt_to_page(coherent.as_ptr().cast()) }
}

/// The objects, as long as the driver is bound.
#[pin_data]
struct Shared {
    /// Taken inside the mmap lock.
    #[pin]
    atlas: Mutex<Option<Atlas>>,
}

/// The registered file. Dropping it removes it, and the objects with it.
pub(crate) struct AtlasFile {
    shared: Arc<Shared>,
    _file: Pin<KBox<DeviceFile>>,
}

impl AtlasFile {
    /// Makes the objects and the file, for the device with this register page and this first window.
    pub(crate) fn new(
        dev: &Device<Bound>,
        registers_start: PhysAddr,
        window_start: PhysAddr,
    ) -> Result<Self> {
        let atlas = Atlas::new(dev, registers_start, window_start)?;
        let shared = Arc::pin_init(
            pin_init!(Shared {
                atlas <- new_mutex!(Some(atlas)),
            }),
            GFP_KERNEL,
        )?;
        let found_by_files = shared.clone();
        let file = KBox::try_pin_init(
            try_pin_init!(DeviceFile {
                // Initialised first: the file can be opened as soon as it is registered.
                shared: found_by_files,
                misc <- MiscDeviceRegistration::register(MiscDeviceOptions {
                    name: c"mapwitness-atlas",
                }),
            }),
            GFP_KERNEL,
        )?;

        Ok(Self {
            shared,
            _file: file,
        })
    }
}

impl Drop for AtlasFile {
    fn drop(&mut self) {
        // Open files and mappings may stay. A mapping keeps its page; nothing else is in reach of a
        // file any more.
        let atlas = self.shared.atlas.lock().take();

        drop(atlas);
    }
}

#[pin_data]
struct DeviceFile {
    // Dropped first: once it is gone, nobody looks for `shared` any more.
    #[pin]
    misc: MiscDeviceRegistration<OpenFile>,
    shared: Arc<Shared>,
}

/// File operations; never a value.
///
/// # Invariants
///
/// A `MiscDeviceRegistration<OpenFile>` exists only as the field `misc` of a [`DeviceFile`] whose field
/// `shared` is initialised: this type is private to this file.
struct OpenFile;

#[vtable]
impl MiscDevice for OpenFile {
    type Ptr = Arc<Shared>;

    fn open(_file: &File, misc: &MiscDeviceRegistration<Self>) -> Result<Self::Ptr> {
        let misc = core::ptr::from_ref(misc).cast_mut();
        // SAFETY: By the type invariants `misc` is that field of a `DeviceFile`.
        let owner = unsafe { container_of!(misc, DeviceFile, misc) };
        // SAFETY: By the type invariants the field is initialised. It stays while `misc` is registered,
        // and `misc_deregister()` waits for calls of `open`.
        let shared = unsafe { &(*owner).shared };

        Ok(shared.clone())
    }

    fn mmap(shared: ArcBorrow<'_, Shared>, _file: &File, vma: &VmaNew) -> Result {
        // SAFETY: The vma is being set up and locked for that.
        let pgoff = unsafe { (*vma.as_ptr()).vm_pgoff };
        let one_page = vma.end() - vma.start() == PAGE_SIZE && pgoff == 0;

        if !one_page || vma.flags() & flags::MAYSHARE == 0 {
            return Err(EINVAL);
        }
        let guard = shared.atlas.lock();
        let atlas = guard.as_ref().ok_or(ENODEV)?;
        let page = NonNull::new(atlas.page()).ok_or(ENODEV)?;
        // SAFETY: The page is valid while `guard` is held.
        let page = unsafe { BorrowedPage::from_raw(page) };

        vma.set_dontexpand();
        vma.set_mixedmap().vm_insert_page(vma.start(), &page)
    }

    fn ioctl(
        shared: ArcBorrow<'_, Shared>,
        _file: &File,
        command: u32,
        argument: usize,
    ) -> Result<isize> {
        // User memory is touched without the lock: that may take the mmap lock.
        let slice = |len_bytes| UserSlice::new(UserPtr::from_addr(argument), len_bytes);

        match command {
            PUBLISH => {
                let published = {
                    let guard = shared.atlas.lock();
                    guard.as_ref().ok_or(ENODEV)?.publish()
                };

                write_words(
                    &mut slice(Published::LEN_BYTES).writer(),
                    &published.to_words(),
                )?;
            }
            COPY => {
                let (mut reader, mut writer) = slice(DmaCopy::LEN_BYTES).reader_writer();
                let words: [u64; 4] = reader.read()?;
                let mut copy = DmaCopy::from_words(words.map(u64::from_le));

                copy.status = {
                    let guard = shared.atlas.lock();
                    guard.as_ref().ok_or(ENODEV)?.copy(copy)
                };
                write_words(&mut writer, &copy.to_words())?;
            }
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }
}

fn write_words(writer: &mut kernel::uaccess::UserSliceWriter, words: &[u64]) -> Result {
    for word in words {
        writer.write(&word.to_le())?;
    }
    Ok(())
}
