// SPDX-License-Identifier: GPL-2.0

//! Fault-around: `vm_ops->map_pages`, and `vm_ops->fault` while there is no page table yet.

use super::{DeviceFile, Strategy};
use crate::{
    mm::{self, BeingMapped, ClaimedVma, Fault, FaultError, FaultOperations, Installed, Window},
    planted, //
};
use kernel::{
    prelude::*,
    sync::{Arc, ArcBorrow}, //
};

/// A page and its neighbours when one of them is first touched.
pub(crate) struct Around;

impl Strategy for Around {
    const NAME: &'static str = "around";

    type Memory = Window;

    fn map<V>(vma: ClaimedVma<V>) -> Result<V::Done>
    where
        V: BeingMapped<File = DeviceFile<Self>>,
    {
        vma.uncached().map_on_fault::<DeviceFile<Self>>()
    }
}

#[vtable]
impl FaultOperations for DeviceFile<Around> {
    type File = Self;
    type Memory = Window;

    fn of(file: ArcBorrow<'_, Self>) -> Result<Arc<Self>> {
        Ok(file.into())
    }

    fn memory(&self) -> &Window {
        self.shared().memory()
    }

    fn fault<'a>(&self, fault: Fault<'a, '_, Window>) -> Result<Installed<'a>, FaultError> {
        self.shared()
            .while_shown(|| planted::answer_around(fault))
    }

    fn map_pages<'a>(&self, around: mm::Around<'a, '_, Window>) -> Option<Installed<'a>> {
        self.shared()
            .try_while_shown(|| planted::answer_read_around(around))
    }
}
