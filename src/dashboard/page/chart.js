// Requests per caller over time, drawn by uPlot, with what happened drawn on it.
/* global uPlot */

import { byId, el, number, clock } from "./dom.js";

const LIGHT = ["#1f6fb2", "#2b8a3e", "#8250c4", "#0b7a75", "#a6590b", "#c2368f", "#3d5a98", "#5f7a12", "#7a4b36", "#00708f", "#9a3ea3", "#4e5d6b"];
const DARK = ["#6db3f2", "#69c37a", "#b899f0", "#4fc8bf", "#e5a35a", "#f08bc5", "#93a8e8", "#b3cc5c", "#cf9f86", "#58c3e0", "#dc92e3", "#a5b3c2"];
const REST = "__rest__";

const dark = matchMedia("(prefers-color-scheme: dark)");
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** A colour for each name, the same as long as it is drawn; no two that are drawn together have the same. */
const taken = new Map();
export function colour(name, suspects, drawn) {
  if (suspects.has(name)) return css("--alarm");
  if (name === REST) return css("--faint");
  if (!taken.has(name)) {
    for (const gone of [...taken.keys()]) if (!drawn.includes(gone)) taken.delete(gone);
    const used = new Set(taken.values());
    let hash = 0;
    for (const c of name) hash = (hash * 31 + c.codePointAt(0)) >>> 0;
    let at = hash % LIGHT.length;
    for (let n = 0; n < LIGHT.length && used.has(at); n += 1) at = (at + 1) % LIGHT.length;
    taken.set(name, at);
  }
  return (dark.matches ? DARK : LIGHT)[taken.get(name)];
}

/** What was let in, or all that came; nothing is known of the time before the service began. */
function curve(of, offered, t, since) {
  return of.offered.map((value, at) => (t[at] < since - 1 ? null : offered ? value : Math.max(0, value - of.refused[at])));
}

/** What a curve was over the last ten seconds, or at its last point. */
function lately(values, t) {
  const end = t[t.length - 1];
  const late = values.filter((value, at) => value !== null && t[at] > end - 10);
  return late.length ? late.reduce((sum, value) => sum + value, 0) / late.length : 0;
}

/** How large letters are, against those of a desk: a screen on the wall has larger ones. */
const scale = () => parseFloat(getComputedStyle(document.documentElement).fontSize) / 16;
const font = (by) => `${Math.round(12 * by)}px system-ui, sans-serif`;

// On the right, half of the last time below.
const padding = () => [null, 30 * scale(), null, null];

const axes = (log, by) => [
  {
    stroke: css("--muted"),
    grid: { stroke: css("--grid"), width: 1 },
    ticks: { show: false },
    font: font(by),
    gap: 6 * by,
    size: 28 * by,
    values: (_, ticks) => ticks.map((t) => clock(t)),
    space: 90 * by,
  },
  {
    stroke: css("--muted"),
    grid: { stroke: css("--grid"), width: 1 },
    ticks: { show: false },
    font: font(by),
    space: 32 * by,
    size: 54 * by,
    values: (_, ticks) => ticks.map((t) => (t === null || (log && t < 0.1) ? "" : number(t))),
  },
];

const scales = (log) => ({
  x: { time: true },
  y: log ? { distr: 3, range: (_, min, max) => [0.1, Math.max(10, max * 1.3)] } : { range: (_, min, max) => [0, Math.max(1, max * 1.08)] },
});

const forLog = (values, log) => (log ? values.map((v) => (v === null ? null : Math.max(0.1, v))) : values);

/** Draws what happened: bands of runaways, lines of pins and incidents. */
function marks(read) {
  return {
    hooks: {
      drawClear: (u) => {
        const { ctx } = u;
        const { left, top, width, height } = u.bbox;
        ctx.save();
        ctx.beginPath();
        ctx.rect(left, top, width, height);
        ctx.clip();
        for (const band of read().bands) {
          const from = u.valToPos(band.from, "x", true);
          const to = u.valToPos(band.to, "x", true);
          ctx.fillStyle = css(band.alarm ? "--alarm-band" : "--warn-band");
          ctx.fillRect(from, top, Math.max(2, to - from), height);
        }
        ctx.restore();
      },
      draw: (u) => {
        const { ctx } = u;
        const { left, top, width, height } = u.bbox;
        const ratio = (devicePixelRatio || 1) * scale();
        ctx.save();
        ctx.beginPath();
        ctx.rect(left, top, width, height);
        ctx.clip();
        ctx.textAlign = "left";
        ctx.textBaseline = "alphabetic";
        ctx.font = font(ratio);
        // The latest have their words first; where there is no room for any more, a line has none.
        const rows = [[], [], [], []];
        for (const pin of [...read().pins].sort((a, b) => b.t - a.t)) {
          const x = Math.round(u.valToPos(pin.t, "x", true));
          if (x < left || x > left + width) continue;
          const stroke = css(pin.alarm ? "--alarm" : pin.warn ? "--warn" : "--pin");
          ctx.strokeStyle = stroke;
          ctx.lineWidth = ratio * 1.5;
          ctx.setLineDash([4 * ratio, 3 * ratio]);
          ctx.beginPath();
          ctx.moveTo(x, top);
          ctx.lineTo(x, top + height);
          ctx.stroke();
          ctx.setLineDash([]);
          const text = pin.text.length > 34 ? `${pin.text.slice(0, 33)}…` : pin.text;
          const wide = ctx.measureText(text).width;
          const beside = x + wide + 8 * ratio > left + width ? x - wide - 5 * ratio : x + 5 * ratio;
          const at = Math.max(left + 2 * ratio, beside);
          const end = at + wide + 4 * ratio;
          const row = rows.findIndex((taken) => taken.every(([from, to]) => end < from || at > to));
          if (row < 0) continue;
          rows[row].push([at, end]);
          const y = top + (14 + row * 16) * ratio;
          ctx.fillStyle = css("--label");
          ctx.fillRect(at - 2 * ratio, y - 11 * ratio, wide + 4 * ratio, 15 * ratio);
          ctx.fillStyle = stroke;
          ctx.fillText(text, at, y);
        }
        ctx.restore();
      },
    },
  };
}

/** The chart of all callers. `view` holds what the viewer has chosen, and is told when it zooms. */
export class Traffic {
  constructor(view, onZoom, onPick) {
    this.view = view;
    this.onZoom = onZoom;
    this.onPick = onPick;
    this.place = byId("plot");
    this.plot = null;
    this.shape = "";
    this.happened = { bands: [], pins: [] };
    this.rows = new Map();
    new ResizeObserver(() => this.resize()).observe(this.place);
    dark.addEventListener("change", () => this.again());
    this.place.addEventListener("keydown", (event) => this.key(event));
  }

  again() {
    this.shape = "";
    if (this.last) this.draw(...this.last);
  }

  draw(chart, happened, suspects, rates, since) {
    this.last = [chart, happened, suspects, rates, since];
    this.happened = happened;
    const { offered, log } = this.view;
    const names = chart.lines.map((line) => line.caller);
    const shape = JSON.stringify([[...names].sort(), [...suspects.keys()].sort(), log, offered, scale()]);
    if (shape !== this.shape || !this.plot) {
      this.shape = shape;
      this.order = names;
      this.build(suspects, log);
    }
    const lines = new Map(chart.lines.map((line) => [line.caller, line]));
    const values = (of) => forLog(curve(of, offered, chart.t, since), log);
    const data = [chart.t, values(chart.rest)];
    for (const name of this.order) data.push(values(lines.get(name)));
    const { zoom } = this.view;
    this.zooming = true;
    this.plot.setData(data, !zoom);
    if (zoom) this.plot.setScale("x", { min: zoom[0], max: zoom[1] });
    this.zooming = false;
    // The figure beside a name is that of its line: what was refused is in both, or in neither.
    const late = (of) => lately(curve(of, offered, chart.t, since), chart.t);
    const figures = new Map(chart.lines.map((line) => [line.caller, offered ? rates.get(line.caller) : late(line)]));
    this.legend(suspects, figures.set(REST, late(chart.rest)));
    const total = values(chart.total);
    const heaviest = names.length ? `; heaviest: ${names.slice(0, 3).join(", ")}` : "";
    this.place.setAttribute("aria-label", `Requests per second by caller: ${number(total[total.length - 1])} in all${heaviest}`);
  }

  build(suspects, log) {
    this.plot?.destroy();
    const calm = suspects.size === 0;
    const series = (name) => {
      const suspect = suspects.has(name);
      return {
        label: name,
        stroke: colour(name, suspects, this.order),
        width: (suspect ? 3.5 : name === REST ? 1.5 : 2) * scale(),
        alpha: calm || suspect ? 1 : 0.55,
        dash: name === REST ? [6, 4] : undefined,
        fill: suspect ? css("--alarm-fill") : undefined,
        points: { show: false },
      };
    };
    this.plot = new uPlot(
      {
        ...this.size(),
        scales: scales(log),
        axes: axes(log, scale()),
        padding: padding(),
        series: [{}, series(REST), ...this.order.map(series)],
        legend: { show: false },
        cursor: { drag: { x: true, y: false, setScale: true }, focus: { prox: 20 } },
        focus: { alpha: 0.35 },
        plugins: [marks(() => this.happened)],
        hooks: {
          setScale: [
            (u, key) => {
              if (key !== "x" || this.zooming || !u.data[0].length) return;
              const { min, max } = u.scales.x;
              const t = u.data[0];
              const whole = min <= t[0] && max >= t[t.length - 1];
              this.view.zoom = whole ? null : [min, max];
              this.onZoom();
            },
          ],
        },
      },
      [[], [], ...this.order.map(() => [])],
      this.place,
    );
  }

  size() {
    return { width: Math.max(240, this.place.clientWidth), height: Math.max(200, Math.min(420 * scale(), Math.round(innerHeight * 0.42))) };
  }

  resize() {
    if (this.plot && this.plot.width !== this.size().width) this.plot.setSize(this.size());
  }

  unzoom() {
    this.view.zoom = null;
    if (this.last) this.draw(...this.last);
    this.onZoom();
  }

  key(event) {
    const t = this.last?.[0].t;
    if (!t?.length || event.ctrlKey || event.metaKey || event.altKey) return;
    const [first, end] = [t[0], t[t.length - 1]];
    let [min, max] = this.view.zoom || [first, end];
    const width = max - min;
    const by = { ArrowLeft: -0.2, ArrowRight: 0.2 }[event.key];
    if (by) [min, max] = [min + by * width, max + by * width];
    else if (event.key === "+" || event.key === "=") [min, max] = [max - width / 1.6, max];
    else if (event.key === "-") [min, max] = [max - width * 1.6, max];
    else if (event.key === "0") [min, max] = [first, end];
    else return;
    event.preventDefault();
    const step = t[1] - t[0];
    max = Math.min(end, Math.max(max, first + 8 * step));
    min = Math.max(first, Math.min(min, max - 8 * step));
    this.view.zoom = min <= first && max >= end ? null : [min, max];
    this.draw(...this.last);
    this.onZoom();
  }

  /** The lines by name, heaviest first; each opens its caller. */
  legend(suspects, figures) {
    const list = byId("legend");
    const items = [...figures];
    for (const [at, [name, rate]] of items.entries()) {
      let item = this.rows.get(name);
      if (!item) {
        const swatch = el("i", { "aria-hidden": "true" });
        const value = el("b");
        const label = name === REST ? "all others" : name;
        const inner = [swatch, el("span", {}, label), value];
        const row = name === REST ? el("span", {}, inner) : el("button", { type: "button", click: () => this.onPick(name) }, inner);
        item = { li: el("li", {}, row), swatch, value };
        this.rows.set(name, item);
      }
      item.swatch.style.setProperty("--line", colour(name, suspects, this.order));
      item.li.classList.toggle("suspect", suspects.has(name));
      item.value.textContent = number(rate);
      if (list.children[at] !== item.li) list.insertBefore(item.li, list.children[at] || null);
    }
    while (list.children.length > items.length) list.lastChild.remove();
    if (this.rows.size > 200) this.rows.clear();
  }
}

/** The proof: without the suspect, what is left is flat. */
export class Proof {
  constructor(place) {
    this.place = place;
    this.plot = null;
    this.observer = new ResizeObserver(() => {
      if (this.plot && place.clientWidth) this.plot.setSize(this.size());
    });
    this.observer.observe(place);
    this.again = () => this.last && this.draw(...this.last);
    dark.addEventListener("change", this.again);
  }

  draw(chart, caller, happened, offered, since) {
    const line = chart.lines.find((of) => of.caller === caller);
    if (!line || !this.place.clientWidth) return;
    this.last = [chart, caller, happened, offered, since];
    this.happened = happened;
    const total = curve(chart.total, offered, chart.t, since);
    const own = curve(line, offered, chart.t, since);
    const without = total.map((value, at) => (value === null ? null : Math.max(0, value - own[at])));
    const errors = (line.errors || []).map((value, at) => (total[at] === null ? null : value));
    const data = [chart.t, total, own, errors, without];
    const mode = `${dark.matches} ${scale()}`;
    if (!this.plot || this.mode !== mode) {
      this.mode = mode;
      this.plot?.destroy();
      const series = (label, stroke, more) => ({ label, stroke: css(stroke), points: { show: false }, ...more, width: (more.width || 2) * scale() });
      this.plot = new uPlot(
        {
          ...this.size(),
          scales: scales(false),
          axes: axes(false, scale()),
          padding: padding(),
          legend: { show: false },
          cursor: { drag: { x: false, y: false } },
          series: [
            {},
            series("total", "--muted", {}),
            series("suspect", "--alarm", { width: 3 }),
            series("errors", "--warn", { dash: [5, 4] }),
            series("without", "--good", { width: 3, fill: css("--good-fill") }),
          ],
          plugins: [marks(() => this.happened)],
        },
        data,
        this.place,
      );
    } else {
      this.plot.setData(data);
    }
  }

  size() {
    return { width: this.place.clientWidth, height: this.place.clientHeight };
  }

  end() {
    this.observer.disconnect();
    dark.removeEventListener("change", this.again);
    this.plot?.destroy();
  }
}
