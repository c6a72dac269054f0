//! Authorization as functions of policies and facts: of connections, and of requests where they are known.

pub mod plaintext; // what the kernel may decide alone about connections without identity
pub mod authorize; // one connection at an agent: a Permit or a Refusal with the policy's name
pub mod coverage; // what is behind a waypoint, and who may speak for others
pub mod instances; // who the instances of a waypoint are
pub mod judge; // several policies: DENY before ALLOW, no ALLOW means allow
pub mod trace; // why a policy matches or does not
pub mod matcher; // does one policy match one connection or request
pub mod subject; // what is known of it
pub mod overrides; // what a request says over again, in fields of headers
pub mod readings; // what an attribute of a request may mean to whoever reads it
pub mod pattern; // paths of rules, read and compared
pub mod path; // paths of requests in one form, and in the readings of others
pub mod answer; // yes, no, or it cannot be known here
