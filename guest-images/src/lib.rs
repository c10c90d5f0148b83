//! guest-images

pub mod agent;
pub mod initramfs;
