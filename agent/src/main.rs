//! The program `culvert`.

use std::process::ExitCode;

fn main() -> ExitCode {
    agent::cli::main()
}
