//! The command `dif-sr`: arguments in, library calls, output and exit code.

mod cli;

use std::process::ExitCode;

use dif_sr::fast::CacheAligned;

#[global_allocator]
static ALLOCATOR: CacheAligned = CacheAligned;

fn main() -> ExitCode {
    // SAFETY: nothing has started a thread yet.
    unsafe { dif_sr::device::load_cuda() };
    cli::main()
}
