//! The command line.

mod run; // does what is asked for
mod check; // what manifests come to
mod explain; // which setting comes from where

pub use run::main;
