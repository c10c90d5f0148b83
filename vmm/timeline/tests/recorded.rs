//! Pages that Linux 6.12 recorded while a guest ran, read by the formats that it
//! published, against its own rendering of the same records as text.

use std::path::{Path, PathBuf};

use timeline::{Decoded, Event, Formats, Missed, PageFormat, What, read_page};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/linux-6.12")
        .join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(data(name)).expect("recorded")
}

fn page_format() -> PageFormat {
    PageFormat::parse(&text("events/header_page"), &text("events/header_event")).expect("known")
}

fn formats() -> Formats {
    Formats::read(&data("events")).expect("complete")
}

/// What a page says, and whether records are missing before it.
fn recorded(name: &str) -> (Vec<Event>, Option<Missed>) {
    let page = std::fs::read(data(name)).expect("recorded");
    let found = read_page(&page_format(), &page);
    assert_eq!(found.broken, None);
    let formats = formats();
    let events = found
        .records
        .iter()
        .map(|record| match formats.decode(0, record) {
            Decoded::Event(event) => event,
            other => panic!("{other:?}"),
        });
    (events.collect(), found.missed)
}

/// As the kernel's own text has it, as far as our words go.
fn as_the_kernel_says(event: &Event) -> String {
    let said = match &event.what {
        What::Mark(number) => format!("# {number:x} buf:"),
        What::Changed {
            gfn,
            level,
            address_space,
            old,
            new,
        } => format!(
            "kvm_tdp_mmu_spte_changed: as id {address_space} gfn {:x} level {level} old_spte \
             {old:x} new_spte {new:x}",
            gfn.raw()
        ),
        What::Served { gfn, spte, .. } => {
            format!("kvm_mmu_set_spte: gfn {:x} spte {spte:x} ", gfn.raw())
        }
        What::Fault { gpa, error_code } => {
            let gpa = gpa.raw();
            format!("kvm_page_fault: address {gpa:#018x} error_code {error_code:#x}")
        }
        What::AllZapped => "kvm_mmu_zap_all_fast: ".into(),
        What::TableZapped { gfn } => {
            // Its generation comes first in the kernel's words.
            format!("kvm_mmu_prepare_zap_page: sp gen 0 gfn {:x} ", gfn.raw())
        }
        other => panic!("not in these pages: {other:?}"),
    };
    format!("{} [{:03}] {}: {said}", event.tid, event.cpu, event.order)
}

#[track_caller]
fn assert_agree(page: &str, rendering: &str) -> Vec<Event> {
    let (events, _) = recorded(page);
    let lines = text(rendering);
    assert_eq!(events.len(), lines.lines().count());
    for (event, line) in events.iter().zip(lines.lines()) {
        // Not all kernels record what stands in front of a fault's address.
        let (before, address) = line.split_once(" vcpu 0 rip ").unwrap_or((line, ""));
        let address = address
            .find(" address ")
            .and_then(|start| address.get(start..));
        let line = format!("{before}{}", address.unwrap_or_default());
        let said = as_the_kernel_says(event);
        assert!(line.starts_with(&said), "{line}\n{said}");
    }
    events
}

#[test]
fn faults_and_entries_are_read_as_the_kernel_prints_them() {
    let events = assert_agree("faults.page", "faults.txt");
    let count = |wanted: fn(&What) -> bool| events.iter().filter(|one| wanted(&one.what)).count();
    assert_eq!(count(|what| matches!(what, What::Mark(7))), 1);
    assert!(count(|what| matches!(what, What::Fault { .. })) > 10);
    assert!(count(|what| matches!(what, What::Changed { level: 1, .. })) > 10);
    assert_eq!(recorded("faults.page").1, None);
}

/// The buffer's own statistics said: overrun 4049.
#[test]
fn a_page_that_follows_lost_records_says_how_many() {
    assert_agree("lost.page", "lost.txt");
    assert_eq!(recorded("lost.page").1, Some(Missed(Some(4049))));
}

#[test]
fn a_tracepoint_that_is_needed_is_asked_for_by_name() {
    let empty = tempfile::tempdir().expect("a folder");
    let error = Formats::read(empty.path()).expect_err("nothing there");
    assert!(error.to_string().contains("raw_data"), "{error}");
}

#[test]
fn a_kernel_without_a_lesser_tracepoint_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let events = folder.path();
    for name in [
        "ftrace/raw_data",
        "kvm/kvm_page_fault",
        "kvmmmu/fast_page_fault",
        "kvmmmu/kvm_tdp_mmu_spte_changed",
    ] {
        std::fs::create_dir_all(events.join(name)).expect("made");
        let format = text(&format!("events/{name}/format"));
        std::fs::write(events.join(name).join("format"), format).expect("written");
    }
    let formats = Formats::read(events).expect("enough");
    assert!(formats.absent().contains(&"mark_mmio_spte"));
    assert_eq!(formats.absent().len(), 5);
    // A record of a kind that has no format is not taken for another one.
    let page = std::fs::read(data("faults.page")).expect("recorded");
    let found = read_page(&page_format(), &page);
    let unknown = |record| {
        matches!(
            formats.decode(0, record),
            Decoded::Unknown { kind: Some(_) }
        )
    };
    assert!(
        found
            .records
            .iter()
            .filter(|record| unknown(record))
            .count()
            > 10
    );
}
