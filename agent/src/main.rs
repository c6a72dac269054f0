//! The program `culvert`.

use std::process::ExitCode;

process::allocator!();

fn main() -> ExitCode {
    agent::cli::main()
}
