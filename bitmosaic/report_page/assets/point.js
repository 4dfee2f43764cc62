// What there is of a chosen point: measures, command, where cycles and energy go, layers, hardware.

const LAYER_COLUMNS = [
  { key: "name", label: "layer", text: true, value: (layer) => layerName(layer) },
  { key: "precision", label: "precision", text: true, value: (layer) => layer.precision, hint: "bars: bits of weights, of inputs" },
  { key: "tile", label: "tile", text: true, value: (layer) => layer.tile },
  { key: "cycles", label: "cycles", value: (layer) => sum(layer.cycles) },
  { key: "wait", label: "waits (cycles)", value: (layer) => sum(layer.cycles.slice(2)) },
  { key: "energy", label: "energy (nJ)", value: (layer) => sum(layer.energy_pj) / 1e3 },
  { key: "use", label: "PEs used (%)", value: (layer) => layer.pe_utilization_percent },
  { key: "macs", label: "MACs", value: (layer) => (layer.kind === "layer" ? layer.macs : null) },
  { key: "dram", label: "DRAM (KiB)", value: (layer) => (layer.dram_bits === null ? null : layer.dram_bits / 8192) },
  { key: "gap", label: "gap (%)", value: (layer) => layer.gap_percent, hint: "proven limit of what another mapping could save" },
  { key: "harm", label: "harm", value: (layer) => layer.harm, hint: "rated, in the method's unit" },
  { key: "mapping", label: "mapping", text: true, value: (layer) => layer.mapping },
];

// The two chosen points side by side, in every measure.
function drawChosen() {
  const a = report.points[pointAt.get(state.a)];
  const b = report.points[pointAt.get(state.b)];
  const head = (point, which) => make("th", { class: "text", scope: "col" }, make("b", { class: `mark ${which}` }, which.toUpperCase()), " ", point.label);
  const rows = measures.map((measure) => {
    const one = valueOf(a, measure.key);
    const cells = [make("th", { class: "text", scope: "row" }, nameOf(measure)), make("td", {}, numberText(one))];
    if (b) {
      const other = valueOf(b, measure.key);
      cells.push(make("td", {}, numberText(other)), difference(measure, one, other));
    }
    return make("tr", { "data-measure": measure.key }, cells);
  });
  const about = (point) => make("p", { class: "origin" }, [point.group, point.origin, point.subject === point.group ? "" : point.subject]
    .filter(Boolean).join(" · ") + (point.chosen ? " · chosen by the results" : "") + (point.status === "done" ? "" : ` · ${point.status}`));
  byId("chosen").replaceChildren(
    make("table", { id: "measures" }, make("thead", {}, make("tr", {}, make("td"), head(a, "a"), b ? [head(b, "b"), make("th", {}, "B to A")] : [])),
      make("tbody", {}, rows)),
    about(a), ...(b ? [about(b)] : [make("p", { class: "hint" }, "Choose a second point with B, or with Shift and a click.")]),
  );
  byId("clear-b").disabled = byId("swap").disabled = !b;
}

// How B differs from A; of percentages in points.
function difference(measure, one, other) {
  if (one === null || other === null) return make("td", {}, "—");
  const apart = other - one;
  // What differs in the last digits alone is the same.
  const change = Math.abs(apart) > 1e-9 * Math.max(Math.abs(one), Math.abs(other)) ? apart : 0;
  const isShare = measure.unit === "%";
  if (!isShare && !one) return make("td", {}, change ? "—" : "=");
  const text = change === 0 ? "=" : `${change > 0 ? "+" : "−"}${numberText(Number(Math.abs(isShare ? change : (100 * change) / one).toPrecision(3)))} ${isShare ? "points" : "%"}`;
  const better = measure.direction === null || change === 0 ? null : (change < 0) === (measure.direction === "min");
  return make("td", { class: better === null ? null : better ? "better" : "worse", title: better === null ? null : better ? "better" : "worse" }, text);
}

const scales = { cycles: 0, energy: 0 };

function drawDetails() {
  const shown = ["a", "b"].filter((which) => state[which]);
  const box = byId("details");
  for (const node of box.querySelectorAll(".js-plotly-plot")) Plotly.purge(node);
  box.classList.toggle("two", shown.length === 2);
  const charts = [];
  // One scale for both: bars can be compared by their lengths.
  const points = shown.map((which) => report.points[pointAt.get(state[which])]);
  const longest = (numbers) => Math.max(...points.flatMap((point) => (point.layers.length ? point.layers.map((place) => sum(numbers(report.layers[place]))) : [0])));
  scales.cycles = longest((layer) => layer.cycles);
  scales.energy = Math.max(longest((layer) => layer.energy_pj), ...points.map((point) => (point.layers.length ? 0 : sum(point.energy_pj))));
  box.replaceChildren(...shown.map((which) => pointArticle(report.points[pointAt.get(state[which])], which, charts)));
  for (const draw of charts) draw();
}

function pointArticle(point, which, charts) {
  const panel = (title, ...content) => make("div", { class: "panel" }, make("h4", {}, title), ...content);
  const parts = [make("h3", {}, make("b", { class: `mark ${which}` }, which.toUpperCase()), point.label,
    point.chosen ? make("span", { class: "tag" }, "chosen by the results") : null)];
  parts.push(panel("Make it again", ...commandParts(point)));
  if (point.layers.length || point.energy_pj.length) {
    const box = make("div", { class: "charts" });
    if (point.layers.length) box.append(chartPanel(panel, "Cycles by layer", charts, (node) => drawBars(node, point, report.cycle_kinds, (layer) => layer.cycles, "cycles", 1, scales.cycles)));
    const energies = (layer) => (layer ? layer.energy_pj : point.energy_pj);
    box.append(chartPanel(panel, point.layers.length ? "Energy by layer" : "Energy", charts, (node) => drawBars(node, point, report.components, energies, "µJ", 1e-6, scales.energy)));
    parts.push(box);
  }
  if (point.layers.length) {
    parts.push(panel("Layers", layerTable(point)));
    const roofs = make("div", { class: "chart" });
    const roofPanel = panel("Roofline", roofs);
    charts.push(() => { if (!drawRoofline(roofs, point)) roofPanel.remove(); });
    parts.push(roofPanel);
  }
  parts.push(hardwarePanel(panel, point));
  if (point.trust !== null) parts.push(trustPanel(report.trusts[point.trust]));
  return make("article", { "data-point": point.id }, parts);
}

function chartPanel(panel, title, charts, draw) {
  const node = make("div", { class: "chart", role: "img", "aria-label": `${title}; the table of layers has the sums` });
  charts.push(() => draw(node));
  return panel(title, node);
}

function commandParts(point) {
  const parts = [];
  if (point.command) {
    const copy = make("button", { type: "button", onclick: () => {
      const told = (done) => { copy.textContent = done ? "Copied" : "Select it"; setTimeout(() => { copy.textContent = "Copy"; }, 1500); };
      if (!navigator.clipboard) { told(false); return; }
      navigator.clipboard.writeText(point.command).then(() => told(true), () => told(false));
    } }, "Copy");
    parts.push(make("div", { class: "command" }, make("code", { class: "js-command" }, point.command), copy));
  }
  const buttons = [];
  if (point.assignment) buttons.push(make("button", { type: "button", onclick: () => save(point.assignment_file, point.assignment) }, `Save ${point.assignment_file}`));
  if (point.machine !== null) {
    const machine = report.machines[point.machine];
    buttons.push(make("button", { type: "button", onclick: () => save(machine.file, hardwareFile(machine)) }, `Save ${machine.file}`));
  }
  parts.push(make("div", { class: "row" }, buttons));
  if (point.assignment) parts.push(make("p", { class: "hint" }, `Without the results folder: save the assignment${point.assignment.includes(`hardware: ${report.machines[point.machine].file}`) ? " and the hardware beside it" : ""}, and give its path to --assignment.`));
  if (point.note) parts.push(make("p", { class: "hint js-note" }, point.note));
  return parts;
}

// JSON is YAML too: what is saved here is a file for --hardware.
const hardwareFile = (machine) => `${JSON.stringify(descriptionOf(machine), null, 1)}\n`;

function layerTable(point) {
  const layers = point.layers.map((place) => report.layers[place]);
  const columns = LAYER_COLUMNS.filter((column) => layers.some((layer) => ![null, undefined, ""].includes(column.value(layer))));
  const widest = Math.max(8, ...layers.map((layer) => Math.max(layer.weight_bits ?? 0, layer.input_bits ?? 0)));
  const cell = (column, layer) => {
    const value = column.value(layer);
    if (column.key === "name") return make("td", { class: "name" }, value);
    if (column.key === "mapping") return make("td", { class: "long" }, value);
    if (column.key === "precision" && value) return make("td", { class: "text" }, value, widths(layer, widest));
    if (column.text) return make("td", { class: "text" }, value);
    return make("td", {}, value === null ? "" : numberText(column.key === "use" || column.key === "gap" ? Number(value.toFixed(1)) : value));
  };
  const total = columns.map((column) => (["cycles", "wait", "energy", "macs", "dram"].includes(column.key)
    ? make("td", {}, numberText(sum(layers.map((layer) => column.value(layer) ?? 0)))) : make("td", {}, "")));
  total[0] = make("th", { class: "text", scope: "row" }, "total");
  return make("div", { class: "scroll low", tabindex: "0", role: "region", "aria-label": `Layers of ${point.label}` }, make("table", { class: "layers" },
    headings(columns, state.layers, (sort) => { state.layers = sort; writeState(); drawLayerTables(sort.replace(/^-/, "")); }),
    make("tbody", {}, sorted(layers, columns, state.layers).map((layer) => make("tr", {}, columns.map((column) => cell(column, layer))))),
    make("tfoot", {}, make("tr", { class: "sum" }, total))));
}

// After another order: the tables alone, and the heading that was used keeps the focus.
function drawLayerTables(key) {
  for (const article of byId("details").querySelectorAll("article")) {
    const old = article.querySelector(".scroll.low");
    if (!old) continue;
    const focused = old.contains(document.activeElement);
    const table = layerTable(report.points[pointAt.get(article.dataset.point)]);
    old.replaceWith(table);
    if (focused) table.querySelector(`[data-key="${key}"]`)?.focus();
  }
}

function widths(layer, widest) {
  const bar = (bits) => make("i", { style: `width:${(42 * (bits ?? 0)) / widest}px` });
  return make("span", { class: "widths", role: "img", "aria-label": `${layer.weight_bits} bits of weights, ${layer.input_bits} of inputs`,
    title: `${layer.weight_bits} bits of weights, ${layer.input_bits} of inputs` }, bar(layer.weight_bits), bar(layer.input_bits));
}

function hardwarePanel(panel, point) {
  if (point.machine === null) return panel("Hardware", make("p", { class: "hint" }, "Not known: see the notes at the end of the page."));
  const machine = report.machines[point.machine];
  const description = descriptionOf(machine);
  const changed = new Set(machine.changes.map((change) => JSON.stringify(change.place)));
  const facts = [["PEs", numberText(machine.pe_count)], ["buffers (KiB)", numberText(machine.buffer_bits / 8192)],
    ["area on chip (mm²)", machine.area_mm2 === null ? "not modelled in full" : numberText(machine.area_mm2)],
    ["leakage (mW)", machine.leakage_mw === null ? "not modelled in full" : numberText(machine.leakage_mw)],
    ["clock (MHz)", numberText(description.clock_mhz)], ["DRAM (bits a cycle)", numberText(machine.bandwidth_bits_per_cycle)]];
  const given = Object.entries(machine.fields);
  const tiles = description.tiles ? description.tiles.map((tile, place) => [`${tile.name}.`, tile, ["tiles", place]]) : [["", description, []]];
  const memories = tiles.flatMap(([prefix, tile, at]) => tile.memories.map((memory, place) => [prefix + memory.name, memory, [...at, "memories", place]]));
  const fields = [["keeps", "keeps"], ["size (bits)", "size_bits"], ["read (pJ a bit)", "read_energy_pj_per_bit"], ["write (pJ a bit)", "write_energy_pj_per_bit"]];
  const cell = (memory, place, key) => make("td", { class: [key === "keeps" ? "text" : "", changed.has(JSON.stringify([...place, key])) ? "changed" : ""].join(" ") },
    Array.isArray(memory[key]) ? memory[key].join(", ") : numberText(memory[key]));
  const kinds = tiles.map(([prefix, tile]) => `${prefix}${tile.processing_element.kind.replace(/_/g, " ")}, ${tile.grid.axes.map((axis) => `${axis.size} ${axis.name}`).join(" × ")}`);
  const table = (head, rows) => make("div", { class: "scroll low" }, make("table", {}, make("thead", {}, make("tr", {}, head.map((name, column) => make("th", { class: column ? null : "text" }, name)))), make("tbody", {}, rows)));
  return panel(`Hardware: ${machine.name}`,
    make("p", { class: "origin" }, `${kinds.join("; ")}. ${description.description ? (given.length ? `Made from: ${description.description}.` : description.description) : ""}`),
    given.length ? make("p", { class: "origin js-fields" }, `Given anew: ${given.map(([path, value]) => `${path} = ${typeof value === "object" ? JSON.stringify(value) : value}`).join(", ")}`) : null,
    make("table", {}, make("tbody", {}, facts.map(([name, value]) => make("tr", {}, make("th", { class: "text", scope: "row" }, name), make("td", {}, value))))),
    make("details", {}, make("summary", {}, "Memories"), table(["memory", ...fields.map(([name]) => name)],
      memories.map(([name, memory, place]) => make("tr", {}, make("td", { class: "name" }, name), fields.map(([, key]) => cell(memory, place, key))))),
      machine.changes.length ? make("p", { class: "hint" }, "Coloured: other than in the first machine of this name.") : null),
    make("details", {}, make("summary", {}, "Area and leakage"), table(["part", "copies", "area (mm²)", "leakage (mW)"],
      machine.parts.map((place) => report.parts[place]).map((part) => make("tr", {}, make("td", { class: "name" }, part.name), [part.copies, part.area_mm2, part.leakage_mw].map((value) => make("td", {}, numberText(value))))))));
}

function trustPanel(trust) {
  return make("details", { class: "panel" }, make("summary", {}, "How far the energies can be trusted"),
    make("table", {}, make("tbody", {}, trust.confidence.map(([name, word]) => make("tr", {}, make("th", { class: "text", scope: "row" }, name.replace(/_/g, " ")), make("td", { class: "text" }, word || "not stated"))))),
    make("p", { class: "hint" }, `Not modelled: ${trust.not_modelled.join("; ") || "nothing"}.`));
}
