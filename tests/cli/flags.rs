//! Values that are spelt as options are, and places that are no files.

use crate::Told;
use crate::toy;

#[test]
fn a_value_that_begins_with_a_hyphen_is_told_how_to_be_written() {
    let folder = toy();
    let mut told = Told::in_folder(folder.path());
    told.by(&["train", "--out", "-x"]);
    told.by(&["recommend", "run", "--user", "u1", "-k", "-3"]);
    // This option has its value already.
    told.by(&["train", "--config_files", "toy.yaml", "--epochs", "3"]);
    let expected = "$ dif-sr train --out -x\n\
                    expected a value after --out, found `-x`, which begins as an option does; write --out=-x if it is the value\n\n\
                    $ dif-sr recommend run --user u1 -k -3\n\
                    expected a value after -k, found `-3`, which begins as an option does; write -k=-3 if it is the value\n\n\
                    $ dif-sr train --config_files toy.yaml --epochs 3\n\
                    expected a value joined by `=`, found `--epochs` alone; write --epochs=value\n\n";
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
