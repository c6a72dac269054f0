//! The demo: the mesh at work on one machine, step by step, each with its evidence.

pub mod cli;
pub mod steps;
pub mod market;
pub mod stage;
pub mod report;

pub use cli::main;
