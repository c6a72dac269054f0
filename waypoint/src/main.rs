//! The program `culvert-waypoint`.

use std::process::ExitCode;

fn main() -> ExitCode {
    waypoint::cli::main()
}
