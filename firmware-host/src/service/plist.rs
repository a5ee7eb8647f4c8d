//! The property list of launchd: started at boot or login, again after a failure, in the background.
//!
//! - In: a [`Service`]. Out: XML, without the line that says who wrote it.
//! - launchd has no watchdog, no credentials and no fences: the account is what limits the program.

use super::{LABEL, STOP_SECONDS, Service, ServiceError};

/// What a property list holds.
enum Value {
    Text(String),
    Whole(u32),
    Yes,
    No,
    List(Vec<Value>),
    Table(Vec<(&'static str, Value)>),
}

pub(super) fn write(service: &Service) -> Result<String, ServiceError> {
    let options = &service.options;
    let mut keys = vec![
        ("Label", Value::Text(LABEL.into())),
        ("ProgramArguments", Value::List(arguments(service))),
        ("RunAtLoad", Value::Yes),
        ("KeepAlive", Value::Table(vec![("SuccessfulExit", Value::No)])),
        ("ThrottleInterval", Value::Whole(30)),
        ("ExitTimeOut", Value::Whole(STOP_SECONDS)),
        ("ProcessType", Value::Text("Background".into())),
        ("LowPriorityIO", Value::Yes),
        ("LowPriorityBackgroundIO", Value::Yes),
        ("Nice", Value::Whole(10)),
        ("Umask", Value::Whole(0o077)),
        ("StandardErrorPath", Value::Text(log(service)?)),
        ("StandardOutPath", Value::Text("/dev/null".into())),
    ];
    match (&options.account, options.user) {
        (_, true) => {}
        (Some(account), false) => keys.push(("UserName", Value::Text(account.clone()))),
        // launchd makes no account for a service: without one it would be root's.
        (None, false) => return Err(ServiceError::Missing("account")),
    }
    let mut xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
                   <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \
                   \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n<plist version=\"1.0\">\n"
        .to_owned();
    put(&mut xml, &Value::Table(keys), 0);
    xml += "</plist>\n";
    Ok(xml)
}

fn arguments(service: &Service) -> Vec<Value> {
    let options = &service.options;
    let mut all = vec![options.program.display().to_string()];
    all.extend(options.arguments.iter().cloned());
    if let Some(token) = &service.token {
        all.extend(["--token-file".into(), token.display().to_string()]);
    }
    all.into_iter().map(Value::Text).collect()
}

/// Where the log goes: launchd takes no path that begins with `~`.
fn log(service: &Service) -> Result<String, ServiceError> {
    if !service.options.user {
        return Ok("/Library/Logs/sapwood.log".into());
    }
    let home = std::env::home_dir().ok_or(ServiceError::Missing("HOME"))?;
    Ok(super::absolute(&home.join("Library/Logs/sapwood.log"))?.display().to_string())
}

fn put(xml: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    let line = match value {
        Value::Text(text) => format!("<string>{}</string>", escaped(text)),
        Value::Whole(number) => format!("<integer>{number}</integer>"),
        Value::Yes => "<true/>".into(),
        Value::No => "<false/>".into(),
        Value::List(values) => {
            *xml += &format!("{indent}<array>\n");
            values.iter().for_each(|value| put(xml, value, depth + 1));
            "</array>".into()
        }
        Value::Table(keys) => {
            *xml += &format!("{indent}<dict>\n");
            for (key, value) in keys {
                *xml += &format!("{indent}  <key>{key}</key>\n");
                put(xml, value, depth + 1);
            }
            "</dict>".into()
        }
    };
    *xml += &format!("{indent}{line}\n");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
