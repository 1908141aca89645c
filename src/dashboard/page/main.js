// The page: asks once a second, draws what has changed. What the viewer has chosen stands in the address.

import { announce, byId, clock, setText, zone } from "./dom.js";
import { Refused, get, hasToken, useToken } from "./api.js";
import { Traffic } from "./chart.js";
import { Table } from "./table.js";
import { Caller } from "./caller.js";
import { showLinksHere } from "./links.js";
import { Banners, Brake, Incidents, happened } from "./brake.js";

const view = { span: null, log: false, offered: false, zoom: null, caller: null, filter: "", sort: null, up: false, paused: false };
let you = null;
let needsToken = true;
let latest = null;

function readAddress() {
  const at = new URLSearchParams(location.hash.slice(1));
  const span = at.get("span");
  view.span = ["2m", "15m", "1h"].includes(span) ? span : null;
  view.log = at.has("log");
  view.offered = at.has("offered");
  const zoom = (at.get("zoom") || "").split("~").map(Number);
  view.zoom = zoom.length === 2 && zoom.every((t) => t > 0) ? zoom : null;
  view.caller = at.get("caller");
  view.filter = at.get("filter") || "";
  view.sort = at.get("sort");
  view.up = at.has("up");
}

function writeAddress() {
  const at = new URLSearchParams();
  if (view.span) at.set("span", view.span);
  if (view.log) at.set("log", "1");
  if (view.offered) at.set("offered", "1");
  if (view.zoom) at.set("zoom", view.zoom.map((t) => t.toFixed(1)).join("~"));
  if (view.caller) at.set("caller", view.caller);
  if (view.filter) at.set("filter", view.filter);
  if (view.sort) at.set("sort", view.sort);
  if (view.up) at.set("up", "1");
  const text = at.toString();
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

const suspectsOf = (overview) => new Map(overview.episodes.map((event) => [event.caller, event]).filter(([caller]) => caller));

const SPANS = [["2m", 120], ["15m", 900], ["1h", 3600]];

/** The span that was chosen; else the shortest that shows what is zoomed into, or the time before a runaway. */
function spanNow() {
  const now = latest?.at ?? Date.now() / 1000;
  // What is zoomed into leaves the longest span in time.
  if (view.zoom && view.zoom[1] < now - 3600) unzoomed();
  const chosen = SPANS.findIndex(([name]) => name === view.span);
  if (view.zoom) {
    const holds = SPANS.findIndex(([, seconds]) => now - view.zoom[0] < seconds);
    return SPANS[holds < 0 ? 2 : Math.max(holds, chosen)][0];
  }
  if (view.span) return view.span;
  const first = Math.min(...(latest?.episodes || []).map((event) => event.since));
  const age = Number.isFinite(first) ? now - first : 0;
  return age > 600 ? "1h" : age > 80 ? "15m" : "2m";
}

function unzoomed() {
  view.zoom = null;
  changed(false);
}

const brake = new Brake(() => latest, () => you, soon);
const traffic = new Traffic(view, () => changed(false), pick);
const table = new Table(view, () => changed(true), pick);
const caller = new Caller(() => pick(null), (name) => brake.buttons(name, []));
const banners = new Banners(brake, pick);
const incidents = new Incidents(brake);

function changed(redraw) {
  writeAddress();
  byId("unzoom").hidden = !view.zoom;
  if (redraw && latest) draw();
}

function pick(name) {
  const back = view.caller;
  view.caller = name;
  writeAddress();
  if (name) {
    caller.open(name);
    caller.focus();
    askCaller();
  } else {
    caller.close();
    const row = [...document.querySelectorAll("#table .name")].find((button) => button.textContent === back);
    row?.focus();
  }
}

function draw() {
  const suspects = suspectsOf(latest);
  for (const event of latest.episodes) {
    const row = event.signal === "rate" && latest.callers.find((of) => of.caller === event.caller);
    if (row) row.baseline = event.baseline;
  }
  const rates = new Map(latest.callers.map((row) => [row.caller, row.rate]));
  for (const button of byId("spans").children) button.setAttribute("aria-pressed", String(button.dataset.span === latest.chart.span));
  byId("log").setAttribute("aria-pressed", String(view.log));
  byId("offered").setAttribute("aria-pressed", String(view.offered));
  const refused = latest.chart.total.refused.some((value) => value > 0);
  setText(byId("traffic-title"), `Requests per second${refused ? (view.offered ? ", refused ones included" : " that were let in") : ""}`);
  for (const id of ["traffic", "callers"]) byId(id).hidden = false;
  banners.draw(latest, you, view.offered);
  traffic.draw(latest.chart, happened(latest), suspects, rates, latest.since);
  incidents.draw(latest, you);
  table.draw(latest.callers, suspects);
  setText(byId("service"), latest.service || "");
  const facts = [`this replica: ${latest.instance}`, `mode: ${latest.mode}`, latest.ceiling ? `in flight ${latest.ceiling.in_flight} of ${latest.ceiling.max_in_flight}` : null];
  setText(byId("facts"), facts.filter(Boolean).join(" · "));
  const first = latest.episodes[0];
  document.title = first ? `${first.caller || "runaway"} – callerid` : `${latest.service || ""} callerid`.trim();
}

function paused(on) {
  view.paused = on;
  byId("pause").setAttribute("aria-pressed", String(on));
  setText(byId("pause"), on ? "Go on" : "Pause");
  if (on) alive(`paused · ${latest ? clock(latest.at) : ""}`);
}

function alive(text, bad) {
  setText(byId("live"), text);
  byId("live").classList.toggle("bad", Boolean(bad));
}

let timer = null;
let asking = false;
let lost = false;

async function ask() {
  clearTimeout(timer);
  if (asking) return;
  asking = true;
  let pause = document.hidden ? 15000 : 1000;
  try {
    you ??= await whoAmI();
    if (you?.read && !view.paused) {
      const overview = await get(`v1/overview?span=${spanNow()}`);
      if (!view.paused) {
        latest = overview;
        draw();
        alive(`live · ${clock(latest.at)} ${zone()}`);
        if (lost) announce("It answers again.");
        lost = false;
      }
    }
  } catch (problem) {
    if (problem instanceof Refused && problem.status === 429 && you) {
      // Of a proxy, perhaps: nobody has to say who they are anew.
      alive("too many questions: slower", true);
      pause = 15000;
    } else if (problem instanceof Refused && [401, 403, 429].includes(problem.status)) {
      you = null;
      notAllowed(problem);
    } else {
      const since = latest ? `; shown: ${clock(latest.at)}` : "";
      alive(`no answer${since}`, true);
      if (!lost) announce("The service does not answer.");
      lost = true;
    }
  }
  asking = false;
  timer = setTimeout(ask, pause);
}

async function askCaller() {
  const name = view.caller;
  if (!name || view.paused || document.hidden || !you?.read) return;
  try {
    const found = await get(`v1/caller?name=${encodeURIComponent(name)}`);
    if (view.caller === name) caller.draw(found);
  } catch (problem) {
    if (view.caller === name && problem instanceof Refused) caller.fail(problem.message);
  }
}

function soon() {
  clearTimeout(timer);
  ask();
}

async function whoAmI() {
  const found = await get("v1/you");
  needsToken = found.needs_token;
  // Self-service is all that is allowed.
  if (!found.read) throw new Refused(found.needs_token && !hasToken() ? 401 : 403, "Looking is not allowed.");
  byId("token").hidden = true;
  if (found.fleet_view) {
    byId("fleet").href = found.fleet_view;
    byId("fleet").hidden = false;
  }
  return found;
}

/** Asks for a token, where one helps. A wrong one is not tried again: that would look like somebody who guesses. */
function notAllowed(problem) {
  const tried = hasToken();
  // A proxy in front may say 401 too, where no token is known here.
  const asks = tried || (problem.status === 401 && needsToken);
  useToken(null);
  if (asks) byId("token").hidden = false;
  if (tried) setText(byId("token-said"), problem.status === 403 ? "This token may not look." : problem.message);
  alive(asks ? "not allowed without a token" : `not allowed: ${problem.message}`, true);
}

showLinksHere();
byId("token").addEventListener("submit", (event) => {
  event.preventDefault();
  const field = event.target.elements.token;
  useToken(field.value);
  field.value = "";
  you = null;
  soon();
});
for (const button of byId("spans").children) {
  button.addEventListener("click", () => {
    view.span = button.dataset.span;
    if (view.paused) paused(false);
    unzoomed();
    soon();
  });
}
for (const name of ["log", "offered"]) {
  byId(name).addEventListener("click", () => {
    view[name] = !view[name];
    changed(true);
  });
}
byId("pause").setAttribute("aria-pressed", "false");
byId("pause").addEventListener("click", () => {
  paused(!view.paused);
  soon();
});
// A plain link would take the place of what the address says of the view.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("callers").scrollIntoView();
  byId("callers").focus();
});
byId("unzoom").addEventListener("click", () => {
  traffic.unzoom();
  byId("plot").focus();
});
byId("filter").addEventListener("input", (event) => {
  view.filter = event.target.value;
  changed(true);
});
document.addEventListener("visibilitychange", () => document.hidden || soon());
addEventListener("hashchange", () => {
  readAddress();
  start();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && view.caller && !byId("dialog").open) pick(null);
});

function start() {
  byId("filter").value = view.filter;
  byId("unzoom").hidden = !view.zoom;
  if (view.caller) {
    caller.open(view.caller);
    askCaller();
  } else caller.close();
  soon();
}

readAddress();
start();
setInterval(askCaller, 2000);
