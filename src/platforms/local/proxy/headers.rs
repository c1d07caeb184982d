//! What the proxy changes in a message's head, and nothing else does:
//!
//! * hop-by-hop fields go, both ways (RFC 9110, 7.6.1): `Connection` and what it names, `Proxy-Connection`,
//!   `Keep-Alive`, `TE` (but `trailers` stays: gRPC insists), `Transfer-Encoding`, `Upgrade` (but see `tunnel`).
//!   `Connection` cannot make fields go that the proxy itself needs: `Host` and `Content-Length`;
//! * `Host` stays as the client sent it, unless the request's target names another host: then that one (RFC 9112, 3.2.2);
//! * `X-Forwarded-For`: the peer's address is appended to what the client sent. Earlier entries are the client's word
//!   and not checked; a service that decides by it should read the last one;
//! * `X-Forwarded-Proto` and `X-Forwarded-Host`: set if absent. They are kept if present, since whatever ends TLS in
//!   front of the proxy knows better; a service must not take them for proof either;
//! * `Via: 1.1 wade` (or 2.0) is appended to requests, as a gateway must (RFC 9110, 7.6.3), and not to answers;
//! * `Expect` goes: the proxy asks the client for the body (100) when a backend has taken the request;
//! * `Date` is added to an answer that has none (by hyper).

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, Entry, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING,
    UPGRADE, VIA,
};
use http::uri::{PathAndQuery, Uri};
use http::{Version, request};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Puts a request's head as a backend should see it. `peer` is the client's address.
pub(super) fn for_backend(head: &mut request::Parts, peer: &HeaderValue) {
    let trailers = has_token(&head.headers, &TE, "trailers");
    strip_hop_by_hop(&mut head.headers);
    if trailers {
        head.headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    head.headers.remove(EXPECT);
    let is_h2 = head.version == Version::HTTP_2;
    if !is_h2 {
        to_origin_form(head);
    }
    let host = match head.uri.authority().filter(|_| is_h2) {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => head.headers.get(HOST).cloned(),
    };
    let headers = &mut head.headers;
    if let (Entry::Vacant(entry), Some(host)) = (headers.entry(FORWARDED_HOST), host) {
        entry.insert(host);
    }
    headers
        .entry(FORWARDED_PROTO)
        .or_insert(HeaderValue::from_static("http"));
    append(headers, FORWARDED_FOR, peer.clone());
    append(
        headers,
        VIA,
        HeaderValue::from_static(if is_h2 { "2.0 wade" } else { "1.1 wade" }),
    );
}

/// Puts an answer's headers as a client should see them.
pub(super) fn for_client(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
}

/// The protocol a request wants to change to, if any: HTTP/1.1, and named in both `Connection` and `Upgrade`.
/// `h2c` is not offered, clients may begin with HTTP/2 at once.
pub(super) fn wanted_upgrade(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = headers.get(UPGRADE)?;
    let wanted = version == Version::HTTP_11 && has_token(headers, &CONNECTION, "upgrade");
    (wanted && !protocol.as_bytes().eq_ignore_ascii_case(b"h2c")).then(|| protocol.clone())
}

/// Asks for, or agrees to, a change of protocol: the two fields that [`strip_hop_by_hop`] took.
pub(super) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
        .filter(|token| !token.eq_ignore_ascii_case("close") && !token.eq_ignore_ascii_case("keep-alive"))
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [CONNECTION, PROXY_CONNECTION, KEEP_ALIVE, TE, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
}

/// `GET http://host/path` becomes `GET /path` with `Host: host`.
fn to_origin_form(head: &mut request::Parts) {
    let Some(authority) = head.uri.authority() else { return };
    if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
        head.headers.insert(HOST, host);
    }
    let path = head
        .uri
        .path_and_query()
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"));
    head.uri = Uri::from(path);
}

/// Adds to a field that is a list, in one line whatever the number of lines before.
fn append(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    if !headers.contains_key(&name) {
        headers.insert(name, value);
        return;
    }
    let mut list: Vec<u8> = Vec::new();
    for part in headers.get_all(&name).iter().chain([&value]) {
        if !list.is_empty() {
            list.extend_from_slice(b", ");
        }
        list.extend_from_slice(part.as_bytes());
    }
    headers.insert(
        name,
        HeaderValue::from_bytes(&list).expect("valid values joined by a comma are valid"),
    );
}

fn has_token(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    tokens(headers, name).any(|token| token.eq_ignore_ascii_case(wanted))
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn seen_by_backend(request: request::Builder) -> (Uri, Vec<(String, String)>) {
        let (mut head, ()) = request.body(()).expect("a valid request").into_parts();
        for_backend(&mut head, &HeaderValue::from_static("192.0.2.7"));
        let text = |value: &HeaderValue| value.to_str().expect("visible").to_owned();
        let mut headers: Vec<_> = head
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect();
        headers.sort();
        (head.uri, headers)
    }

    fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
        of.iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn a_plain_request_gains_three_forwarded_fields_and_via() {
        let seen = seen_by_backend(Request::get("/a?b=c").header("host", "shop.example"));
        let expected = pairs(&[
            ("host", "shop.example"),
            ("via", "1.1 wade"),
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-host", "shop.example"),
            ("x-forwarded-proto", "http"),
        ]);
        assert_eq!(seen, (Uri::from_static("/a?b=c"), expected));
    }

    #[test]
    fn hop_by_hop_fields_go_and_lists_are_appended() {
        let request = Request::get("http://real.example/x")
            .header("host", "forged.example")
            .header("connection", "keep-alive, X-Secret, Host")
            .header("x-secret", "1")
            .header("keep-alive", "timeout=5")
            .header("te", "trailers, deflate")
            .header("upgrade", "websocket")
            .header("proxy-connection", "keep-alive")
            .header("expect", "100-continue")
            .header("x-forwarded-for", "203.0.113.1")
            .header("x-forwarded-for", "198.51.100.2")
            .header("x-forwarded-proto", "https");
        let expected = pairs(&[
            ("host", "real.example"),
            ("te", "trailers"),
            ("via", "1.1 wade"),
            ("x-forwarded-for", "203.0.113.1, 198.51.100.2, 192.0.2.7"),
            ("x-forwarded-host", "real.example"),
            ("x-forwarded-proto", "https"),
        ]);
        assert_eq!(seen_by_backend(request), (Uri::from_static("/x"), expected));
    }

    #[test]
    fn an_upgrade_must_be_named_twice_and_not_be_h2c() {
        let asks = |connection: &str, upgrade: &str| {
            let request = Request::get("/")
                .header("connection", connection)
                .header("upgrade", upgrade);
            let (head, ()) = request.body(()).expect("a valid request").into_parts();
            wanted_upgrade(head.version, &head.headers).is_some()
        };
        assert_eq!(
            [
                asks("Upgrade", "websocket"),
                asks("keep-alive", "websocket"),
                asks("Upgrade, HTTP2-Settings", "h2c")
            ],
            [true, false, false]
        );
    }
}
