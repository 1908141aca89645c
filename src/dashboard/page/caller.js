// One caller: what it calls, how that ends, what was said about its errors, and what it may do.
/* global uPlot */

import { byId, el, number, percent, duration, clock, when } from "./dom.js";

const empty = (text) => el("p", { class: "hint" }, text);

function block(title, ...children) {
  return el("div", { class: "block" }, el("h3", {}, title), children);
}

function wide(block) {
  block.classList.add("wide");
  return block;
}

function table(heads, rows, numbers = []) {
  const cell = (kind) => (content, at) =>
    el(kind, { class: numbers.includes(at) ? "number" : null, scope: kind === "th" ? "col" : null }, content);
  return el(
    "div",
    { class: "scroll" },
    el("table", {}, el("thead", {}, el("tr", {}, heads.map(cell("th")))), el("tbody", {}, rows.map((row) => el("tr", {}, row.map(cell("td")))))),
  );
}

const sum = (counts) => Object.values(counts).reduce((a, b) => a + b, 0);
const errors = (counts) =>
  Object.entries(counts)
    .filter(([name]) => name !== "ok")
    .sort((a, b) => b[1] - a[1])
    .map(([name, count]) => `${name} ${number(count)}`)
    .join(", ") || "–";

/** How the last two minutes ended, by class. */
function classesNow(caller) {
  const counts = {};
  for (const point of caller.seconds) {
    for (const [name, count] of Object.entries(point.by_class)) counts[name] = (counts[name] || 0) + count;
  }
  return counts;
}

function classes(caller) {
  const now = classesNow(caller);
  const ever = caller.counts.by_class;
  const names = Object.keys({ ...now, ...ever });
  if (!names.length) return empty("Nothing has ended yet.");
  const recent = sum(now);
  const rows = names
    .map((name) => [name, now[name] || 0, ever[name] || 0])
    .sort((a, b) => b[1] - a[1] || b[2] - a[2])
    .map(([name, two, all]) => [name, number(two), recent ? percent(two / recent) : "–", number(all)]);
  return table(["class", "2 min", "share", "in all"], rows, [1, 2, 3]);
}

function details(caller) {
  if (!caller.details.length) return empty("The service said nothing about errors.");
  const rows = caller.details.slice(0, 12).map((of) => [of.class, of.code, of.field || "–", number(of.count)]);
  return table(["class", "code", "field", "times"], rows, [3]);
}

function routes(caller) {
  if (!caller.routes.length) return empty("No route is known.");
  const rows = caller.routes.map((of) => [of.route, number(sum(of.by_class)), errors(of.by_class)]);
  return table(["route", "ended", "errors"], rows, [1]);
}

function failures(caller) {
  if (!caller.failures.length) return empty("No request failed.");
  const rows = caller.failures.slice(0, 10).map((of) => [
    clock(of.at),
    of.route,
    of.status === null ? "–" : String(of.status),
    of.code ? `${of.class}: ${of.code}` : of.class,
    of.trace_id ? el("code", {}, of.trace_id) : "–",
  ]);
  return table(["ended", "route", "status", "why", "trace id"], rows);
}

/** A bar for each bucket that has something, a row of bars for each class. */
function histograms(caller) {
  if (!caller.histograms.length) return empty("Nothing has ended yet.");
  return caller.histograms.map(([name, buckets]) => {
    const all = buckets.reduce((total, [, count]) => total + count, 0);
    const most = Math.max(...buckets.map(([, count]) => count));
    const first = buckets.findIndex(([, count]) => count > 0);
    const last = buckets.length - 1 - [...buckets].reverse().findIndex(([, count]) => count > 0);
    const latency = caller.latency.find((of) => of.class === name);
    const bars = buckets.slice(first, last + 1).map(([upper, count]) => {
      const bound = upper === null ? "above 60 s" : `up to ${duration(upper)}`;
      const bar = el("i", { title: `${bound}: ${number(count)}` });
      bar.style.setProperty("--part", String(count / most));
      return bar;
    });
    const from = first > 0 ? duration(buckets[first - 1][0]) : "0";
    const to = buckets[last][0] === null ? "above 60 s" : duration(buckets[last][0]);
    const text = latency ? `${name}: p50 ${duration(latency.p50)}, p99 ${duration(latency.p99)}, ${number(all)} requests` : `${name}: ${number(all)}`;
    return el("figure", { class: name === "ok" ? "histogram" : "histogram failed" }, el("figcaption", {}, text), el("div", { class: "bars", role: "img", "aria-label": `${text}, between ${from} and ${to}` }, bars), el("div", { class: "ends" }, el("span", {}, from), el("span", {}, to)));
  });
}

const ACTS = { enforce: "is refused", shadow: "is counted and let in", observe: "is let in: the mode is observe", off: "is let in: the mode is off" };

function policy(caller) {
  const { policy: of, counts, ceiling } = caller;
  const rows = [];
  if (of && (of.quota !== null || of.max_in_flight !== null)) {
    rows.push(["quota", of.quota === null ? "none" : `${number(of.quota)}/s, burst ${of.burst}`]);
    rows.push(["in flight", of.max_in_flight === null ? "no limit of its own" : `at most ${of.max_in_flight}`]);
    rows.push(["what is beyond", ACTS[caller.acts] ?? caller.acts]);
  } else {
    rows.push(["limits of its own", "none: no quota, no limit in flight"]);
  }
  if (ceiling) rows.push(["ceiling of all callers", `${number(ceiling.max_in_flight)} in flight, ${number(ceiling.in_flight)} now${ceiling.mode === "enforce" ? "" : "; only counted"}`]);
  for (const [reason, count] of Object.entries(counts.refused)) rows.push([`refused: ${reason}`, number(count)]);
  for (const [reason, count] of Object.entries(counts.would_refuse)) rows.push([`would refuse: ${reason}`, number(count)]);
  if (caller.tier) rows.push(["tier", caller.tier]);
  return el("dl", {}, rows.map(([term, value]) => [el("dt", {}, term), el("dd", {}, value)]));
}

function faces(caller) {
  if (!caller.unknown) return null;
  const list = (title, values) => block(title, values.length ? table(["", "times"], values.slice(0, 10).map(([value, count]) => [value, number(count)]), [1]) : empty("Nothing."));
  return [list("By peer", caller.unknown.peers), list("By user agent", caller.unknown.agents), list("By claimed name", caller.unknown.claimed)];
}

function pins(events) {
  if (!events.length) return empty("None is known.");
  return el("ul", {}, events.slice(-8).reverse().map((event) => el("li", {}, `${when(event.at ?? event.t)}: ${[event.pin, event.version, event.text, event.change, event.author ? `by ${event.author}` : null].filter(Boolean).join(" ")}`)));
}

/** The view of one caller. It is written anew with each answer, and keeps the focus where it is. */
export class Caller {
  constructor(onClose, actions) {
    this.onClose = onClose;
    this.actions = actions;
    this.place = byId("caller");
    this.name = null;
  }

  open(name) {
    this.name = name;
    this.place.hidden = false;
    const title = el("h2", { id: "caller-title", tabindex: "-1" }, name);
    this.who = el("p", { class: "who" });
    this.tools = el("div", { class: "choices" });
    this.state = null;
    this.grid = el("div", { class: "grid" });
    const close = el("button", { type: "button", click: () => this.onClose() }, "Close");
    this.place.replaceChildren(el("div", { class: "bar" }, title, this.tools, close), this.who, this.grid);
    this.grid.append(empty("…"));
  }

  focus() {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.place.scrollIntoView({ block: "start", behavior: calm ? "auto" : "smooth" });
    byId("caller-title").focus({ preventScroll: true });
  }

  close() {
    this.name = null;
    this.place.hidden = true;
    this.place.replaceChildren();
  }

  draw(caller) {
    if (caller.name !== this.name) return;
    const { rates } = caller;
    const words = [caller.owner, caller.contact, `known as ${caller.provenance}`, `${number(rates.ten_seconds)} requests/s now, ${number(rates.ten_minutes)} over ten minutes`, `${number(caller.counts.in_flight)} in flight`];
    this.who.replaceChildren(words.filter(Boolean).join(" · "));
    if (caller.runbook && /^https?:/.test(caller.runbook)) this.who.append(" · ", el("a", { href: caller.runbook, rel: "noreferrer" }, "runbook"));
    // Buttons stay as long as they are the same: neither a click nor the focus is lost.
    const tools = this.actions(caller.name);
    const state = tools.map((button) => button.textContent).join("\n");
    if (state !== this.state) {
      this.state = state;
      this.tools.replaceChildren(...tools);
    }
    const parts = [
      block("How requests end", classes(caller)),
      block("What the service said about errors", details(caller)),
      block("Routes", routes(caller)),
      block("Latency", histograms(caller)),
      wide(block("The last failures", failures(caller))),
      block("Limits and refusals", policy(caller)),
      block("Pins and changes", pins(caller.events)),
      faces(caller),
    ];
    const kept = this.place.contains(document.activeElement) && this.grid.contains(document.activeElement);
    if (!kept && !String(getSelection() || "")) this.grid.replaceChildren(...parts.flat().filter(Boolean));
  }

  fail(problem) {
    this.grid.replaceChildren(empty(problem));
  }
}
