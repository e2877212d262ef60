//! As much of HTTP/1.1 as two programs of one's own need of each other (RFC 9112): heads, `Content-Length`, `Connection`.

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
#[derive(Debug, PartialEq, Eq)]
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
    let Some(body_bytes) = fields.content_length else { return Parsed::Bad };
    Parsed::Head(Response { status, body_bytes, close: fields.close, pod: fields.pod }, length)
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
}

impl Fields {
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
                    }
                }
                "x-pod" => fields.pod = Some(value.to_owned()),
                "transfer-encoding" => return None,
                _ => {}
            }
        }
        Some(fields)
    }
}

/// An answer as bytes. `HEAD` gets the head alone.
pub fn response(status: u16, pod: &str, body: &str, close: bool, head_only: bool) -> Vec<u8> {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        413 => "Content Too Large",
        503 => "Service Unavailable",
        _ => "",
    };
    let connection = if close { "Connection: close\r\n" } else { "" };
    let mut text = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain\r\nX-Pod: {pod}\r\nContent-Length: {}\r\n{connection}\r\n",
        body.len()
    );
    if !head_only {
        text.push_str(body);
    }
    text.into_bytes()
}

/// The query's value for `name`, as a number.
pub fn query_number(query: &str, name: &str) -> Option<u64> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
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
        assert_eq!(read, Response { status: 503, body_bytes: 6, close: true, pod: Some("app-1".into()) });
        assert_eq!(&bytes[length..], b"later\n");
        assert_eq!(
            parse_response(b"HTTP/1.1 200 OK\r\n\r\n"),
            Parsed::Bad,
            "no length: could be cut off unseen"
        );
    }
}
