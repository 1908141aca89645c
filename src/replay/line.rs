//! Lines of logs.

use std::borrow::Cow;
use std::time::Duration;

use http::{Method, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Deserialize;

use super::Format;
use super::date;
use crate::clock::Timestamp;
use crate::pipeline::Logged;

/// Nobody waits longer for a request than a day.
const LONGEST: f64 = 86_400.0;

/// What is in no name.
const ODD: &AsciiSet = &CONTROLS.add(b' ');
/// Seconds in a day.
const DAY: u64 = 86_400;
/// Times of a log are kept so much later than they are, since an origin may be after the first line: whole days.
const AHEAD: u64 = 92_592 * DAY;

/// A request, as its line tells.
#[derive(Debug)]
pub(super) struct Entry {
    /// When it ended, later by [`AHEAD`] until it is [set back](Origin::set_back).
    pub(super) at: Timestamp,
    pub(super) method: Method,
    pub(super) logged: Logged,
    pub(super) named: Named,
    /// The name, then the route.
    text: Box<str>,
    name: usize,
}

/// How the line names the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Named {
    #[default]
    Not,
    /// By a name that the service had established.
    Name,
    /// By the address that the request came from.
    Address,
}

impl Entry {
    pub(super) fn name(&self) -> &str {
        self.text.get(..self.name).unwrap_or_default()
    }

    pub(super) fn route(&self) -> &str {
        self.text.get(self.name..).unwrap_or_default()
    }

    fn new(
        at: Timestamp,
        method: Method,
        logged: Logged,
        (named, name): (Named, &str),
        route: &str,
    ) -> Self {
        let mut text = String::with_capacity(name.len() + route.len());
        text.push_str(name);
        text.push_str(route);
        Self {
            at,
            method,
            logged,
            named,
            text: text.into(),
            name: name.len(),
        }
    }

    /// The request of a line, or what is wrong with it.
    pub(super) fn parse(line: &[u8], format: Format) -> Result<Self, String> {
        let json = match format {
            Format::Auto => line.first() == Some(&b'{'),
            Format::Jsonl => true,
            Format::Combined => false,
        };
        if json {
            let text = std::str::from_utf8(line).map_err(|_| "the line is not UTF-8")?;
            return jsonl(text);
        }
        combined(&String::from_utf8_lossy(line)).map_err(str::to_owned)
    }
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
struct Json<'a> {
    t: f64,
    #[serde(borrow)]
    caller: Option<Text<'a>>,
    #[serde(borrow)]
    method: Option<Text<'a>>,
    #[serde(borrow)]
    route: Option<Text<'a>>,
    status: u16,
    latency_ms: Option<f64>,
}

/// A point in time from seconds, later by [`AHEAD`].
fn at(t: f64) -> Option<Timestamp> {
    let most = AHEAD as f64;
    let ahead = (t.abs() * 1e9) as u64;
    let zero = Timestamp::from_secs(AHEAD);
    let at = Duration::from_nanos(ahead);
    (-most..=1e10)
        .contains(&t)
        .then(|| if t < 0.0 { zero - at } else { zero + at })
}

/// Where the time of a log begins. A log that begins before its origin is run whole days later, so that the hours are
/// right, and told of at its own time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Origin {
    days: u64,
}

impl Origin {
    /// Of a log with this first request; some of the next ones may be earlier by `before`.
    pub(super) fn of(first: &Entry, before: Duration) -> Self {
        let early = Timestamp::from_secs(AHEAD).since(first.at);
        let days = (early + before).as_secs() / DAY + 1;
        Self {
            days: if early.is_zero() { 0 } else { days },
        }
    }

    /// Sets an entry to the time at which it is run.
    pub(super) fn set_back(self, entry: &mut Entry) {
        entry.at = entry.at - Duration::from_secs(AHEAD - self.days * DAY);
    }

    /// The time at which what happened at `t` is run.
    pub(super) fn run(self, t: f64) -> f64 {
        t + (self.days * DAY) as f64
    }

    /// The log's own time, to the microsecond.
    pub(super) fn told(self, t: f64) -> f64 {
        if self.days == 0 {
            return t;
        }
        ((t - (self.days * DAY) as f64) * 1e6).round() / 1e6
    }
}

fn status(code: u16) -> Result<StatusCode, &'static str> {
    StatusCode::from_u16(code).map_err(|_| "the status is none")
}

fn jsonl(line: &str) -> Result<Entry, String> {
    let json: Json<'_> = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let at = at(json.t).ok_or("t is no time")?;
    let took = json.latency_ms.unwrap_or(0.0) / 1e3;
    let logged = Logged {
        status: status(json.status)?,
        took: Duration::from_secs_f64(took.clamp(0.0, LONGEST)),
        response_bytes: 0,
    };
    let method = json.method.as_ref().map_or("GET", |method| &method.0);
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| "the method is none")?;
    let caller = match json.caller.as_ref().map_or("unknown", |caller| &caller.0) {
        "unknown" => (Named::Not, ""),
        name => (Named::Name, name),
    };
    // Whom no header could name has a row of its own all the same.
    let name: Cow<'_, str> = utf8_percent_encode(caller.1, ODD).into();
    let caller = (caller.0, &*name);
    let route = json.route.as_ref().map_or("", |route| &route.0);
    Ok(Entry::new(at, method, logged, caller, route))
}

/// `address ident user [time] "request" status bytes`, and whatever comes after.
fn combined(line: &str) -> Result<Entry, &'static str> {
    let (address, rest) = line.split_once(' ').ok_or("there is no address")?;
    let (before, rest) = rest.split_once(" [").ok_or("there is no [time]")?;
    let (time, rest) = rest.split_once("] \"").ok_or("there is no \"request\"")?;
    let user = before
        .split_once(' ')
        .ok_or("there is no user")?
        .1
        .trim_matches('"');
    let (request, rest) = quoted(rest).ok_or("the request has no end")?;
    let mut figures = rest.split_ascii_whitespace();
    let code = figures.next().and_then(|code| code.parse().ok());
    let bytes = figures.next().ok_or("there is no size")?;
    let logged = Logged {
        status: status(code.ok_or("there is no status")?)?,
        took: Duration::ZERO,
        response_bytes: match bytes {
            "-" => 0,
            bytes => bytes.parse().map_err(|_| "the size is none")?,
        },
    };
    let at = date::seconds(time)
        .and_then(|t| at(t as f64))
        .ok_or("the time is none")?;
    // What is no request line, such as a TLS hello on a plain port, is still a request that was answered.
    let mut words = request.split(' ');
    let method = words.next().unwrap_or_default();
    let (method, target) = match (Method::from_bytes(method.as_bytes()), words.next()) {
        (Ok(method), Some(target)) => (method, target),
        _ => (Method::GET, ""),
    };
    let caller = match (user, address) {
        ("-" | "", "-" | "") => (Named::Not, ""),
        ("-" | "", address) => (Named::Address, address),
        (user, _) => (Named::Name, user),
    };
    Ok(Entry::new(at, method, logged, caller, &template(target)))
}

/// Up to the closing quote, and what follows.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    let end = text.bytes().position(|byte| {
        let end = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        end
    })?;
    Some((text.get(..end)?, text.get(end + 1..)?))
}

/// A path as a route, as far as that can be told: numbers and long hexadecimal words are parameters.
fn template(target: &str) -> String {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let mut route = String::with_capacity(path.len());
    for (index, segment) in path.split('/').enumerate() {
        if index > 0 {
            route.push('/');
        }
        route.push_str(if is_key(segment) { "{}" } else { segment });
    }
    route
}

fn is_key(segment: &str) -> bool {
    let digits = segment.bytes().filter(u8::is_ascii_digit).count();
    let hex = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    digits > 0 && (digits == segment.len() || (segment.len() >= 16 && segment.bytes().all(hex)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Entry, String> {
        Entry::parse(line.as_bytes(), Format::Auto)
    }

    #[test]
    fn a_line_of_json_may_leave_things_out_and_say_more() {
        let entry = parse(r#"{"t": 12.5, "status": 201, "else": [1, {}]}"#).unwrap();
        assert_eq!(
            entry.at,
            Timestamp::from_secs(AHEAD) + Duration::from_millis(12_500)
        );
        assert_eq!((entry.named, entry.route()), (Named::Not, ""));
        let entry = parse(
            r#"{"t":1,"caller":"a\u0062","method":"PUT","route":"/x/{id}","status":503,"latency_ms":1500}"#,
        )
        .unwrap();
        assert_eq!((entry.name(), entry.route()), ("ab", "/x/{id}"));
        assert_eq!(entry.logged.took, Duration::from_millis(1_500));
        assert_eq!(entry.method, Method::PUT);
        let entry = parse(r#"{"t": 1, "caller": "Zoë's \"a b\"", "status": 200}"#).unwrap();
        assert_eq!(entry.name(), "Zo%C3%AB's%20\"a%20b\"");
    }

    #[test]
    fn a_log_may_begin_before_its_origin() {
        for t in [-1e9, -90_000.0, -12.5, 0.0, 12.5, 1.7e9] {
            let mut entry = parse(&format!(r#"{{"t": {t}, "status": 200}}"#)).unwrap();
            let origin = Origin::of(&entry, Duration::from_secs(5));
            origin.set_back(&mut entry);
            let run = entry.at.as_secs_f64();
            assert!((run - origin.run(t)).abs() < 1e-6, "{t}");
            assert!((origin.told(run) - t).abs() < 1e-6, "{t}");
            assert!(run >= if t < 0.0 { 5.0 } else { t }, "{t}");
            assert!((run - t) % 86_400.0 < 1e-6, "{t}");
        }
        assert!(parse(r#"{"t": -1e10, "status": 200}"#).is_err());
    }

    #[test]
    fn what_is_no_request_is_said() {
        for bad in [
            "{",
            r#"{"t": 1}"#,
            r#"{"t": 1e300, "status": 200}"#,
            r#"{"t": 1, "status": 20}"#,
            r#"{"t": "1", "status": 200}"#,
            "hello",
            "a - - [now] \"GET / HTTP/1.1\" 200 1",
            "a - - [17/May/2015:10:05:03 +0000] \"GET / HTTP/1.1 200 1",
            "a - - [17/May/2015:10:05:03 +0000] \"GET / HTTP/1.1\" x 1",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_caller_of_a_combined_line_is_its_user_or_its_address() {
        let line = |address: &str, user: &str| {
            parse(&format!(
                "{address} - {user} [17/May/2015:10:05:03 +0200] \"GET /a/42/b?q=1 HTTP/1.1\" 404 77 \"-\" \"x\""
            ))
            .unwrap()
        };
        let entry = line("2001:db8::1", "-");
        assert_eq!((entry.named, entry.name()), (Named::Address, "2001:db8::1"));
        assert_eq!(entry.route(), "/a/{}/b");
        assert_eq!(entry.at, Timestamp::from_secs(AHEAD + 1_431_849_903));
        assert_eq!(entry.logged.response_bytes, 77);
        assert_eq!(line("1.2.3.4", "anna").name(), "anna");
        assert_eq!(line("-", "-").named, Named::Not);
    }

    #[test]
    fn the_common_format_and_a_request_that_is_none() {
        let line = r#"1.2.3.4 - - [01/Jan/2026:00:00:00 +0000] "\x16\x03 \"q" 400 -"#;
        let entry = parse(line).unwrap();
        assert_eq!(entry.logged.status, StatusCode::BAD_REQUEST);
        assert_eq!(entry.logged.response_bytes, 0);
    }
}
