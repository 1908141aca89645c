//! What the service is called, and who hears what is said.

use std::fmt;

use http::HeaderName;

use crate::builder::Builder;
use crate::clock::Timestamp;
use crate::events::{Event, EventLog, OnEvent};

/// Settings of detection and events.
#[derive(Default)]
pub(crate) struct Settings {
    service: Option<String>,
    instance: Option<String>,
    pub(crate) version: Option<String>,
    version_header: Option<String>,
    callbacks: Vec<Box<OnEvent>>,
}

impl Settings {
    /// The header that tells a caller's version.
    pub(crate) fn version_header(&self) -> Result<Option<HeaderName>, String> {
        let name = self.version_header.as_deref().map(str::parse).transpose();
        name.map_err(|_| {
            format!(
                "version_header: {:?} is not a header name",
                self.version_header
            )
        })
    }

    pub(crate) fn log(self, now: Timestamp) -> EventLog {
        let service = self.service.unwrap_or_else(program);
        let instance = self
            .instance
            .unwrap_or_else(|| format!("{:04x}", fastrand::u16(..)));
        EventLog::new(&service, &instance, self.callbacks, now)
    }
}

/// The name of the program that runs.
fn program() -> String {
    let path = std::env::current_exe().ok();
    let name = path.as_deref().and_then(std::path::Path::file_stem);
    name.map_or_else(
        || "service".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

impl Builder {
    /// What the service is called in events; default the name of the program.
    pub fn service(mut self, name: impl Into<String>) -> Self {
        self.watch.service = Some(name.into());
        self
    }

    /// What this replica is called in events; default four random hexadecimal digits.
    pub fn instance(mut self, name: impl Into<String>) -> Self {
        self.watch.instance = Some(name.into());
        self
    }

    /// The version of this service: its start-up is a pin of ours on the time line.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.watch.version = Some(version.into());
        self
    }

    /// The request header that tells the version of a caller's program, instead of the first product of `User-Agent`.
    /// A version that a caller was not seen with before is a deploy of that caller.
    pub fn version_header(mut self, name: impl Into<String>) -> Self {
        self.watch.version_header = Some(name.into());
        self
    }

    /// Calls `hear` with every event, one at a time and in order, on a thread that says one: keep it short, or hand the
    /// event on. It may ask and do anything with the [`Callers`](crate::Callers).
    /// [`Callers::subscribe`](crate::Callers::subscribe) is the same as a stream.
    pub fn on_event(mut self, hear: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.watch.callbacks.push(Box::new(hear));
        self
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").finish_non_exhaustive()
    }
}
