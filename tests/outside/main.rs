//! Tests that run where they were built and start software hosts of their own. They are
//! one program, so that two of them go on at a time.

mod lockdown;
mod soft_ept;
mod walkthrough;
