// SPDX-License-Identifier: GPL-2.0

//! `vm_ops->fault` that hands out pages of RAM.

use super::{DeviceFile, Strategy};
use crate::{
    mm::{BeingMapped, Buffer, ClaimedVma, Fault, FaultError, FaultOperations, Installed},
    planted, //
};
use kernel::{
    prelude::*,
    sync::{Arc, ArcBorrow}, //
};

/// Each page of a buffer when it is first touched.
pub(crate) struct PageFault;

impl Strategy for PageFault {
    const NAME: &'static str = "pagefault";

    type Memory = Buffer;

    fn map<V>(vma: ClaimedVma<V>) -> Result<V::Done>
    where
        V: BeingMapped<File = DeviceFile<Self>>,
    {
        vma.map_on_fault::<DeviceFile<Self>>()
    }
}

#[vtable]
impl FaultOperations for DeviceFile<PageFault> {
    type File = Self;
    type Memory = Buffer;

    fn of(file: ArcBorrow<'_, Self>) -> Result<Arc<Self>> {
        Ok(file.into())
    }

    fn memory(&self) -> &Buffer {
        self.shared().memory()
    }

    fn fault<'a>(&self, fault: Fault<'a, '_, Buffer>) -> Result<Installed<'a>, FaultError> {
        self.shared().while_shown(|| {
            let source = planted::source_page(fault.page());

            fault.install(source)
        })
    }
}
