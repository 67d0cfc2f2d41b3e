//! Values that are spelt as options are, and places that are no files.

use crate::Told;
use crate::toy;

#[test]
fn a_value_that_begins_with_a_hyphen_is_told_how_to_be_written() {
    let folder = toy();
    let mut told = Told::in_folder(folder.path());
    told.by(&["train", "--out", "-x"]);
    told.by(&["recommend", "run", "--user", "u1", "-k", "-3"]);
    let expected = "$ dif-sr train --out -x\n\
                    expected a value after --out, found `-x`, which begins as an option does; write --out=-x if it is the value\n\n\
                    $ dif-sr recommend run --user u1 -k -3\n\
                    expected a value after -k, found `-3`, which begins as an option does; write -k=-3 if it is the value\n\n";
    assert_eq!(told.text, expected);
}

/// It was read to its end, which it does not have, to see whether it is a former report.
#[test]
fn a_report_to_a_device_without_an_end_is_not_read() {
    let folder = toy();
    let mut told = Told::in_folder(folder.path());
    told.by(&["report", "nowhere", "--out=/dev/full"]);
    assert!(told.text.contains("nowhere: "), "{}", told.text);
}

#[test]
fn a_verdict_takes_the_place_of_no_other_file() {
    let folder = toy();
    let item = folder.path().join("toy/toy.item");
    let before = std::fs::read(&item).expect("the toy data");
    let mut told = Told::in_folder(folder.path());
    for flag in ["--junit=toy/toy.item", "--markdown=toy/toy.item"] {
        told.by(&["gate", "run", "--expect=toy.yaml", flag]);
    }
    let sentence =
        "toy/toy.item: expected no file or a former verdict, found another file; choose another place for the verdict";
    assert_eq!(told.text.matches(sentence).count(), 2, "{}", told.text);
    assert_eq!(std::fs::read(&item).expect("it is still there"), before);
}
