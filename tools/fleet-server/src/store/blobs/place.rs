//! The address of a bucket, and who may use it.
//!
//! ```text
//! s3://BUCKET/PREFIX?endpoint=https://HOST:PORT&region=NAME&style=path&ca=FILE&cache_mib=1024
//! ```
//! - Without an endpoint the region's at Amazon, `us-east-1` unless it is said, and the bucket in the name
//!   of the host; with one the bucket in the path, unless `style=virtual`.
//! - Credentials come from the environment alone: an address stands in files, arguments and errors.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

/// Bytes of the local cache where nothing is said.
const CACHE_MIB: u64 = 1024;
/// Most of them: a pebibyte is a slip of the pen.
const CACHE_MIB_MAX: u64 = 1 << 30;
/// Characters of a prefix: keys end in 3 of a folder and 64 of a hash, and have 1,024 at most.
const PREFIX_BYTES_MAX: usize = 512;

/// Why an address, or its credentials, are not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// Something other than an address of a bucket.
    #[error(
        "the address of the blobs: {problem}, expected s3://BUCKET/PREFIX?endpoint=URL&region=NAME&style=path|virtual&ca=FILE&cache_mib=N"
    )]
    Address {
        /// What is wrong.
        problem: String,
    },
    /// Nobody to sign for.
    #[error("{name} is not in the environment, expected it since the blobs are in a bucket of S3")]
    Credentials {
        /// What is missing.
        name: &'static str,
    },
}

/// Where a bucket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The bucket.
    pub bucket: String,
    /// What all names in it begin with; empty, or without a slash at its ends.
    pub prefix: String,
    /// `http://` or `https://`, host, port; none is Amazon's.
    pub endpoint: Option<String>,
    /// The region that requests are signed for.
    pub region: String,
    /// Whether the bucket is a part of the host's name.
    pub is_virtual: bool,
    /// Authorities that may vouch for the endpoint; none: those of the system.
    pub ca: Option<PathBuf>,
    /// Bytes that may be kept of it on this machine.
    pub cache_bytes: u64,
}

impl Place {
    /// Reads an address.
    ///
    /// # Errors
    /// [`PlaceError::Address`].
    pub fn read(address: &str) -> Result<Self, PlaceError> {
        let wrong = |problem: &str| PlaceError::Address { problem: problem.to_owned() };
        let rest = address.strip_prefix("s3://").ok_or_else(|| wrong("it is none of S3"))?;
        let (place, options) = rest.split_once('?').unwrap_or((rest, ""));
        if place.contains('@') {
            return Err(wrong(
                "it holds credentials, which belong into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            ));
        }
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let prefix = prefix.trim_end_matches('/');
        if !is_bucket(bucket) {
            return Err(wrong("the bucket has no name of 3 to 63 small letters, digits, - and ."));
        }
        if !is_prefix(prefix) {
            return Err(wrong("the prefix has other parts than letters, digits, -, _ and ."));
        }
        let mut found = Self {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            endpoint: None,
            region: "us-east-1".to_owned(),
            is_virtual: true,
            ca: None,
            cache_bytes: CACHE_MIB << 20,
        };
        let mut style = None;
        for option in options.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            match name {
                "style" => style = Some(value),
                _ => found.option(name, value)?,
            }
        }
        found.is_virtual = match style {
            None => found.endpoint.is_none(),
            Some("virtual") => true,
            Some("path") => false,
            Some(_) => return Err(wrong("the style is neither path nor virtual")),
        };
        let is_plain = found.endpoint.as_deref().is_some_and(|url| url.starts_with("http://"));
        if is_plain && found.ca.is_some() {
            return Err(wrong("ca needs an endpoint with https://"));
        }
        let named = found.endpoint.as_deref().is_none_or(|url| !is_address(url));
        match found.is_virtual && !named {
            true => Err(wrong("style=virtual needs an endpoint with a name")),
            false => Ok(found),
        }
    }

    fn option(&mut self, name: &str, value: &str) -> Result<(), PlaceError> {
        let wrong = |problem: String| PlaceError::Address { problem };
        match name {
            "endpoint" if is_endpoint(value) => {
                self.endpoint = Some(value.trim_end_matches('/').to_owned());
            }
            "endpoint" => return Err(wrong("the endpoint is no URL of a host".to_owned())),
            "region" if is_word(value) => self.region = value.to_owned(),
            "region" => return Err(wrong("the region is no name".to_owned())),
            "ca" if !value.is_empty() => self.ca = Some(PathBuf::from(value)),
            "cache_mib" => {
                let mib: Option<u64> = value.parse().ok().filter(|mib| *mib <= CACHE_MIB_MAX);
                let none = || wrong("cache_mib is no number of MiB".to_owned());
                self.cache_bytes = mib.ok_or_else(none)? << 20;
            }
            // A value may be a secret that was meant for elsewhere.
            _ => return Err(wrong(format!("there is no option {:?}", one_word(name)))),
        }
        Ok(())
    }

    /// Scheme, host and port that are called, the bucket in front of them where it belongs there.
    pub(super) fn host(&self) -> String {
        let amazon = || format!("https://s3.{}.amazonaws.com", self.region);
        let endpoint = self.endpoint.clone().unwrap_or_else(amazon);
        match endpoint.split_once("://") {
            Some((scheme, host)) if self.is_virtual => {
                format!("{scheme}://{}.{host}", self.bucket)
            }
            _ => endpoint,
        }
    }

    /// The name of an object.
    pub(super) fn key(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) }
    }
}

/// As people write it, without what is nobody's business.
impl fmt::Display for Place {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "s3://{}/{} at {}", self.bucket, self.prefix, self.host())
    }
}

fn one_word(text: &str) -> String {
    let plain = |letter: &char| letter.is_ascii_alphanumeric() || *letter == '_';
    text.chars().filter(plain).take(20).collect()
}

fn is_bucket(name: &str) -> bool {
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    (3..=63).contains(&name.len())
        && name.bytes().all(plain)
        && !name.contains("..")
        && !name.starts_with(['-', '.'])
        && !name.ends_with(['-', '.'])
}

fn is_prefix(prefix: &str) -> bool {
    let part = |part: &str| is_word(part) && part != "." && part != "..";
    prefix.is_empty() || prefix.len() <= PREFIX_BYTES_MAX && prefix.split('/').all(part)
}

fn is_word(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !text.is_empty() && text.bytes().all(plain)
}

/// Host and port of an endpoint.
fn host_and_port(url: &str) -> Option<(&str, Option<&str>)> {
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let host = host.trim_end_matches('/');
    Some(match host.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (host, None),
    })
}

/// A host with or without a port: no path, no credentials.
fn is_endpoint(url: &str) -> bool {
    let Some((host, port)) = host_and_port(url) else { return false };
    (is_word(host) || is_address(url))
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// A host that has no name.
fn is_address(url: &str) -> bool {
    let host = host_and_port(url).map_or("", |(host, _)| host);
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => host.parse::<Ipv4Addr>().is_ok(),
    }
}

/// Who signs requests.
#[derive(Clone)]
pub struct Credentials {
    /// Its name.
    pub key_id: String,
    /// Its secret.
    pub secret: String,
    /// What goes with a secret that is lent for some time.
    pub token: Option<String>,
}

impl Credentials {
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`.
    ///
    /// # Errors
    /// [`PlaceError::Credentials`], which names the first that is missing.
    #[expect(clippy::disallowed_methods, reason = "a secret is no setting that a file may hold")]
    pub fn of_environment() -> Result<Self, PlaceError> {
        let found = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let needed = |name| found(name).ok_or(PlaceError::Credentials { name });
        Ok(Self {
            key_id: needed("AWS_ACCESS_KEY_ID")?,
            secret: needed("AWS_SECRET_ACCESS_KEY")?,
            token: found("AWS_SESSION_TOKEN"),
        })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Credentials")
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        let place =
            Place::read("s3://bucket/a/b/?endpoint=http://127.0.0.1:8333&region=eu").unwrap();
        assert_eq!((place.bucket.as_str(), place.prefix.as_str()), ("bucket", "a/b"));
        assert_eq!((place.host().as_str(), place.is_virtual), ("http://127.0.0.1:8333", false));
        assert_eq!(place.key("ab/cd"), "a/b/ab/cd");
        assert_eq!(place.cache_bytes, 1 << 30);
        assert_eq!(place.to_string(), "s3://bucket/a/b at http://127.0.0.1:8333");
        let place = Place::read("s3://bucket?region=eu-west-1&cache_mib=2&ca=/etc/ca.pem").unwrap();
        assert_eq!(place.host(), "https://bucket.s3.eu-west-1.amazonaws.com");
        assert_eq!((place.key("ab"), place.cache_bytes), ("ab".to_owned(), 2 << 20));
        assert_eq!(place.ca, Some(PathBuf::from("/etc/ca.pem")));
        let place = Place::read("s3://bucket?region=eu-west-1&style=path").unwrap();
        assert_eq!(place.host(), "https://s3.eu-west-1.amazonaws.com");
        let place = Place::read("s3://bucket?endpoint=https://host:9/&style=virtual").unwrap();
        assert_eq!(place.host(), "https://bucket.host:9");
        let place = Place::read("s3://bucket?endpoint=https://[::1]").unwrap();
        assert_eq!(place.host(), "https://[::1]");
    }

    #[test]
    fn what_is_no_address_is_refused_in_a_line_without_a_secret() {
        for (address, expected) in [
            ("http://bucket", "none of S3"),
            ("s3://key:secret@bucket/prefix", "it holds credentials"),
            ("s3://b", "the bucket has no name"),
            ("s3://Bucket", "the bucket has no name"),
            ("s3://-bucket", "the bucket has no name"),
            ("s3://bucket/a//b", "the prefix"),
            ("s3://bucket/../b", "the prefix"),
            ("s3://bucket/a b", "the prefix"),
            ("s3://bucket/a\nb", "the prefix"),
            ("s3://bucket?endpoint=127.0.0.1:8333", "the endpoint"),
            ("s3://bucket?endpoint=http://key:secret@host", "the endpoint"),
            ("s3://bucket?endpoint=http://host/path", "the endpoint"),
            ("s3://bucket?endpoint=http://host:70000", "the endpoint"),
            ("s3://bucket?endpoint=http://", "the endpoint"),
            ("s3://bucket?region=", "the region"),
            ("s3://bucket?region=a%20b", "the region"),
            ("s3://bucket?style=both", "the style"),
            ("s3://bucket?endpoint=https://[::1]:9&style=virtual", "an endpoint with a name"),
            ("s3://bucket?endpoint=https://10.0.0.1&style=virtual", "an endpoint with a name"),
            ("s3://bucket?cache_mib=-1", "cache_mib"),
            ("s3://bucket?cache_mib=99999999999", "cache_mib"),
            ("s3://bucket?secret=secret", "there is no option \"secret\""),
            ("s3://bucket?ca=", "there is no option \"ca\""),
            ("s3://bucket?cache_mb=1", "there is no option \"cache_mb\""),
            ("s3://bucket?endpoint=http://host&ca=/etc/ca.pem", "ca needs an endpoint with https"),
        ] {
            let error = Place::read(address).unwrap_err().to_string();
            assert!(error.contains(expected) && error.lines().count() == 1, "{address}: {error}");
            assert!(!error.contains("key:secret"), "{error}");
        }
        let credentials =
            Credentials { key_id: "key".into(), secret: "secret".into(), token: None };
        assert_eq!(format!("{credentials:?}"), "Credentials");
    }
}
