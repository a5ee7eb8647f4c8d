//! What `huggingface_hub` reads of its surroundings: the cache, the token, the mirror, whether to ask at all.
//!
//! - In: the variables by a function. Out: [`Settings`].
//!
//! Source: <https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables>.

use crate::error::{HubError, shown};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The hub itself.
const ENDPOINT: &str = "https://huggingface.co";
/// How long nothing may come.
const SILENCE: Duration = Duration::from_secs(30);
/// Longest token that is read.
const TOKEN_BYTES_MAX: usize = 4096;

/// A variable of the surroundings, by its name.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Where models are kept, and whom to ask for more.
#[derive(Clone)]
pub struct Settings {
    /// The folder of the cache.
    pub cache: PathBuf,
    /// The address of the hub, without a slash at its end.
    pub endpoint: String,
    /// Who asks.
    pub token: Option<String>,
    /// Whether the hub must not be asked, by which variable.
    pub offline: Option<&'static str>,
    /// Files of authorities, one of which must be there; those that the user names alone.
    pub authorities: Vec<PathBuf>,
    /// How long nothing may come.
    pub silence: Duration,
}

impl fmt::Debug for Settings {
    /// Without the token.
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Settings")
            .field("cache", &self.cache)
            .field("endpoint", &self.endpoint)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// Reads the variables.
    /// # Errors
    /// [`HubError::Setting`], [`HubError::Read`].
    pub fn read(variables: Variables<'_>) -> Result<Self, HubError> {
        let said = |name: &str| variables(name).filter(|value| !value.trim().is_empty());
        let first =
            |names: &[&'static str]| names.iter().find_map(|name| Some((*name, said(name)?)));
        let user = said("HOME").or_else(|| said("USERPROFILE")).map(PathBuf::from);
        let path = |text: String| match (text.strip_prefix("~/"), &user) {
            (Some(rest), Some(user)) => user.join(rest),
            _ => PathBuf::from(text),
        };
        let home = match (said("HF_HOME"), said("XDG_CACHE_HOME"), &user) {
            (Some(home), ..) => path(home),
            (None, Some(caches), _) => path(caches).join("huggingface"),
            (None, None, Some(user)) => user.join(".cache/huggingface"),
            (None, None, None) => {
                let (expected, got) = ("a folder for the cache of models", String::new());
                return Err(HubError::Setting { variable: "HF_HOME", expected, got });
            }
        };
        let cache = first(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]);
        let cache = cache.map_or_else(|| home.join("hub"), |(_, text)| path(text));
        let token = match first(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]) {
            _ if said("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|value| is_true(&value)) => None,
            Some((variable, text)) => cleaned(variable, &text)?,
            None => {
                let file = said("HF_TOKEN_PATH").map_or_else(|| home.join("token"), path);
                kept(&file)?
            }
        };
        let offline = first(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]);
        let offline = offline.filter(|(_, value)| is_true(value)).map(|(name, _)| name);
        let authorities =
            first(&["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NIX_SSL_CERT_FILE"]);
        let authorities = match authorities {
            Some((_, text)) => vec![path(text)],
            None => AUTHORITIES.iter().map(PathBuf::from).collect(),
        };
        let endpoint = endpoint(said("HF_ENDPOINT"))?;
        let silence = silence(said("HF_HUB_DOWNLOAD_TIMEOUT"))?;
        Ok(Self { cache, endpoint, token, offline, authorities, silence })
    }

    /// The hub as a person calls it.
    pub fn host(&self) -> &str {
        self.endpoint.split_once("://").map_or(&self.endpoint, |(_, host)| host)
    }
}

/// Where systems keep the authorities that they trust: Debian, Fedora, openSUSE, Alpine and macOS.
const AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// As Python's library reads a flag.
fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.trim().to_ascii_lowercase().as_str())
}

fn endpoint(said: Option<String>) -> Result<String, HubError> {
    let Some(said) = said else { return Ok(ENDPOINT.to_owned()) };
    let plain = said.trim().trim_end_matches('/');
    let rest = plain.strip_prefix("https://").or_else(|| plain.strip_prefix("http://"));
    let is_plain = |letter: char| letter.is_ascii_graphic() && !"?#@\\".contains(letter);
    match rest {
        Some(rest) if !rest.is_empty() && rest.chars().all(is_plain) => Ok(plain.to_owned()),
        _ => Err(HubError::Setting {
            variable: "HF_ENDPOINT",
            expected: "an address such as https://huggingface.co",
            got: shown(&said),
        }),
    }
}

fn silence(said: Option<String>) -> Result<Duration, HubError> {
    let Some(said) = said else { return Ok(SILENCE) };
    let seconds =
        said.trim().parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.filter(|seconds| !seconds.is_zero()).ok_or_else(|| HubError::Setting {
        variable: "HF_HUB_DOWNLOAD_TIMEOUT",
        expected: "seconds above 0",
        got: shown(&said),
    })
}

/// A token of a file, if there is one.
fn kept(file: &Path) -> Result<Option<String>, HubError> {
    match fs::read_to_string(file) {
        Ok(text) => cleaned("HF_TOKEN_PATH", &text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HubError::Read { path: file.to_owned(), source }),
    }
}

/// A token that can stand in a header; what it was is not told.
fn cleaned(variable: &'static str, text: &str) -> Result<Option<String>, HubError> {
    let token = text.trim();
    let is_token =
        token.len() <= TOKEN_BYTES_MAX && token.chars().all(|letter| letter.is_ascii_graphic());
    match is_token {
        true => Ok(Some(token.to_owned()).filter(|token| !token.is_empty())),
        false => Err(HubError::Setting {
            variable,
            expected: "a token, one word",
            got: format!("{} bytes with blanks or other letters", text.len()),
        }),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn read(said: &[(&str, &str)]) -> Result<Settings, HubError> {
        let find = |name: &str| {
            said.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        Settings::read(&find)
    }

    #[test]
    fn the_cache_is_where_python_keeps_it() {
        for (said, cache) in [
            (&[("HOME", "/u")][..], "/u/.cache/huggingface/hub"),
            (&[("HOME", "/u"), ("XDG_CACHE_HOME", "/c")], "/c/huggingface/hub"),
            (&[("HOME", "/u"), ("HF_HOME", "~/h")], "/u/h/hub"),
            (&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/k")], "/k"),
            (&[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/k")], "/k"),
        ] {
            assert_eq!(read(said).unwrap().cache, Path::new(cache));
        }
        assert!(read(&[]).is_err());
    }

    #[test]
    fn the_token_is_that_of_the_variable_or_of_the_file() {
        let home = tempfile::tempdir().unwrap();
        let place = home.path().display().to_string();
        let token = |more: &[(&str, &str)]| {
            let said: Vec<_> = more.iter().copied().chain([("HF_HOME", place.as_str())]).collect();
            read(&said).map(|settings| settings.token)
        };
        assert_eq!(token(&[]).unwrap(), None);
        fs::write(home.path().join("token"), "hf_kept\n").unwrap();
        fs::write(home.path().join("other"), "\n").unwrap();
        assert_eq!(token(&[]).unwrap().as_deref(), Some("hf_kept"));
        assert_eq!(token(&[("HF_TOKEN", " hf_said ")]).unwrap().as_deref(), Some("hf_said"));
        let other = home.path().join("other").display().to_string();
        assert_eq!(token(&[("HF_TOKEN_PATH", &other)]).unwrap(), None);
        assert_eq!(
            token(&[("HF_TOKEN", "x"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).unwrap(),
            None
        );
        let error = token(&[("HF_TOKEN", "secret words")]).unwrap_err().to_string();
        assert!(error.contains("HF_TOKEN") && !error.contains("secret"), "{error}");
        let settings = read(&[("HOME", "/u"), ("HF_TOKEN", "secret")]).unwrap();
        assert!(!format!("{settings:?}").contains("secret"));
    }

    #[test]
    fn a_mirror_silence_and_being_offline_are_said() {
        let with = |name, value| read(&[("HOME", "/u"), (name, value)]);
        assert_eq!(with("HF_ENDPOINT", "http://m:1/hf/").unwrap().endpoint, "http://m:1/hf");
        assert_eq!(with("HF_ENDPOINT", "http://m:1/hf/").unwrap().host(), "m:1/hf");
        for wrong in ["m", "ftp://m", "https://", "https://u@m", "http://m/?x", "http://m m"] {
            assert!(with("HF_ENDPOINT", wrong).is_err(), "{wrong}");
        }
        assert_eq!(with("HF_HUB_OFFLINE", "YES").unwrap().offline, Some("HF_HUB_OFFLINE"));
        assert_eq!(with("HF_HUB_OFFLINE", "0").unwrap().offline, None);
        assert_eq!(
            with("TRANSFORMERS_OFFLINE", "1").unwrap().offline,
            Some("TRANSFORMERS_OFFLINE")
        );
        assert!(with("HF_HUB_DOWNLOAD_TIMEOUT", "soon").is_err());
        assert_eq!(with("HF_HUB_DOWNLOAD_TIMEOUT", "2.5").unwrap().silence.as_millis(), 2500);
    }
}
