// SPDX-License-Identifier: GPL-2.0

//! Device files that answer `mmap` as four drivers of the kernel do, or did.
//!
//! Each has the checks of its original in their order, its error codes and its hazards, over memory
//! of the synthetic device: what the originals promise is known, so that a checker can be
//! held against it. Where an original could do harm to the kernel itself, its persona refuses instead; that
//! is said in its file.

// The tests use the same file, where its items are public.
#[allow(unreachable_pub)]
mod abi;
mod agp;
mod bsr;
mod hpet;
mod mspec;
mod node;

use crate::{
    mm::{Access, Memory, Window},
    shared::Shared, //
};
use kernel::{
    fmt,
    page::PAGE_SIZE,
    prelude::*,
    str::CString,
    sync::Arc, //
};
use node::{Node, Persona};

/// A window as the personas share it with the other files.
type SharedWindow = Arc<Shared<Window>>;

/// Something whose dropping removes a device file.
trait Registered: Send + Sync {}

impl<P: Persona> Registered for Pin<KBox<Node<P>>> {}

/// The device files of all personas; dropping it removes them.
///
/// Mappings stay, as those of the originals do, which never part from their devices.
pub(crate) struct Personas(KVec<KBox<dyn Registered>>);

impl Personas {
    /// None.
    pub(crate) const fn none() -> Self {
        Self(KVec::new())
    }

    /// Creates those for which there is memory among `windows`: a window that may be written to for hpet
    /// and for each bsr, one made of whole MiB for agp. mspec has RAM of its own.
    pub(crate) fn new(windows: &[SharedWindow]) -> Result<Self> {
        let writable =
            |window: &&SharedWindow| window.memory().access() == Access::ReadWrite;
        let mut personas = Self::none();

        if let Some(window) = windows.iter().find(writable) {
            personas.add(fmt!("mapwitness-hpet"), hpet::Hpet::new(window.clone())?)?;
            let small = bsr::Bsr::within_a_page(window.clone())?;
            personas.add(fmt!("mapwitness-bsr-small"), small)?;
        }
        for (index, window) in windows.iter().enumerate() {
            if window.memory().access() == Access::ReadWrite {
                let bsr = bsr::Bsr::new(window.clone())?;
                personas.add(fmt!("mapwitness-bsr{index}"), bsr)?;
            }
        }
        let is_aperture = |window: &&SharedWindow| {
            writable(window) && window.memory().npages() % (agp::MIB / PAGE_SIZE) == 0
        };
        if let Some(window) = windows.iter().find(is_aperture) {
            let eager = agp::Agp::new(window.clone(), agp::Bridge::Eager)?;
            personas.add(fmt!("mapwitness-agp"), eager)?;
            let lazy = agp::Agp::new(window.clone(), agp::Bridge::Lazy)?;
            personas.add(fmt!("mapwitness-agp-lazy"), lazy)?;
        }
        personas.add(fmt!("mapwitness-mspec"), mspec::Mspec::new(mspec::Kind::Cached)?)?;
        let uncached = mspec::Mspec::new(mspec::Kind::Uncached)?;
        personas.add(fmt!("mapwitness-mspec-uncached"), uncached)?;
        Ok(personas)
    }

    fn add<P: Persona>(&mut self, name: fmt::Arguments<'_>, persona: Arc<P>) -> Result {
        let name = CString::try_from_fmt(name)?;
        let node: KBox<dyn Registered> = KBox::new(Node::new(name, persona)?, GFP_KERNEL)?;

        self.0.push(node, GFP_KERNEL)?;
        Ok(())
    }
}
