//! `cargo run -p dif-sr-judge --example against -- [--json] DUMP... CASE`: holds dumps to a case, without libtorch. With `--json`
//! each dump is a line, and one that cannot be judged is a line with its `error`.

use std::path::Path;
use std::process::ExitCode;

use judge::{Case, Dump, Judge};
use serde_json::json;

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let as_json = arguments.first().is_some_and(|argument| argument == "--json");
    arguments.drain(..usize::from(as_json));
    let Some((case, dumps)) = arguments.split_last().filter(|(_, dumps)| !dumps.is_empty()) else {
        eprintln!("expected DUMP... and CASE, the name of a bundled case or a folder; found {arguments:?}");
        return ExitCode::from(2);
    };
    let found = if Path::new(case).is_dir() { Case::load(Path::new(case)) } else { Case::bundled(case) };
    let case = match found {
        Ok(case) => case,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let mut worst = 0;
    for dump in dumps {
        let report = Dump::read(Path::new(dump)).and_then(|dump| Judge::of(&case).judge(&dump));
        worst = worst.max(match &report {
            Ok(report) => u8::from(!report.holds()),
            Err(_) => 2,
        });
        match report {
            Ok(report) if as_json => println!("{}", json!(report)),
            Ok(report) => println!("{report}"),
            Err(error) if as_json => println!("{}", json!({"dump": dump, "error": error.to_string()})),
            Err(error) => eprintln!("{error}"),
        }
    }
    ExitCode::from(worst)
}
