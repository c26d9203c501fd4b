// Sizes, numbers and text as the command line writes them.

const UNITS = { B: 1, KB: 1e3, MB: 1e6, GB: 1e9, KIB: 2 ** 10, MIB: 2 ** 20, GIB: 2 ** 30, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 };

/** Bytes of the whole file for a text like 4.8bpw, 15.3GiB or 4830208; NaN if it is none. */
export function fileBytes(text, data) {
  const match = /^\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*$/.exec(text);
  if (!match) return NaN;
  const unit = (match[2] || "B").toUpperCase();
  if (unit === "BPW") return data.header_bytes + Math.floor((Number(match[1]) * data.n_params) / 8);
  return unit in UNITS ? Math.floor(Number(match[1]) * UNITS[unit]) : NaN;
}

export const human = (bytes) => (bytes >= 1e9 ? `${(bytes / 1e9).toFixed(2)} GB` : `${(bytes / 1e6).toFixed(2)} MB`);

/** Three significant digits, an exponent only where zeros would fill the cell. */
export function number(value, digits = 3) {
  if (value === null || value === undefined) return "-";
  if (value === 0) return "0";
  if (Math.abs(value) < 1e-4) return value.toExponential(digits - 1);
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(digits)));
}

/** Text for plotly, which acts on some tags. */
export const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

export function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** Fill a table: a header, rows of cells, the first of each row its name. */
export function fillTable(table, caption, header, rows) {
  const head = element("thead", "");
  head.append(element("tr", ""));
  head.firstChild.append(...header.map((text) => element("th", text, { scope: "col" })));
  const body = element("tbody", "");
  for (const [name, ...cells] of rows) {
    const row = element("tr", "");
    row.append(element("th", name, { scope: "row" }), ...cells.map((text) => element("td", text)));
    body.append(row);
  }
  table.setAttribute("aria-label", caption);
  table.replaceChildren(head, body);
}
