// Everything that Plotly draws. Markers, dashes and hatches say in grey what colours say.

const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "star", "x", "pentagon"];
const HATCHES = ["", "/", ".", "\\", "x", "-", "+", "|"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const CONFIG = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] };
const MANY = 1500;
const MOST_LAYERS = 30;
// Percentage points: what is a cliff, and what is close.
const CLIFF = 15;
const CLOSE = 6;

// Asked for once, and only where it is needed: some browsers complain of slow WebGL in the console.
let webGl = null;
function hasWebGl() {
  try { webGl ??= document.createElement("canvas").getContext("webgl") !== null; } catch { webGl = false; }
  return webGl;
}
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const groupColour = (place) => colour(`c${place % 8}`);

function layout(more) {
  const axis = { gridcolor: colour("grid"), linecolor: colour("line"), zerolinecolor: colour("line"), ticks: "outside",
                 tickcolor: colour("line"), automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 60, r: 15, t: 15, b: 50 },
    font: { color: colour("ink"), size: 12.5, family: getComputedStyle(document.body).fontFamily },
    hoverlabel: { bgcolor: colour("surface"), bordercolor: colour("line"), font: { color: colour("ink") }, align: "left" },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("muted"), activecolor: colour("accent") },
    ...more, xaxis: { ...axis, ...(more.xaxis ?? {}) }, yaxis: { ...axis, ...(more.yaxis ?? {}) },
  };
}

// More than a factor of 50 is read more easily on a logarithmic axis.
function axisOf(key, points) {
  const measure = measureOf(key);
  const values = points.map((place) => valueOf(report.points[place], key)).filter((value) => value !== null);
  const least = Math.min(...values);
  const better = measure.direction === null ? "" : `, ${measure.direction === "min" ? "less" : "more"} is better`;
  return {
    title: { text: `${plain(nameOf(measure))}${better}` },
    type: values.length && least > 0 && Math.max(...values) > 50 * least ? "log" : "linear",
  };
}

function drawFront() {
  const { x, y } = state;
  const keys = objectivesShown();
  const points = pointsShown().filter((place) => valueOf(report.points[place], x) !== null
    && valueOf(report.points[place], y) !== null);
  const standing = frontOf(pointsShown(), keys);
  const type = points.length > MANY && hasWebGl() ? "scattergl" : "scatter";
  const hover = `<b>%{text}</b><br>${plain(nameOf(measureOf(x)))}: %{x:.4~g}<br>${plain(nameOf(measureOf(y)))}: %{y:.4~g}<extra></extra>`;
  const traces = [];
  const drawn = [...new Set(points.map((place) => report.points[place].subject))];
  const lines = keys.length === 2 && x !== y && keys.includes(x) && keys.includes(y);
  for (const subject of lines ? drawn : []) {
    const own = points.filter((place) => standing.has(place) && report.points[place].subject === subject)
      .sort((a, b) => valueOf(report.points[a], x) - valueOf(report.points[b], x));
    const number = drawn.indexOf(subject);
    traces.push({
      type: "scatter", mode: "lines", x: own.map((place) => valueOf(report.points[place], x)),
      y: own.map((place) => valueOf(report.points[place], y)), hoverinfo: "skip", showlegend: drawn.length > 1 || groups.length > 1,
      name: drawn.length > 1 ? `front: ${plain(subject)}` : "front", meta: "front line",
      // From each point on its value holds until the next one.
      line: { shape: measureOf(x).direction === "min" ? "hv" : "vh", width: 1.6, dash: DASHES[number % DASHES.length],
              color: drawn.length > 1 ? groupColour(number) : colour("muted") },
    });
  }
  const bySubject = groups.length === 1 && drawn.length > 1;
  const classes = bySubject ? drawn : groups;
  classes.forEach((name, number) => {
    const own = points.filter((place) => (bySubject ? report.points[place].subject : report.points[place].group) === name);
    for (const stands of [false, true]) {
      const part = own.filter((place) => standing.has(place) === stands);
      if (!part.length) continue;
      const symbol = SYMBOLS[number % SYMBOLS.length];
      traces.push({
        type, mode: "markers", name: plain(name || "points"), legendgroup: name, meta: stands ? "on the front" : "dominated",
        showlegend: stands || !own.some((place) => standing.has(place)),
        x: part.map((place) => valueOf(report.points[place], x)), y: part.map((place) => valueOf(report.points[place], y)),
        text: part.map((place) => plain(report.points[place].label)), customdata: part, hovertemplate: hover,
        marker: stands
          ? { symbol, size: 11, color: groupColour(number), line: { color: colour("ink"), width: 1 } }
          : { symbol, size: type === "scattergl" ? 6 : 8, color: groupColour(number), opacity: 0.3 },
      });
    }
  });
  const shapes = [], annotations = [];
  for (const reference of report.references) {
    const line = { color: colour("muted"), dash: "dot", width: 1.4 };
    const text = { text: plain(`${reference.label} ${numberText(reference.value)}`), showarrow: false, font: { color: colour("muted"), size: 11.5 } };
    if (reference.measure === y) {
      shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: reference.value, y1: reference.value, line });
      annotations.push({ ...text, xref: "paper", x: 1, xanchor: "right", y: reference.value, yanchor: "bottom" });
    } else if (reference.measure === x) {
      shapes.push({ type: "line", yref: "paper", y0: 0, y1: 1, x0: reference.value, x1: reference.value, line });
      annotations.push({ ...text, yref: "paper", y: 1, yanchor: "top", x: reference.value, xanchor: "right" });
    }
  }
  traces.push(ringTrace(), { ...ringTrace(), name: "B" });
  const node = byId("front");
  const upwards = axisOf(y, points);
  const closeUp = closeUpOf(points);
  byId("close-up-label").hidden = closeUp === null;
  if (closeUp !== null && state.closeUp) upwards.range = closeUp;
  node.setAttribute("aria-label", `Points by ${nameOf(measureOf(x))} and ${nameOf(measureOf(y))}; the table below has them all`);
  Plotly.react(node, traces, layout({
    xaxis: axisOf(x, points), yaxis: upwards, shapes, annotations, hovermode: "closest", dragmode: "zoom",
    legend: { orientation: "h", y: -0.17, yanchor: "top", x: 0, itemsizing: "constant" }, uirevision: `${x} ${y} ${state.subject} ${state.closeUp}`,
    margin: { l: 60, r: 15, t: 20, b: 50 },
  }), CONFIG);
  if (!node.dataset.ready) {
    node.on("plotly_click", (event) => {
      const place = event.points[0].customdata;
      if (place !== undefined) choose(report.points[place].id, event.event.shiftKey ? "b" : state.target);
    });
    node.dataset.ready = "1";
  }
  markFront();
  const unknown = pointsShown().length - points.length;
  const faded = keys.length ? `Faded: beaten in ${keys.map((key) => measureOf(key).label).join(", ")}${subjects.length > 1 ? ` by a point of the same ${report.subject_name}` : ""}.`
    : "Neither axis is an objective: nothing is faded.";
  byId("front-note").textContent = `${points.length.toLocaleString("en")} points, ${standing.size} on the front. ${faded} `
    + "A click sets a point, with Shift point B."
    + (unknown ? ` ${unknown} points have no ${measureOf(x).label} or no ${measureOf(y).label}.` : "");
}

// What is close to the reference of the upward axis, where values fall off a cliff; null where they do not.
function closeUpOf(points) {
  const reference = report.references.find((each) => each.measure === state.y);
  const values = points.map((place) => valueOf(report.points[place], state.y));
  if (!reference || measureOf(state.y).unit !== "%" || reference.value - Math.min(...values) < CLIFF) return null;
  return [reference.value - CLOSE, Math.max(reference.value, ...values) + CLOSE / 10];
}

const ringTrace = () => ({ type: "scatter", mode: "markers+text", name: "A", showlegend: false, hoverinfo: "skip", x: [], y: [], text: [] });

// Rings around the chosen points: all that a click changes in the plot.
function markFront() {
  const node = byId("front");
  const count = node.data.length;
  ["a", "b"].forEach((which, number) => {
    const point = report.points[pointAt.get(state[which])];
    const shown = point && (!state.subject || point.subject === state.subject)
      && valueOf(point, state.x) !== null && valueOf(point, state.y) !== null;
    Plotly.restyle(node, {
      x: [shown ? [valueOf(point, state.x)] : []], y: [shown ? [valueOf(point, state.y)] : []],
      text: [shown ? [`<b>${which.toUpperCase()}</b>`] : []], textposition: "top right",
      textfont: [{ color: colour(which), size: 15 }],
      marker: [{ symbol: number ? "square-open" : "circle-open", size: 20, color: colour(which), line: { width: 2.6 } }],
    }, [count - 2 + number]);
  });
}

// Stacked bars of a point, a bar a layer: ``parts`` are names, ``numbers(layer)`` their values, ``longest`` the longest
// bar of any point beside it; before ``scale``, which makes the unit of them.
function drawBars(node, point, parts, numbers, unit, scale, longest) {
  const layers = point.layers.map((place) => report.layers[place]);
  let rows = layers.map((layer) => ({ name: layerName(layer), values: numbers(layer) }));
  if (!rows.length) rows = [{ name: "all layers", values: numbers(null) }];
  if (rows.length > MOST_LAYERS) {
    const order = [...rows].sort((a, b) => sum(b.values) - sum(a.values));
    const rest = new Set(order.slice(MOST_LAYERS));
    rows = [...rows.filter((row) => !rest.has(row)), {
      name: `${rest.size} others`, values: parts.map((_, part) => sum([...rest].map((row) => row.values[part]))),
    }];
  }
  const present = parts.map((_, part) => part).filter((part) => rows.some((row) => row.values[part] > 0));
  const traces = present.map((part) => ({
    type: "bar", orientation: "h", name: plain(parts[part].replace(/_/g, " ")), y: rows.map((_, row) => row),
    x: rows.map((row) => row.values[part] * scale), hovertemplate: `%{customdata}<br>${plain(parts[part].replace(/_/g, " "))}: %{x:.4~g} ${unit}<extra></extra>`,
    customdata: rows.map((row) => plain(row.name)),
    marker: { color: groupColour(part), line: { color: colour("surface"), width: 0.5 },
              pattern: { shape: HATCHES[part % HATCHES.length], fillmode: "overlay", fgcolor: colour("surface"), fgopacity: 0.6, size: 7, solidity: 0.18 } },
  }));
  Plotly.react(node, traces, layout({
    barmode: "stack", height: Math.max(220, 130 + 21 * rows.length), bargap: 0.25, margin: { l: 20, r: 15, t: 5, b: 40 },
    xaxis: { title: { text: unit }, range: [0, 1.03 * scale * Math.max(longest, ...rows.map((row) => sum(row.values))) || 1] }, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, traceorder: "normal", font: { size: 11.5 } },
    yaxis: { autorange: "reversed", tickvals: rows.map((_, row) => row), ticktext: rows.map((row) => plain(shortened(row.name, 26))), ticks: "" },
  }), { ...CONFIG, displayModeBar: false });
}

const layerName = (layer) => (layer.kind === "vector" ? `${layer.name} ×${layer.count}` : layer.name);

// Williams, Waterman and Patterson, CACM 52(4), 2009: MACs a cycle over MACs a DRAM byte. False: the data are not there.
function drawRoofline(node, point) {
  const layers = point.layers.map((place) => report.layers[place]).filter((layer) => layer.kind === "layer" && layer.dram_bits && layer.peak_macs_per_cycle);
  if (!layers.length || point.machine === null) return false;
  const bandwidth = report.machines[point.machine].bandwidth_bits_per_cycle / 8;
  const intensity = layers.map((layer) => (8 * layer.macs) / layer.dram_bits);
  const precisions = [...new Set(layers.map((layer) => layer.precision))];
  const peaks = new Map(layers.map((layer) => [layer.peak_macs_per_cycle, layer.precision]));
  const left = Math.min(...intensity) / 2;
  const highest = Math.max(...peaks.keys());
  const right = Math.max(Math.max(...intensity) * 2, (highest / bandwidth) * 2);
  const traces = [...peaks].map(([peak, precision]) => ({
    type: "scatter", mode: "lines", hoverinfo: "skip", showlegend: false, x: [left, peak / bandwidth, right],
    y: [left * bandwidth, peak, peak], line: { color: colour("muted"), width: 1.5, dash: DASHES[precisions.indexOf(precision) % DASHES.length] },
  }));
  precisions.forEach((precision, number) => {
    const own = layers.map((layer, place) => [layer, place]).filter(([layer]) => layer.precision === precision);
    traces.push({
      type: "scatter", mode: "markers", name: plain(precision), x: own.map(([, place]) => intensity[place]),
      y: own.map(([layer]) => layer.macs / sum(layer.cycles)), text: own.map(([layer]) => plain(layer.name)),
      hovertemplate: "<b>%{text}</b><br>%{x:.3~g} MACs a DRAM byte<br>%{y:.3~g} MACs a cycle<extra></extra>",
      marker: { symbol: SYMBOLS[number % SYMBOLS.length], size: 10, color: groupColour(number), line: { color: colour("ink"), width: 0.8 } },
    });
  });
  const decades = (title) => ({ type: "log", title: { text: title }, dtick: 1, exponentformat: "none" });
  Plotly.react(node, traces, layout({
    height: 320, xaxis: decades("MACs a DRAM byte"), yaxis: decades("MACs a cycle"), margin: { l: 55, r: 15, t: 30, b: 45 },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, hovermode: "closest", showlegend: true,
    annotations: [...peaks].map(([peak, precision]) => ({
      x: Math.log10(right), y: Math.log10(peak), xanchor: "right", yanchor: "bottom", showarrow: false,
      text: plain(`peak of ${precision}: ${numberText(peak)}`), font: { size: 11, color: colour("muted") },
    })),
  }), { ...CONFIG, displayModeBar: false });
  return true;
}

const MOST_MAPPED = 120;

// Layers down, points across, darker for fewer bits. Of many points those on the front and the chosen ones.
function drawMap() {
  byId("map-section").hidden = !hasLayers;
  if (!hasLayers) return;
  const all = pointsShown().filter((place) => report.points[place].layers.length);
  const standing = frontOf(all, objectivesShown());
  let points = all.length <= MOST_MAPPED ? all
    : all.filter((place) => standing.has(place) || [state.a, state.b].includes(report.points[place].id)).slice(0, MOST_MAPPED);
  points = [...points].sort((a, b) => (valueOf(report.points[a], state.x) ?? 0) - (valueOf(report.points[b], state.x) ?? 0));
  const rows = new Map();
  points.forEach((place, column) => {
    for (const at of report.points[place].layers) {
      const layer = report.layers[at];
      if (layer.kind !== "layer") continue;
      if (!rows.has(layer.name)) rows.set(layer.name, { bits: points.map(() => null), text: points.map(() => "") });
      rows.get(layer.name).bits[column] = state.map === "weight" ? layer.weight_bits : layer.input_bits;
      rows.get(layer.name).text[column] = layer.precision;
    }
  });
  const names = [...rows.keys()];
  const cells = names.length * points.length;
  const longest = Math.max(0, ...[...rows.values()].flatMap((row) => row.text.map((text) => text.length)));
  const fits = cells <= 600 && points.length * longest <= 130;
  const node = byId("map");
  const known = [...rows.values()].flatMap((row) => row.bits).filter((bits) => bits !== null);
  Plotly.react(node, [{
    type: "heatmap", x: points.map((_, column) => column), y: names.map((_, row) => row), z: names.map((name) => rows.get(name).bits),
    zmin: Math.min(2, ...known), zmax: Math.max(8, ...known), colorscale: [[0, "#08306b"], [0.35, "#2f7fbc"], [0.7, "#a9cfe6"], [1, "#eef5fb"]],
    xgap: 1.5, ygap: 1.5, text: names.map((name) => rows.get(name).text.map(plain)), texttemplate: fits ? "%{text}" : "",
    textfont: { size: 10.5 }, customdata: names.map((name) => points.map((place) => [place, plain(report.points[place].label), plain(name)])),
    hovertemplate: "<b>%{customdata[2]}</b> at %{customdata[1]}<br>%{text}: %{z} bits<extra></extra>",
    colorbar: { title: { text: "bits" }, thickness: 12, outlinewidth: 0 },
  }], layout({
    height: Math.max(220, 120 + 22 * names.length), margin: { l: 20, r: 10, t: 10, b: 40 },
    xaxis: { showgrid: false, ticks: "", tickvals: points.map((_, column) => column), tickangle: points.length > 12 ? -60 : 0,
             ticktext: points.map((place) => plain(shortened(report.points[place].label, 20)) + chosenMark(place)) },
    yaxis: { showgrid: false, ticks: "", autorange: "reversed", tickvals: names.map((_, row) => row), ticktext: names.map((name) => plain(shortened(name, 30))) },
  }), { ...CONFIG, displayModeBar: false });
  if (!node.dataset.ready) {
    node.on("plotly_click", (event) => choose(report.points[event.points[0].customdata[0]].id, event.event.shiftKey ? "b" : state.target));
    node.dataset.ready = "1";
  }
  byId("map-note").textContent = `Points in the order of ${measureOf(state.x).label}; darker is fewer bits.`
    + (points.length < all.length ? ` ${points.length} of ${all.length} points: those on the front and the chosen ones.` : "");
}

const chosenMark = (place) => ["a", "b"].filter((which) => state[which] === report.points[place].id)
  .map((which) => ` <b>${which.toUpperCase()}</b>`).join("");

// A line a point through an axis for each measure in which points differ.
function drawParallel() {
  const points = pointsShown();
  const shown = points.filter((place) => report.points[place].status === "done");
  const used = measures.map((measure) => measure.key).filter((key) => {
    const values = shown.map((place) => valueOf(report.points[place], key));
    // Latency in cycles would say what latency in ms says.
    return !values.includes(null) && Math.max(...values) - Math.min(...values) > 1e-9 * Math.max(...values.map(Math.abs)) && key !== "latency_cycles";
  });
  byId("parallel-section").hidden = used.length < 2;
  if (used.length < 2 || !byId("parallel-box").open) return;
  const note = byId("parallel-note");
  if (!hasWebGl()) { note.textContent = "This browser has no WebGL, which these lines are drawn with."; return; }
  const standing = frontOf(shown, objectivesShown());
  // Lines on the front are drawn last, so that they lie on top.
  const order = [...shown].sort((a, b) => standing.has(a) - standing.has(b));
  Plotly.react(byId("parallel"), [{
    type: "parcoords", labelfont: { size: 12, color: colour("ink") }, tickfont: { color: colour("ink"), size: 11 }, rangefont: { color: colour("muted") },
    line: { color: order.map((place) => (standing.has(place) ? 1 : 0)), colorscale: [[0, colour("line")], [1, colour("accent")]], cmin: 0, cmax: 1 },
    dimensions: used.slice(0, 10).map((key) => ({ label: plain(nameOf(measureOf(key))), tickformat: ".4~g", values: order.map((place) => valueOf(report.points[place], key)) })),
  }], layout({ height: 340, margin: { l: 70, r: 60, t: 60, b: 25 } }), { ...CONFIG, displayModeBar: false });
  note.textContent = "Coloured lines are on the front. Drag along an axis to keep a range; drag a heading to move its axis."
    + (shown.length < points.length ? ` ${points.length - shown.length} points without a result are left out.` : "");
}
