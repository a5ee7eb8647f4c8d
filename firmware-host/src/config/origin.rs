//! Origins of web pages, as a browser names them: scheme, host and port, and nothing else.

use super::ConfigError;

/// Origins that an operator may name.
const ORIGINS_MAX: usize = 64;
const KEY: &str = "serve.origins";
const EXPECTED: &str = "origins such as \"https://app.example\" or \"http://localhost:3000\": in \
                        small letters, without a path or a slash at the end, and no *";

/// Refuses the first that no browser would ever send.
pub(super) fn check(origins: &[String]) -> Result<(), ConfigError> {
    if origins.len() > ORIGINS_MAX {
        return Err(ConfigError::range(KEY, format!("at most {ORIGINS_MAX}"), origins.len()));
    }
    match origins.iter().find(|origin| !is_origin(origin)) {
        Some(origin) => Err(ConfigError::range(KEY, EXPECTED.to_owned(), format!("{origin:?}"))),
        None => Ok(()),
    }
}

fn is_origin(origin: &str) -> bool {
    let Some((scheme, host)) = origin.split_once("://") else { return false };
    let of_scheme = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let of_host =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._:[]".contains(&byte);
    // A browser leaves out the port that the scheme has anyway.
    let spare = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "\0",
    };
    !scheme.is_empty()
        && !host.is_empty()
        && scheme.bytes().all(of_scheme)
        && host.bytes().all(of_host)
        && !host.ends_with(spare)
        && !host.ends_with(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        let taken = |origin: &str| check(&[origin.to_owned()]).is_ok();
        for origin in [
            "https://app.example",
            "http://localhost:3000",
            "http://127.0.0.1:8080",
            "http://[::1]:5173",
            "tauri://localhost",
            "chrome-extension://abcdefgh",
        ] {
            assert!(taken(origin), "{origin}");
        }
        for origin in [
            "*",
            "null",
            "",
            "app.example",
            "https://",
            "https://app.example/",
            "https://App.example",
            "https://app.example:443",
            "http://app.example:80",
            "https://*.example",
            "https://a b",
            "https://app.example:",
        ] {
            assert!(!taken(origin), "{origin}");
        }
        assert!(check(&vec!["https://a.example".to_owned(); 65]).is_err());
    }
}
