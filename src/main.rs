//! The command `dif-sr`: arguments in, library calls, output and exit code.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    dif_sr::train::load_cuda();
    cli::main()
}
