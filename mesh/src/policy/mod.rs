//! Authorization as functions of policies and facts: of connections, and of requests where they are known.

pub mod plaintext; // the part for connections without identity, compiled for the kernel
pub mod authorize; // one connection at an agent: a Permit or a Refusal with the policy's name
pub mod coverage; // which ports are behind a waypoint, and which peers may name a client
pub mod instances; // which workloads are the instances of a waypoint
pub mod judge; // several policies: DENY before ALLOW, no ALLOW means allow
pub mod trace; // why a policy matches or does not
pub mod matcher; // whether one policy matches one connection or request
pub mod subject; // what is known of the connection or request
pub mod overrides; // headers that replace path, method or host (X-Original-URL and others)
pub mod readings; // the values that different backends may read from an attribute
pub mod pattern; // path patterns of rules: parsing and matching
pub mod path; // normalization of request paths, and how backends may read them
pub mod answer; // yes, no, or it cannot be known here
