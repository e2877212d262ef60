//! As much of HTTP/1.1 as two programs of one's own need of each other (RFC 9112): heads, `Content-Length`, `Connection`.

use std::fmt::Write as _;

/// A head longer than this is refused.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;

/// What stands at the front of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    /// The head is not complete yet.
    More,
    /// It is not HTTP/1.x as this program speaks it.
    Bad,
    /// The head, and the number of bytes that it takes.
    Head(T, usize),
}

/// A request's head.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `GET`.
    pub method: String,
    /// Path without the query.
    pub path: String,
    /// Query without the question mark; empty where there is none.
    pub query: String,
    /// Bytes of the body that follows.
    pub body_bytes: usize,
    /// The client wants the connection closed after the answer.
    pub close: bool,
    /// The client wants to go on with WebSocket.
    pub upgrade: Option<Upgrade>,
}

/// What a client says of the WebSocket that it wants.
#[derive(Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// `Sec-WebSocket-Key`.
    pub key: String,
    /// `Sec-WebSocket-Version`.
    pub version: String,
}

/// An answer's head.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Bytes of the body that follows.
    pub body_bytes: usize,
    /// The server closes the connection after this answer.
    pub close: bool,
    /// `X-Pod`: who answered.
    pub pod: Option<String>,
    /// `Sec-WebSocket-Accept`, if the server goes on with WebSocket.
    pub accept: Option<String>,
}

/// Reads a request's head.
pub fn parse_request(buffer: &[u8]) -> Parsed<Request> {
    let (head, length) = match head_of(buffer) {
        Parsed::Head(head, length) => (head, length),
        Parsed::More => return Parsed::More,
        Parsed::Bad => return Parsed::Bad,
    };
    let (start, fields) = head.split_once("\r\n").unwrap_or((head, ""));
    let mut words = start.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Parsed::Bad;
    };
    if !version.starts_with("HTTP/1.") || method.is_empty() || !target.starts_with('/') {
        return Parsed::Bad;
    }
    let Some(fields) = Fields::read(fields) else { return Parsed::Bad };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        body_bytes: fields.content_length.unwrap_or(0),
        close: fields.close || (version == "HTTP/1.0" && !fields.keep_alive),
        // An older client cannot go on with another protocol (RFC 9110, 7.8).
        upgrade: (fields.is_upgrade() && version != "HTTP/1.0").then(|| Upgrade {
            key: fields.key.unwrap_or_default(),
            version: fields.version.unwrap_or_default(),
        }),
    };
    Parsed::Head(request, length)
}

/// Reads an answer's head. One without `Content-Length` is `Bad`: this program never sends such, so an answer cut off by
/// a closing server cannot pass for a whole one.
pub fn parse_response(buffer: &[u8]) -> Parsed<Response> {
    let (head, length) = match head_of(buffer) {
        Parsed::Head(head, length) => (head, length),
        Parsed::More => return Parsed::More,
        Parsed::Bad => return Parsed::Bad,
    };
    let (start, fields) = head.split_once("\r\n").unwrap_or((head, ""));
    let mut words = start.split(' ');
    let status = match (words.next(), words.next().map(str::parse)) {
        (Some(version), Some(Ok(status))) if version.starts_with("HTTP/1.") => status,
        _ => return Parsed::Bad,
    };
    let Some(fields) = Fields::read(fields) else { return Parsed::Bad };
    let body_bytes = match fields.content_length {
        _ if has_no_body(status) => 0,
        Some(bytes) => bytes,
        None => return Parsed::Bad,
    };
    let accept = (status == 101 && fields.is_upgrade()).then(|| fields.accept.unwrap_or_default());
    Parsed::Head(Response { status, body_bytes, close: fields.close, pod: fields.pod, accept }, length)
}

/// The text up to the empty line, and its length with that line.
fn head_of(buffer: &[u8]) -> Parsed<&str> {
    let window = buffer.get(..HEAD_BYTES_MAX).unwrap_or(buffer);
    match window.windows(4).position(|four| four == b"\r\n\r\n") {
        Some(end) => match buffer.get(..end).map(str::from_utf8) {
            Some(Ok(head)) => Parsed::Head(head, end + 4),
            _ => Parsed::Bad,
        },
        None if buffer.len() >= HEAD_BYTES_MAX => Parsed::Bad,
        None => Parsed::More,
    }
}

#[derive(Default)]
struct Fields {
    content_length: Option<usize>,
    close: bool,
    keep_alive: bool,
    pod: Option<String>,
    connection_upgrade: bool,
    upgrade_websocket: bool,
    key: Option<String>,
    version: Option<String>,
    accept: Option<String>,
}

impl Fields {
    fn is_upgrade(&self) -> bool {
        self.connection_upgrade && self.upgrade_websocket
    }

    /// `None` for a malformed field, and for a transfer coding, which this program does not read.
    fn read(text: &str) -> Option<Self> {
        let mut fields = Self::default();
        for line in text.split("\r\n").filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':')?;
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => fields.content_length = Some(value.parse().ok()?),
                "connection" => {
                    for word in value.split(',').map(str::trim) {
                        fields.close |= word.eq_ignore_ascii_case("close");
                        fields.keep_alive |= word.eq_ignore_ascii_case("keep-alive");
                        fields.connection_upgrade |= word.eq_ignore_ascii_case("upgrade");
                    }
                }
                "upgrade" => {
                    let mut words = value.split(',').map(str::trim);
                    fields.upgrade_websocket |= words.any(|word| word.eq_ignore_ascii_case("websocket"));
                }
                "sec-websocket-key" => fields.key = Some(value.to_owned()),
                "sec-websocket-version" => fields.version = Some(value.to_owned()),
                "sec-websocket-accept" => fields.accept = Some(value.to_owned()),
                "x-pod" => fields.pod = Some(value.to_owned()),
                "transfer-encoding" => return None,
                _ => {}
            }
        }
        Some(fields)
    }
}

/// Statuses that never have one (RFC 9110, 6.4.1).
fn has_no_body(status: u16) -> bool {
    matches!(status, 101 | 204)
}

/// An answer as bytes. `HEAD` gets the head alone.
pub fn response(status: u16, pod: &str, body: &str, close: bool, head_only: bool) -> Vec<u8> {
    let reason = match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        413 => "Content Too Large",
        426 => "Upgrade Required",
        503 => "Service Unavailable",
        _ => "",
    };
    let mut text = format!("HTTP/1.1 {status} {reason}\r\nX-Pod: {pod}\r\n");
    if !has_no_body(status) {
        let kind = if body.starts_with('{') { "application/json" } else { "text/plain" };
        let _infallible = write!(text, "Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len());
    }
    if status == 426 {
        // What would be understood (RFC 6455, 4.4).
        text.push_str("Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n");
    }
    if close {
        text.push_str("Connection: close\r\n");
    }
    text.push_str("\r\n");
    if !head_only && !has_no_body(status) {
        text.push_str(body);
    }
    text.into_bytes()
}

/// The answer after which a connection speaks WebSocket.
pub fn switching(pod: &str, accept: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nX-Pod: {pod}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
    .into_bytes()
}

/// The query's value for `name`, as it stands there.
pub fn query_text<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// The query's value for `name`, as a number.
pub fn query_number(query: &str, name: &str) -> Option<u64> {
    query_text(query, name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_when_its_head_is_whole() {
        let text = b"GET /slow?ms=5 HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\nrest";
        for cut in 0..text.len() - 4 {
            assert_eq!(parse_request(&text[..cut]), Parsed::More, "{cut}");
        }
        let Parsed::Head(request, length) = parse_request(text) else { panic!("no head") };
        assert_eq!(&text[length..], b"rest");
        assert_eq!((request.path.as_str(), request.query.as_str(), request.close), ("/slow", "ms=5", true));
        assert_eq!(query_number(&request.query, "ms"), Some(5));
    }

    #[test]
    fn http_1_0_closes_unless_it_asks_to_keep_alive() {
        let close = |text: &[u8]| match parse_request(text) {
            Parsed::Head(request, _) => request.close,
            other => panic!("{other:?}"),
        };
        assert!(close(b"GET / HTTP/1.0\r\n\r\n"));
        assert!(!close(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
        assert!(!close(b"GET / HTTP/1.1\r\n\r\n"));
    }

    #[test]
    fn what_is_not_http_is_refused() {
        for text in [
            "nonsense\r\n\r\n",
            "GET x HTTP/1.1\r\n\r\n",
            "GET / HTTP/2\r\n\r\n",
            "GET / HTTP/1.1\r\nnocolon\r\n\r\n",
        ] {
            assert_eq!(parse_request(text.as_bytes()), Parsed::Bad, "{text}");
        }
        assert_eq!(parse_request(&vec![b'a'; HEAD_BYTES_MAX]), Parsed::Bad);
        assert_eq!(parse_request(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), Parsed::Bad);
    }

    #[test]
    fn an_answer_comes_back_as_it_was_written() {
        let bytes = response(503, "app-1", "later\n", true, false);
        let Parsed::Head(read, length) = parse_response(&bytes) else { panic!("no head") };
        assert_eq!(
            read,
            Response { status: 503, body_bytes: 6, close: true, pod: Some("app-1".into()), accept: None }
        );
        assert_eq!(&bytes[length..], b"later\n");
        assert_eq!(
            parse_response(b"HTTP/1.1 200 OK\r\n\r\n"),
            Parsed::Bad,
            "no length: could be cut off unseen"
        );
        let Parsed::Head(read, length) = parse_response(b"HTTP/1.1 204 No Content\r\n\r\n") else {
            panic!("no head")
        };
        assert_eq!((read.status, read.body_bytes, length), (204, 0, 27));
    }

    #[test]
    fn an_upgrade_is_asked_for_and_answered() {
        let fields = "Upgrade: h2c, WebSocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Key: k\r\n\
            Sec-WebSocket-Version: 13\r\n\r\n";
        let upgrade = |text: &str| match parse_request(text.as_bytes()) {
            Parsed::Head(request, _) => request.upgrade,
            other => panic!("{other:?}"),
        };
        let wanted = Upgrade { key: "k".to_owned(), version: "13".to_owned() };
        assert_eq!(upgrade(&format!("GET / HTTP/1.1\r\n{fields}")), Some(wanted));
        assert_eq!(upgrade(&format!("GET / HTTP/1.0\r\n{fields}")), None);
        assert_eq!(upgrade("GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"), None, "not for this hop");
        assert_eq!(upgrade("GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"), None);

        let Parsed::Head(read, _) = parse_response(&switching("app-1", "a")) else { panic!("no head") };
        assert_eq!((read.status, read.accept.as_deref()), (101, Some("a")));
        let refused = response(426, "app-1", "", false, false);
        let Parsed::Head(read, _) = parse_response(&refused) else { panic!("no head") };
        assert_eq!((read.status, read.accept), (426, None));
    }
}
