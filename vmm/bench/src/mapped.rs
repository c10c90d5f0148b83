//! A guest with a large window of its device, mapped at once.

use std::sync::Arc;

use harness::own_driver::EAGER;
use harness::{Guest, Mapping, MappingSpec, Outcome, Start};
use monitor::{VmConfig, WindowConfig};
use wire::{Fd, OpenMode, Prot, Sharing};

use crate::Field;
use crate::boot::RAM_LEN_BYTES;
use crate::error::BenchError;
use crate::guests::guest_config;

/// The window's place among the device's.
const WINDOW: usize = 0;

/// A guest with the driver, and its open file of the window.
pub(crate) struct Device {
    pub(crate) guest: Guest,
    fd: Fd,
}

impl Device {
    /// One whose window has this many pages.
    pub(crate) fn with(field: &Field<'_>, npages: u64) -> Result<Self, BenchError> {
        let config = guest_config(&field.plan.kernel, &field.plan.initramfs, RAM_LEN_BYTES);
        let window = WindowConfig {
            name: "wide".to_owned(),
            npages,
            read_only: false,
            align_bytes: 2 << 20,
        };
        let config = VmConfig {
            windows: vec![window],
            // KVM_TRANSLATE asks as the kernel would, and SMAP keeps the kernel off user pages.
            extra_parameters: vec!["clearcpuid=smap".to_owned()],
            ..config
        };
        let mut guest = Guest::start(&config, Start::Quickest)?;
        guest.load_driver()?;
        let fd = guest.open(&EAGER.path(WINDOW), OpenMode::ReadWrite)?;
        let fd = granted("the window's file", fd)?;
        Ok(Self { guest, fd })
    }

    /// Maps the first `npages` of the window.
    pub(crate) fn map(&mut self, npages: u64) -> Result<Mapping, BenchError> {
        let file = EAGER.file(self.guest.plan(), WINDOW);
        let file = file.ok_or_else(|| BenchError::Guest {
            asked: "a window",
            answer: "it has none".to_owned(),
        })?;
        let spec = MappingSpec {
            file: Arc::new(file),
            first_page: 0,
            npages,
            prot: Prot::READ_WRITE,
            sharing: Sharing::Shared,
        };
        granted("a mapping of the window", self.guest.map(self.fd, &spec)?)
    }

    pub(crate) fn unmap(&mut self, mapping: &Mapping) -> Result<(), BenchError> {
        let gone = self.guest.munmap(mapping.gva, mapping.spec.len_bytes())?;
        granted("munmap", gone)
    }

    /// Looks at a mapping by all links. One that cannot be heard or is not right is no
    /// measurement.
    pub(crate) fn check(&mut self, mapping: &Mapping) -> Result<(), BenchError> {
        let judged = self.guest.witness_in_use(mapping)?;
        let wrong = judged.mismatch.map(|it| format!("{it:?}"));
        let unheard = judged.unwitnessed.into_iter().next();
        let unheard = unheard.map(|(link, why)| format!("{link} is unheard: {why}"));
        match wrong.or(unheard) {
            None => Ok(()),
            Some(what) => Err(BenchError::Unwitnessed(what)),
        }
    }
}

/// What every guest grants.
pub(crate) fn granted<T>(asked: &'static str, outcome: Outcome<T>) -> Result<T, BenchError> {
    outcome.map_err(|refusal| BenchError::Guest {
        asked,
        answer: refusal.to_string(),
    })
}
