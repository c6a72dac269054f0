//! `culvert check`: may an agent run here, and what is wrong with the one that does?

mod run;
mod running;
mod files;
mod host;
mod problems;
mod report;

pub(crate) use run::check;
