//! Manifests in, model out.

mod addresses;
mod authorizations;
mod changes;
mod documentation;
mod documents;
mod duplicates;
mod enforcement;
mod golden;
mod peers;
mod pods;
mod running;
mod services;
mod stand_ins;
mod support;
mod touching;
mod trespassing;
mod verdicts;
mod watching;
mod waypoints;
