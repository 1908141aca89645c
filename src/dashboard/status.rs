//! The status, for people who would else ask: as a page, and in the shape of Statuspage that many programs read.

use std::fmt::Write;

use http::Response;
use serde_json::{Value, json as object};

use super::answer::{Body, HTML, Problem, fresh, json};
use super::html::{document, escape, time, utc};
use crate::incidents::{Impact, Incident};

/// Resolved incidents on the page.
const HISTORY: usize = 50;

/// What is shown.
pub(super) struct Status {
    pub(super) service: String,
    pub(super) incidents: Vec<Incident>,
    /// When it was so, in Unix seconds.
    pub(super) as_of: f64,
    /// Why nothing newer is known.
    pub(super) stale: Option<String>,
}

impl Status {
    /// The page, or the JSON of this name.
    pub(super) fn answer(&self, path: &str) -> Result<Response<Body>, Problem> {
        match path {
            "v1/incidents" => json(&self.history()),
            path if path.ends_with(".json") => json(&self.summary()),
            _ => Ok(fresh(HTML, self.page())),
        }
    }

    /// Who and as of when, in the shape of Statuspage, of which `as_of` and `stale` are no part.
    fn of(&self) -> Value {
        object!({
            "id": self.service, "name": self.service, "time_zone": "Etc/UTC",
            "as_of": utc(self.as_of), "stale": self.stale,
        })
    }

    fn worst(&self) -> Option<Impact> {
        let open = self.incidents.iter().filter(|incident| incident.is_open());
        open.map(|incident| incident.impact).max()
    }

    fn sentence(&self) -> &'static str {
        match self.worst() {
            None => "All is well",
            Some(Impact::None) => "Something is going on",
            Some(Impact::Minor) => "Minor trouble",
            Some(Impact::Major) => "Major trouble",
            Some(Impact::Critical) => "An outage",
        }
    }

    /// `summary.json` of Statuspage, version 2, of which `eta` and `fallback` of an incident are no part.
    pub(super) fn summary(&self) -> Value {
        let open = self
            .incidents
            .iter()
            .rev()
            .filter(|incident| incident.is_open());
        let open: Vec<_> = open.map(incident_json).collect();
        let worst = self.worst();
        let updated = self
            .incidents
            .iter()
            .map(Incident::updated_at)
            .fold(0.0, f64::max);
        let updated = if updated > 0.0 { updated } else { self.as_of };
        let component = match worst {
            None | Some(Impact::None) => "operational",
            Some(Impact::Minor) => "degraded_performance",
            Some(Impact::Major) => "partial_outage",
            Some(Impact::Critical) => "major_outage",
        };
        let mut page = self.of();
        page["updated_at"] = utc(updated).into();
        object!({
            "page": page,
            "status": {
                "indicator": worst.unwrap_or(Impact::None).as_str(),
                "description": self.sentence(),
            },
            "components": [{
                "id": self.service, "name": self.service, "status": component, "position": 1,
                "group": false, "only_show_if_degraded": false, "updated_at": utc(updated),
            }],
            "incidents": open,
            "scheduled_maintenances": [],
        })
    }

    /// All incidents, in the same shape.
    pub(super) fn history(&self) -> Value {
        let all: Vec<_> = self.incidents.iter().rev().map(incident_json).collect();
        object!({ "page": self.of(), "incidents": all })
    }

    pub(super) fn page(&self) -> String {
        let mut open = String::new();
        let mut past = String::new();
        for incident in self
            .incidents
            .iter()
            .rev()
            .filter(|incident| incident.is_open())
        {
            open.push_str(&article(incident));
        }
        let over = self
            .incidents
            .iter()
            .rev()
            .filter(|incident| !incident.is_open());
        for incident in over.take(HISTORY) {
            past.push_str(&article(incident));
        }
        if past.is_empty() {
            past.push_str("<p class=\"hint\">Nothing yet.</p>");
        }
        let stale = self.stale.as_ref().map_or_else(String::new, |why| {
            format!(" <b>Nothing newer is known: {}.</b>", escape(why))
        });
        let kind = if self.worst().is_some() || self.stale.is_some() {
            "trouble"
        } else {
            "well"
        };
        let body = format!(
            "<section class=\"state {kind}\"><h2>{}</h2><p>As of {}.{stale}</p></section>{open_section}\
             <section><h2>Past incidents</h2>{past}</section>\
             <p class=\"hint\"><a href=\"summary.json\">summary.json</a></p>",
            self.sentence(),
            time(self.as_of),
            open_section = if open.is_empty() {
                String::new()
            } else {
                format!("<section><h2>Now</h2>{open}</section>")
            },
        );
        document(&format!("{} – status", escape(&self.service)), &body)
    }
}

fn incident_json(incident: &Incident) -> Value {
    let resolved = (!incident.is_open()).then(|| utc(incident.updated_at()));
    let updates: Vec<_> = incident
        .updates
        .iter()
        .enumerate()
        .rev()
        .map(|(n, update)| {
            object!({
                "id": format!("{}-{n}", incident.id), "incident_id": incident.id,
                "status": update.state, "body": update.body,
                "created_at": utc(update.t), "updated_at": utc(update.t), "display_at": utc(update.t),
            })
        })
        .collect();
    object!({
        "id": incident.id, "name": incident.name, "status": incident.state, "impact": incident.impact,
        "created_at": utc(incident.created_at), "started_at": utc(incident.created_at),
        "updated_at": utc(incident.updated_at()), "resolved_at": resolved, "incident_updates": updates,
        "eta": incident.eta.filter(|_| incident.is_open()).map(utc), "fallback": incident.fallback,
    })
}

fn article(incident: &Incident) -> String {
    let mut text = String::new();
    let write = |text: &mut String| -> Result<(), std::fmt::Error> {
        write!(
            text,
            "<article class=\"incident\"><h3>{}</h3><p><b>{}</b> · impact: {} · since {}",
            escape(&incident.name),
            incident.state.as_str(),
            incident.impact.as_str(),
            time(incident.created_at),
        )?;
        if incident.is_open() {
            match incident.eta {
                Some(eta) => write!(text, " · <b>expected to be over: {}</b>", time(eta))?,
                None => text.push_str(" · no estimate yet"),
            }
        }
        text.push_str("</p>");
        if let Some(fallback) = &incident.fallback {
            write!(text, "<p>Meanwhile: {}</p>", escape(fallback))?;
        }
        text.push_str("<ul>");
        for update in incident.updates.iter().rev() {
            let (t, state) = (time(update.t), update.state.as_str());
            write!(text, "<li>{t} · {state} · {}</li>", escape(&update.body))?;
        }
        text.push_str("</ul></article>");
        Ok(())
    };
    // Writing to a string does not fail.
    let _ = write(&mut text);
    text
}
