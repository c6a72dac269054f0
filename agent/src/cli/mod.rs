//! The command line.

mod run;
mod explain;
mod get;
mod check; // culvert check
mod rows;
mod table;
mod command;

pub use run::main;
