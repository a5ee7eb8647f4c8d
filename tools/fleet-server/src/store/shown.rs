//! Addresses of stores as they may be shown: without what is secret.
//!
//! - In: `scheme://USER:PASSWORD@HOST/NAME?OPTIONS`. Out: the same without a password, and without every
//!   option that is not known to be none.

/// An address without what is secret in it: a password, and every option but those that are known to be none.
pub fn shown(address: &str) -> String {
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    // A password may hold an @ or a ? that nobody encoded: the last @ ends it.
    let (who, at) = rest.rsplit_once('@').unwrap_or(("", rest));
    let who = who.split([':', '?', '/']).next().unwrap_or_default();
    let (place, options) = at.split_once('?').unwrap_or((at, ""));
    let (host, name) = place.split_once('/').unwrap_or((place, ""));
    // What stands for a port and is none is a password whose host was forgotten.
    let host = match host.rsplit_once(':') {
        Some((host, port)) if !port.bytes().all(|byte| b"0123456789]".contains(&byte)) => host,
        _ => host,
    };
    let plain = |option: &&str| {
        let name = option.split('=').next().unwrap_or_default();
        ["endpoint", "host", "region", "sslmode"].contains(&name)
    };
    let options: Vec<&str> = options.split('&').filter(plain).collect();
    let or_none = |text: String, is: bool| if is { text } else { String::new() };
    let who = or_none(format!("{who}@"), !who.is_empty());
    let name = or_none(format!("/{name}"), !name.is_empty());
    let options = or_none(format!("?{}", options.join("&")), !options.is_empty());
    format!("{scheme}://{who}{host}{name}{options}")
}

/// Whether a password stands in an address.
pub fn has_password(address: &str) -> bool {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let who = rest.rsplit_once('@').map(|(who, _)| who);
    who.is_some_and(|who| who.contains(':')) || rest.contains("password=")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_shown_to_nobody() {
        for (given, expected) in [
            ("postgres://fleet:secret@db:5432/fleet", "postgres://fleet@db:5432/fleet"),
            (
                "postgres://fleet:sec@ret@db/fleet?sslmode=require",
                "postgres://fleet@db/fleet?sslmode=require",
            ),
            ("postgres://db/fleet?password=secret&host=%2Frun", "postgres://db/fleet?host=%2Frun"),
            ("postgres://fleet:sec?r/et@db:5432/fleet", "postgres://fleet@db:5432/fleet"),
            ("postgres://fleet@[::1]:5432/fleet", "postgres://fleet@[::1]:5432/fleet"),
            ("s3://bucket/prefix?region=r&key=secret", "s3://bucket/prefix?region=r"),
        ] {
            assert_eq!(shown(given), expected);
        }
        assert_eq!(shown("postgres://fleet:secret"), "postgres://fleet");
        for address in ["postgres://a:b@c/d", "postgres://a:b?@c/d", "postgres://c/d?password=b"] {
            assert!(has_password(address), "{address}");
        }
        assert!(!has_password("postgres://fleet@db:5432/fleet?sslmode=require"));
    }
}
