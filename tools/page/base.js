// What the pages have in common: text, numbers for people, planes to draw on.
const byId = (id) => document.getElementById(id);

// Whatever comes from outside becomes text, never markup.
const element = (tag, name, ...inside) => {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.append(...inside.map((part) => (part instanceof Node ? part : String(part))));
  return made;
};
const drawn = (tag, attributes, text) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
};
const known = (number) => typeof number === "number" && Number.isFinite(number);
const whole = (number) => (known(number) ? number.toLocaleString("en") : "–");
const fixed = (number, digits, unit = "") => (known(number) ? number.toFixed(digits) + unit : "–");
const bytes = (number) => {
  if (!known(number)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  for (; number >= 1024 && at < units.length - 1; at += 1) number /= 1024;
  return `${number.toFixed(at && number < 10 ? 1 : 0)} ${units[at]}`;
};
const span = (seconds) => {
  if (!known(seconds)) return "–";
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
};
const time = (text) => {
  const when = new Date(text);
  return Number.isNaN(when.getTime()) ? text : when.toLocaleString("en-GB", { dateStyle: "short", timeStyle: "short" });
};

// Steps of 1, 2 or 5 times a power of ten, up to seven of them.
const ticks = (low, high) => {
  const rough = (high - low) / 6;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((one) => one * power >= rough) * power;
  const all = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step / 1e6; at += step) all.push(at);
  return { all, digits: Math.max(0, -Math.floor(Math.log10(step))) };
};

// An empty plane with its axes: where to draw, and how numbers become places.
const plane = (svg, xs, ys, xName) => {
  const width = svg.clientWidth || 320, height = svg.clientHeight || 210;
  const box = { left: 46, right: width - 12, top: 8, bottom: height - 24 };
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  const numbers = ys.filter(known);
  if (!numbers.length) {
    svg.append(drawn("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "Nothing yet"));
    return null;
  }
  let low = Math.min(...numbers), high = Math.max(...numbers);
  const room = (high - low) * 0.08 || Math.abs(high) * 0.05 || 0.5;
  low -= room; high += room;
  const first = Math.min(...xs), last = Math.max(...xs);
  const x = (value) => (last > first ? box.left + ((value - first) / (last - first)) * (box.right - box.left) : (box.left + box.right) / 2);
  const y = (value) => box.bottom - ((value - low) / (high - low)) * (box.bottom - box.top);
  const levels = ticks(low, high);
  for (const level of levels.all) {
    svg.append(drawn("line", { class: "rule", x1: box.left, x2: box.right, y1: y(level), y2: y(level) }));
    svg.append(drawn("text", { x: box.left - 8, y: y(level) + 4, "text-anchor": "end" }, level.toFixed(levels.digits)));
  }
  if (xs.length) svg.append(drawn("text", { x: box.left, y: height - 6 }, `${xName} ${first}`));
  if (last > first) svg.append(drawn("text", { x: box.right, y: height - 6, "text-anchor": "end" }, last));
  return { svg, x, y, box };
};
const key = (id, names) => {
  byId(id).replaceChildren(...names.map(([name, text]) => element("span", name, text)));
};

const tile = (name, value, note, part) => {
  const made = element("div", "tile", element("span", "soft small", name), element("b", "", value), element("span", "soft small", note));
  if (known(part)) {
    const fill = element("i");
    fill.style.width = `${Math.min(100, Math.max(0, part * 100))}%`;
    made.append(element("div", "bar", fill));
  }
  return made;
};

const notice = (text) => {
  byId("notice").textContent = text;
  byId("notice").hidden = !text;
};

// Asks for what is to be shown, again and again, with the token that the tab keeps; what does not answer any
// more stays, as old.
const follow = ({ url, token, pause, who, show }) => {
  const look = async () => {
    const kept = sessionStorage.getItem(token);
    const headers = kept ? { Authorization: `Bearer ${kept}` } : {};
    let locked = false;
    try {
      const answer = await fetch(url, { headers, cache: "no-store" });
      locked = answer.status === 401;
      byId("door").hidden = !locked;
      if (answer.ok) show(await answer.json());
      else notice(locked ? (kept ? "That is not the token." : "") : `The ${who} answered ${answer.status}.`);
      byId("main").className = answer.ok ? "" : "stale";
    } catch (error) {
      notice(`The ${who} does not answer (${error.message}). What is shown is old.`);
      byId("main").className = "stale";
    }
    // Without the token there is nothing to ask for again.
    if (!locked) setTimeout(look, pause);
  };
  byId("door").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem(token, byId("token").value.trim());
    byId("token").value = "";
    look();
  });
  look();
};
