use addr::Gpa;
use harness::model::{Anchor, Handle, Process};
use harness::own_driver;
use wire::OpenMode;
use witness::{Plan, WindowPlan};

use super::*;

fn world() -> World {
    let window = |name: &str, base| WindowPlan {
        name: name.into(),
        base: Gpa::new(base),
        npages: 4,
        read_only: false,
    };
    let plan = Plan {
        windows: vec![window("a", 0xd100_0000), window("b", 0xd200_0000)],
        buffers: Vec::new(),
    };
    World {
        files: own_driver::files(&plan),
        plan,
        revocable: vec![1],
    }
}

fn finding() -> Finding {
    let open = Call::Open {
        file: 3,
        mode: OpenMode::ReadWrite,
        handle: Handle(0),
    };
    let calls = [
        open,
        Call::Revoke { window: 1 },
        Call::Load(Anchor(0).page(1)),
    ];
    let case = Case {
        operations: calls.map(|call| Process::FIRST.does(call)).to_vec(),
    };
    let page = WrongPage {
        page: 2,
        gva: "0x7f00".into(),
        guest_walk: vec!["one \"step\"".into(), "another".into()],
        host: Vec::new(),
    };
    let cause = Cause {
        by: "guest-walk".into(),
        operation: "load".into(),
        file: "remap/b".into(),
    };
    let verdict = Verdict {
        by: cause.by.clone(),
        expected: "this\nand that".into(),
        found: "other".into(),
        page: Some(page),
    };
    let found = Found {
        step: 2,
        verdict,
        cause,
    };
    let about = About {
        seed: 7,
        ..About::default()
    };
    Finding::of(&world(), &case, found, about)
}

#[test]
fn a_finding_is_read_as_it_was_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("one.toml");
    let finding = finding();
    finding.write(&path).expect("written");
    assert_eq!(Finding::read(&path).expect("read"), finding);
    let text = fs::read_to_string(&path).expect("text");
    assert_eq!(
        text.matches("\n  { ").count() + text.matches("\n  {by").count(),
        3,
        "{text}"
    );
}

#[test]
fn files_and_windows_are_told_by_name() {
    let (finding, mut other) = (finding(), world());
    assert_eq!(finding.files, ["remap/b"]);
    assert_eq!(finding.windows, ["b"]);
    other.files.remove(0);
    let case = finding.case(&other).expect("a case");
    let Call::Open { file, .. } = case.operations[0].call else {
        panic!("{case:?}");
    };
    assert_eq!(file, 2);
    other.files.truncate(1);
    let unknown = finding.case(&other);
    assert!(
        matches!(unknown, Err(FindingError::Unknown { .. })),
        "{unknown:?}"
    );
}

#[test]
fn numbers_without_a_name_are_told() {
    let mut finding = finding();
    finding.files.clear();
    let unlisted = finding.case(&world());
    assert!(
        matches!(unlisted, Err(FindingError::Unlisted { index: 0, .. })),
        "{unlisted:?}"
    );
    let mut world = world();
    world.revocable.clear();
    finding.files.push("remap/b".into());
    assert!(matches!(
        finding.case(&world),
        Err(FindingError::Unknown { .. })
    ));
}
