//! The one fixture of the tests that boot VMs.

use std::sync::Arc;
use std::time::Duration;

use guest_images::{Flavour, GuestImage, handover};
use guest_kernel::KernelFacts;
use harness::report::HostReport;
use harness::{CheckOptions, Guest, Mapping, MappingSpec, Outcome, Refusal, Strategy};
use monitor::VmConfig;
use provision::{Consent, Progress};
use wire::ioctls::{CONTROL_PATH, Target};
use wire::{Fd, OpenMode, Prot, Reply, Request, Sharing, Value};

/// The image with this variant of the driver. Those that the cargo runner has
/// prepared are taken; without the runner they are built.
pub fn image(variant: &str) -> GuestImage {
    image_of(variant, Flavour::Plain)
}

/// As [`image`], with a kernel of this flavour.
pub fn image_of(variant: &str, flavour: Flavour) -> GuestImage {
    let prepared = handover::import().expect("a set of images");
    let name = handover::name(variant, flavour);
    if let Some(image) = prepared.and_then(|mut images| images.remove(&name)) {
        return image;
    }
    let request = guest_images::Request {
        driver_variant: variant.to_owned(),
        flavour,
        ..guest_images::Request::default()
    };
    guest_images::ensure(&request, Consent::Ask, &Progress::stderr()).expect("a guest image")
}

/// The standard VM for that image.
pub fn config(variant: &str) -> VmConfig {
    let image = image(variant);
    VmConfig::new(image.vmlinux, image.initramfs)
}

/// A VM for tests of how guests end, which declares a guest hung early.
pub fn impatient_config() -> VmConfig {
    VmConfig {
        hang_after: Duration::from_secs(20),
        ..config("good")
    }
}

/// A guest at its agent's doorbell.
pub fn boot(config: &VmConfig) -> Guest {
    Guest::boot(config).unwrap_or_else(|error| panic!("{}", chain(&error)))
}

/// A guest with the good driver loaded.
pub fn guest() -> Guest {
    guest_with("good")
}

/// A guest with this variant of the driver loaded.
pub fn guest_with(variant: &str) -> Guest {
    let mut guest = boot(&config(variant));
    guest
        .load_driver()
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    guest
}

/// An error and its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// Index of the window with this name.
pub fn window(guest: &Guest, name: &str) -> usize {
    guest
        .plan()
        .windows
        .iter()
        .position(|window| window.name == name)
        .expect("a standard window")
}

/// Place of that window's memslot in the VMM's table.
pub fn slot(guest: &Guest, name: &str) -> usize {
    let wanted = monitor::SlotUse::Window(window(guest, name));
    let mut slots = guest.vm().memslots().iter();
    slots
        .position(|slot| slot.used_for == wanted)
        .expect("every window has a slot")
}

/// Opens the file that offers a window.
pub fn open(guest: &mut Guest, strategy: Strategy, window: usize, mode: OpenMode) -> Fd {
    guest
        .open(&strategy.path(window), mode)
        .expect("an answer")
        .expect("the driver's file")
}

/// What mmap is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    pub strategy: Strategy,
    pub window: &'static str,
    pub first_page: u64,
    pub npages: u64,
    pub prot: Prot,
}

impl Ask {
    /// As mmap is asked for it in this guest.
    pub fn spec(&self, guest: &Guest) -> MappingSpec {
        let file = self.strategy.file(guest.plan(), window(guest, self.window));
        MappingSpec {
            file: Arc::new(file.expect("a window of this guest")),
            first_page: self.first_page,
            npages: self.npages,
            prot: self.prot,
            sharing: Sharing::Shared,
        }
    }
}

/// Maps through a file of its own, which is closed again: the mapping stays.
pub fn map(guest: &mut Guest, ask: Ask) -> Outcome<Mapping> {
    let spec = ask.spec(guest);
    let index = window(guest, ask.window);
    let mode = if ask.prot.write {
        OpenMode::ReadWrite
    } else {
        OpenMode::ReadOnly
    };
    let fd = open(guest, ask.strategy, index, mode);
    let mapping = guest.map(fd, &spec).expect("an answer");
    guest.close(fd).expect("an answer").expect("closed");
    mapping
}

/// As [`map`], for a mapping that the driver must grant.
pub fn mapped(guest: &mut Guest, ask: Ask) -> Mapping {
    map(guest, ask).unwrap_or_else(|refusal| panic!("{ask:?} is refused: {refusal}"))
}

/// The errno of a refusal.
pub fn errno<T: std::fmt::Debug>(outcome: Outcome<T>) -> i32 {
    match outcome {
        Err(Refusal::Errno(errno)) => errno,
        other => panic!("expected an errno, got {other:?}"),
    }
}

/// The signal number of a refusal.
pub fn signal<T: std::fmt::Debug>(outcome: Outcome<T>) -> i32 {
    match outcome {
        Err(Refusal::Signal(signal)) => signal.number,
        other => panic!("expected a signal, got {other:?}"),
    }
}

/// An ioctl of the driver's control file, on memory of the device.
pub fn control(guest: &mut Guest, command: u32, target: Target) -> Outcome<()> {
    let fd = guest
        .open(CONTROL_PATH, OpenMode::ReadWrite)
        .expect("an answer")
        .expect("the control file");
    let answer = guest.ioctl(fd, command, target.to_bytes().to_vec());
    guest.close(fd).expect("an answer").expect("closed");
    answer.expect("an answer").map(drop)
}

/// The window of this name, for [`control`].
pub fn window_target(guest: &Guest, name: &str) -> Target {
    Target {
        is_buffer: false,
        index: window(guest, name).try_into().expect("a small number"),
    }
}

/// Writes to a file of the guest.
pub fn write_file(guest: &mut Guest, path: &str, text: &str) {
    let fd = guest
        .open(path, OpenMode::WriteOnly)
        .expect("an answer")
        .unwrap_or_else(|refusal| panic!("{path}: {refusal}"));
    let request = Request::Write {
        fd,
        offset_bytes: 0,
        bytes: text.as_bytes().to_vec(),
    };
    let written = guest.request(&request).expect("an answer");
    assert_eq!(
        written,
        Reply::Done(Value::Len(text.len() as u64)),
        "{path}"
    );
    guest.close(fd).expect("an answer").expect("closed");
}

/// The device's name on its bus.
const DEVICE: &str = "MAPW0001:00";

/// Takes the device away from its driver.
pub fn unbind(guest: &mut Guest) {
    write_file(guest, "/sys/bus/platform/drivers/mapwitness/unbind", DEVICE);
}

/// Gives the device back to its driver.
pub fn bind(guest: &mut Guest) {
    write_file(guest, "/sys/bus/platform/drivers/mapwitness/bind", DEVICE);
}

/// How all of a driver is checked here.
pub fn check_options(driver: &str) -> CheckOptions {
    CheckOptions {
        host: HostReport {
            kind: "this one".into(),
            kernel: "any".into(),
            second_level: "any".into(),
            second_level_levels: None,
        },
        driver_variant: driver.to_owned(),
        vcpus: 1,
        only: Vec::new(),
        timeline: false,
    }
}

/// What is known of the kernel of that image before it runs.
pub fn kernel_facts() -> KernelFacts {
    let image = image("good");
    KernelFacts::read(&image.types, &image.system_map)
        .unwrap_or_else(|error| panic!("{}", chain(&error)))
}

/// All of a window, mapped with what access it allows.
pub fn whole(guest: &mut Guest, strategy: Strategy, name: &'static str) -> Mapping {
    let described = &guest.plan().windows[window(guest, name)];
    let ask = Ask {
        strategy,
        window: name,
        first_page: 0,
        npages: described.npages,
        prot: if described.read_only {
            Prot::READ
        } else {
            Prot::READ_WRITE
        },
    };
    mapped(guest, ask)
}
