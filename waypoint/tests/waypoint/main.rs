//! The waypoint as its users meet it: the real binary, real connections, the acceptance list of its task.

#[cfg(test)]
#[path = "../../../xtask/src/programs.rs"]
#[expect(unreachable_pub, reason = "the harness includes the file too, and publishes it")]
mod programs;

#[cfg(test)]
mod backend;
#[cfg(test)]
mod rig;
#[cfg(test)]
mod turn; // who has the machine alone
#[cfg(test)]
mod wire;

#[cfg(test)]
mod balance; // slow, failing and overloaded backends
#[cfg(test)]
mod basics; // every protocol, and what is told
#[cfg(test)]
mod cli; // check and explain
#[cfg(test)]
mod clients; // curl, h2load, wrk, grpcio, websockets
#[cfg(test)]
mod conversation; // interim responses, early answers, silence, half-closed connections
#[cfg(test)]
mod rfc; // what the standards ask of an intermediary, as tables
#[cfg(test)]
mod conformance; // the Gateway API's conformance tests, as tables
#[cfg(test)]
mod handshakes; // peers that begin and do not end
#[cfg(test)]
mod health; // which endpoints get requests
#[cfg(test)]
mod lifecycle; // pods and the waypoint itself come and go
#[cfg(test)]
mod retries; // when, how often, when not
#[cfg(test)]
mod routing; // filters, splits, mirrors, live changes
#[cfg(test)]
mod security; // policies, smuggling, identity, traces
#[cfg(test)]
mod readings; // one meaning of what a policy looks at
#[cfg(test)]
mod storms; // failing dependencies, and what they cost
#[cfg(test)]
mod time; // deadlines and cancellation
#[cfg(test)]
mod walls; // what one namespace may do to another's requests
#[cfg(test)]
mod tokens; // JWTs, with keys inline and behind a URL
#[cfg(test)]
mod upgrades; // offers to change the protocol
#[cfg(test)]
mod traces; // trace context in every form, spans exported
