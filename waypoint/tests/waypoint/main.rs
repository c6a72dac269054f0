//! The waypoint as its users meet it: the real binary, real connections, the acceptance list of its task.

#[cfg(test)]
mod backend;
#[cfg(test)]
mod rig;

#[cfg(test)]
mod basics; // every protocol, and what is told
