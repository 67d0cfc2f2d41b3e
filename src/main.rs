//! The command `dif-sr`: arguments in, library calls, output and exit code.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    // SAFETY: nothing has started a thread yet.
    unsafe { dif_sr::device::load_cuda() };
    cli::main()
}
