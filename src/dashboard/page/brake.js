// What is wrong, in words, and what can be done about it.

import { announce, byId, clock, copy, el, number, percent, ago, say, setText, under, when } from "./dom.js";
import { getText, post } from "./api.js";
import { Proof } from "./chart.js";

const HARM = { none: "Nobody else suffers so far", at_risk: "The others are at risk", harmed: "The others are suffering" };

/** What is drawn on the chart: bands of runaways and incidents, lines of pins. */
export function happened(latest) {
  const bands = new Map();
  const pins = [];
  const ends = new Map();
  for (const event of latest.events) if (event.kind.endsWith("_ended")) ends.set(event.id, event.t);
  const onsets = [];
  // What began before the span is open still.
  for (const event of [...latest.episodes, ...latest.events]) {
    if (event.kind.startsWith("runaway_")) {
      bands.set(event.id, { from: event.since, to: ends.get(event.id) ?? latest.at, alarm: true });
      const together = (onset) => onset.caller === event.caller && Math.abs(onset.t - event.since) < 30;
      let onset = onsets.find(together);
      if (!onset) onsets.push((onset = { t: event.since, caller: event.caller, signals: new Set() }));
      onset.t = Math.min(onset.t, event.since);
      onset.signals.add(event.signal);
    } else if (event.kind === "pin" || (event.kind === "ours" && event.pin)) {
      pins.push({ t: event.at ?? event.t, text: `${event.caller || "ours"}: ${[event.pin, event.version || event.text].filter(Boolean).join(" ")}` });
    } else if (event.kind === "policy") {
      pins.push({ t: event.t, text: `${event.caller || "all"}: ${event.change.split(",")[0]}` });
    }
  }
  for (const incident of [...latest.incidents, ...latest.recent]) {
    const over = incident.state === "resolved" ? incident.updates[incident.updates.length - 1].t : latest.at;
    bands.set(`incident ${incident.id}`, { from: incident.created_at, to: over });
    pins.push({ t: incident.created_at, text: `incident: ${incident.name}`, warn: true });
  }
  for (const { t, caller, signals } of onsets) {
    const plain = [...signals].sort((a, b) => ORDER.indexOf(a) - ORDER.indexOf(b));
    pins.push({ t, text: `${caller || "nobody"}: ${plain.join(", ")}`, alarm: true });
  }
  return { bands: [...bands.values()], pins };
}

function what(event, row) {
  // What has fallen already is told by what it was, until its end is sure.
  const fallen = row && row.rate < event.baseline * 1.5 && event.observed > row.rate * 1.5;
  const rate = row && !fallen ? row.rate : event.observed;
  const factor = event.baseline ? rate / event.baseline : null;
  const share = event.share_of_rise === null ? null : `${percent(event.share_of_rise)} of the rise`;
  const words = {
    rate: `${number(rate)} requests/s instead of ${number(event.baseline)}${factor ? ` (× ${number(factor)})` : ""}${fallen ? `, now ${number(row.rate)} again` : ""}`,
    errors: `${percent(event.observed)} of its requests fail with ${event.class || "errors"}, usually ${percent(event.baseline)}`,
    in_flight: `${number(event.observed)} requests in flight instead of ${number(event.baseline)}: few, and each very slow`,
    names: `${number(event.observed)} new names a second instead of ${number(event.baseline)}`,
  };
  const pattern = { repeat: "the same keys again and again: a lost cache?", scan: "never the same key twice: a scan?" }[event.pattern];
  const fails = event.signal === "rate" && event.class && event.class !== "ok" ? `mostly ${event.class}` : null;
  return [words[event.signal] || event.signal, share, fails, pattern].filter(Boolean).join(" · ");
}

/** The signals of one caller, the plainest first. */
const ORDER = ["rate", "errors", "in_flight", "names"];
const plainest = (a, b) => ORDER.indexOf(a.signal) - ORDER.indexOf(b.signal) || a.since - b.since;

const first = (events, read) => events.map(read).find((value) => value !== null && value !== undefined && value !== "");

/** What is wrong with one caller, in all its signals. */
class Banner {
  constructor(event, brake, pick) {
    const name = event.caller || "Nobody in particular";
    this.title = el("h2", {}, event.caller ? el("button", { type: "button", class: "name", click: () => pick(event.caller) }, name) : name);
    this.person = el("p", { class: "call" });
    this.facts = el("dl");
    this.plot = el("div", { class: "plot", role: "img" });
    this.tools = el("div", { class: "choices" });
    this.errorsKey = document.createTextNode("its errors");
    const key = (kind, text) => el("li", { class: kind }, el("i", { "aria-hidden": "true" }), text);
    const keys = el("ul", { class: "keys" }, key("k-total", "everybody"), key("k-suspect", name), key("k-errors", this.errorsKey), key("k-without", `everybody without ${name}`));
    this.article = el("article", { class: "banner" }, el("div", { class: "words" }, this.title, this.person, this.facts, this.tools), event.caller ? el("div", { class: "proof" }, keys, this.plot) : null);
    this.proof = event.caller ? new Proof(this.plot) : null;
    this.brake = brake;
    this.lines = new Map();
  }

  line(term, text) {
    let pair = this.lines.get(term);
    if (!pair) {
      pair = [el("dt", {}, term), el("dd", { class: term })];
      this.lines.set(term, pair);
      this.facts.append(...pair);
    }
    setText(pair[1], text);
    for (const part of pair) part.hidden = !text;
  }

  draw(events, latest, you, offered) {
    const { caller } = events[0];
    const harms = Object.keys(HARM);
    const harm = harms[Math.max(...events.map((event) => harms.indexOf(event.harm || "none")))] || "none";
    const { since } = events[0];
    const deploy = first(events, (event) => event.deploy);
    const row = latest.callers.find((of) => of.caller === caller);
    this.article.dataset.harm = harm;
    const call = [first(events, (event) => event.owner), first(events, (event) => event.contact)].filter(Boolean).join(" · ");
    setText(this.person, call ? `Call ${call}` : caller ? `Nobody is named for it: give [caller.${toml(caller)}] an owner and a contact` : "Nobody is to blame: the service itself, or everybody");
    const volume = row && !events.some((event) => event.signal === "rate") ? [`${number(row.rate)} requests/s`] : [];
    this.line("what", [...events.map((event) => what(event, row)), ...volume].join("; "));
    this.line("where", caller ? [...new Set(events.map((event) => event.route).filter(Boolean))].join(", ") || "no single route" : "");
    this.line("since", `${clock(since)}, ${ago(latest.at - since)} ago`);
    this.line("deploy", !caller ? "" : deploy ? `${deploy.version}, ${beside(since - deploy.t)}` : "none of this caller shortly before");
    this.line("ours", oursText(latest, first(events, (event) => event.ours)));
    this.line("harm", HARM[harm]);
    if (harm !== this.harm) announce(`${caller || "The service"}: ${HARM[harm]}.`);
    this.harm = harm;
    const taken = first(events, (event) => event.acknowledged_by);
    this.line("known", [events.some((event) => event.expected) ? "it was announced" : null, taken ? `${taken} has it in hand` : null].filter(Boolean).join(", "));
    const held = under(latest.braked, caller);
    const clamped = under(latest.clamped, caller);
    const inFlight = clamped?.in_flight ? ` and ${clamped.in_flight} in flight` : "";
    const byItself = clamped && `${clamped.mode === "enforce" ? "clamped by itself to" : "in shadow, what it would be refused is counted beyond"} ${clamped.quota}${inFlight}, until ${when(clamped.until)} at the latest`;
    const beyond = row?.refused ? `${number(row.refused)} refused within the last minute` : null;
    const byHand = held && (held === "blocked" ? "everything it sends is refused" : `clamped to ${held}`);
    this.line("held", held || clamped ? [byHand, byItself, idle(latest.mode), beyond].filter(Boolean).join("; ") : "");
    const state = JSON.stringify([you?.operate, held || clamped || null, events.map((event) => [event.id, event.acknowledged_by])]);
    if (state !== this.state) {
      this.state = state;
      const report = el("button", { type: "button", click: () => this.report(events) }, "Copy the report");
      this.tools.replaceChildren(report, ...(caller ? this.brake.buttons(caller, events) : []));
    }
    if (!this.proof) return;
    const failing = first(events, (event) => (event.class === "ok" ? null : event.class));
    setText(this.errorsKey, failing ? `its ${failing}` : "its errors");
    this.plot.setAttribute("aria-label", `Everybody, ${caller}, its errors, and everybody without ${caller}, over time`);
    this.proof.draw(latest.chart, caller, happened(latest), offered, latest.since);
  }

  async report(events) {
    try {
      await copy("Report", await getText(`v1/report?id=${encodeURIComponent(events[0].id)}`));
    } catch (problem) {
      say(problem.message);
    }
  }

  end() {
    this.proof?.end();
    this.article.remove();
  }
}

/** A time from a deploy to an onset, which is known to some seconds only. */
const beside = (after) => (after >= 2 ? `${ago(after)} before it began` : after > -2 ? "as it began" : `${ago(-after)} after it began`);

/** What keeps a brake from refusing anything here; of the other replicas' switches nothing is known. */
const idle = (mode) => (mode && mode !== "enforce" ? `the switch of this replica is on ${mode}, so nothing is refused here` : null);

function oursText(latest, last) {
  return last ? `no change of ours since ${when(last.t)} (${last.what})` : `no change of ours since ${when(latest.since)}`;
}

/** One banner for each caller that has an open episode. */
export class Banners {
  constructor(brake, pick) {
    this.brake = brake;
    this.pick = pick;
    this.shown = new Map();
  }

  draw(latest, you, offered) {
    const place = byId("banners");
    const open = new Map();
    for (const event of latest.episodes) {
      const key = event.caller || event.id;
      open.set(key, [...(open.get(key) || []), event]);
    }
    for (const [key, events] of open) {
      let banner = this.shown.get(key);
      if (!banner) {
        banner = new Banner(events[0], this.brake, this.pick);
        this.shown.set(key, banner);
        place.append(banner.article);
      }
      banner.draw(events.sort(plainest), latest, you, offered);
    }
    for (const [key, banner] of this.shown) {
      if (!open.has(key)) {
        banner.end();
        announce(`${banner.title.textContent}: over.`);
        this.shown.delete(key);
      }
    }
  }
}

const toml = (name) => (/^[A-Za-z0-9_-]+$/.test(name) ? name : JSON.stringify(name));
const OVER = " # take it out when it is over: a service does not start with a past end";
const inMinutes = (minutes) => new Date(Date.now() + minutes * 60000).toISOString().replace(/\.\d+Z/, "Z");

/** The actions of operators, each with the lines that do the same everywhere. */
export class Brake {
  constructor(latest, you, done) {
    this.latest = latest;
    this.you = you;
    this.done = done;
    byId("dialog").addEventListener("click", (event) => event.target === byId("dialog") && byId("dialog").close());
  }

  buttons(name, events) {
    if (!this.you()?.operate || name.startsWith("__")) return [];
    const latest = this.latest();
    const held = latest && (under(latest.braked, name) || (under(latest.clamped, name) && "clamped by itself"));
    const button = (text, kind, action) => el("button", { type: "button", class: kind, click: action }, text);
    const buttons = held
      ? [button(`Release (${held})`, "act", () => this.release(name))]
      : [button("Clamp …", "act", () => this.clamp(name)), button("Block …", "danger", () => this.block(name))];
    buttons.push(button("Expected …", "", () => this.expect(name)));
    const free = events.filter((event) => !event.acknowledged_by);
    if (free.length) buttons.push(button("I have it", "", () => free.forEach((event) => this.send("v1/do/ack", { id: event.id }))));
    return buttons;
  }

  /** A rate to clamp to, and what it is in words. */
  proposed(name) {
    const row = this.latest()?.callers.find((of) => of.caller === name);
    const episode = this.latest()?.episodes.find((of) => of.caller === name && of.signal === "rate");
    const usual = episode?.baseline || row?.baseline;
    const quota = Math.max(5, Math.ceil(usual ? usual * 1.5 : (row?.rate ?? 0) / 3));
    return [quota, usual ? `its usual is ${number(usual)}` : `its usual is not known yet, of late it sent ${number(row?.rate ?? 0)}`];
  }

  /** The table of the file that does the same; only names that can stand on the roster have one. */
  lines(name, line) {
    const { provenance } = this.latest()?.callers.find((of) => of.caller === name) || {};
    if (name.includes(":") && /^(ip|ua|claimed):/.test(name)) return `# ${name} cannot have a table of its own:\n# limit [provenance.${provenance || "claimed"}]`;
    return [`[caller.${toml(name)}]`, provenance === "claimed" ? 'accept = "claimed"' : null, line].filter(Boolean).join("\n");
  }

  clamp(name) {
    const [quota, why] = this.proposed(name);
    this.open({
      title: `Clamp ${name}`,
      text: `Let through so many requests a second (${why}), and refuse the rest with 429. It ends by itself.`,
      fields: [
        ["quota", "Quota", { value: `${quota}/s`, pattern: "[0-9]+/(s|min|h)", required: true }],
        ["minutes", "For minutes", { value: "15", type: "number", min: "1", max: "1440", required: true }],
      ],
      lines: (values) => this.lines(name, `quota = "${values.quota}"`),
      button: "Clamp",
      brakes: true,
      send: (values) => this.send("v1/do/clamp", { caller: name, quota: values.quota, seconds: Number(values.minutes) * 60 }),
    });
  }

  block(name) {
    this.open({
      title: `Block ${name}`,
      text: "Refuse everything it sends. It ends by itself.",
      fields: [["minutes", "For minutes", { value: "5", type: "number", min: "1", max: "1440", required: true }]],
      lines: (values) => this.lines(name, `block_until = "${inMinutes(Number(values.minutes) || 0)}"${OVER}`),
      button: "Block",
      danger: true,
      brakes: true,
      send: (values) => this.send("v1/do/block", { caller: name, seconds: Number(values.minutes) * 60 }),
    });
  }

  expect(name) {
    this.open({
      title: `${name}: this load is expected`,
      text: "An announced load test or sale: it is shown, and wakes nobody.",
      fields: [
        ["factor", "Up to how many times as usual", { value: "10", type: "number", min: "1", max: "1000", required: true }],
        ["minutes", "For minutes", { value: "60", type: "number", min: "1", max: "10080", required: true }],
      ],
      lines: (values) => this.lines(name, `expect = { factor = ${values.factor}, until = "${inMinutes(Number(values.minutes) || 0)}" }${OVER}`),
      button: "Expect it",
      send: (values) => this.send("v1/do/expect", { caller: name, factor: Number(values.factor), seconds: Number(values.minutes) * 60 }),
    });
  }

  release(name) {
    return this.send("v1/do/release", { caller: name });
  }

  async send(path, body) {
    try {
      const answer = await post(path, body);
      const where = answer.scope === "fleet" ? "on all replicas" : `on this replica only (${answer.instance})`;
      const idly = idle(answer.mode);
      const until = answer.not_kept ? `; but until the next restart only: ${answer.not_kept}` : "";
      say(`Done, ${where}${idly && path.match(/clamp|block/) ? `; but ${idly}` : until}.`);
      byId("dialog").close();
      this.done();
    } catch (problem) {
      const place = byId("dialog-said");
      if (place && byId("dialog").open) setText(place, problem.message);
      else say(problem.message);
    }
  }

  open({ title, text, fields, lines, button, danger, brakes, send }) {
    const dialog = byId("dialog");
    const latest = this.latest();
    const inputs = new Map();
    const rows = fields.map(([name, label, attributes]) => {
      const { kind, choices, ...rest } = attributes;
      const input = choices ? el("select", { name }, choices.map(([value, word]) => el("option", { value }, word))) : el(kind || "input", { name, autocomplete: "off", ...rest });
      inputs.set(name, input);
      return el("label", {}, label, input);
    });
    const values = () => Object.fromEntries([...inputs].map(([name, input]) => [name, input.value]));
    const code = lines ? el("pre", { tabindex: "0", "aria-label": "callerid.toml" }) : null;
    const write = () => code && setText(code, lines(values()));
    const switches = `A rate holds on each of them, and where the switch of one is not on enforce, that one refuses nothing: this page knows the switch of ${latest?.instance} alone.`;
    const scope = latest?.scope === "fleet" ? `This acts on all replicas. ${brakes ? switches : ""}` : `This acts on this replica only (${latest?.instance}).`;
    const switched = brakes && idle(latest?.mode);
    const warning = switched ? el("p", { class: "scope", role: "alert" }, `Mind that ${switched}: whoever may operate moves it, on each replica, by POST v1/do/mode {"mode": "enforce"}.`) : null;
    const same = lines ? [el("p", { class: "hint" }, "The same everywhere, in callerid.toml:"), code] : [];
    const form = el(
      "form",
      {
        method: "dialog",
        input: write,
        submit: (event) => {
          event.preventDefault();
          send(values());
        },
      },
      el("h2", { id: "dialog-title" }, title),
      text ? el("p", {}, text) : null,
      rows,
      el("p", { class: "scope" }, scope),
      warning,
      same,
      el("p", { id: "dialog-said", role: "alert" }),
      el("div", { class: "choices" }, el("button", { class: danger ? "danger" : "act" }, button), el("button", { type: "button", click: () => dialog.close() }, "Cancel")),
    );
    write();
    dialog.replaceChildren(form);
    dialog.showModal();
  }
}

const STATES = ["investigating", "identified", "monitoring", "resolved"];
const IMPACTS = ["none", "minor", "major", "critical"];
const words = (list) => list.map((word) => [word, word]);

/** Incidents that are open, and the words of operators to everybody else. */
export class Incidents {
  constructor(brake) {
    this.brake = brake;
    byId("report-incident").addEventListener("click", () => this.report());
  }

  draw(latest, you) {
    const list = latest.incidents;
    const { recent } = latest;
    byId("incidents").hidden = !list.length && !recent.length && !you?.operate;
    byId("report-incident").hidden = !you?.operate;
    const state = JSON.stringify([list, recent, you?.operate]);
    if (state === this.state) return;
    this.state = state;
    const items = list.map((incident) => this.item(incident, latest, you));
    const over = recent.length ? [el("h3", {}, "Over within the last day"), ...recent.map((incident) => this.over(incident, you))] : [];
    byId("incident-list").replaceChildren(...(items.length ? items : [el("p", { class: "hint" }, "None is open.")]), ...over);
  }

  over(incident, you) {
    const last = incident.updates[incident.updates.length - 1];
    return el(
      "article",
      { class: "incident over" },
      el("h3", {}, incident.name),
      el("p", {}, el("b", {}, "resolved"), ` · ${incident.impact} · ${when(incident.created_at)} to ${when(last.t)}`),
      last.body ? el("p", {}, last.body) : null,
      you?.operate ? el("button", { type: "button", click: () => this.update(incident) }, "Update …") : null,
    );
  }

  item(incident, latest, you) {
    const eta = incident.eta ? `expected to be over at ${when(incident.eta)}` : "no estimate yet";
    const newest = incident.updates[incident.updates.length - 1];
    return el(
      "article",
      { class: "incident" },
      el("h3", {}, incident.name),
      el("p", {}, el("b", {}, incident.state), ` · ${incident.impact} · since ${when(incident.created_at)} · `, el("b", {}, eta)),
      newest ? el("p", {}, newest.body) : null,
      incident.fallback ? el("p", {}, `Meanwhile: ${incident.fallback}`) : null,
      you?.operate ? el("button", { type: "button", click: () => this.update(incident) }, "Update …") : null,
    );
  }

  report() {
    const episodes = this.brake.latest()?.episodes || [];
    const [open] = episodes.filter((event) => event.caller === episodes[0].caller).sort(plainest);
    const body = open ? `${open.caller || "Everybody"}: ${what(open)}` : "";
    this.brake.open({
      title: "Tell people what is going on",
      fields: [
        ["name", "What", { value: open ? `Requests are slow or refused` : "", maxlength: "200", required: true }],
        ["body", "In words", { kind: "textarea", maxlength: "4000" }],
        ["impact", "Impact", { choices: words(IMPACTS.slice(1)) }],
        ["eta", "Over in minutes, as far as you know", { type: "number", min: "1", max: "10080" }],
        ["fallback", "What to do meanwhile", { maxlength: "1000" }],
      ],
      button: "Publish",
      send: (values) => this.brake.send("v1/do/incident", fields(values, { state: "investigating" })),
    });
    document.querySelector("#dialog textarea").value = body;
  }

  update(incident) {
    this.brake.open({
      title: incident.name,
      fields: [
        ["state", "State", { choices: words(STATES) }],
        ["body", "In words", { kind: "textarea", maxlength: "4000", required: true }],
        ["eta", "Over in minutes; 0 where nobody knows any more", { type: "number", min: "0", max: "10080" }],
      ],
      button: "Publish",
      send: (values) => this.brake.send("v1/do/incident", fields(values, { id: incident.id })),
    });
    document.querySelector("#dialog select").value = incident.state;
  }
}

function fields(values, more) {
  const sent = { ...more };
  for (const [name, value] of Object.entries(values)) {
    if (name === "eta") {
      if (value) sent.eta = Number(value) ? Math.round(Date.now() / 1000 + Number(value) * 60) : null;
    } else if (value) sent[name] = value;
  }
  return sent;
}
