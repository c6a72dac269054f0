//! RFC 9110, HTTP semantics: sections 4, 6, 7, 8.6, 9.3, 10.1, 11.7 and 15.2, as far as they speak of intermediaries.

use super::table::Case::{Answered, Because, Own, Sent, Shown};
use super::table::{Row, run};

#[tokio::test]
async fn every_requirement_of_rfc_9110_is_met_or_said_why_not() {
    run(ROWS).await;
}

const ROWS: &[Row] = &[
    Row {
        section: "9110 4.2.1",
        asks: "an http URI with an empty host must be rejected",
        case: Sent { bytes: "GET {p} HTTP/1.1\r\nhost:\r\n\r\n", status: 400, has: &[], lacks: &[] },
    },
    Row {
        section: "9110 4.2.4",
        asks: "user information in an authority should be treated as an error",
        case: Sent { bytes: "GET http://a@shop{p} HTTP/1.1\r\nhost: shop\r\n\r\n", status: 400, has: &[], lacks: &[] },
    },
    Row {
        section: "9110 4.2.4",
        asks: "user information in Host is an error, too",
        case: Sent { bytes: "GET {p} HTTP/1.1\r\nhost: a@shop\r\n\r\n", status: 400, has: &[], lacks: &[] },
    },
    Row {
        section: "9110 5.1",
        asks: "a proxy must forward unrecognized header fields",
        case: Sent {
            bytes: "GET {p} HTTP/1.1\r\nhost: shop\r\nx-new: 1\r\n\r\n",
            status: 200,
            has: &["x-new: 1"],
            lacks: &[],
        },
    },
    Row {
        section: "9110 5.2",
        asks: "a proxy must not change the order of field lines of one name",
        case: Sent {
            bytes: "GET {p} HTTP/1.1\r\nhost: shop\r\nx-a: 1\r\nx-b: 0\r\nx-a: 2\r\n\r\n",
            status: 200,
            has: &["x-a: 1\r\nx-a: 2"],
            lacks: &[],
        },
    },
    Row {
        section: "9110 5.5",
        asks: "CR, LF and NUL in a value: reject or replace",
        case: Sent {
            bytes: "GET {p} HTTP/1.1\r\nhost: shop\r\nx-a: 1\x002\r\n\r\n",
            status: 400,
            has: &[],
            lacks: &[],
        },
    },
    Row {
        section: "9110 5.5",
        asks: "white space around a value is excluded from it",
        case: Sent {
            bytes: "GET {p} HTTP/1.1\r\nhost: shop\r\nx-a: \t 1 \t\r\n\r\n",
            status: 200,
            has: &["x-a: 1\r\n"],
            lacks: &[],
        },
    },
    Row {
        section: "9110 6.1",
        asks: "an incomplete message is not forwarded as a complete one",
        case: Shown("a_client_that_closes_its_half_gets_its_answer_and_one_that_goes_does_not_keep_the_backend"),
    },
    Row {
        section: "9110 6.2",
        asks: "an intermediary sends its own version",
        case: Sent {
            bytes: "GET {p} HTTP/1.0\r\nhost: shop\r\n\r\n",
            status: 200,
            has: &[" HTTP/1.1\r\n"],
            lacks: &[],
        },
    },
    Row {
        section: "9110 6.4.1",
        asks: "content of GET has no semantics and is forwarded as it is (9.3.1)",
        case: Sent {
            bytes: "GET {p} HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            status: 200,
            has: &["transfer-encoding: chunked", "3\r\nabc\r\n0\r\n"],
            lacks: &["content-length"],
        },
    },
    Row {
        section: "9110 6.5.1",
        asks: "trailers must not be merged into headers, and forbidden ones may be discarded",
        case: Sent {
            bytes: "POST {p} HTTP/1.1\r\nhost: shop\r\ntrailer: x-sum, authorization\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 9\r\nauthorization: x\r\n\r\n",
            status: 200,
            has: &["0\r\nx-sum: 9\r\n"],
            lacks: &["authorization: x"],
        },
    },
    Row {
        section: "9110 6.6.1",
        asks: "a recipient with a clock must generate Date when a response without one is cached or forwarded",
        case: Answered {
            bytes: "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            close: false,
            has: &["\r\ndate: "],
            lacks: &[],
        },
    },
    Row {
        section: "9110 7.2",
        asks: "Host is forwarded as it was",
        case: Sent {
            bytes: "GET {p} HTTP/1.1\r\nhost: ShOp:8080\r\n\r\n",
            status: 200,
            has: &["host: ShOp:8080\r\n"],
            lacks: &[],
        },
    },
    Row {
        section: "9110 7.2",
        asks: "a host that could be read in two ways is rejected",
        case: Sent { bytes: "GET {p} HTTP/1.1\r\nhost: %73hop\r\n\r\n", status: 400, has: &[], lacks: &[] },
    },
    Row {
        section: "9110 7.3.3",
        asks: "an intermediary without its inbound server answers 502 or 503",
        case: Shown("answers_of_our_own_say_why"),
    },
    Row {
        section: "9110 7.6.1",
        asks: "Connection and what it nominates must be removed before forwarding",
        case: Sent {
            bytes: "GET {p} HTTP/1.1\r\nhost: shop\r\nconnection: X-Secret, keep-alive\r\nx-secret: 1\r\nkeep-alive: 5\r\nproxy-connection: close\r\n\r\n",
            status: 200,
            has: &[],
            lacks: &["x-secret", "keep-alive", "connection"],
        },
    },
    Row {
        section: "9110 7.6.1",
        asks: "the same from the other side",
        case: Answered {
            bytes: "HTTP/1.1 200 OK\r\nconnection: x-secret\r\nx-secret: 1\r\nkeep-alive: timeout=5\r\nproxy-connection: close\r\ncontent-length: 2\r\n\r\nok",
            close: false,
            has: &["200 OK", "\r\n\r\nok"],
            lacks: &["x-secret", "keep-alive", "connection"],
        },
    },
    Row {
        section: "9110 7.6.1",
        asks: "options are no fields that all recipients need: Host and Content-Length cannot be nominated",
        case: Sent {
            bytes: "POST {p} HTTP/1.1\r\nhost: shop\r\nconnection: host, content-length\r\ncontent-length: 3\r\n\r\nabc",
            status: 200,
            has: &["host: shop", "content-length: 3", "\r\n\r\nabc"],
            lacks: &[],
        },
    },
    Row {
        section: "9110 7.6.2",
        asks: "Max-Forwards 0 must not be forwarded: OPTIONS is answered",
        case: Own { bytes: "OPTIONS {p} HTTP/1.1\r\nhost: shop\r\nmax-forwards: 0\r\n\r\n", status: 200 },
    },
    Row {
        section: "9110 7.6.2",
        asks: "Max-Forwards 0 with TRACE: answered as a recipient that reflects nothing",
        case: Sent {
            bytes: "TRACE {p} HTTP/1.1\r\nhost: shop\r\nmax-forwards: 0\r\n\r\n",
            status: 501,
            has: &[],
            lacks: &[],
        },
    },
    Row {
        section: "9110 7.6.2",
        asks: "a greater Max-Forwards is counted down",
        case: Sent {
            bytes: "OPTIONS {p} HTTP/1.1\r\nhost: shop\r\nmax-forwards: 7\r\n\r\n",
            status: 200,
            has: &["max-forwards: 6"],
            lacks: &[],
        },
    },
    Row {
        section: "9110 7.6.2",
        asks: "Max-Forwards may be ignored with other methods",
        case: Sent {
            bytes: "GET {p} HTTP/1.1\r\nhost: shop\r\nmax-forwards: 0\r\n\r\n",
            status: 200,
            has: &["max-forwards: 0"],
            lacks: &[],
        },
    },
    Row {
        section: "9110 7.6.3",
        asks: "a proxy must add Via",
        case: Because(
            "a waypoint stands in the application's own place and adds none, as Envoy and ztunnel do not: backends change what they send by it. A waypoint dials workloads, never a service, so no loop can come about",
        ),
    },
    Row {
        section: "9110 7.6.3",
        asks: "Via of others is kept",
        case: Sent {
            bytes: "GET {p} HTTP/1.1\r\nhost: shop\r\nvia: 1.1 edge\r\n\r\n",
            status: 200,
            has: &["via: 1.1 edge"],
            lacks: &[],
        },
    },
    Row {
        section: "9110 7.7",
        asks: "a proxy must not change the path and query, but for an empty path",
        case: Sent {
            bytes: "GET {p}?a=%20&b=/../c HTTP/1.1\r\nhost: shop\r\n\r\n",
            status: 200,
            has: &["?a=%20&b=/../c HTTP"],
            lacks: &[],
        },
    },
    Row {
        section: "9110 7.7",
        asks: "a proxy must not change the path and query",
        case: Because(
            "paths are brought into one form (RFC 3986, 6.2.2) before routes and policies judge them, and sent in it: a mesh that judged one form and sent another would be no wall",
        ),
    },
    Row {
        section: "9110 7.7",
        asks: "content is not transformed",
        case: Answered {
            bytes: "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nx\x01y",
            close: false,
            has: &["content-encoding: gzip", "\r\n\r\nx\x01y"],
            lacks: &[],
        },
    },
    Row {
        section: "9110 7.8",
        asks: "an Upgrade may be ignored, and is not forwarded as an option of another connection",
        case: Shown("an_offer_that_is_not_taken_changes_nothing"),
    },
    Row {
        section: "9110 7.8",
        asks: "Upgrade in HTTP/1.0 must be ignored",
        case: Sent {
            bytes: "GET {p} HTTP/1.0\r\nhost: shop\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
            status: 200,
            has: &[],
            lacks: &["upgrade"],
        },
    },
    Row {
        section: "9110 7.8",
        asks: "a server must not switch to a protocol that was not asked for",
        case: Answered {
            bytes: "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
            close: false,
            has: &["HTTP/1.1 502"],
            lacks: &["HTTP/1.1 101"],
        },
    },
    Row {
        section: "9110 7.8",
        asks: "100 comes before 101 when both are wanted",
        case: Because("a request with content is never upgraded, so nobody who waits for 100 is switched"),
    },
    Row {
        section: "9110 8.6",
        asks: "a message with an invalid or ambiguous Content-Length must not be forwarded",
        case: Sent {
            bytes: "POST {p} HTTP/1.1\r\nhost: shop\r\ncontent-length: 3, 4\r\n\r\nabc",
            status: 400,
            has: &[],
            lacks: &[],
        },
    },
    Row {
        section: "9110 8.6",
        asks: "no Content-Length above 0 in 204",
        case: Answered {
            bytes: "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello",
            close: false,
            has: &["HTTP/1.1 502", "x-culvert-error: protocol"],
            lacks: &["hello"],
        },
    },
    Row {
        section: "9110 9.3.6",
        asks: "CONNECT to an origin that is none may be refused",
        case: Sent {
            bytes: "CONNECT shop:80 HTTP/1.1\r\nhost: shop:80\r\nx: {p}\r\n\r\n",
            status: 405,
            has: &[],
            lacks: &[],
        },
    },
    Row {
        section: "9110 9.3.7",
        asks: "OPTIONS * is about the server",
        case: Own { bytes: "OPTIONS * HTTP/1.1\r\nhost: shop\r\nmax-forwards: 0\r\n\r\n", status: 200 },
    },
    Row {
        section: "9110 9.3.8",
        asks: "TRACE must have no content",
        case: Sent {
            bytes: "TRACE {p} HTTP/1.1\r\nhost: shop\r\ncontent-length: 3\r\n\r\nabc",
            status: 400,
            has: &[],
            lacks: &[],
        },
    },
    Row {
        section: "9110 9.3.8",
        asks: "TRACE goes to its recipient",
        case: Sent {
            bytes: "TRACE {p} HTTP/1.1\r\nhost: shop\r\nmax-forwards: 2\r\n\r\n",
            status: 200,
            has: &["TRACE", "max-forwards: 1"],
            lacks: &[],
        },
    },
    Row {
        section: "9110 10.1.1",
        asks: "100-continue is forwarded, and so is the answer to it",
        case: Shown("a_client_that_waits_gets_the_backends_own_word"),
    },
    Row {
        section: "9110 10.1.1",
        asks: "a client does not wait for 100 without end",
        case: Shown("a_backend_that_knows_no_expectation_gets_the_content_all_the_same"),
    },
    Row {
        section: "9110 10.1.1",
        asks: "100-continue in HTTP/1.0 must be ignored",
        case: Sent {
            bytes: "POST {p} HTTP/1.0\r\nhost: shop\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\nabc",
            status: 200,
            has: &["\r\n\r\nabc"],
            lacks: &["expect"],
        },
    },
    Row {
        section: "9110 10.1.1",
        asks: "without content there is nothing to wait for",
        case: Sent {
            bytes: "GET {p} HTTP/1.1\r\nhost: shop\r\nexpect: 100-continue\r\n\r\n",
            status: 200,
            has: &[],
            lacks: &["expect"],
        },
    },
    Row {
        section: "9110 10.1.1",
        asks: "another expectation may be answered with 417",
        case: Sent {
            bytes: "GET {p} HTTP/1.1\r\nhost: shop\r\nexpect: magic\r\n\r\n",
            status: 417,
            has: &[],
            lacks: &[],
        },
    },
    Row {
        section: "9110 10.1.1",
        asks: "clients and backends of HTTP/2 hear 100 (Continue), too",
        case: Because(
            "hyper 1.12 gives out no interim responses of HTTP/2 and can send none: such backends get the content at once, such clients send it when they have waited long enough, which the RFC has them do",
        ),
    },
    Row {
        section: "9110 10.1.4",
        asks: "TE is of the connection: only the wish for trailers is ours, and is announced",
        case: Sent {
            bytes: "GET {p} HTTP/1.1\r\nhost: shop\r\nconnection: te\r\nte: gzip, trailers;q=1\r\n\r\n",
            status: 200,
            has: &["te: trailers\r\n", "connection: te\r\n"],
            lacks: &["gzip"],
        },
    },
    Row {
        section: "9110 11.7",
        asks: "Proxy-Authorization and Proxy-Authenticate are of the next hop",
        case: Sent {
            bytes: "GET {p} HTTP/1.1\r\nhost: shop\r\nproxy-authorization: Basic eDp5\r\n\r\n",
            status: 200,
            has: &[],
            lacks: &["proxy-authorization"],
        },
    },
    Row {
        section: "9110 11.6.2",
        asks: "Authorization must not be changed",
        case: Sent {
            bytes: "GET {p} HTTP/1.1\r\nhost: shop\r\nauthorization: Basic eDp5\r\n\r\n",
            status: 200,
            has: &["authorization: Basic eDp5"],
            lacks: &[],
        },
    },
    Row {
        section: "9110 15.2",
        asks: "interim responses must be forwarded, and not to HTTP/1.0",
        case: Shown("interim_responses_reach_whom_they_can"),
    },
    Row {
        section: "9110 15.2",
        asks: "an intermediary is not held up by them",
        case: Shown("interim_responses_without_end_are_no_answer"),
    },
    Row {
        section: "9110 15.3.6",
        asks: "205 has no content",
        case: Answered {
            bytes: "HTTP/1.1 205 Reset Content\r\ncontent-length: 0\r\n\r\n",
            close: false,
            has: &["205 Reset"],
            lacks: &[],
        },
    },
    Row {
        section: "9110 15.4.5",
        asks: "304 may name the length of what it stands for, and has no content",
        case: Answered {
            bytes: "HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n",
            close: false,
            has: &["304 Not Modified", "etag: \"x\""],
            lacks: &["transfer-encoding"],
        },
    },
    Row {
        section: "9110 15.6.3",
        asks: "an invalid response of the inbound server is answered with 502",
        case: Answered {
            bytes: "HTTP/1.1 banana\r\n\r\n",
            close: true,
            has: &["HTTP/1.1 502", "x-culvert-error: protocol"],
            lacks: &[],
        },
    },
];
