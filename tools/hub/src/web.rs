//! Questions to the hub and to where it sends us: the door to the network.
//!
//! - Redirects are followed here, one by one: the token goes to the hub's own host alone, and from HTTPS
//!   nothing leads to HTTP.
//! - A server is known by the authorities of this system: none are built in, since they would age with the
//!   program, and a company's own would be missing.
//! - Every wait has a bound; an answer that is short by nature is read up to a bound.

use crate::error::{HubError, shown};
use crate::settings::Settings;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use ureq::http::{HeaderMap, Response, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};
use ureq::{Agent, Body};

/// Time for a connection.
const CONNECT: Duration = Duration::from_secs(15);
/// Most redirects of one question.
const REDIRECTS_MAX: usize = 5;
/// Bytes of a refusal that are read.
const REFUSAL_BYTES_MAX: u64 = 16 << 10;
/// What this program calls itself.
const AGENT: &str = concat!("sapwood/", env!("CARGO_PKG_VERSION"));

/// Whoever is asked.
pub(crate) struct Web {
    agent: Agent,
    endpoint: String,
    host: String,
    token: Option<String>,
}

/// What is asked.
#[derive(Clone, Copy)]
pub(crate) struct Ask<'a> {
    /// The path behind the address of the hub.
    pub(crate) path: &'a str,
    /// From which byte on the answer is wanted.
    pub(crate) from: u64,
    /// Whether only the hub's own words about it are wanted: redirects to other hosts are not followed.
    pub(crate) about: bool,
    /// What a person calls it.
    pub(crate) what: &'a str,
    pub(crate) repo: &'a str,
    pub(crate) revision: &'a str,
}

impl Web {
    /// # Errors
    /// [`HubError::Authorities`].
    pub(crate) fn new(settings: &Settings) -> Result<Self, HubError> {
        let roots = authorities(settings)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(provider)
            .root_certs(RootCerts::Specific(Arc::new(roots)))
            .build();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(AGENT)
            .accept_encoding("identity")
            .tls_config(tls)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(2 * settings.silence))
            .timeout_per_read(Some(settings.silence))
            .timeout_per_write(Some(settings.silence))
            .build();
        Ok(Self {
            agent: Agent::new_with_config(config),
            endpoint: settings.endpoint.clone(),
            host: settings.host().to_owned(),
            token: settings.token.clone(),
        })
    }

    /// An answer that says yes, wherever it comes from.
    pub(crate) fn ask(&self, ask: Ask<'_>) -> Result<Response<Body>, HubError> {
        let mut at = format!("{}{}", self.endpoint, ask.path);
        for _ in 0..=REDIRECTS_MAX {
            let own = is_same_host(&at, &self.endpoint);
            let answer = self.once(&at, own, ask)?;
            let status = answer.status().as_u16();
            match (status, location(answer.headers())) {
                // Of a range that begins at the end nothing is left, which is no refusal.
                (200 | 206, _) | (416, _) if status != 416 || ask.from > 0 => return Ok(answer),
                (301 | 302 | 303 | 307 | 308, Some(to)) => {
                    let next = self.next(&at, &to, ask)?;
                    if ask.about && !is_same_host(&next, &self.endpoint) {
                        return Ok(answer);
                    }
                    at = next;
                }
                _ => return Err(self.refusal(&at, answer, ask)),
            }
        }
        let (host, what) = (self.host.clone(), ask.what.to_owned());
        Err(HubError::Redirect {
            host,
            what,
            to: shown(&at),
            problem: "from one place to the next without end",
        })
    }

    fn once(&self, at: &str, own: bool, ask: Ask<'_>) -> Result<Response<Body>, HubError> {
        let mut request = if ask.about { self.agent.head(at) } else { self.agent.get(at) };
        if let Some(token) = self.token.as_ref().filter(|_| own) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if ask.from > 0 {
            request = request.header("range", format!("bytes={}-", ask.from));
        }
        request.call().map_err(|error| HubError::Unreachable {
            host: host(at).to_owned(),
            problem: shown(&error.to_string()),
            hint: "",
        })
    }

    /// Where a redirect leads, if it may be followed.
    fn next(&self, at: &str, to: &str, ask: Ask<'_>) -> Result<String, HubError> {
        let wrong = |problem| HubError::Redirect {
            host: host(at).to_owned(),
            what: ask.what.to_owned(),
            to: shown(to),
            problem,
        };
        let next = joined(at, to).ok_or_else(|| wrong("it is no address of HTTP"))?;
        if next.parse::<Uri>().is_err() {
            return Err(wrong("it is no address of HTTP"));
        }
        match at.starts_with("https://") && !next.starts_with("https://") {
            true => Err(wrong("what is asked for by HTTPS does not come by HTTP")),
            false => Ok(next),
        }
    }

    /// What a status that says no means.
    fn refusal(&self, at: &str, answer: Response<Body>, ask: Ask<'_>) -> HubError {
        let header = |name: &str| {
            let value = answer.headers().get(name).and_then(|value| value.to_str().ok());
            value.map(shown).unwrap_or_default()
        };
        let (status, code, words) =
            (answer.status().as_u16(), header("x-error-code"), header("x-error-message"));
        let wait = header("retry-after");
        let (repo, host) = (ask.repo.to_owned(), self.host.clone());
        if is_same_host(at, &self.endpoint) {
            match (status, &*code) {
                (401 | 403, "GatedRepo") => return HubError::Gated { host, repo },
                (401, _) if self.token.is_none() => return HubError::Unknown { host, repo },
                (404, "RevisionNotFound") => {
                    return HubError::NoRevision { repo, revision: ask.revision.to_owned() };
                }
                (404, "RepoNotFound") => return HubError::NoRepo { host, repo },
                (401 | 403, _) => {
                    let said = said(&words);
                    return HubError::Token { host, repo, said };
                }
                _ => {}
            }
        }
        let mut said = said(&match words.is_empty() {
            true => first_line(answer),
            false => words,
        });
        if !wait.is_empty() {
            said += &format!(", to be asked again after {wait} s");
        }
        let (host, what) = (self::host(at).to_owned(), ask.what.to_owned());
        HubError::Status { host, status, what, said }
    }
}

/// The beginning of a refusal's text.
fn first_line(answer: Response<Body>) -> String {
    let mut bytes = Vec::new();
    // Where even that fails, the status has to do.
    let _ = answer.into_body().into_reader().take(REFUSAL_BYTES_MAX).read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().next().unwrap_or_default();
    // A page of HTML says nothing in one line.
    if line.starts_with('<') { String::new() } else { shown(line) }
}

fn said(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(" ({words:?})") }
}

fn location(headers: &HeaderMap) -> Option<String> {
    headers.get("location")?.to_str().ok().map(str::to_owned)
}

/// Host and port of an address.
fn host(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or(rest)
}

/// Whether two addresses are of one server, spoken to in one way.
fn is_same_host(one: &str, other: &str) -> bool {
    let scheme =
        |address: &str| address.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    scheme(one) == scheme(other) && host(one).eq_ignore_ascii_case(host(other))
}

/// Where `to` leads from `at`.
fn joined(at: &str, to: &str) -> Option<String> {
    let (scheme, rest) = at.split_once("://")?;
    if let Some((other, _)) = to.split_once("://").filter(|(name, _)| !name.contains(['/', '?'])) {
        return ["http", "https"].contains(&other).then(|| to.to_owned());
    }
    if let Some(elsewhere) = to.strip_prefix("//") {
        return Some(format!("{scheme}://{elsewhere}"));
    }
    if to.starts_with('/') {
        return Some(format!("{scheme}://{}{to}", host(at)));
    }
    let path = rest.split(['?', '#']).next()?;
    let folder = path.rsplit_once('/').map_or(path, |(folder, _)| folder);
    Some(format!("{scheme}://{folder}/{to}"))
}

/// The authorities by which servers are known; none are needed where nobody speaks HTTPS.
fn authorities(settings: &Settings) -> Result<Vec<Certificate<'static>>, HubError> {
    let needed = settings.endpoint.starts_with("https://");
    let named = settings.authorities.len() == 1;
    for path in &settings.authorities {
        match read_authorities(path) {
            Ok(found) => return Ok(found),
            Err(problem) if needed && named => {
                return Err(HubError::Authorities {
                    problem: format!("{}: {problem}", path.display()),
                });
            }
            Err(_) => {}
        }
    }
    match needed {
        true => {
            Err(HubError::Authorities { problem: "this system keeps no authorities".to_owned() })
        }
        false => Ok(Vec::new()),
    }
}

fn read_authorities(path: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let found: Vec<_> = parse_pem(&bytes)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if found.is_empty() { Err("it holds no certificate".to_owned()) } else { Ok(found) }
}

/// A path of a repository as it stands in an address; slashes stay.
pub(crate) fn escaped(path: &str, slash: bool) -> String {
    let mut text = String::new();
    for byte in path.bytes() {
        match byte {
            b'/' if slash => text.push('/'),
            byte if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) => {
                text.push(byte.into())
            }
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_leads_where_a_browser_would_go() {
        let at = "https://hub.example/a/b?x=/y";
        for (to, next) in [
            ("/c", Some("https://hub.example/c")),
            ("c?d", Some("https://hub.example/a/c?d")),
            ("//cdn.example/c", Some("https://cdn.example/c")),
            ("https://cdn.example/c?u=http://x", Some("https://cdn.example/c?u=http://x")),
            ("/c?u=http://x", Some("https://hub.example/c?u=http://x")),
            ("file:///etc/passwd", None),
            ("ftp://x/y", None),
        ] {
            assert_eq!(joined(at, to).as_deref(), next, "{to}");
        }
    }

    #[test]
    fn from_https_nothing_leads_to_http() {
        let home = tempfile::tempdir().unwrap().path().display().to_string();
        let said = [("HF_HOME", home.as_str()), ("HF_ENDPOINT", "http://hub.example")];
        let find =
            |name: &str| said.iter().find(|(key, _)| *key == name).map(|(_, v)| (*v).to_owned());
        let web = Web::new(&Settings::read(&find).unwrap()).unwrap();
        let ask =
            Ask { path: "/", from: 0, about: false, what: "a file", repo: "a/b", revision: "main" };
        let next = |at, to| web.next(at, to, ask).map_err(|error| error.to_string());
        let error = next("https://hub.example/a", "http://cdn.example/a").unwrap_err();
        assert!(error.contains("does not come by HTTP"), "{error}");
        assert!(
            next("https://hub.example/a", "//cdn.example/a").unwrap().starts_with("https://cdn")
        );
        assert!(next("http://hub.example/a", "https://cdn.example/a").is_ok());
    }

    #[test]
    fn a_host_is_its_name_its_port_and_how_it_is_spoken_to() {
        for (one, other, same) in [
            ("https://hub.example/a", "https://HUB.example", true),
            ("https://hub.example:444/a", "https://hub.example", false),
            ("http://hub.example/a", "https://hub.example", false),
            ("https://hub.example.evil/a", "https://hub.example", false),
            ("https://hub.example@evil/a", "https://hub.example", false),
        ] {
            assert_eq!(is_same_host(one, other), same, "{one}");
        }
    }

    #[test]
    fn what_an_address_has_no_letter_for_is_escaped() {
        assert_eq!(escaped("in/q4 0%.gguf", true), "in/q4%200%25.gguf");
        assert_eq!(escaped("refs/pr/1", false), "refs%2Fpr%2F1");
    }
}
