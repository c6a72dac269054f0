//! The waypoint as its users meet it: the real binary, real connections, the acceptance list of its task.

#[cfg(test)]
mod backend;
#[cfg(test)]
mod rig;

#[cfg(test)]
mod balance; // slow, failing and overloaded backends
#[cfg(test)]
mod basics; // every protocol, and what is told
#[cfg(test)]
mod clients; // curl, h2load, wrk, grpcio, websockets
#[cfg(test)]
mod retries; // when, how often, when not
#[cfg(test)]
mod routing; // filters, splits, mirrors, live changes
#[cfg(test)]
mod security; // policies, smuggling, identity, traces
#[cfg(test)]
mod time; // deadlines and cancellation
