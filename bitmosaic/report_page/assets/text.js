// Elements, numbers as text, and tables that sort.

const byId = (id) => document.getElementById(id);

// An element; whatever is put in is text or other elements, never markup.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

// Four significant digits, whole numbers in full, an exponent only where the number would be very long.
function numberText(value) {
  if (value === null || value === undefined) return "—";
  if (value === "inf" || value === Infinity) return "∞";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e12) return value.toLocaleString("en");
  if (size >= 1e3 && size < 1e9) return Math.round(value).toLocaleString("en");
  if (size >= 1e-4 && size < 1e3) return String(Number(value.toPrecision(4)));
  return value.toExponential(3);
}

// Plotly reads a little markup in texts: names must not be taken for it.
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const shortened = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

function compareValues(one, other) {
  const missing = (value) => value === null || value === undefined || value === "";
  if (missing(one) || missing(other)) return missing(one) - missing(other);
  const number = (value) => (value === "inf" ? Infinity : value);
  if (typeof number(one) === "number" && typeof number(other) === "number") return number(one) - number(other);
  return String(one).localeCompare(String(other), "en", { numeric: true });
}

// ``sort`` is a column's key, with a minus where the largest are first; what is missing stands last in both.
function sorted(rows, columns, sort) {
  const column = columns.find((each) => each.key === sort.replace(/^-/, ""));
  if (!column) return rows;
  const sign = sort.startsWith("-") ? -1 : 1;
  const missing = (row) => column.value(row) === null || column.value(row) === undefined || column.value(row) === "";
  return [...rows].sort((a, b) => (missing(a) || missing(b) ? missing(a) - missing(b)
    : sign * compareValues(column.value(a), column.value(b))));
}

// The headings of a table; each is a button that sorts by its column, and a second time the other way round.
function headings(columns, sort, resort) {
  return make("thead", {}, make("tr", {}, columns.map((column) => make("th", {
    scope: "col", class: column.text ? "text" : null,
    "aria-sort": sort === column.key ? "ascending" : sort === `-${column.key}` ? "descending" : null,
  }, make("button", {
    type: "button", "data-key": column.key, title: column.hint ?? null,
    onclick: () => resort(sort === column.key ? `-${column.key}` : column.key),
  }, column.label)))));
}

function save(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  const link = make("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
