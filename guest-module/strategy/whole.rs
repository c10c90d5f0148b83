// SPDX-License-Identifier: GPL-2.0

//! `vm_ops->may_split`: a mapping that stays in one piece.

use super::{DeviceFile, Strategy};
use crate::{
    mm::{BeingMapped, ClaimedVma, Fault, FaultError, FaultOperations, Installed, VmaPage, Window},
    planted, //
};
use kernel::{
    prelude::*,
    sync::{Arc, ArcBorrow}, //
};

/// Each page when it is first touched; the vma cannot be split.
pub(crate) struct Whole;

impl Strategy for Whole {
    const NAME: &'static str = "whole";

    type Memory = Window;

    fn map<V>(vma: ClaimedVma<V>) -> Result<V::Done>
    where
        V: BeingMapped<File = DeviceFile<Self>>,
    {
        vma.uncached().map_on_fault::<DeviceFile<Self>>()
    }
}

#[vtable]
impl FaultOperations for DeviceFile<Whole> {
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

    fn may_split(&self, _page: VmaPage) -> Result {
        Err(EINVAL)
    }
}
