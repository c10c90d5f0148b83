// SPDX-License-Identifier: GPL-2.0

//! `vm_ops->huge_fault` with `vmf_insert_pfn_pmd()`, and single pages where that does not fit.

use super::{DeviceFile, Strategy};
use crate::{
    mm::{
        BeingMapped, ClaimedVma, Fault, FaultError, FaultOperations, HugeFault, Installed, Window,
    },
    planted, //
};
use kernel::{
    prelude::*,
    sync::{Arc, ArcBorrow}, //
};

/// 2 MiB at a time where address, window and length allow it; else each page when it is first touched.
pub(crate) struct Huge;

impl Strategy for Huge {
    const NAME: &'static str = "huge";
    const ALIGN_HUGE: bool = true;

    type Memory = Window;

    fn map<V>(vma: ClaimedVma<V>) -> Result<V::Done>
    where
        V: BeingMapped<File = DeviceFile<Self>>,
    {
        vma.uncached().map_on_fault::<DeviceFile<Self>>()
    }
}

#[vtable]
impl FaultOperations for DeviceFile<Huge> {
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

    fn huge_fault<'a>(
        &self,
        fault: HugeFault<'a, '_, Window>,
    ) -> Result<Installed<'a>, FaultError> {
        self.shared().while_shown(|| planted::answer_huge(fault))
    }
}
