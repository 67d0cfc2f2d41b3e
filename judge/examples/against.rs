//! `cargo run -p dif-sr-judge --example against -- DUMP CASE`: holds a dump to a case, without libtorch.

use std::path::Path;
use std::process::ExitCode;

use judge::{Case, Dump, Judge, Report, Result};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dump, case] = &arguments[..] else {
        eprintln!("expected DUMP and CASE, the name of a bundled case or a folder; found {arguments:?}");
        return ExitCode::from(2);
    };
    match judged(Path::new(dump), case) {
        Ok(report) => {
            println!("{report}");
            ExitCode::from(u8::from(!report.holds()))
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn judged(dump: &Path, case: &str) -> Result<Report> {
    let case = if Path::new(case).is_dir() { Case::load(Path::new(case))? } else { Case::bundled(case)? };
    Judge::of(&case).judge(&Dump::read(dump)?)
}
