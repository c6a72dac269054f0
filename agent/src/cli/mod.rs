//! The command line.

#[cfg(test)]
mod docs_tests; // documents against flags and reasons
mod run;
mod explain;
mod get;
mod check; // culvert check
mod rows;
mod table;
mod command;

pub use run::main;
