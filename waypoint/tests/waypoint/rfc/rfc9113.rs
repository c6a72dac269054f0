//! RFC 9113, HTTP/2: sections 5, 8 and 10.3; RFC 8441, WebSockets over it. As seen from clients; backends of HTTP/2 are
//! in the tests that rows name.

use super::table::Case::{Because, Shown, Two};
use super::table::{Row, run};

#[tokio::test]
async fn every_requirement_of_rfc_9113_and_8441_is_met_or_said_why_not() {
    run(ROWS).await;
}

type Fields = &'static [(&'static str, &'static str)];

/// A request that must not reach the backend.
const fn refused(section: &'static str, asks: &'static str, fields: Fields) -> Row {
    Row { section, asks, case: Two { fields, content: None, reaches: false, has: &[], lacks: &[] } }
}

const ROWS: &[Row] = &[
    Row {
        section: "9113 8.1",
        asks: "a request goes on as what it is",
        case: Two {
            fields: &[(":method", "GET"), (":scheme", "http"), (":authority", "shop"), (":path", "{p}"), ("x-a", "1")],
            content: None,
            reaches: true,
            has: &["GET /r", " HTTP/1.1\r\n", "host: shop\r\n", "x-a: 1\r\n"],
            lacks: &["content-length", "transfer-encoding", ":path"],
        },
    },
    Row {
        section: "9113 8.1",
        asks: "an early answer and RST_STREAM(NO_ERROR) after it are no failure",
        case: Shown("an_early_answer_over_http_2_is_not_lost_either"),
    },
    Row {
        section: "9113 8.1",
        asks: "a stream that ends without END_STREAM is no whole response",
        case: Shown("a_stream_that_is_reset_in_the_middle_is_not_taken_for_a_whole_response"),
    },
    Row {
        section: "9113 8.1",
        asks: "interim responses may come before the response, and not without end",
        case: Shown("an_http_2_backend_costs_no_more_by_interim_responses"),
    },
    refused(
        "9113 8.1.1",
        "content-length must be the length of the content: too long",
        &[(":method", "POST"), (":scheme", "http"), (":authority", "shop"), (":path", "{p}"), ("content-length", "10")],
    ),
    Row {
        section: "9113 8.1.1",
        asks: "content-length must be the length of the content: too short",
        case: Two {
            fields: &[
                (":method", "POST"),
                (":scheme", "http"),
                (":authority", "shop"),
                (":path", "{p}"),
                ("content-length", "1"),
            ],
            content: Some("GET /smuggled HTTP/1.1\r\n\r\n"),
            reaches: false,
            has: &[],
            lacks: &[],
        },
    },
    Row {
        section: "9113 8.1.1",
        asks: "content without a length is framed by HTTP/1's own means, with GET, too",
        case: Two {
            fields: &[(":method", "GET"), (":scheme", "http"), (":authority", "shop"), (":path", "{p}")],
            content: Some("abc"),
            reaches: true,
            has: &["transfer-encoding: chunked\r\n", "3\r\nabc\r\n0\r\n"],
            lacks: &["content-length"],
        },
    },
    Row {
        section: "9113 8.1.1",
        asks: "a length that is right is kept",
        case: Two {
            fields: &[
                (":method", "PUT"),
                (":scheme", "http"),
                (":authority", "shop"),
                (":path", "{p}"),
                ("content-length", "3"),
            ],
            content: Some("abc"),
            reaches: true,
            has: &["content-length: 3\r\n", "\r\n\r\nabc"],
            lacks: &["transfer-encoding"],
        },
    },
    refused(
        "9113 8.2",
        "names in capitals are malformed",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "shop"), (":path", "{p}"), ("X-A", "1")],
    ),
    refused(
        "9113 8.2.1",
        "names with characters below 0x21, or a colon, are malformed",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "shop"), (":path", "{p}"), ("x a", "1")],
    ),
    refused(
        "9113 8.2.1",
        "CR and LF in a value are malformed",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "shop"), (":path", "{p}"), ("x-a", "1\r\nevil: 1")],
    ),
    refused(
        "9113 8.2.1",
        "white space before a value is malformed",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "shop"), (":path", "{p}"), ("x-a", " 1")],
    ),
    refused(
        "9113 8.2.1",
        "white space after a value is malformed: a policy on the value must not miss it",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "shop"), (":path", "{p}"), ("x-a", "1\t")],
    ),
    refused(
        "9113 8.2.2",
        "connection is malformed",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "shop"), (":path", "{p}"), ("connection", "close")],
    ),
    refused(
        "9113 8.2.2",
        "transfer-encoding is malformed",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "shop"),
            (":path", "{p}"),
            ("transfer-encoding", "chunked"),
        ],
    ),
    refused(
        "9113 8.2.2",
        "keep-alive is malformed",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "shop"), (":path", "{p}"), ("keep-alive", "1")],
    ),
    refused(
        "9113 8.2.2",
        "proxy-connection is malformed",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "shop"),
            (":path", "{p}"),
            ("proxy-connection", "close"),
        ],
    ),
    refused(
        "9113 8.2.2",
        "upgrade is malformed",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "shop"), (":path", "{p}"), ("upgrade", "websocket")],
    ),
    refused(
        "9113 8.2.2",
        "te other than trailers is malformed",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "shop"), (":path", "{p}"), ("te", "gzip")],
    ),
    Row {
        section: "9113 8.2.2",
        asks: "te: trailers is passed on, as HTTP/1 has it",
        case: Two {
            fields: &[
                (":method", "GET"),
                (":scheme", "http"),
                (":authority", "shop"),
                (":path", "{p}"),
                ("te", "trailers"),
            ],
            content: None,
            reaches: true,
            has: &["te: trailers\r\n", "connection: te\r\n"],
            lacks: &[],
        },
    },
    Row {
        section: "9113 8.2.2",
        asks: "fields of the connection are not put into HTTP/2",
        case: Shown("no_offer_leaves_a_length_behind_whose_content_is_gone"),
    },
    Row {
        section: "9113 8.2.3",
        asks: "cookie crumbs must be joined for HTTP/1",
        case: Two {
            fields: &[
                (":method", "GET"),
                (":scheme", "http"),
                (":authority", "shop"),
                (":path", "{p}"),
                ("cookie", "a=1"),
                ("cookie", "b=2"),
            ],
            content: None,
            reaches: true,
            has: &["cookie: a=1; b=2\r\n"],
            lacks: &["cookie: b=2"],
        },
    },
    refused(
        "9113 8.3",
        "a pseudo-header after others is malformed",
        &[(":method", "GET"), (":scheme", "http"), ("x-a", "1"), (":authority", "shop"), (":path", "{p}")],
    ),
    refused(
        "9113 8.3",
        "one that is not known is malformed",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "shop"), (":path", "{p}"), (":evil", "1")],
    ),
    refused(
        "9113 8.3",
        "one of responses is malformed",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "shop"), (":path", "{p}"), (":status", "200")],
    ),
    refused(
        "9113 8.3.1",
        "one that comes twice is malformed",
        &[(":method", "GET"), (":method", "POST"), (":scheme", "http"), (":authority", "shop"), (":path", "{p}")],
    ),
    refused(
        "9113 8.3.1",
        "without :method: malformed",
        &[(":scheme", "http"), (":authority", "shop"), (":path", "{p}")],
    ),
    refused(
        "9113 8.3.1",
        "without :scheme: malformed",
        &[(":method", "GET"), (":authority", "shop"), (":path", "{p}")],
    ),
    refused(
        "9113 8.3.1",
        "an empty :path is malformed",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "shop"), (":path", ""), ("x", "{p}")],
    ),
    refused(
        "9113 8.3.1",
        "a :path that is none is malformed",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "shop"), (":path", "x{p}")],
    ),
    refused(
        "9113 8.3.1",
        "a space in :path would be two things in HTTP/1",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "shop"), (":path", "{p} HTTP/1.1")],
    ),
    refused(
        "9113 8.3.1",
        "user information in :authority is malformed",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "a@shop"), (":path", "{p}")],
    ),
    refused(
        "9113 8.3.1",
        "host that differs from :authority is malformed",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "shop"), (":path", "{p}"), ("host", "other")],
    ),
    Row {
        section: "9113 8.3.1",
        asks: "host without :authority is the host",
        case: Two {
            fields: &[(":method", "GET"), (":scheme", "http"), (":path", "{p}"), ("host", "shop")],
            content: None,
            reaches: true,
            has: &["host: shop\r\n"],
            lacks: &[],
        },
    },
    refused("9113 8.3.1", "without any host: malformed", &[(":method", "GET"), (":scheme", "http"), (":path", "{p}")]),
    Row {
        section: "9113 8.4",
        asks: "an intermediary may push or not",
        case: Because("nothing is pushed, and push is refused of backends by hyper's SETTINGS_ENABLE_PUSH 0"),
    },
    refused(
        "9113 8.5",
        "CONNECT is for proxies that we are none of",
        &[(":method", "CONNECT"), (":authority", "shop:80"), ("x", "{p}")],
    ),
    refused(
        "9113 8.5",
        "CONNECT with :path and without :protocol is malformed",
        &[(":method", "CONNECT"), (":scheme", "http"), (":authority", "shop"), (":path", "{p}")],
    ),
    refused(
        "9113 8.6",
        "the upgrade of HTTP/1 is not there",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "shop"), (":path", "{p}"), ("upgrade", "h2c")],
    ),
    Row {
        section: "9113 8.7",
        asks: "what was refused before it was processed may be sent again",
        case: Shown("a_request_that_never_left_is_always_tried_elsewhere"),
    },
    refused(
        "9113 10.3",
        "what HTTP/1 would read differently is not translated",
        &[(":method", "GET / HTTP/1.1\r\nx:"), (":scheme", "http"), (":authority", "shop"), (":path", "{p}")],
    ),
    Row {
        section: "9113 3.1",
        asks: "the upgrade to HTTP/2 is obsolete, its settings go no further",
        case: Shown("an_offer_that_is_not_taken_changes_nothing"),
    },
    Row {
        section: "8441 3",
        asks: "extended CONNECT is announced, and used only towards those that announce it",
        case: Shown("an_endpoint_that_takes_no_websocket_over_http_2_is_asked_over_http_1"),
    },
    Row {
        section: "8441 4",
        asks: "a protocol that is not known is refused",
        case: Shown("policy_routes_and_backend_see_one_method"),
    },
    refused(
        "8441 4",
        ":protocol without CONNECT is malformed",
        &[
            (":method", "GET"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":authority", "shop"),
            (":path", "{p}"),
        ],
    ),
    refused(
        "8441 4",
        "extended CONNECT without :path and :scheme is malformed",
        &[(":method", "CONNECT"), (":protocol", "websocket"), (":authority", "shop"), ("x", "{p}")],
    ),
    Row {
        section: "8441 5",
        asks: "key and accept stay in HTTP/1, 101 becomes 200",
        case: Shown("a_websocket_is_translated_between_both_versions_both_ways"),
    },
];
