//! Who may come in over TCP: whoever has the token; without one, programs of this machine.
//!
//! - A web page that somebody looks at must not teach the model. A browser sends the page's origin
//!   with what it posts, and the name it looked up as `Host`: both must be this machine's own, or the
//!   origin one that the operator names.
//! - What tells nothing needs no token: `routes` says which paths that are.
//! - The Unix socket has no door but the mode of its file.

use super::ServeError;
use super::origins::Origins;
use super::refusal::Refusal;
use crate::config::{self, Serve};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use std::fs::{self, File};
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;

/// Fewest bytes of a token: 16 letters at random are more than anybody tries.
const TOKEN_BYTES_MIN: usize = 16;
/// Most bytes of the file with the token.
const TOKEN_FILE_BYTES_MAX: usize = 4096;

/// Who may come in.
#[derive(Clone, Debug)]
pub(super) enum Door {
    /// Whoever has the token with this hash.
    Token(blake3::Hash),
    /// Programs of this machine, and pages of these origins.
    Loopback(Origins),
}

impl Door {
    /// The door that an address needs.
    ///
    /// # Errors
    /// [`ServeError::Open`] for an address beyond this machine without a token; what is wrong with
    /// the token's file.
    pub(super) fn of(config: &Serve) -> Result<Self, ServeError> {
        match config.token_file.as_deref() {
            Some(path) => token(path).map(|token| Self::Token(blake3::hash(token.as_bytes()))),
            None if config.is_open() => Err(ServeError::Open { listen: config.listen }),
            None => Ok(Self::Loopback(Origins::new(&config.origins))),
        }
    }

    /// - `is_open`: whether the route needs no token.
    ///
    /// # Errors
    /// A [`Refusal`] that says what was missing.
    pub(super) fn check(
        &self,
        is_open: bool,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<(), Refusal> {
        match self {
            Self::Token(_) if is_open => Ok(()),
            Self::Token(hash) => check_token(hash, headers),
            Self::Loopback(origins) => check_loopback(origins, uri, headers),
        }
    }
}

fn check_token(hash: &blake3::Hash, headers: &HeaderMap) -> Result<(), Refusal> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = value.and_then(|value| value.split_once(' '));
    let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    // Comparing hashes takes the same time wherever they differ.
    match given.map(|(_, token)| blake3::hash(token.trim().as_bytes()) == *hash) {
        Some(true) => Ok(()),
        Some(false) => Err(unauthorised("the token is wrong")),
        None => Err(unauthorised("expected a header `Authorization: Bearer TOKEN`")),
    }
}

fn unauthorised(message: &str) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message)
}

fn check_loopback(origins: &Origins, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
    let forbidden = |message: &str| Refusal::new(StatusCode::FORBIDDEN, "forbidden", message);
    let host = one(headers, header::HOST).unwrap_or_default();
    let here = is_loopback(host) && uri.authority().is_none_or(|name| is_loopback(name.as_str()));
    if !here {
        let message = "expected a `Host` of this machine, such as localhost: without a token only \
            its own programs are answered";
        return Err(forbidden(message));
    }
    match (headers.contains_key(header::ORIGIN), one(headers, header::ORIGIN)) {
        (false, _) => Ok(()),
        (true, Some(origin)) if own(origin, host) || origins.has(origin) => Ok(()),
        (true, _) => Err(forbidden(
            "a web page from elsewhere asks: expected one of this server, or of serve.origins",
        )),
    }
}

/// The value of a header that is there once.
fn one(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?.to_str().ok();
    first.filter(|_| all.next().is_none())
}

/// Whether `origin` is what a browser says of a page that `host` served.
fn own(origin: &str, host: &str) -> bool {
    let named = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    named.is_some_and(|named| named.eq_ignore_ascii_case(host))
}

/// Whether `host`, with or without a port, can only be this machine.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let address = match bare {
        Some(bare) => bare.parse().ok().map(IpAddr::V6),
        None => name.parse().ok().map(IpAddr::V4),
    };
    address.map_or_else(|| name.eq_ignore_ascii_case("localhost"), config::is_loopback)
}

/// The token in a file that nobody else may read.
fn token(path: &Path) -> Result<String, ServeError> {
    let failed = |source| ServeError::TokenFile { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    private(path, &file.metadata().map_err(failed)?)?;
    let mut text = String::new();
    file.take(TOKEN_FILE_BYTES_MAX as u64).read_to_string(&mut text).map_err(failed)?;
    let token = text.trim();
    if token.len() < TOKEN_BYTES_MIN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ServeError::Token { path: path.to_owned(), least: TOKEN_BYTES_MIN });
    }
    Ok(token.to_owned())
}

fn private(path: &Path, found: &fs::Metadata) -> Result<(), ServeError> {
    use std::os::unix::fs::MetadataExt;
    let mode = found.mode() & 0o777;
    if is_shared(mode, found.gid()) {
        return Err(ServeError::TokenMode { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Whether a file of this mode and group is anybody else's too. Root's group is nobody else; and the
/// bits of the group are where systemd's credentials show that the service's account may read them.
fn is_shared(mode: u32, group: u32) -> bool {
    mode & 0o007 != 0 || (mode & 0o070 != 0 && group != 0)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    /// A path that needs no token.
    const OPEN: &str = "/healthz";

    fn at(listen: &str, token_file: Option<&Path>) -> Serve {
        let token_file = token_file.map(Path::to_path_buf);
        Serve { listen: listen.parse().unwrap(), token_file, ..Serve::default() }
    }

    fn answered(door: &Door, path: &str, pairs: &[(&str, &str)]) -> u16 {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name: header::HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        let checked = door.check(path == OPEN, &path.parse().unwrap(), &headers);
        checked.map_or_else(|refusal| refusal.status().as_u16(), |()| 200)
    }

    #[test]
    fn without_a_token_only_this_machine_is_answered() {
        let status = |host: &str| {
            answered(&Door::Loopback(Origins::default()), "/v1/status", &[("host", host)])
        };
        for host in ["localhost", "LocalHost:8321", "127.0.0.1:8321", "127.9.9.9", "[::1]:8321"] {
            assert_eq!(status(host), 200, "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8321",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.7",
            "[::1",
            "[fe80::1]:1",
            "",
        ] {
            assert_eq!(status(host), 403, "{host}");
        }
        assert_eq!(answered(&Door::Loopback(Origins::default()), OPEN, &[]), 403);
        let twice = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(answered(&Door::Loopback(Origins::default()), "/", &twice), 403);
        let absolute = answered(
            &Door::Loopback(Origins::default()),
            "http://evil.example/",
            &[("host", "localhost")],
        );
        assert_eq!(absolute, 403);
    }

    #[test]
    fn without_a_token_no_page_from_elsewhere_may_ask() {
        let status = |origin: &str| {
            let headers = [("host", "localhost:8321"), ("origin", origin)];
            answered(&Door::Loopback(Origins::default()), "/v1/samples", &headers)
        };
        assert_eq!(status("http://localhost:8321"), 200);
        for origin in ["null", "http://evil.example", "http://localhost:9", "localhost:8321", ""] {
            assert_eq!(status(origin), 403, "{origin}");
        }
    }

    #[test]
    fn a_page_that_the_operator_names_may_ask_by_a_name_of_this_machine() {
        let door = Door::Loopback(Origins::new(&["https://app.example".to_owned()]));
        let status = |host: &str, origin: &str| {
            answered(&door, "/v1/status", &[("host", host), ("origin", origin)])
        };
        assert_eq!(status("localhost:8321", "https://app.example"), 200);
        for origin in ["http://app.example", "https://app.example.evil", "https://app.example/"] {
            assert_eq!(status("localhost:8321", origin), 403, "{origin}");
        }
        assert_eq!(status("evil.example", "https://app.example"), 403);
    }

    #[test]
    fn with_a_token_only_it_counts() {
        let door = Door::Token(blake3::hash(b"0123456789abcdef"));
        let status = |value: &str| {
            let headers = [("host", "device.example"), ("authorization", value)];
            answered(&door, "/v1/status", &headers)
        };
        assert_eq!(status("Bearer 0123456789abcdef"), 200);
        assert_eq!(status("bearer  0123456789abcdef"), 200);
        for wrong in ["Bearer 0123456789abcdeg", "Bearer", "Basic 0123456789abcdef", ""] {
            assert_eq!(status(wrong), 401, "{wrong}");
        }
        assert_eq!(answered(&door, "/v1/status", &[]), 401);
        assert_eq!(answered(&door, OPEN, &[]), 200);
    }

    #[test]
    fn an_address_beyond_this_machine_needs_a_token() {
        let door = |listen: &str| Door::of(&at(listen, None));
        assert!(door("127.0.0.1:0").is_ok() && door("[::1]:0").is_ok());
        for listen in ["0.0.0.0:0", "192.168.1.2:0", "[::]:0"] {
            assert!(matches!(door(listen), Err(ServeError::Open { .. })), "{listen}");
        }
    }

    #[test]
    fn a_token_that_others_may_read_or_guess_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let listen = "0.0.0.0:0";
        let opened = |text: &str, mode: u32| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            Door::of(&at(listen, Some(&path)))
        };
        assert!(opened("0123456789abcdef\n", 0o600).is_ok());
        let error = opened("0123456789abcdef", 0o644).unwrap_err().to_string();
        assert!(error.contains("644"), "{error}");
        assert!(is_shared(0o640, 1_000) && is_shared(0o604, 0) && !is_shared(0o440, 0));
        assert!(matches!(opened("short", 0o600), Err(ServeError::Token { .. })));
        assert!(matches!(opened("with a blank inside", 0o600), Err(ServeError::Token { .. })));
        let none = folder.path().join("none");
        assert!(matches!(Door::of(&at(listen, Some(&none))), Err(ServeError::TokenFile { .. })));
    }
}
