// Puts the page together, and draws again what a choice changes.

// Set point A or B. Neither the table nor the points of the front are drawn again.
function choose(id, which) {
  state[which] = id;
  if (state.b === state.a) state.b = "";
  writeState();
  drawChoice();
}

function drawChoice() {
  markFront();
  markTable();
  drawChosen();
  drawDetails();
  drawMap();
  for (const which of ["a", "b"]) byId(`target-${which}`).setAttribute("aria-pressed", state.target === which);
}

function drawHypervolume() {
  const keys = objectivesShown();
  const box = byId("hypervolume");
  if (!keys.length || keys.length > 3) {
    box.replaceChildren(make("p", { class: "hint" }, keys.length ? "Shown for up to three objectives." : "Neither axis is an objective."));
    return;
  }
  const rows = hypervolumes(pointsShown(), keys);
  const several = new Set(rows.map((row) => row.subject)).size > 1;
  const head = [...(several ? [report.subject_name] : []), report.group_name, "points", "on the front", "hypervolume (%)",
    ...keys.map((key) => `reference: ${nameOf(measureOf(key))}`)];
  box.replaceChildren(make("div", { class: "scroll low" }, make("table", {},
    make("thead", {}, make("tr", {}, head.map((name, column) => make("th", { class: column < 1 + several ? "text" : null }, name)))),
    make("tbody", {}, rows.map((row) => make("tr", { class: row.group === "all" ? "sum" : null, "data-percent": row.percent },
      several ? make("td", { class: "text" }, row.subject) : null, make("td", { class: "name" }, row.group), make("td", {}, numberText(row.points)),
      make("td", {}, numberText(row.standing)), make("td", {}, row.percent.toFixed(2)), row.reference.map((value) => make("td", {}, numberText(value)))))))),
  make("p", { class: "hint" }, "The share that a group's own front dominates of the box from the best to the worst values of all points shown; the worst are the reference point. Figures of other axes or points cannot be compared with these."));
}

function fillControls() {
  const options = (select, entries, chosen) => select.replaceChildren(...entries.map(([value, text]) => make("option", { value, selected: value === chosen }, text)));
  const named = measures.map((measure) => [measure.key, nameOf(measure)]);
  options(byId("x"), named, state.x);
  options(byId("y"), named, state.y);
  byId("subject-label").hidden = subjects.length < 2;
  byId("subject-name").textContent = report.subject_name;
  options(byId("subject"), [["", "all"], ...subjects.map((subject) => [subject, subject])], state.subject);
  const ticked = objectivesShown();
  byId("objectives").replaceChildren(make("legend", {}, "Objectives"), ...measures.filter((measure) => measure.direction !== null)
    .map((measure) => make("label", { class: "tick" }, make("input", { type: "checkbox", value: measure.key, checked: ticked.includes(measure.key), onchange: tickObjective }), ` ${nameOf(measure)}`)));
  byId("find").value = state.find;
  byId("only-front").checked = state.onlyFront;
  byId("close-up").checked = state.closeUp;
  byId("map-of").value = state.map;
}

function tickObjective() {
  const ticked = [...byId("objectives").querySelectorAll("input:checked")].map((input) => input.value);
  const axes = [...new Set([state.x, state.y])].filter((key) => isObjective(key));
  const same = ticked.length === axes.length && axes.every((key) => ticked.includes(key));
  state.objectives = same || !ticked.length ? null : ticked;
  redraw();
}

// After another axis, subject or objective.
function redraw() {
  state.page = 0;
  writeState();
  drawAll();
}

function drawAll() {
  // Controls that are drawn anew lose the focus: it goes back to the one that had it.
  const focused = document.activeElement?.closest("#objectives") ? document.activeElement.value : null;
  fillControls();
  if (focused !== null) byId("objectives").querySelector(`[value="${CSS.escape(focused)}"]`)?.focus();
  drawFront();
  drawTable();
  showChosenRow();
  drawHypervolume();
  drawParallel();
  drawChoice();
  document.body.dataset.drawn = Number(document.body.dataset.drawn ?? 0) + 1;
}

function drawHeading() {
  const kinds = { exploration: "Exploration", comparison: "Comparison", sweep: "Sweep" };
  byId("kind").textContent = `Bitmosaic · ${kinds[report.kind]}`;
  byId("title").textContent = document.title = report.title;
  byId("facts").append(...report.facts.map((fact) => make("div", {}, make("dt", {}, fact.label), make("dd", {}, fact.text))));
  byId("notes").append(...report.notes.map((note) => make("li", {}, note)));
  byId("made").textContent = `Written by Bitmosaic ${report.made_by} from ${report.source}. Data, code and style are in this file; it loads nothing.`;
}

function watch() {
  for (const key of ["x", "y"]) byId(key).addEventListener("change", (event) => { state[key] = event.target.value; redraw(); });
  byId("subject").addEventListener("change", (event) => { state.subject = event.target.value; redraw(); });
  byId("map-of").addEventListener("change", (event) => { state.map = event.target.value; writeState(); drawMap(); });
  for (const which of ["a", "b"]) byId(`target-${which}`).addEventListener("click", () => { state.target = which; writeState(); drawChoice(); });
  byId("swap").addEventListener("click", () => { [state.a, state.b] = [state.b, state.a]; writeState(); drawChoice(); });
  byId("clear-b").addEventListener("click", () => { state.b = ""; state.target = "a"; writeState(); drawChoice(); });
  byId("skip").addEventListener("click", (event) => { event.preventDefault(); byId("points-heading").focus(); byId("points-heading").scrollIntoView(); });
  byId("close-up").addEventListener("change", (event) => { state.closeUp = event.target.checked; writeState(); drawFront(); });
  byId("parallel-box").addEventListener("toggle", drawParallel);
  watchTable();
  addEventListener("hashchange", () => { readState(); drawAll(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
}

drawHeading();
readState();
watch();
drawAll();
