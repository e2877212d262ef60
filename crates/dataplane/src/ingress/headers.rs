//! What changes in a head on its way through: pure functions.
//!
//! A request goes on in origin form, over HTTP/1.1, without the headers of its own connection (RFC 9110, section 7.6.1), and
//! says who sent it. What a client says of its own origin is not believed: the ingress is the first hop that is trusted.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{self, Entry},
    uri::{PathAndQuery, Scheme},
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Where a request came from. Worked out once for each connection.
#[derive(Clone, Debug)]
pub struct Origin {
    address: HeaderValue,
    port: HeaderValue,
    scheme: HeaderValue,
}

impl Origin {
    /// A connection from this address to this port of ours.
    #[must_use]
    pub fn new(client: IpAddr, port: u16, scheme: &Scheme) -> Self {
        let text =
            |text: String| HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""));
        Self {
            address: text(client.to_canonical().to_string()),
            port: HeaderValue::from(port),
            scheme: HeaderValue::from_static(if *scheme == Scheme::HTTPS { "https" } else { "http" }),
        }
    }
}

/// A request that no server should guess the meaning of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No host, two of them, or one that is none.
    #[error("the request names no host, or more than one")]
    Host,
    /// `CONNECT`: this is no proxy of the client's choosing.
    #[error("the method is not served here")]
    Method,
}

/// The authority that the request is for: of its target, else of its one Host header.
///
/// # Errors
/// It names none, or it is not clear which.
pub fn authority<B>(request: &Request<B>) -> Result<&str, Refusal> {
    if request.method() == Method::CONNECT {
        return Err(Refusal::Method);
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(Refusal::Host);
    }
    if let Some(authority) = request.uri().authority() {
        return if authority.as_str().contains('@') { Err(Refusal::Host) } else { Ok(authority.as_str()) };
    }
    match first {
        Some(host) => host.to_str().ok().filter(|host| is_host(host)).ok_or(Refusal::Host),
        // HTTP/1.0 knows no Host header.
        None if request.version() == Version::HTTP_10 => Ok(""),
        None => Err(Refusal::Host),
    }
}

fn is_host(host: &str) -> bool {
    host.bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']' | b'~'))
}

/// Whether the client asks for another protocol on this connection.
#[must_use]
pub fn is_upgrade<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_11
        && request.headers().contains_key(header::UPGRADE)
        && has_token(request.headers(), "upgrade")
}

fn has_token(headers: &HeaderMap, token: &str) -> bool {
    let lines = headers.get_all(header::CONNECTION).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|word| word.trim().eq_ignore_ascii_case(token))
}

/// Removes what is between two neighbours only. `upgrade`: the two agree on another protocol, which the next hop must know of.
fn remove_hop_by_hop(headers: &mut HeaderMap, upgrade: bool) {
    if let Some(connection) = headers.remove(header::CONNECTION) {
        let named = connection.to_str().unwrap_or_default();
        // What it commonly says names no header of its own.
        if !named.eq_ignore_ascii_case("keep-alive") && !named.eq_ignore_ascii_case("close") {
            for name in named.split(',').filter_map(|name| HeaderName::try_from(name.trim()).ok()) {
                // Nobody may have the ingress take away what it says itself, or what frames the message.
                let kept = [header::HOST, header::CONTENT_LENGTH, header::UPGRADE].contains(&name);
                if !kept {
                    headers.remove(name);
                }
            }
        }
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, header::TRANSFER_ENCODING] {
        headers.remove(name);
    }
    if upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    } else {
        headers.remove(header::UPGRADE);
    }
}

/// Turns a request into what the endpoint gets.
pub fn forward_request<B>(request: &mut Request<B>, origin: &Origin, upgrade: bool) {
    let authority = request.uri().authority().map(|authority| authority.as_str().to_owned());
    if authority.is_some() || request.uri().scheme().is_some() {
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    }
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    remove_hop_by_hop(headers, upgrade);
    // Trailers are all that the next hop may be asked for.
    if let Entry::Occupied(te) = headers.entry(header::TE)
        && !te.get().as_bytes().eq_ignore_ascii_case(b"trailers")
    {
        te.remove();
    }
    // The server has promised to go on as soon as the body is read.
    headers.remove(header::EXPECT);
    headers.remove(header::FORWARDED);
    headers.remove(header::PROXY_AUTHORIZATION);
    if let Some(host) = authority.and_then(|host| HeaderValue::try_from(host).ok()) {
        headers.insert(header::HOST, host);
    }
    join_cookies(headers);
    if let Some(host) = headers.get(header::HOST).cloned() {
        headers.insert(X_FORWARDED_HOST, host);
    } else {
        headers.remove(X_FORWARDED_HOST);
    }
    headers.insert(X_FORWARDED_FOR, origin.address.clone());
    headers.insert(X_REAL_IP, origin.address.clone());
    headers.insert(X_FORWARDED_PROTO, origin.scheme.clone());
    headers.insert(X_FORWARDED_PORT, origin.port.clone());
}

/// HTTP/2 may split cookies over several lines; HTTP/1.1 must not (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(header::COOKIE).iter();
    if lines.next().is_none() || lines.next().is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Turns an answer into what the client gets.
pub fn forward_response<B>(response: &mut Response<B>, to: Version) {
    let upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    remove_hop_by_hop(response.headers_mut(), upgrade);
    *response.version_mut() = to;
}

/// Whether a request may be sent again although it may have been acted upon (RFC 9110, section 9.2.2).
#[must_use]
pub fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(lines: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri("/a?b=c");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn forwarded(mut request: Request<()>) -> Vec<String> {
        let origin = Origin::new([192, 0, 2, 7].into(), 80, &Scheme::HTTP);
        let upgrade = is_upgrade(&request);
        forward_request(&mut request, &origin, upgrade);
        let mut lines: Vec<_> = request
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.sort();
        lines.insert(0, format!("{} {}", request.method(), request.uri()));
        lines
    }

    #[test]
    fn what_is_between_neighbours_stays_there_and_the_origin_is_told() {
        let request = request(&[
            ("host", "a.org:8080"),
            ("connection", "keep-alive, X-Mine, host"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "6.6.6.6"),
            ("forwarded", "for=6.6.6.6"),
            ("accept", "*/*"),
        ]);
        let want = [
            "GET /a?b=c",
            "accept: */*",
            "host: a.org:8080",
            "x-forwarded-for: 192.0.2.7",
            "x-forwarded-host: a.org:8080",
            "x-forwarded-port: 80",
            "x-forwarded-proto: http",
            "x-real-ip: 192.0.2.7",
        ];
        assert_eq!(forwarded(request), want);
    }

    #[test]
    fn an_upgrade_goes_on_as_one() {
        let lines = forwarded(request(&[
            ("host", "a"),
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
        ]));
        assert!(
            lines.contains(&"connection: upgrade".to_owned())
                && lines.contains(&"upgrade: websocket".to_owned()),
            "{lines:?}"
        );
    }

    #[test]
    fn a_target_with_an_authority_goes_on_in_origin_form() {
        let mut request = request(&[("cookie", "a=1"), ("cookie", "b=2"), ("host", "other")]);
        *request.uri_mut() = "https://a.org/x?y".parse().unwrap();
        assert_eq!(authority(&request), Ok("a.org"));
        let lines = forwarded(request);
        assert_eq!(lines[..3], ["GET /x?y", "cookie: a=1; b=2", "host: a.org"]);
    }

    #[test]
    fn a_host_that_is_not_clear_is_refused() {
        let one = |host: &str| authority(&request(&[("host", host)])).map(str::to_owned);
        assert_eq!(one("a.org:80"), Ok("a.org:80".to_owned()));
        assert_eq!(one("[::1]:80"), Ok("[::1]:80".to_owned()));
        for host in ["a b", "a/b", "u@h", "a,b"] {
            assert_eq!(one(host), Err(Refusal::Host), "{host}");
        }
        assert_eq!(authority(&request(&[("host", "a"), ("host", "b")])), Err(Refusal::Host));
        assert_eq!(authority(&request(&[])), Err(Refusal::Host));
        let mut old = request(&[]);
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(authority(&old), Ok(""));
    }
}
