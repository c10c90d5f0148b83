// SPDX-License-Identifier: GPL-2.0

//! Faults that a build of the driver may carry on purpose.
//!
//! The driver takes each decision that a fault can spoil through a function of this folder. `good.rs` has
//! them as they should be, and is the whole of the folder in a good driver. A variant of `variants.txt`,
//! chosen at build time, is built with the other files instead, which have one for each kind of decision;
//! there each function does what the good one does, but for the one decision that its variant spoils. The
//! rest of the driver knows nothing of variants.

#[cfg(mapwitness_variant = "good")]
mod good;
#[cfg(mapwitness_variant = "good")]
pub(crate) use good::*;

#[cfg(not(mapwitness_variant = "good"))]
mod lifetime;
#[cfg(not(mapwitness_variant = "good"))]
mod mapping;
#[cfg(not(mapwitness_variant = "good"))]
mod setup;
#[cfg(not(mapwitness_variant = "good"))]
mod source;

#[cfg(not(mapwitness_variant = "good"))]
pub(crate) use self::{lifetime::*, mapping::*, setup::*, source::*};
