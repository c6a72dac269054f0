//! The document that lists the benches' flags says what the code says.

#[path = "../../xtask/src/tables.rs"]
#[allow(dead_code, reason = "each crate uses some of it")]
mod tables;

use clap::CommandFactory as _;

use self::tables::{differences, quoted, rows};
use crate::Cli;

#[test]
fn every_flag_is_documented() {
    let command = Cli::command();
    let benches = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    let mut real: Vec<String> = benches
        .flat_map(|bench| bench.get_arguments().filter(|arg| !arg.is_hide_set()))
        .filter_map(|arg| Some(format!("--{}", arg.get_long()?)))
        .collect();
    // Of `cargo xtask bench`, which chooses the build.
    real.push("--debug".to_owned());
    let rows = rows(include_str!("../../docs/benchmarks/README.md"), "Flags");
    let flags = rows.iter().flat_map(|row| quoted(&row[0]));
    let documented: Vec<&str> = flags.map(|flag| flag.split([' ', '=']).next().unwrap_or_default()).collect();
    let documented = documented.into_iter().map(|flag| if flag == "-o" { "--output" } else { flag });
    assert_eq!(differences(documented, real.iter().map(String::as_str)), (vec![], vec![]));
}
