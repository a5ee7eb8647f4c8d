//! HTTP over TCP and a Unix socket: samples in, text and telemetry out.
