//! How guests end: each way is told from the others, promptly, with what the guest
//! said last.

use std::time::{Duration, Instant};

use crate::common::{boot, chain, impatient_config};
use harness::{Guest, HarnessError};
use monitor::{End, Ended, Vm, VmError};
use wire::{Crash, Request};

/// What came of a guest that was told to end.
fn ending(guest: &mut Guest, crash: Crash) -> Ended {
    let error = guest
        .request(&Request::Crash(crash))
        .expect_err("the guest is over");
    ended(error)
}

fn ended(error: HarnessError) -> Ended {
    match error {
        HarnessError::Vm(VmError::Ended(ended)) => *ended,
        other => panic!("not an ending: {}", chain(&other)),
    }
}

#[test]
fn a_panic_carries_the_kernels_own_line() {
    let mut guest = boot(&impatient_config());
    let ended = ending(&mut guest, Crash::Panic);
    let End::Panic { line } = &ended.cause else {
        panic!("{ended}");
    };
    assert!(line.contains("Kernel panic - not syncing"), "{line}");
    assert!(ended.console_tail.len() > 5, "{ended}");
}

#[test]
fn a_reset_is_no_panic() {
    let mut guest = boot(&impatient_config());
    assert_eq!(ending(&mut guest, Crash::Reset).cause, End::Reset);
}

#[test]
fn a_guest_that_turns_itself_off_is_no_reset() {
    let mut guest = boot(&impatient_config());
    assert_eq!(ending(&mut guest, Crash::PowerOff).cause, End::PowerOff);
}

#[test]
fn a_guest_that_spins_for_ever_is_declared_hung() {
    let mut config = impatient_config();
    config.hang_after = Duration::from_secs(15);
    let mut guest = boot(&config);
    let ended = ending(&mut guest, Crash::Spin);
    let End::Hang { after, vcpus } = ended.cause else {
        panic!("{ended}");
    };
    assert_eq!(after, config.hang_after);
    let [vcpu] = vcpus.as_slice() else {
        panic!("{vcpus:?}");
    };
    assert!(vcpu.starts_with("at rip 0x"), "{vcpu}");
    assert!(vcpu.contains("; runnable; timer "), "{vcpu}");
}

#[test]
fn a_guest_without_an_agent_panics_and_says_so() {
    let mut config = impatient_config();
    config.extra_parameters = vec!["rdinit=/nowhere".into()];
    let error = Guest::boot(&config).err().expect("no agent");
    let ended = ended(error);
    assert!(matches!(ended.cause, End::Panic { .. }), "{ended}");
}

#[test]
fn a_kernel_that_faults_before_it_has_handlers_is_a_triple_fault() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = impatient_config();
    let kernel = folder.path().join("vmlinux");
    let mut image = std::fs::read(&config.kernel).expect("the kernel");
    break_entry(&mut image);
    std::fs::write(&kernel, image).expect("written");
    config.kernel = kernel;
    let ended = ended(Guest::boot(&config).err().expect("no kernel"));
    assert!(matches!(ended.cause, End::TripleFault { .. }), "{ended}");
}

/// Fills every loadable segment with `ud2`, but for the note that says where a guest
/// is entered.
fn break_entry(image: &mut [u8]) {
    const LOAD: usize = 1;
    const NOTE: usize = 4;
    let notes: Vec<_> = segments(image, NOTE)
        .into_iter()
        .map(|range| (range.clone(), image[range].to_vec()))
        .collect();
    for range in segments(image, LOAD) {
        for code in image[range].chunks_exact_mut(2) {
            code.copy_from_slice(&[0x0f, 0x0b]);
        }
    }
    for (range, note) in notes {
        image[range].copy_from_slice(&note);
    }
}

/// Bytes of the file that the program headers of one type cover.
fn segments(image: &[u8], wanted: usize) -> Vec<std::ops::Range<usize>> {
    let field = |at: usize, len: usize| {
        let mut bytes = [0; 8];
        bytes[..len].copy_from_slice(&image[at..at + len]);
        usize::try_from(u64::from_le_bytes(bytes)).expect("64 bits")
    };
    let (table, entry_len, count) = (field(0x20, 8), field(0x36, 2), field(0x38, 2));
    (0..count)
        .map(|index| table + index * entry_len)
        .filter(|at| field(*at, 4) == wanted)
        .map(|at| field(at + 8, 8)..field(at + 8, 8) + field(at + 0x20, 8))
        .collect()
}

#[test]
fn a_guest_can_be_stopped_from_another_thread() {
    let mut guest = boot(&impatient_config());
    let stop = guest.vm_mut().stop_handle().expect("a handle");
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        stop.write(1).expect("written");
    });
    let begun = Instant::now();
    let ended = ending(&mut guest, Crash::Spin);
    assert_eq!(ended.cause, End::Stopped);
    assert!(begun.elapsed() < impatient_config().hang_after);
    stopper.join().expect("joined");
}

#[test]
fn what_has_ended_stays_ended() {
    let mut guest = boot(&impatient_config());
    let first = ending(&mut guest, Crash::Reset);
    assert_eq!(ending(&mut guest, Crash::Spin), first);
}

#[test]
fn a_configuration_that_cannot_be_is_refused() {
    for change in [
        (|config| config.vcpus = 0) as fn(&mut monitor::VmConfig),
        |config| config.vcpus = 9,
        |config| config.ram_len_bytes = 1 << 20,
        |config| config.ram_len_bytes += 4096,
        |config| config.windows[0].npages = 0,
        |config| config.windows[0].npages = u64::MAX,
        |config| config.windows[0].align_bytes = 3,
        |config| config.extra_parameters = vec!["x".repeat(4096)],
    ] {
        let mut config = impatient_config();
        change(&mut config);
        let error = Vm::new(&config).err().expect("refused");
        assert!(matches!(error, VmError::Config(_)), "{error}");
    }
}
