// The table of all points: a page of rows at a time, so that thousands stay quick.

const ROWS = 50;

const POINT_COLUMNS = [
  { key: "label", label: "point", text: true, value: (place) => report.points[place].label },
  { key: "group", label: report.group_name, text: true, value: (place) => report.points[place].group },
  ...(subjects.length > 1 ? [{ key: "subject", label: report.subject_name, text: true, value: (place) => report.points[place].subject }] : []),
  ...measures.map((measure) => ({ key: measure.key, label: nameOf(measure), value: (place) => valueOf(report.points[place], measure.key) })),
  { key: "origin", label: "how it came", text: true, value: (place) => report.points[place].origin },
];

let tableOrder = [];

function drawTable() {
  const standing = frontOf(pointsShown(), objectivesShown());
  const wanted = state.find.toLowerCase();
  const found = pointsShown().filter((place) => (!state.onlyFront || standing.has(place))
    && (!wanted || `${report.points[place].label} ${report.points[place].group} ${report.points[place].origin}`.toLowerCase().includes(wanted)));
  tableOrder = sorted(found, POINT_COLUMNS, state.sort);
  const pages = Math.max(1, Math.ceil(tableOrder.length / ROWS));
  state.page = Math.min(Math.max(0, state.page), pages - 1);
  const start = state.page * ROWS;
  const rows = tableOrder.slice(start, start + ROWS).map((place) => {
    const point = report.points[place];
    const missing = point.status === "done" ? "" : `${point.status}: ${point.note}`;
    return make("tr", { "data-id": point.id, tabindex: "-1", class: standing.has(place) ? null : "faded", title: missing || null },
      POINT_COLUMNS.map((column) => {
        const value = column.value(place);
        if (column.key === "label") return make("td", { class: "name" }, value, standing.has(place) ? make("span", { class: "tag" }, "front") : null);
        if (column.key === "origin") return make("td", { class: "text" }, missing ? shortened(missing, 90) : value);
        return make("td", { class: column.text ? "text" : null }, column.text ? value : numberText(value));
      }));
  });
  for (const row of rows) row.querySelector(".tag")?.before(" ");
  byId("points").replaceChildren(
    headings(POINT_COLUMNS, state.sort, (sort) => {
      state.sort = sort;
      state.page = 0;
      writeState();
      drawTable();
      byId("points").querySelector(`[data-key="${CSS.escape(sort.replace(/^-/, ""))}"]`).focus();
    }),
    make("tbody", {}, rows),
  );
  const last = Math.min(start + ROWS, tableOrder.length);
  byId("rows").textContent = ` ${tableOrder.length ? (start + 1).toLocaleString("en") : 0}–${last.toLocaleString("en")} of ${tableOrder.length.toLocaleString("en")} `;
  byId("before").disabled = state.page === 0;
  byId("behind").disabled = state.page >= pages - 1;
  markTable();
}

// The page on which point A stands; where it is not among the rows, the first.
function showChosenRow() {
  const place = tableOrder.indexOf(pointAt.get(state.a));
  const page = Math.max(0, Math.floor(place / ROWS));
  if (page !== state.page) { state.page = page; drawTable(); }
}

function markTable() {
  const rows = [...byId("points").tBodies[0].rows];
  for (const row of rows) {
    row.classList.toggle("is-a", row.dataset.id === state.a);
    row.classList.toggle("is-b", row.dataset.id === state.b);
    row.setAttribute("aria-selected", [state.a, state.b].includes(row.dataset.id));
    row.tabIndex = -1;
  }
  // One row is reached with Tab, the others from it with the arrow keys.
  const first = rows.find((row) => row.dataset.id === state.a) ?? rows[0];
  if (first) first.tabIndex = 0;
}

function watchTable() {
  const table = byId("points");
  table.addEventListener("click", (event) => {
    const row = event.target.closest("tbody tr");
    if (row) choose(row.dataset.id, event.shiftKey ? "b" : state.target);
  });
  table.addEventListener("keydown", (event) => {
    const row = event.target.closest("tbody tr");
    if (!row || event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 };
    if (event.key in steps) {
      const rows = [...table.tBodies[0].rows];
      rows[Math.min(Math.max(0, rows.indexOf(row) + steps[event.key]), rows.length - 1)].focus();
    } else if (event.key === "Enter" || event.key === " ") choose(row.dataset.id, event.shiftKey ? "b" : "a");
    else if (event.key.toLowerCase() === "b") choose(row.dataset.id, "b");
    else if (event.key.toLowerCase() === "a") choose(row.dataset.id, "a");
    else return;
    event.preventDefault();
  });
  byId("before").addEventListener("click", () => { state.page -= 1; drawTable(); });
  byId("behind").addEventListener("click", () => { state.page += 1; drawTable(); });
  byId("find").addEventListener("input", (event) => { state.find = event.target.value; state.page = 0; writeState(); drawTable(); });
  byId("only-front").addEventListener("change", (event) => { state.onlyFront = event.target.checked; state.page = 0; writeState(); drawTable(); });
}
