//! Service files and the service manager: systemd, launchd.
