//! Nothing is left of a VM that was dropped. A program of its own: the VMs of other
//! tests in the same process would be counted too.

use crate::common::{boot, impatient_config};
use wire::{Crash, Request};

#[test]
fn a_dropped_vm_leaves_no_thread_descriptor_or_mapping() {
    let config = impatient_config();
    drop(boot(&config));
    let before = left_behind();
    for _ in 0..3 {
        drop(boot(&config));
    }
    let mut spinning = boot(&config);
    spinning
        .vm_mut()
        .stop_handle()
        .expect("a handle")
        .write(1)
        .expect("written");
    let stopped = spinning.request(&Request::Crash(Crash::Spin));
    assert!(stopped.is_err(), "{stopped:?}");
    drop(spinning);
    assert_eq!(left_behind(), before);
}

/// KVM descriptors, memfds, vCPU threads and mapped memfds of this process.
fn left_behind() -> (usize, usize, usize) {
    let count = |folder: &str, wanted: &dyn Fn(&std::path::Path) -> bool| {
        std::fs::read_dir(folder)
            .expect("proc")
            .filter_map(Result::ok)
            .filter(|entry| wanted(&entry.path()))
            .count()
    };
    let is_ours = |path: &std::path::Path| {
        std::fs::read_link(path).is_ok_and(|target| {
            let target = target.to_string_lossy().into_owned();
            target.contains("kvm") || target.contains("mapwitness")
        })
    };
    let is_vcpu = |path: &std::path::Path| {
        std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("vcpu"))
    };
    let maps = std::fs::read_to_string("/proc/self/maps").expect("proc");
    (
        count("/proc/self/fd", &is_ours),
        count("/proc/self/task", &is_vcpu),
        maps.lines()
            .filter(|line| line.contains("memfd:mapwitness"))
            .count(),
    )
}
