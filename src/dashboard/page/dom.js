// Elements from text: names are those of clients, so nothing is ever parsed as markup.

export const byId = (id) => document.getElementById(id);

/** An element with attributes (a function is a listener, `null` leaves one out) and children. */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else element.setAttribute(name, String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** What a map of JSON has under a name, which may be that of a method of every object. */
export const under = (map, name) => (Object.hasOwn(map, name) ? map[name] : undefined);

/** Writes only what has changed: a screen reader and a selection stay where they are. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Told to who listens: what changes each second is not. What comes at once is one text, of which nothing is lost. */
let unheard = [];
export function announce(text) {
  if (unheard.push(text) > 1) return;
  queueMicrotask(() => {
    byId("heard").textContent = unheard.join(" ");
    unheard = [];
  });
}

export function say(text) {
  const said = byId("said");
  said.textContent = text;
  said.classList.add("shown");
  clearTimeout(say.timer);
  say.timer = setTimeout(() => said.classList.remove("shown"), 6000);
}

export function number(value) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value) && value < 1000) return String(value);
  if (value >= 100) return Math.round(value).toLocaleString("en");
  if (value >= 10) return value.toFixed(1).replace(/\.0$/, "");
  return value < 0.1 ? value.toFixed(2) : value.toFixed(1);
}

export function percent(share) {
  if (share === null || share === undefined) return "–";
  const value = share * 100;
  if (value > 0 && value < 1) return "<1 %";
  return `${Math.round(value)} %`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 1) return `${seconds < 0.01 ? (seconds * 1e3).toFixed(1) : Math.round(seconds * 1e3)} ms`;
  return `${seconds.toFixed(1)} s`;
}

/** The zone of all times on the page. */
export const zone = () => new Date().toLocaleTimeString("en-GB", { timeZoneName: "short" }).split(" ").slice(1).join(" ");

export const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");

export function ago(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 90) return `${s} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} days`;
}

export function when(seconds) {
  const date = new Date(seconds * 1000);
  const today = new Date().toDateString() === date.toDateString();
  const time = date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  return today ? time : `${date.toLocaleDateString("en-CA")} ${time}`;
}

/** Copies a text, or shows it to be copied: browsers lend the clipboard only to pages that came over TLS or from here. */
export async function copy(title, text) {
  try {
    await navigator.clipboard.writeText(text);
    say("Copied.");
  } catch {
    const dialog = byId("dialog");
    const area = el("textarea", { readonly: true, rows: "16", "aria-label": title });
    area.value = text;
    const close = el("button", { type: "button", class: "act", click: () => dialog.close() }, "Close");
    dialog.replaceChildren(el("form", { method: "dialog" }, el("h2", { id: "dialog-title" }, title), area, el("div", { class: "choices" }, close)));
    dialog.showModal();
    area.focus();
    area.select();
    say(document.execCommand("copy") ? "Copied." : "Copy it from here: the browser does not let this page do it.");
  }
}
