// SPDX-License-Identifier: GPL-2.0

//! Device files that can be mapped, through either hook.
//!
//! [`kernel::miscdevice`] knows the `mmap` hook only, and a file must not have both: so these are misc
//! devices with file operations of their own.

use super::{
    area::{BeingMapped, NewVma, VmaDesc},
    memory::Memory,
    setup::VmaSetup, //
};
use core::{marker::PhantomData, ptr::NonNull};
use kernel::{
    bindings,
    container_of,
    error::{from_result, to_result},
    fs::File,
    mm::virt::VmaNew,
    module::{this_module, ModuleMetadata},
    prelude::*,
    str::CString,
    sync::{Arc, ArcBorrow},
    types::{ForeignOwnable, Opaque}, //
};

/// What an open device file is, and how it is mapped.
pub(crate) trait MappableFile: Sized + Send + Sync + 'static {
    /// What it offers to user space.
    type Memory: Memory;

    /// The module that the file keeps loaded: `crate::LocalModule`.
    type OwnerModule: ModuleMetadata;

    /// Whether mappings are placed so that stretches of 2 MiB of the file are aligned as such.
    const ALIGN_HUGE: bool = false;

    /// The memory that is offered.
    fn offers(&self) -> &Self::Memory;

    /// Called when the file is opened.
    ///
    /// # Errors
    ///
    /// Any; the file is then not opened.
    fn open(&self, file: &File) -> Result;

    /// Called when the file is closed for good: neither descriptors nor mappings of it are left.
    fn release(&self, file: &File);

    /// Maps the file.
    ///
    /// Called with the mmap lock held for writing. The steps are the same for either hook; in
    /// `mmap_prepare` they only describe what is to happen.
    ///
    /// # Errors
    ///
    /// Any; the mapping then fails with it.
    fn map<V: BeingMapped<File = Self>>(vma: VmaSetup<V>) -> Result<V::Done>;
}

/// The hook by which a device file is mapped.
pub(crate) trait Hook: 'static {
    /// Whether it is `mmap_prepare`; else it is `mmap`.
    const PREPARES: bool;
}

/// `f_op->mmap()`: the vma exists.
pub(crate) struct Mmap;

/// `f_op->mmap_prepare()`: the vma is described.
pub(crate) struct MmapPrepare;

impl Hook for Mmap {
    const PREPARES: bool = false;
}

impl Hook for MmapPrepare {
    const PREPARES: bool = true;
}

/// A registered device file. Dropping it removes the file; what is open stays so.
///
/// # Invariants
///
/// `misc` is registered as long as the value lives, with the file operations for `F` and `H`.
#[pin_data(PinnedDrop)]
pub(crate) struct MappableDevice<F, H> {
    #[pin]
    misc: Opaque<bindings::miscdevice>,
    file: Arc<F>,
    // The C side keeps a pointer to it.
    name: CString,
    _hook: PhantomData<H>,
}

// SAFETY: A misc device may be deregistered on any thread, and so may `F` be dropped.
unsafe impl<F: MappableFile, H> Send for MappableDevice<F, H> {}

// SAFETY: There is nothing to do with a shared reference to it.
unsafe impl<F: MappableFile, H> Sync for MappableDevice<F, H> {}

impl<F: MappableFile, H: Hook> MappableDevice<F, H> {
    /// Creates `/dev/<name>`, which opens as `file`.
    ///
    /// # Errors
    ///
    /// What `misc_register()` says, and `ENOMEM`.
    pub(crate) fn new(name: CString, file: Arc<F>) -> Result<Pin<KBox<Self>>> {
        KBox::try_pin_init(
            try_pin_init!(Self {
                // Initialised first: the file can be opened as soon as it is registered.
                file,
                name,
                _hook: PhantomData,
                misc <- {
                    let mut raw: bindings::miscdevice = pin_init::zeroed();

                    raw.minor = bindings::MISC_DYNAMIC_MINOR as c_int;
                    raw.name = name.as_char_ptr();
                    raw.fops = &FileOperations::<F, H>::TABLE;
                    Opaque::try_ffi_init(move |slot: *mut bindings::miscdevice| {
                        // SAFETY: The initializer can write to the slot.
                        unsafe { slot.write(raw) };
                        // SAFETY: The slot was just filled. It is pinned, and `drop` deregisters it; the
                        // name and the file stay until after that.
                        to_result(unsafe { bindings::misc_register(slot) })
                    })
                },
            }),
            GFP_KERNEL,
        )
    }
}

#[pinned_drop]
impl<F, H> PinnedDrop for MappableDevice<F, H> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants it is registered.
        unsafe { bindings::misc_deregister(self.misc.get()) };
    }
}

struct FileOperations<F, H>(PhantomData<(F, H)>);

impl<F: MappableFile, H: Hook> FileOperations<F, H> {
    const TABLE: bindings::file_operations = bindings::file_operations {
        owner: this_module::<F::OwnerModule>().as_ptr(),
        open: Some(Self::open),
        release: Some(Self::release),
        // A file with both is refused by the kernel.
        mmap: if H::PREPARES { None } else { Some(Self::mmap) },
        mmap_prepare: if H::PREPARES {
            Some(Self::mmap_prepare)
        } else {
            None
        },
        get_unmapped_area: if F::ALIGN_HUGE {
            Some(bindings::thp_get_unmapped_area)
        } else {
            None
        },
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// `file` is being opened, and its private data is the `miscdevice` of a `MappableDevice<F, H>`, which
    /// stays registered meanwhile.
    unsafe extern "C" fn open(_: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: The open call of a file can access the private data.
        let misc = unsafe { (*file).private_data }.cast::<Opaque<bindings::miscdevice>>();
        // SAFETY: By the caller's promise it is that field.
        let owner = unsafe { container_of!(misc, MappableDevice<F, H>, misc) };
        // SAFETY: As above; the field was initialised before `misc`, and stays while that is registered.
        let ours = unsafe { &(*owner).file };
        // SAFETY: The file is valid for the duration of this call, and no `fdget_pos` region is active.
        let opened = unsafe { File::from_raw_file(file) };

        from_result(|| {
            ours.open(opened)?;
            // SAFETY: The open call of a file can access the private data, which is now an `Arc<F>`.
            unsafe { (*file).private_data = ours.clone().into_foreign() };
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// `file` was opened by [`open`](Self::open), and is being released.
    unsafe extern "C" fn release(_: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: The release call of a file owns the private data.
        let private = unsafe { (*file).private_data };
        // SAFETY: `open` put an `Arc<F>` there, and nobody uses it any more.
        let ours = unsafe { <Arc<F> as ForeignOwnable>::from_foreign(private) };

        // SAFETY: The file is valid for the duration of this call, and no `fdget_pos` region is active.
        ours.release(unsafe { File::from_raw_file(file) });
        0
    }

    /// # Safety
    ///
    /// `file` was opened by [`open`](Self::open), and `vma` is being mapped from it.
    unsafe extern "C" fn mmap(
        file: *mut bindings::file,
        vma: *mut bindings::vm_area_struct,
    ) -> c_int {
        // SAFETY: By the caller's promise.
        let ours = unsafe { Self::ours(file) };
        // SAFETY: The vma is undergoing initial setup.
        let vma = unsafe { VmaNew::from_raw(vma) };

        from_result(|| {
            // SAFETY: All of that stays so during this call, in which nobody else uses the vma.
            let vma = unsafe { NewVma::new(vma, ours) };

            // SAFETY: This is the one configuration of the vma.
            F::map(unsafe { VmaSetup::new(vma) }).map(|_| 0)
        })
    }

    /// # Safety
    ///
    /// `desc` describes a mapping of a file that was opened by [`open`](Self::open).
    unsafe extern "C" fn mmap_prepare(desc: *mut bindings::vm_area_desc) -> c_int {
        // SAFETY: By the caller's promise `desc` is valid.
        let desc = unsafe { NonNull::new_unchecked(desc) };
        // SAFETY: As above, and its file is open.
        let ours = unsafe { Self::ours((*desc.as_ptr()).file) };

        from_result(|| {
            // SAFETY: All of that stays so during this call, in which nobody else uses the description.
            let vma = unsafe { VmaDesc::new(desc, ours) };

            // SAFETY: This is the one configuration of the vma.
            F::map(unsafe { VmaSetup::new(vma) }).map(|_| 0)
        })
    }

    /// # Safety
    ///
    /// `file` was opened by [`open`](Self::open), and stays open for `'a`.
    unsafe fn ours<'a>(file: *mut bindings::file) -> ArcBorrow<'a, F> {
        // SAFETY: By the caller's promise `file` is valid.
        let private = unsafe { (*file).private_data };

        // SAFETY: `open` put an `Arc<F>` there, which the file owns.
        unsafe { <Arc<F> as ForeignOwnable>::borrow(private) }
    }
}
