// SPDX-License-Identifier: GPL-2.0

//! The device file of a persona.

use crate::mm::{PlainMapped, PlainVma};
use core::marker::PhantomData;
use kernel::{
    container_of,
    fs::File,
    miscdevice::{MiscDevice, MiscDeviceOptions, MiscDeviceRegistration},
    mm::virt::VmaNew,
    prelude::*,
    str::CString,
    sync::Arc,
    uaccess::{UserPtr, UserSlice}, //
};

/// A driver in the shape that drivers in C have: open, ioctl, mmap, release.
pub(super) trait Persona: Send + Sync + Sized + 'static {
    /// What it keeps of each open file.
    type File: Send + Sync + 'static;

    /// Opens a file.
    fn open(self: &Arc<Self>, file: &File) -> Result<Self::File>;

    /// Maps an open file.
    fn mmap<'a>(
        self: &Arc<Self>,
        file: &Self::File,
        vma: PlainVma<'a>,
    ) -> Result<PlainMapped<'a>>;

    /// Takes a command; `argument` is as long as `command` says.
    fn ioctl(&self, _file: &Self::File, _command: u32, _argument: UserSlice) -> Result {
        Err(ENOTTY)
    }

    /// Closes a file of which neither descriptors nor mappings are left.
    fn release(&self, _file: &Self::File) {}
}

/// A registered device file, in which its open files find their persona.
#[pin_data]
pub(super) struct Node<P: Persona> {
    // Dropped first: once it is gone, nobody looks for `persona` any more.
    #[pin]
    misc: MiscDeviceRegistration<Operations<P>>,
    persona: Arc<P>,
    // The kernel keeps a pointer to it.
    _name: CString,
}

impl<P: Persona> Node<P> {
    /// Creates `/dev/<name>`.
    ///
    /// # Errors
    ///
    /// What `misc_register()` says, and `ENOMEM`.
    pub(super) fn new(name: CString, persona: Arc<P>) -> Result<Pin<KBox<Self>>> {
        let text: *const CStr = &*name;
        // SAFETY: The text lies on the heap and stays as long as `name`, which the node drops after the
        // registration that uses it.
        let text: &'static CStr = unsafe { &*text };

        KBox::try_pin_init(
            try_pin_init!(Self {
                // Initialised first: the file can be opened as soon as it is registered.
                persona,
                _name: name,
                misc <- MiscDeviceRegistration::register(MiscDeviceOptions { name: text }),
            }),
            GFP_KERNEL,
        )
    }
}

/// An open file with its persona.
pub(super) struct Open<P: Persona> {
    persona: Arc<P>,
    file: P::File,
}

/// File operations; never a value.
///
/// # Invariants
///
/// A `MiscDeviceRegistration<Operations<P>>` exists only as the field `misc` of a [`Node<P>`] whose
/// field `persona` is initialised: this type can be made nowhere else.
pub(super) struct Operations<P>(PhantomData<P>);

#[vtable]
impl<P: Persona> MiscDevice for Operations<P> {
    type Ptr = KBox<Open<P>>;

    fn open(file: &File, misc: &MiscDeviceRegistration<Self>) -> Result<Self::Ptr> {
        let misc = core::ptr::from_ref(misc).cast_mut();
        // SAFETY: By the type invariants `misc` is that field of a `Node<P>`.
        let node = unsafe { container_of!(misc, Node<P>, misc) };
        // SAFETY: By the type invariants the field is initialised. It stays while `misc` is registered,
        // and `misc_deregister()` waits for calls of `open`.
        let persona = unsafe { &(*node).persona };

        let opened = Open {
            persona: persona.clone(),
            file: persona.open(file)?,
        };
        Ok(KBox::new(opened, GFP_KERNEL)?)
    }

    fn release(opened: Self::Ptr, _file: &File) {
        opened.persona.release(&opened.file);
    }

    fn mmap(opened: &Open<P>, _file: &File, vma: &VmaNew) -> Result {
        // SAFETY: This is the `mmap` hook of a misc device of this module, which is the owner in its
        // file operations. The vma is left alone apart from this one call.
        unsafe { PlainVma::configure(vma, |vma| opened.persona.mmap(&opened.file, vma)) }
    }

    fn ioctl(opened: &Open<P>, _file: &File, command: u32, argument: usize) -> Result<isize> {
        let argument = UserSlice::new(
            UserPtr::from_addr(argument),
            kernel::ioctl::_IOC_SIZE(command),
        );

        opened.persona.ioctl(&opened.file, command, argument)?;
        Ok(0)
    }
}
