// What the reader has chosen. It stands in the link's fragment, so that a reload and whoever gets the link see the same.

const state = {};

function readState() {
  const given = new URLSearchParams(location.hash.slice(1));
  const known = (key, other) => (measureAt.has(given.get(key)) ? given.get(key) : other);
  const point = (key, other) => (pointAt.has(given.get(key)) ? given.get(key) : other);
  state.x = known("x", report.x);
  state.y = known("y", report.y);
  state.subject = subjects.includes(given.get("subject")) ? given.get("subject")
    : given.get("subject") === "all" ? "" : report.subject;
  // None: those of the two axes.
  const objectives = (given.get("objectives") ?? "").split(",").filter((key) => measureAt.has(key) && isObjective(key));
  state.objectives = objectives.length ? objectives : null;
  state.a = point("a", report.first || report.points[0].id);
  state.b = point("b", "");
  state.target = given.get("click") === "b" ? "b" : "a";
  state.sort = given.get("sort") ?? "";
  state.layers = given.get("layers") ?? "";
  state.find = given.get("find") ?? "";
  state.onlyFront = given.get("front") === "1";
  state.closeUp = given.get("close") === "1";
  state.map = given.get("map") === "input" ? "input" : "weight";
  state.page = 0;
}

function writeState() {
  const given = new URLSearchParams();
  const put = (key, value, other) => { if (value !== other) given.set(key, value); };
  put("x", state.x, report.x);
  put("y", state.y, report.y);
  put("subject", state.subject || "all", report.subject || "all");
  if (state.objectives) given.set("objectives", state.objectives.join(","));
  given.set("a", state.a);
  put("b", state.b, "");
  put("click", state.target, "a");
  put("sort", state.sort, "");
  put("layers", state.layers, "");
  put("find", state.find, "");
  put("front", state.onlyFront ? "1" : "", "");
  put("close", state.closeUp ? "1" : "", "");
  put("map", state.map, "weight");
  history.replaceState(null, "", `#${given}`);
}

const objectivesShown = () => state.objectives
  ?? [...new Set([state.x, state.y])].filter((key) => isObjective(key));

// Places of the points that are looked at.
const pointsShown = () => report.points.map((_, place) => place)
  .filter((place) => !state.subject || report.points[place].subject === state.subject);
