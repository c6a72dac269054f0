//! The mesh at work on one machine; `cargo xtask demo` builds and runs it.

use std::process::ExitCode;

fn main() -> ExitCode {
    tests::demo::main()
}
