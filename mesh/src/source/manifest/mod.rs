//! Source 1: a folder of Kubernetes manifests, read again whenever it changes.
//!
//! ```text
//! folder --watch--> files --parse--> objects --world (convert, diff)--> model::Update
//! ```
//!
//! A file that cannot be read or understood keeps what it last said; everything from `world` down is pure.

#[cfg(test)]
mod tests;

mod source; // the running source, and one look at a folder
mod watch; // tells when to look again
pub mod status; // what the source says of itself
mod folder; // the files of a folder, with what they last said
mod files; // which files there are
mod touched; // which of them somebody has touched
pub mod world; // all objects; a change to some of them becomes the fewest updates
mod survey; // what is wrong between objects
mod overruled; // claims to addresses that are somebody else's
pub mod convert; // objects -> model
mod diff; // two versions of something -> updates
pub mod inventory; // the objects that are in effect, by kind, namespace and name
pub mod holders; // which pod has which address
mod labelled; // which pods a selector selects
pub mod parse; // text -> objects, errors with file, line, object and field
mod names; // what an object calls itself and others by has the form of a name
pub mod object; // the kinds we read, checked, in the form we keep
mod schema; // the kinds we read, as they are written
mod node; // a YAML document with the line of every value
pub mod problem; // what is wrong, and where

pub use convert::Options;
pub use source::{Loaded, ManifestSource, Witness};
