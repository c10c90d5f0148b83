// SPDX-License-Identifier: GPL-2.0

//! `vm_ops->fault` with `vmf_insert_pfn_prot()`.

use super::{DeviceFile, Strategy};
use crate::{
    mm::{BeingMapped, ClaimedVma, Fault, FaultError, FaultOperations, Installed, Window},
    planted, //
};
use kernel::{
    prelude::*,
    sync::{Arc, ArcBorrow}, //
};

/// Each page when it is first touched, and only then is its memory type chosen: the vma says nothing of it.
pub(crate) struct Prot;

impl Strategy for Prot {
    const NAME: &'static str = "prot";

    type Memory = Window;

    fn map<V>(vma: ClaimedVma<V>) -> Result<V::Done>
    where
        V: BeingMapped<File = DeviceFile<Self>>,
    {
        vma.map_on_fault::<DeviceFile<Self>>()
    }
}

#[vtable]
impl FaultOperations for DeviceFile<Prot> {
    type File = Self;
    type Memory = Window;

    fn of(file: ArcBorrow<'_, Self>) -> Result<Arc<Self>> {
        Ok(file.into())
    }

    fn memory(&self) -> &Window {
        self.shared().memory()
    }

    fn fault<'a>(&self, fault: Fault<'a, '_, Window>) -> Result<Installed<'a>, FaultError> {
        self.shared().while_shown(|| {
            let source = planted::source_page(fault.page());

            fault.install_uncached(source)
        })
    }
}
