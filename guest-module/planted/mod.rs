// SPDX-License-Identifier: GPL-2.0

//! Faults that a build of the driver may carry on purpose.
//!
//! The driver takes each decision that a fault can spoil through a function of this folder. `good.rs` has
//! them as they should be, and is the whole of the folder in a good driver. A variant of `variants.txt`,
//! chosen at build time, is built with the other files instead, which have one for each kind of decision;
//! there each function does what the good one does, but for the one decision that its variant spoils. The
//! rest of the driver knows nothing of variants.
//!
//! The variant `any` carries all faults and shows the one that the module parameter `variant` names, so that
//! one build does for all of them.

/// Whether the fault of this name is to be shown.
#[cfg(not(mapwitness_variant = "good"))]
macro_rules! planted {
    ($name:tt) => {
        cfg!(mapwitness_variant = $name)
            || (cfg!(mapwitness_variant = "any") && crate::planted::chosen::is($name))
    };
}

#[cfg(not(mapwitness_variant = "good"))]
mod chosen;
#[cfg(mapwitness_variant = "good")]
mod good;
#[cfg(not(mapwitness_variant = "good"))]
mod lifetime;
#[cfg(not(mapwitness_variant = "good"))]
mod mapping;
#[cfg(not(mapwitness_variant = "good"))]
mod setup;
#[cfg(not(mapwitness_variant = "good"))]
mod source;

#[cfg(mapwitness_variant = "good")]
pub(crate) use good::*;

#[cfg(not(mapwitness_variant = "good"))]
pub(crate) use self::{chosen::check, lifetime::*, mapping::*, setup::*, source::*};
