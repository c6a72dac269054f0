//! The admin state of a running program: three small HTTP servers that show it, and the client that the CLI asks with.
//!
//! | server | default | routes |
//! |---|---|---|
//! | admin | 127.0.0.1:15000 | `/config_dump[/<part>]`, `/metrics`, `/stats/prometheus`, `/healthz/ready`, `/version`, `POST /logging?level=`, `POST /quitquitquit`, and what the process adds, such as `/explain` |
//! | stats | 0.0.0.0:15020 | `/metrics`, `/stats/prometheus`, `/healthz/ready` |
//! | ready | 0.0.0.0:15021 | `/healthz/ready` |

mod client;
mod server;
mod state;
mod route;
pub mod dump; // what the parts of /config_dump look like

pub use client::{Client, ClientError};
pub use route::{Query, Surface};
pub use server::{Bound, ServeError, Servers};
pub use state::{AdminState, Answer, Dump, QueryFn, Refusal};
