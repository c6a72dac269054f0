//! Rows, and how they are run.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use crate::rig::{Rig, SHOP, policy, shop};
use crate::wire::{OK, PREFACE, Say, Wire, data_frame, headers_frame, read_all, say};

/// One requirement.
pub(crate) struct Row {
    /// RFC and section.
    pub(crate) section: &'static str,
    /// What it asks, in short.
    pub(crate) asks: &'static str,
    pub(crate) case: Case,
}

/// What shows that it is met.
pub(crate) enum Case {
    /// A client of HTTP/1 sends this (`{p}` is a path of its own) and gets `status`. With 200 it reaches the backend,
    /// and what that gets has all of `has` and none of `lacks`; with any other it does not.
    Sent { bytes: &'static str, status: u16, has: &'static [&'static str], lacks: &'static [&'static str] },
    /// The same, answered by the waypoint itself with `status`, 0 being any or none: nothing with `{p}` goes any
    /// further.
    Own { bytes: &'static str, status: u16 },
    /// A backend of HTTP/1 answers a GET with this, then closes if `close`. What the client gets has and lacks.
    Answered { bytes: &'static str, close: bool, has: &'static [&'static str], lacks: &'static [&'static str] },
    /// A client of HTTP/2 sends these fields (`{p}` as above) and this content; whether it reaches the backend, and
    /// how.
    Two {
        fields: &'static [(&'static str, &'static str)],
        content: Option<&'static str>,
        reaches: bool,
        has: &'static [&'static str],
        lacks: &'static [&'static str],
    },
    /// Another test shows it.
    Shown(&'static str),
    /// It is not met in this way, or does not concern a waypoint: why.
    Because(&'static str),
}

/// Sources in which tests are found by name.
const TESTS: [&str; 8] = [
    include_str!("../conversation.rs"),
    include_str!("../upgrades.rs"),
    include_str!("../security.rs"),
    include_str!("../basics.rs"),
    include_str!("../retries.rs"),
    include_str!("../../../src/serve/framing.rs"),
    include_str!("../../../src/request/hygiene/head_tests.rs"),
    include_str!("../../../src/request/hygiene/host.rs"),
];

/// Runs all rows of a table, many at once, and tells of all that fail.
pub(crate) async fn run(rows: &'static [Row]) {
    // What is shown here are single answers: nothing is tried again, and no endpoint is given up.
    let plain = "{retry: {attempts: 0}, circuitBreaker: {endpoint: {consecutive: 0, successRate: 0}}}";
    let rig = Arc::new(Rig::start(&(shop("http", &[11]) + &policy(plain))).await);
    let wire = Wire::start(&rig, 11, move |head| {
        let index =
            head.split(' ').nth(1).and_then(|path| path.strip_prefix("/r")?.split(['?', '/']).next()?.parse().ok());
        match index.and_then(|index: usize| rows.get(index)).map(|row| &row.case) {
            Some(Case::Answered { bytes, close, .. }) => Say { close: *close, ..say(bytes) },
            _ => say(OK),
        }
    })
    .await;
    let mut failed = vec![];
    for chunk in (0..rows.len()).collect::<Vec<_>>().chunks(16) {
        let running = chunk.iter().map(|index| one(&rig, &wire, *index, &rows[*index].case));
        for (index, result) in chunk.iter().zip(futures_util::future::join_all(running).await) {
            if let Err(why) = result {
                failed.push(format!("RFC {}: {}\n    {why}", rows[*index].section, rows[*index].asks));
            }
        }
    }
    assert!(failed.is_empty(), "{} of {} rows:\n{}", failed.len(), rows.len(), failed.join("\n"));
    assert_eq!(rig.get("/").await.status, 200, "nobody else was disturbed");
}

async fn one(rig: &Rig, wire: &Wire, index: usize, case: &Case) -> Result<(), String> {
    let path = format!("/r{index}");
    match case {
        Case::Sent { bytes, status, has, lacks } => {
            let said = tell(rig, &bytes.replace("{p}", &path)).await;
            if !is_status(&said, *status) {
                return Err(format!("answered {said:?}"));
            }
            reached(wire, &path, *status == 200, has, lacks)
        }
        Case::Own { bytes, status } => {
            let said = tell(rig, &bytes.replace("{p}", &path)).await;
            if *status != 0 && !is_status(&said, *status) {
                return Err(format!("answered {said:?}"));
            }
            reached(wire, &path, false, &[], &[])
        }
        Case::Answered { has, lacks, .. } => {
            let said = tell(rig, &format!("GET {path} HTTP/1.1\r\nhost: shop\r\n\r\n")).await;
            compare("the client got", &said, has, lacks)
        }
        Case::Two { fields, content, reaches, has, lacks } => {
            let values: Vec<_> = fields.iter().map(|(name, value)| (*name, value.replace("{p}", &path))).collect();
            let fields: Vec<_> = values.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
            let mut bytes = PREFACE.to_vec();
            bytes.extend(headers_frame(1, &fields, content.is_none()));
            if let Some(content) = content {
                bytes.extend(data_frame(1, content.as_bytes(), true));
            }
            let mut stream = rig.connect(SHOP).await;
            let _ = stream.write_all(&bytes).await;
            let _ = read_all(&mut stream, Duration::from_millis(700)).await;
            reached(wire, &path, *reaches, has, lacks)
        }
        Case::Shown(test) => {
            let found = TESTS.iter().any(|source| source.contains(&format!("fn {test}(")));
            if found { Ok(()) } else { Err(format!("there is no test {test}")) }
        }
        Case::Because(why) => {
            if why.len() > 20 {
                Ok(())
            } else {
                Err("no reason is given".to_owned())
            }
        }
    }
}

fn is_status(said: &str, status: u16) -> bool {
    said.strip_prefix("HTTP/1.")
        .is_some_and(|rest| rest.get(2..).is_some_and(|rest| rest.starts_with(&status.to_string())))
}

fn reached(wire: &Wire, path: &str, reaches: bool, has: &[&str], lacks: &[&str]) -> Result<(), String> {
    let mark = format!("{path} ");
    let with_query = format!("{path}?");
    let seen = wire.find(&mark).or_else(|| wire.find(&with_query));
    match seen.filter(|seen| !seen.ends_with("(cut)")) {
        Some(seen) if reaches => compare("the backend got", &seen, has, lacks),
        None if reaches => Err("the backend got nothing".to_owned()),
        Some(seen) => Err(format!("the backend got {seen:?}")),
        None => Ok(()),
    }
}

async fn tell(rig: &Rig, text: &str) -> String {
    let mut stream = rig.connect(SHOP).await;
    let _ = stream.write_all(text.as_bytes()).await;
    read_all(&mut stream, Duration::from_millis(900)).await.0
}

fn compare(what: &str, text: &str, has: &[&str], lacks: &[&str]) -> Result<(), String> {
    let low = text.to_ascii_lowercase();
    let missing = has.iter().find(|wanted| !low.contains(&wanted.to_ascii_lowercase()));
    let extra = lacks.iter().find(|unwanted| low.contains(&unwanted.to_ascii_lowercase()));
    match (missing, extra) {
        (None, None) => Ok(()),
        (Some(missing), _) => Err(format!("{what} {text:?}, without {missing:?}")),
        (_, Some(extra)) => Err(format!("{what} {text:?}, with {extra:?}")),
    }
}
