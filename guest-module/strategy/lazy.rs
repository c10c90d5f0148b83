// SPDX-License-Identifier: GPL-2.0

//! `vm_ops->fault` with `vmf_insert_pfn()`.

use super::{DeviceFile, Strategy};
use crate::{
    mm::{BeingMapped, ClaimedVma, Fault, FaultError, FaultOperations, Installed, Window},
    planted, //
};
use kernel::{
    prelude::*,
    sync::{Arc, ArcBorrow}, //
};

/// Each page when it is first touched.
pub(crate) struct Lazy;

impl Strategy for Lazy {
    const NAME: &'static str = "lazy";

    type Memory = Window;

    fn map<V>(vma: ClaimedVma<V>) -> Result<V::Done>
    where
        V: BeingMapped<File = DeviceFile<Self>>,
    {
        vma.uncached().map_on_fault::<DeviceFile<Self>>()
    }
}

#[vtable]
impl FaultOperations for DeviceFile<Lazy> {
    type File = Self;
    type Memory = Window;

    fn of(file: ArcBorrow<'_, Self>) -> Result<Arc<Self>> {
        Ok(file.into())
    }

    fn memory(&self) -> &Window {
        self.shared().memory()
    }

    fn fault<'a>(&self, fault: Fault<'a, '_, Window>) -> Result<Installed<'a>, FaultError> {
        self.shared().while_shown(|| planted::answer(fault))
    }
}
