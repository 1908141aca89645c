//! Incidents: events for people. What is going on, how bad it is, and when it will be over.

use std::collections::VecDeque;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::clock::Timestamp;

/// Incidents beyond this many are forgotten, resolved ones first.
const MOST: usize = 200;
/// Updates of one incident.
const MOST_UPDATES: usize = 100;
/// Characters.
const LONGEST_NAME: usize = 200;
const LONGEST_BODY: usize = 4_000;
const LONGEST_FALLBACK: usize = 1_000;
/// Seconds: an estimate beyond thirty days is a slip of the pen.
const FARTHEST: f64 = 30.0 * 86_400.0;

/// How far the work on an incident is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum State {
    /// Something is wrong; nobody knows yet what.
    #[default]
    Investigating,
    /// It is known what.
    Identified,
    /// It was mended, and is being watched.
    Monitoring,
    /// It is over.
    Resolved,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Impact {
    /// Nobody notices.
    None,
    /// Some notice.
    #[default]
    Minor,
    /// Many cannot work as usual.
    Major,
    /// Nothing works.
    Critical,
}

impl State {
    /// As in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Investigating => "investigating",
            Self::Identified => "identified",
            Self::Monitoring => "monitoring",
            Self::Resolved => "resolved",
        }
    }
}

impl Impact {
    /// As in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Minor => "minor",
            Self::Major => "major",
            Self::Critical => "critical",
        }
    }
}

/// An incident. Times are Unix seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Incident {
    /// Unique within a service.
    pub id: String,
    /// What is going on, in a line.
    pub name: String,
    /// When it was posted.
    pub created_at: f64,
    /// How far the work on it is.
    pub state: State,
    /// How bad it is.
    pub impact: Impact,
    /// When it will be over, as far as is known.
    pub eta: Option<f64>,
    /// What to do meanwhile.
    pub fallback: Option<String>,
    /// What was said, oldest first.
    pub updates: Vec<Update>,
    /// What another version keeps here: it stays.
    #[serde(flatten)]
    pub(crate) more: Map<String, Value>,
}

/// What was said of an incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Update {
    /// When, in Unix seconds.
    pub t: f64,
    /// How far the work was.
    pub state: State,
    /// In words.
    pub body: String,
    /// By whom.
    pub author: String,
    #[serde(flatten)]
    pub(crate) more: Map<String, Value>,
}

impl Incident {
    /// Whether it is not over.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state != State::Resolved
    }

    /// When something was said last, in Unix seconds.
    #[must_use]
    pub fn updated_at(&self) -> f64 {
        self.updates.last().map_or(self.created_at, |last| last.t)
    }
}

/// What is new about when an incident will be over.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Eta {
    /// Nothing: the estimate stays, if there is one. In JSON, no `eta`.
    #[default]
    Unchanged,
    /// Nobody knows, or not any more. In JSON, `null`.
    Unknown,
    /// In Unix seconds. In JSON, a number, or a time of RFC 3339 in UTC.
    At(f64),
}

/// A new incident, or what is new about one.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Post {
    /// The incident that it is about; none for a new one.
    pub id: Option<String>,
    /// What is going on, in a line; needed for a new one.
    pub name: Option<String>,
    /// In words.
    pub body: Option<String>,
    /// How far the work is.
    pub state: Option<State>,
    /// How bad it is.
    pub impact: Option<Impact>,
    /// When it will be over.
    pub eta: Eta,
    /// What to do meanwhile.
    pub fallback: Option<String>,
}

impl<'de> Deserialize<'de> for Eta {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Time {
            Seconds(f64),
            Text(String),
        }
        match Option::<Time>::deserialize(from)? {
            None => Ok(Self::Unknown),
            Some(Time::Seconds(seconds)) => Ok(Self::At(seconds)),
            Some(Time::Text(text)) => match humantime::parse_rfc3339(&text) {
                Ok(time) => Ok(Self::At(Timestamp::from(time).as_secs_f64())),
                Err(_) => Err(serde::de::Error::custom(
                    "eta: use Unix seconds, a time such as \"2026-12-01T18:00:00Z\", or null",
                )),
            },
        }
    }
}

/// What is wrong with a post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostError {
    what: String,
    unknown: bool,
}

impl PostError {
    fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            unknown: false,
        }
    }

    pub(crate) fn is_unknown(&self) -> bool {
        self.unknown
    }
}

impl fmt::Display for PostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for PostError {}

/// Incidents, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Incidents(VecDeque<Incident>);

impl Incidents {
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Incident> {
        self.0.iter()
    }

    pub(crate) fn open(&self) -> impl Iterator<Item = &Incident> {
        self.0.iter().filter(|incident| incident.is_open())
    }

    /// Those that were resolved since, in Unix seconds, the latest first.
    pub(crate) fn over_since(&self, since: f64) -> impl Iterator<Item = &Incident> {
        let over =
            move |incident: &&Incident| !incident.is_open() && incident.updated_at() >= since;
        self.0.iter().rev().filter(over)
    }

    /// Opens an incident under `id`, or adds to the one that the post names.
    pub(crate) fn post(
        &mut self,
        post: Post,
        id: &str,
        author: &str,
        now: f64,
    ) -> Result<Incident, PostError> {
        check(&post, now)?;
        let Some(known) = &post.id else {
            let incident = Incident {
                id: id.to_owned(),
                name: post.name.clone().unwrap_or_default().trim().to_owned(),
                created_at: now,
                state: State::default(),
                impact: Impact::default(),
                eta: None,
                fallback: None,
                updates: Vec::new(),
                more: Map::new(),
            };
            if incident.name.is_empty() {
                return Err(PostError::new("name: say in a line what is going on"));
            }
            if self.0.len() >= MOST {
                let over = self.0.iter().position(|incident| !incident.is_open());
                self.0.remove(over.unwrap_or(0));
            }
            let incident = add(incident, post, author, now);
            self.0.push_back(incident.clone());
            return Ok(incident);
        };
        let Some(incident) = self.0.iter_mut().find(|incident| incident.id == *known) else {
            return Err(PostError {
                what: "there is no such incident".to_owned(),
                unknown: true,
            });
        };
        if incident.updates.len() >= MOST_UPDATES {
            let what = format!("an incident has {MOST_UPDATES} updates at most; open another");
            return Err(PostError::new(what));
        }
        *incident = add(incident.clone(), post, author, now);
        Ok(incident.clone())
    }
}

fn add(mut incident: Incident, post: Post, author: &str, now: f64) -> Incident {
    incident.state = post.state.unwrap_or(incident.state);
    incident.impact = post.impact.unwrap_or(incident.impact);
    incident.eta = match post.eta {
        Eta::Unchanged => incident.eta,
        Eta::Unknown => None,
        Eta::At(eta) => Some(eta),
    };
    incident.fallback = post.fallback.or(incident.fallback);
    if let Some(name) = post.name.filter(|name| !name.trim().is_empty()) {
        incident.name = name.trim().to_owned();
    }
    incident.updates.push(Update {
        t: now,
        state: incident.state,
        body: post.body.unwrap_or_default(),
        author: author.to_owned(),
        more: Map::new(),
    });
    incident
}

fn check(post: &Post, now: f64) -> Result<(), PostError> {
    for (field, text, longest) in [
        ("name", &post.name, LONGEST_NAME),
        ("body", &post.body, LONGEST_BODY),
        ("fallback", &post.fallback, LONGEST_FALLBACK),
    ] {
        let length = text.as_ref().map_or(0, |text| text.chars().count());
        if length > longest {
            let what = format!("{field}: {length} characters are too many; use {longest} at most");
            return Err(PostError::new(what));
        }
        // It ends in terminals, mails and chats too.
        let control = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
        if text.as_ref().is_some_and(|text| text.contains(control)) {
            return Err(PostError::new(format!(
                "{field}: holds a control character"
            )));
        }
    }
    match post.eta {
        Eta::At(eta) if eta.is_nan() || eta <= now => Err(PostError::new(
            "eta: is in the past; say when it will be over",
        )),
        Eta::At(eta) if eta > now + FARTHEST => {
            Err(PostError::new("eta: is more than thirty days away"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Post {
        Post {
            name: Some(name.to_owned()),
            ..Post::default()
        }
    }

    #[test]
    fn an_incident_is_opened_updated_and_resolved() {
        let mut incidents = Incidents::default();
        let post: Post = serde_json::from_str(
            r#"{"name": " slow ", "impact": "major", "eta": "2026-12-01T18:00:00Z", "fallback": "use the cache"}"#,
        )
        .unwrap();
        let now = 1_796_140_800.0;
        let opened = incidents.post(post, "1", "alice", now).unwrap();
        assert_eq!(
            (opened.name.as_str(), opened.eta),
            ("slow", Some(1_796_148_000.0))
        );
        let over = Post {
            id: Some("1".into()),
            state: Some(State::Resolved),
            body: Some("it was a cache".into()),
            ..Post::default()
        };
        let over = incidents.post(over, "2", "bob", now + 60.0).unwrap();
        assert_eq!((over.impact, over.updates.len()), (Impact::Major, 2));
        assert_eq!(over.updated_at(), now + 60.0);
        assert_eq!(incidents.open().count(), 0);
        assert_eq!(incidents.iter().count(), 1);
    }

    #[test]
    fn an_estimate_stays_until_it_is_changed_or_taken_back() {
        let mut incidents = Incidents::default();
        let mut post = |json: &str| {
            let post = serde_json::from_str(json).unwrap();
            incidents.post(post, "1", "a", 100.0).unwrap().eta
        };
        assert_eq!(post(r#"{"name": "slow", "eta": 200}"#), Some(200.0));
        assert_eq!(post(r#"{"id": "1", "body": "still"}"#), Some(200.0));
        assert_eq!(post(r#"{"id": "1", "eta": null}"#), None);
        assert_eq!(post(r#"{"id": "1", "body": "still"}"#), None);
    }

    #[test]
    fn what_is_wrong_is_said_and_changes_nothing() {
        let mut incidents = Incidents::default();
        let known = incidents.post(named("one"), "1", "a", 100.0).unwrap();
        let before = incidents.clone();
        let mut wrong = |post: Post, said: &str| {
            let error = incidents.post(post, "2", "a", 200.0).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        };
        wrong(Post::default(), "name: say");
        wrong(named("  "), "name: say");
        wrong(named(&"x".repeat(201)), "name: 201 characters");
        wrong(named("a\u{1b}[31m"), "name: holds a control character");
        let eta = |eta| Post {
            eta: Eta::At(eta),
            ..named("x")
        };
        wrong(eta(199.0), "eta: is in the past");
        wrong(eta(f64::NAN), "eta: is in the past");
        wrong(eta(1e12), "eta: is more than thirty days");
        let stranger = Post {
            id: Some("9".into()),
            ..named("x")
        };
        wrong(stranger, "no such incident");
        assert_eq!(incidents, before);
        for _ in 0..2 * MOST_UPDATES {
            let more = Post {
                id: Some(known.id.clone()),
                ..Post::default()
            };
            let _ = incidents.post(more, "", "a", 300.0);
        }
        assert_eq!(incidents.0[0].updates.len(), MOST_UPDATES);
    }

    #[test]
    fn the_oldest_that_is_over_makes_room() {
        let mut incidents = Incidents::default();
        for n in 0..=MOST {
            let mut post = named("x");
            post.state = (n == 5).then_some(State::Resolved);
            incidents.post(post, &n.to_string(), "a", 1.0).unwrap();
        }
        assert_eq!(incidents.0.len(), MOST);
        assert!(incidents.iter().all(|incident| incident.id != "5"));
    }
}
