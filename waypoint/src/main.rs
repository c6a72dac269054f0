//! The program `culvert-waypoint`.

use std::process::ExitCode;

process::allocator!();

fn main() -> ExitCode {
    waypoint::cli::main()
}
