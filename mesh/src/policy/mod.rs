//! L4 authorization as functions of policies and facts.

pub mod plaintext; // what the kernel may decide alone about connections without identity
pub mod authorize; // DENY before ALLOW, no ALLOW means allow: a Permit or a Refusal with the policy's name
pub mod cover; // what is behind a waypoint, and who may speak for others
pub mod instances; // who the instances of a waypoint are
pub mod matcher; // does one policy match one connection
