// What the links in the head lead to, shown here for who reads by a token: a link carries none.

import { byId, el, say } from "./dom.js";
import { get, getText, hasToken } from "./api.js";

const at = (time) => (time ? new Date(time).toLocaleString("en-GB") : "");

function incident(of) {
  const until = of.resolved_at ? `over since ${at(of.resolved_at)}` : of.eta ? `expected to be over: ${at(of.eta)}` : "no estimate yet";
  return el(
    "article",
    { class: "incident" },
    el("h3", {}, of.name),
    el("p", {}, el("b", {}, of.status), ` · impact: ${of.impact} · since ${at(of.created_at)} · `, el("b", {}, until)),
    of.fallback && !of.resolved_at ? el("p", {}, `Meanwhile: ${of.fallback}`) : null,
    el("ul", {}, of.incident_updates.map((update) => el("li", {}, `${at(update.created_at)} · ${update.status} · ${update.body}`))),
  );
}

async function status() {
  const { incidents } = await get("v1/incidents");
  return incidents.length ? incidents.map(incident) : el("p", { class: "hint" }, "Nothing yet.");
}

const top = async () => el("pre", { tabindex: "0" }, await getText("top.txt"));

function show(title, content) {
  const dialog = byId("dialog");
  const close = el("button", { type: "button", class: "act", click: () => dialog.close() }, "Close");
  dialog.replaceChildren(el("h2", { id: "dialog-title" }, title), ...[content].flat(), el("div", { class: "choices" }, close));
  dialog.showModal();
}

export function showLinksHere() {
  for (const [path, read] of Object.entries({ status, "top.txt": top })) {
    const link = document.querySelector(`nav a[href="${path}"]`);
    link.addEventListener("click", async (event) => {
      if (!hasToken()) return;
      event.preventDefault();
      try {
        show(link.textContent, await read());
      } catch (problem) {
        say(problem.message);
      }
    });
  }
}
