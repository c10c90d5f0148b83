//! Buffers, and what the kernel notes of mappings.

use super::*;
use crate::errno::Errno;
use crate::file::{Backing, When};
use crate::vma::{VmaFlag, VmaFlags};

const BUFFER: &str = r#"
[device]
acpi_id = "EXMP0001"

[[device.window]]
name = "frame"
pages = 13

[[device.buffer]]
name = "ring"
pages = 5

[[file]]
path = "/dev/example"
refuses_split = "EINVAL"
vma = { set = ["MIXEDMAP", "DONTEXPAND"], clear = ["IO"] }
refusals = [
    { when = "private", errno = "EINVAL" },
    { when = "exec", errno = "EACCES" },
    { when = "outside", errno = "ENXIO" },
]

[[file.range]]
buffer = "ring"
first_page = 1
memory_type = "wb"
present = { on-touch-around = 16 }
"#;

#[test]
fn a_buffer_is_shown_like_a_window() {
    let contract = Contract::from_toml("c.toml", BUFFER).unwrap_or_else(|said| panic!("{said}"));
    let buffers = &contract.device.buffers;
    assert_eq!((buffers[0].name.as_str(), buffers[0].npages), ("ring", 5));
    let file = &contract.files[0];
    assert_eq!(file.refuses_split, Some(Errno::EINVAL));
    let flags = VmaFlags {
        set: vec![VmaFlag::MixedMap, VmaFlag::DontExpand],
        clear: vec![VmaFlag::Io],
    };
    assert_eq!(file.vma, flags);
    let range = &file.ranges[0];
    assert_eq!((range.npages, range.present), (4, When::OnTouchAround(16)));
    let backing = Backing::Buffer {
        name: "ring".into(),
        first_page: 1,
    };
    assert_eq!(range.backing, backing);
}

#[test]
fn what_is_wrong_with_them_is_named_with_its_place() {
    let cases = [
        (
            "\"MIXEDMAP\"",
            "\"VM_MIXEDMAP\"",
            "unknown variant `VM_MIXEDMAP`",
        ),
        ("\"DONTEXPAND\"", "\"IO\"", "both set and clear"),
        (
            "buffer = \"ring\"",
            "buffer = \"rung\"",
            "no buffer \"rung\"",
        ),
        (
            "buffer = \"ring\"",
            "buffer = \"ring\"\nwindow = \"frame\"",
            "a window or a buffer",
        ),
        ("buffer = \"ring\"\n", "", "a window or a buffer"),
        ("= 16 }", "= 12 }", "c.toml:27:"),
        ("= 16 }", "= 1024 }", "power of two up to 512"),
        ("pages = 5", "pages = 0", "c.toml:11:9: 0 pages"),
        ("pages = 5", "pages = 65536", "c.toml:11:9: 65536 pages"),
        (
            "name = \"ring\"",
            "name = \"frame\"",
            "the name \"frame\" is taken",
        ),
        (
            "acpi_id = \"EXMP0001\"",
            "acpi_id = \"EXMP0001\"\nregisters = []",
            "leave `registers` out",
        ),
    ];
    for (from, to, words) in cases {
        assert!(BUFFER.contains(from), "{from}");
        let text = BUFFER.replacen(from, to, 1);
        let said = Contract::from_toml("c.toml", &text).expect_err(to);
        let said = said.to_string();
        assert!(
            said.contains(words),
            "{to}: `{words}` is missing in\n{said}"
        );
    }
}
