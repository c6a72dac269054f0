//! RFC 9112, HTTP/1.1: sections 2 to 9 and 11.

use super::table::Case::{Answered, Because, Own, Sent, Shown};
use super::table::{Row, run};

#[tokio::test]
async fn every_requirement_of_rfc_9112_is_met_or_said_why_not() {
    run(ROWS).await;
}

const ROWS: &[Row] = &[
    Row {
        section: "9112 2.2",
        asks: "a bare CR is invalid or a space, never a line's end",
        case: Sent { bytes: "GET {p} HTTP/1.1\r\nhost: shop\r\nx: 1\ry: 2\r\n\r\n", status: 400, has: &[], lacks: &[] },
    },
    Row {
        section: "9112 2.2",
        asks: "a lone LF may be taken for a line's end, or not",
        case: Sent { bytes: "GET {p} HTTP/1.1\r\nhost: shop\nx: 1\r\n\r\n", status: 400, has: &[], lacks: &[] },
    },
    Row {
        section: "9112 2.2",
        asks: "an empty line before the request line should be ignored",
        case: Sent { bytes: "\r\nGET {p} HTTP/1.1\r\nhost: shop\r\n\r\n", status: 200, has: &[], lacks: &[] },
    },
    Row {
        section: "9112 2.2",
        asks: "white space between start line and first field: reject",
        case: Sent { bytes: "GET {p} HTTP/1.1\r\n host: shop\r\n\r\n", status: 400, has: &[], lacks: &[] },
    },
    Row {
        section: "9112 2.2",
        asks: "what is no request is answered with 400 and the connection closed",
        case: Sent { bytes: "GET {p} FTP/1.1\r\nhost: shop\r\n\r\n", status: 400, has: &[], lacks: &[] },
    },
    Row {
        section: "9112 2.3",
        asks: "the version is sent as our own",
        case: Answered {
            bytes: "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
            close: true,
            has: &["HTTP/1.1 200 OK"],
            lacks: &[],
        },
    },
    Row {
        section: "9112 3",
        asks: "a request line with white space in the target should be answered with 400",
        case: Sent { bytes: "GET {p} x HTTP/1.1\r\nhost: shop\r\n\r\n", status: 400, has: &[], lacks: &[] },
    },
    Row {
        section: "9112 3",
        asks: "one space between the parts of a request line",
        case: Sent { bytes: "GET  {p} HTTP/1.1\r\nhost: shop\r\n\r\n", status: 400, has: &[], lacks: &[] },
    },
    Row {
        section: "9112 3",
        asks: "a target that is too long is answered with 414, one of 8000 bytes is taken",
        case: Because(
            "a head may have 64 KiB; a longer one is answered with 431, which says the same of the whole head",
        ),
    },
    Row {
        section: "9112 3.2",
        asks: "a target has no fragment",
        case: Sent { bytes: "GET {p}#x HTTP/1.1\r\nhost: shop\r\n\r\n", status: 400, has: &[], lacks: &[] },
    },
    Row {
        section: "9112 3.2",
        asks: "HTTP/1.1 without Host: 400",
        case: Sent { bytes: "GET {p} HTTP/1.1\r\n\r\n", status: 400, has: &[], lacks: &[] },
    },
    Row {
        section: "9112 3.2",
        asks: "more than one Host: 400",
        case: Sent { bytes: "GET {p} HTTP/1.1\r\nhost: shop\r\nhost: shop\r\n\r\n", status: 400, has: &[], lacks: &[] },
    },
    Row {
        section: "9112 3.2",
        asks: "an invalid Host: 400",
        case: Sent { bytes: "GET {p} HTTP/1.1\r\nhost: shop/x\r\n\r\n", status: 400, has: &[], lacks: &[] },
    },
    Row {
        section: "9112 3.2",
        asks: "an invalid port in Host: 400",
        case: Sent { bytes: "GET {p} HTTP/1.1\r\nhost: shop:80x\r\n\r\n", status: 400, has: &[], lacks: &[] },
    },
    Row {
        section: "9112 3.2",
        asks: "HTTP/1.0 needs no Host",
        case: Sent {
            bytes: "GET {p} HTTP/1.0\r\n\r\n",
            status: 200,
            has: &["host: shop.default.svc.cluster.local"],
            lacks: &[],
        },
    },
    Row {
        section: "9112 3.2.1",
        asks: "the origin form is what a server gets",
        case: Sent {
            bytes: "GET http://shop{p} HTTP/1.1\r\nhost: shop\r\n\r\n",
            status: 200,
            has: &["GET /r", "host: shop"],
            lacks: &["http://"],
        },
    },
    Row {
        section: "9112 3.2.2",
        asks: "with the absolute form Host must be ignored and replaced",
        case: Sent {
            bytes: "GET http://shop{p} HTTP/1.1\r\nhost: other\r\n\r\n",
            status: 200,
            has: &["host: shop\r\n"],
            lacks: &["other"],
        },
    },
    Row {
        section: "9112 3.2.2",
        asks: "the absolute form must be accepted, of HTTP's schemes",
        case: Sent { bytes: "GET ftp://shop{p} HTTP/1.1\r\nhost: shop\r\n\r\n", status: 400, has: &[], lacks: &[] },
    },
    Row {
        section: "9112 3.2.3",
        asks: "the authority form is for CONNECT only",
        case: Sent { bytes: "GET shop:80 HTTP/1.1\r\nhost: shop\r\nx: {p}\r\n\r\n", status: 400, has: &[], lacks: &[] },
    },
    Row {
        section: "9112 3.2.4",
        asks: "the asterisk form is for OPTIONS only",
        case: Sent { bytes: "GET * HTTP/1.1\r\nhost: shop\r\nx: {p}\r\n\r\n", status: 400, has: &[], lacks: &[] },
    },
    Row {
        section: "9112 4",
        asks: "the reason phrase should be ignored",
        case: Answered {
            bytes: "HTTP/1.1 200 Fine By Me\r\ncontent-length: 2\r\n\r\nok",
            close: false,
            has: &["HTTP/1.1 200 OK\r\n"],
            lacks: &["Fine"],
        },
    },
    Row {
        section: "9112 5.1",
        asks: "white space between name and colon: 400",
        case: Sent { bytes: "GET {p} HTTP/1.1\r\nhost: shop\r\nx : 1\r\n\r\n", status: 400, has: &[], lacks: &[] },
    },
    Row {
        section: "9112 5.1",
        asks: "the same in a response: remove, or refuse",
        case: Answered {
            bytes: "HTTP/1.1 200 OK\r\nx : 1\r\ncontent-length: 2\r\n\r\nok",
            close: false,
            has: &["HTTP/1.1 502"],
            lacks: &[],
        },
    },
    Row {
        section: "9112 5.2",
        asks: "obs-fold in a request: 400",
        case: Sent { bytes: "GET {p} HTTP/1.1\r\nhost: shop\r\nx: 1\r\n 2\r\n\r\n", status: 400, has: &[], lacks: &[] },
    },
    Row {
        section: "9112 5.2",
        asks: "obs-fold in a response: 502, or spaces",
        case: Answered {
            bytes: "HTTP/1.1 200 OK\r\nx: 1\r\n 2\r\ncontent-length: 2\r\n\r\nok",
            close: false,
            has: &["HTTP/1.1 502"],
            lacks: &[],
        },
    },
    Row {
        section: "9112 6.1",
        asks: "a coding that is not understood: 501 or 400",
        case: Sent {
            bytes: "POST {p} HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
            status: 400,
            has: &[],
            lacks: &[],
        },
    },
    Row {
        section: "9112 6.1",
        asks: "chunked must be last, and once",
        case: Sent {
            bytes: "POST {p} HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
            status: 400,
            has: &[],
            lacks: &[],
        },
    },
    Row {
        section: "9112 6.1",
        asks: "Transfer-Encoding in HTTP/1.0 is faulty framing",
        case: Sent {
            bytes: "POST {p} HTTP/1.0\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            status: 400,
            has: &[],
            lacks: &[],
        },
    },
    Row {
        section: "9112 6.1",
        asks: "both a length and a coding: reject, or drop the length and close",
        case: Sent {
            bytes: "POST {p} HTTP/1.1\r\nhost: shop\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            status: 400,
            has: &[],
            lacks: &[],
        },
    },
    Row {
        section: "9112 6.1",
        asks: "the same in a response",
        case: Answered {
            bytes: "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            close: false,
            has: &["HTTP/1.1 502", "x-culvert-error: protocol"],
            lacks: &["abc"],
        },
    },
    Row {
        section: "9112 6.1",
        asks: "no Transfer-Encoding in 204",
        case: Answered {
            bytes: "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            close: false,
            has: &["HTTP/1.1 502"],
            lacks: &["abc"],
        },
    },
    Row {
        section: "9112 6.3",
        asks: "a response whose coding is not chunked last ends with the connection: we take none but chunked",
        case: Answered {
            bytes: "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, gzip\r\n\r\nabc",
            close: true,
            has: &["HTTP/1.1 502"],
            lacks: &["abc"],
        },
    },
    Row {
        section: "9112 6.3",
        asks: "an invalid length of a response: 502, and the connection is closed",
        case: Answered {
            bytes: "HTTP/1.1 200 OK\r\ncontent-length: 2x\r\n\r\nok",
            close: false,
            has: &["HTTP/1.1 502"],
            lacks: &[],
        },
    },
    Row {
        section: "9112 6.3",
        asks: "lengths that differ: 502",
        case: Answered {
            bytes: "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok!",
            close: false,
            has: &["HTTP/1.1 502"],
            lacks: &[],
        },
    },
    Row {
        section: "9112 6.3",
        asks: "an invalid length of a request: 400",
        case: Sent {
            bytes: "POST {p} HTTP/1.1\r\nhost: shop\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc",
            status: 400,
            has: &[],
            lacks: &[],
        },
    },
    Row {
        section: "9112 6.3",
        asks: "a response without either ends with the connection",
        case: Answered {
            bytes: "HTTP/1.1 200 OK\r\n\r\nall of it",
            close: true,
            has: &["transfer-encoding: chunked", "all of it\r\n0\r\n\r\n"],
            lacks: &[],
        },
    },
    Row {
        section: "9112 6.3",
        asks: "a request without either has no content",
        case: Sent {
            bytes: "POST {p} HTTP/1.1\r\nhost: shop\r\n\r\n",
            status: 200,
            has: &[],
            lacks: &["transfer-encoding"],
        },
    },
    Row {
        section: "9112 7.1",
        asks: "chunked must be understood",
        case: Sent {
            bytes: "POST {p} HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: Chunked\r\n\r\n1\r\na\r\n002\r\nbc\r\n0\r\n\r\n",
            status: 200,
            has: &["bc"],
            lacks: &["content-length"],
        },
    },
    Row {
        section: "9112 7.1",
        asks: "sizes that overflow are not misread",
        case: Own {
            bytes: "POST /x HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\na\r\n0\r\n\r\nGET {p} HTTP/1.1\r\nhost: shop\r\n\r\n",
            status: 0,
        },
    },
    Row {
        section: "9112 7.1.1",
        asks: "chunk extensions that are not known are ignored, and go no further",
        case: Sent {
            bytes: "POST {p} HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\n3;a=\"b\"\r\nabc\r\n0\r\n\r\n",
            status: 200,
            has: &["3\r\nabc"],
            lacks: &["a=\"b\""],
        },
    },
    Row {
        section: "9112 7.1.2",
        asks: "trailers that are not passed on are discarded, none is merged",
        case: Sent {
            bytes: "POST {p} HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nhost: evil\r\ncontent-length: 9\r\n\r\n",
            status: 200,
            has: &["host: shop"],
            lacks: &["evil", "content-length"],
        },
    },
    Row {
        section: "9112 8",
        asks: "a response that ends too early is not taken for a whole one",
        case: Answered {
            bytes: "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
            close: true,
            has: &[],
            lacks: &["\r\n0\r\n\r\n"],
        },
    },
    Row {
        section: "9112 9.1",
        asks: "a client does not pipeline to servers that it does not know",
        case: Because("a backend's connection carries one request at a time"),
    },
    Row {
        section: "9112 9.3",
        asks: "requests that come one after the other are answered in order",
        case: Sent {
            bytes: "GET /first HTTP/1.1\r\nhost: shop\r\n\r\nGET {p} HTTP/1.1\r\nhost: shop\r\n\r\n",
            status: 200,
            has: &[],
            lacks: &[],
        },
    },
    Row {
        section: "9112 9.3.1",
        asks: "a request whose connection was closed is sent again only if it can be",
        case: Shown("a_post_that_was_received_is_not_repeated_unless_the_route_says_so"),
    },
    Row {
        section: "9112 9.5",
        asks: "an idle connection may be closed at any time; that costs no request",
        case: Because(
            "connections that were closed while idle are passed over before a request is said not to be sent (upstream/attempt.rs)",
        ),
    },
    Row {
        section: "9112 9.6",
        asks: "close is not forwarded: it means one connection",
        case: Sent {
            bytes: "GET {p} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n",
            status: 200,
            has: &[],
            lacks: &["connection"],
        },
    },
    Row {
        section: "9112 9.6",
        asks: "who closes does so in stages, so that its answer is not lost",
        case: Shown("an_answer_that_comes_before_the_upload_was_read_is_never_lost"),
    },
    Row {
        section: "9112 9.6",
        asks: "after close nothing further is processed",
        case: Own {
            bytes: "GET /x HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\nGET {p} HTTP/1.1\r\nhost: shop\r\n\r\n",
            status: 200,
        },
    },
    Row {
        section: "9112 11.1",
        asks: "a backend cannot split responses by field values",
        case: Answered {
            bytes: "HTTP/1.1 200 OK\r\nx: a\rb\r\ncontent-length: 2\r\n\r\nok",
            close: false,
            has: &["HTTP/1.1 502"],
            lacks: &[],
        },
    },
    Row {
        section: "9112 11.2",
        asks: "requests cannot be smuggled",
        case: Shown("no_offer_leaves_a_length_behind_whose_content_is_gone"),
    },
];
