//! One request: reads its head, decides about it, and answers or forwards it.

use std::convert::Infallible;
use std::sync::Arc;

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::decide::decide;
use super::exchange::{Connection, answer, begin};
use super::forward;
use super::reply::Reply;
use super::response::ResponseBody;
use crate::request::hygiene::{self, Content};

/// Answers one request.
pub async fn handle(
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let world = connection.shared.worlds.load();
    let (mut parts, body) = request.into_parts();
    let (version, content) = (parts.version, content(&body));
    let switch = parts.extensions.remove::<OnUpgrade>();
    let read = hygiene::decide(&mut parts, content, &connection.service.hostname);
    // A client that waits is never asked for its content by an answer of our own.
    let waits = read.as_ref().is_ok_and(|head| head.waits);
    let mut record = begin(&connection, &parts);
    let is_grpc = record.grpc;
    let decided = read.map_err(Reply::bad).and_then(|head| {
        let decision = decide(&connection, &world, &mut parts, &head, &mut record)?;
        Ok((head, decision))
    });
    let answered = match decided {
        Ok((head, decision)) => {
            let going = forward::Going { connection: &connection, world: &world, decision, head, switch, record };
            Box::pin(forward::forward(going, parts, body)).await
        }
        Err(reply) => {
            connection.not_taken(version, switch);
            Err((Box::new(reply), record))
        }
    };
    Ok(answered.unwrap_or_else(|(reply, record)| {
        let unread = version < Version::HTTP_2 && is_unread(content, record.received(), waits);
        let mut response = answer(*reply, record, is_grpc);
        if unread {
            // We will not read the rest (RFC 9112, 9.6).
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }))
}

/// What follows the head.
fn content(body: &Incoming) -> Content {
    match (body.is_end_stream(), body.size_hint().exact()) {
        (true, _) => Content::None,
        (false, Some(length)) => Content::Length(length),
        (false, None) => Content::Unknown,
    }
}

/// Contents up to this length are read with the head, mostly: the connection can go on.
const SMALL: u64 = 8 << 10;

/// Whether an answer of our own leaves content unread that is worth a connection.
fn is_unread(content: Content, received: u64, waits: bool) -> bool {
    match content {
        Content::None => false,
        Content::Length(length) => (length > SMALL || waits) && received < length,
        Content::Unknown => true,
    }
}
