//! What the agent adds to the admin server.

pub(crate) mod dump; // the parts of /config_dump that only an agent has
pub(crate) mod explain; // the path of a connection and the verdict, without making it
