// The table of callers: rows are kept and cells written only where they change, so that 300 rows a second are easy.

import { byId, el, number, percent, duration, setText } from "./dom.js";

const change = (row) => (row.baseline ? row.rate / row.baseline : row.baseline === 0 && row.rate > 0 ? Infinity : null);
const failed = (row) => Object.values(row.errors).reduce((sum, share) => sum + share, 0);

export function changeText(factor) {
  if (factor === null || factor === undefined) return "–";
  if (factor === Infinity) return "new";
  if (factor >= 1.95) return `× ${number(factor)}`;
  const by = Math.round((factor - 1) * 100);
  return by > 0 ? `+${by} %` : `${by} %`.replace("-", "−");
}

function errorText(row) {
  const classes = Object.entries(row.errors).sort((a, b) => b[1] - a[1]);
  if (!classes.length) return "–";
  return classes.slice(0, 2).map(([name, share]) => `${name} ${percent(share)}`).join(", ");
}

const COLUMNS = [
  { key: "caller", title: "Caller", of: (row) => row.caller.toLowerCase() },
  { key: "rate", title: "Req/s", of: (row) => row.rate, text: (row) => number(row.rate), more: "over ten seconds" },
  { key: "change", title: "Against usual", of: (row) => change(row) ?? -1, text: (row) => changeText(change(row)), more: "the median of its last hour" },
  { key: "errors", title: "Errors", of: failed, text: errorText, wide: true, more: "share by class, over a minute" },
  { key: "p50", title: "p50", of: (row) => row.p50 ?? -1, text: (row) => duration(row.p50) },
  { key: "p99", title: "p99", of: (row) => row.p99 ?? -1, text: (row) => duration(row.p99) },
  { key: "in_flight", title: "In flight", of: (row) => row.in_flight, text: (row) => number(row.in_flight) },
  { key: "refused", title: "Refused", of: (row) => row.refused, text: (row) => (row.refused ? number(row.refused) : "–"), more: "over a minute" },
];

export class Table {
  constructor(view, onChange, onPick) {
    this.view = view;
    this.onChange = onChange;
    this.onPick = onPick;
    this.rows = new Map();
    this.body = byId("table").tBodies[0];
    this.heads = COLUMNS.map((column) => {
      const button = el("button", { type: "button", title: column.more || null, click: () => this.sortBy(column.key) }, column.title);
      return el("th", { scope: "col", class: column.key === "caller" || column.wide ? null : "number" }, button);
    });
    byId("table").tHead.append(el("tr", {}, this.heads));
  }

  sortBy(key) {
    const { sort, up } = this.view;
    this.view.up = sort === key ? !up : key === "caller";
    this.view.sort = key;
    this.onChange();
  }

  draw(callers, suspects) {
    const { sort, up, filter } = this.view;
    const column = COLUMNS.find((of) => of.key === sort);
    for (const [at, head] of this.heads.entries()) {
      const on = COLUMNS[at].key === sort;
      if (on) head.setAttribute("aria-sort", up ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    }
    const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
    const matches = (row) => {
      if (!words.length) return true;
      const text = [row.caller, row.owner, row.contact, row.provenance, ...Object.keys(row.errors)].join(" ").toLowerCase();
      return words.every((word) => text.includes(word));
    };
    const shown = callers.filter(matches);
    if (column) {
      const keyed = shown.map((row, at) => [column.of(row), at, row]);
      keyed.sort(([a, i], [b, j]) => (a < b ? -1 : a > b ? 1 : 0) * (up ? 1 : -1) || i - j);
      shown.splice(0, shown.length, ...keyed.map(([, , row]) => row));
    }
    const seen = new Set();
    for (const [at, row] of shown.entries()) {
      seen.add(row.caller);
      const kept = this.row(row);
      this.head(kept, row);
      kept.tr.classList.toggle("suspect", suspects.has(row.caller));
      for (const [n, text] of kept.texts.entries()) setText(text, COLUMNS[n + 1].text(row));
      const high = (change(row) ?? 0) >= 2;
      kept.tr.classList.toggle("risen", high);
      kept.tr.classList.toggle("failing", failed(row) >= 0.2);
      if (this.body.children[at] !== kept.tr) this.body.insertBefore(kept.tr, this.body.children[at] || null);
    }
    for (const [name, kept] of this.rows) {
      if (!seen.has(name)) {
        kept.tr.remove();
        this.rows.delete(name);
      }
    }
    const all = callers.length;
    setText(byId("count"), shown.length === all ? `${all} callers` : `${shown.length} of ${all} callers`);
  }

  row(row) {
    const known = this.rows.get(row.caller);
    if (known) return known;
    const open = el("button", { type: "button", class: "name", click: () => this.onPick(row.caller) }, row.caller);
    const texts = COLUMNS.slice(1).map((column) => el("td", { class: column.wide ? null : "number" }));
    const [tag, owner] = [el("small"), el("small", { class: "owner" })];
    const made = { tr: el("tr", {}, el("th", { scope: "row" }, open, tag, owner), texts), texts, tag, owner };
    this.rows.set(row.caller, made);
    return made;
  }

  /** Who it is, which another roster may change. */
  head({ tag, owner }, row) {
    setText(tag, row.provenance === "verified" ? "" : row.provenance);
    setText(owner, [row.owner, row.contact].filter(Boolean).join(" · "));
    for (const part of [tag, owner]) part.hidden = !part.textContent;
  }
}
