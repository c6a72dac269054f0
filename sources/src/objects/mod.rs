//! Kubernetes objects -> model. Everything here is a function of the objects, wherever they were read from.

pub mod world; // all objects; a change to some of them becomes the fewest updates
mod survey; // what is wrong between objects
mod overruled; // claims to addresses that are somebody else's
pub mod convert; // objects -> model
mod diff; // two versions of something -> updates
pub mod inventory; // the objects that are in effect, by kind, namespace and name
pub mod holders; // which pod has which address
mod labelled; // which pods a selector selects
pub mod last_good; // a version that cannot be read keeps what was last said
pub mod parse; // text, or JSON of an API -> objects, errors with file, line, object and field
mod names; // what an object calls itself and others by has the form of a name
pub mod kind; // the kinds we read, checked, in the form we keep
pub mod document; // an object as its source has it, for those who read it by themselves
mod schema; // the kinds we read, as they are written
mod node; // a YAML document with the line of every value
pub mod problem; // what is wrong, and where
pub mod origin; // where an object is written down
