// The report's data, and what is computed from it: which points stand, and how much they dominate.

const report = JSON.parse(document.getElementById("report-data").textContent);
const measures = report.measures;
const measureAt = new Map(measures.map((measure, place) => [measure.key, place]));
const pointAt = new Map(report.points.map((point, place) => [point.id, place]));
const groups = [...new Set(report.points.map((point) => point.group))];
const subjects = [...new Set(report.points.map((point) => point.subject))];
const hasLayers = report.points.some((point) => point.layers.length > 0);

const measureOf = (key) => measures[measureAt.get(key)];
const valueOf = (point, key) => point.values[measureAt.get(key)];
const isObjective = (key) => measureOf(key).direction !== null;
const nameOf = (measure) => (measure.unit ? `${measure.label} (${measure.unit})` : measure.label);
const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

// Values of a point turned so that less is better; null where one is not known.
function lossesOf(point, keys) {
  const losses = [];
  for (const key of keys) {
    const value = valueOf(point, key);
    if (value === null) return null;
    losses.push(measureOf(key).direction === "max" ? -value : value);
  }
  return losses;
}

function inOrder(one, other) {
  for (let place = 0; place < one.length; place += 1) {
    if (one[place] !== other[place]) return one[place] - other[place];
  }
  return 0;
}

// Places of the rows that no other row beats; of equal rows the first, as in mapper.pareto. Rows are losses.
function undominated(rows) {
  const order = rows.map((_, place) => place).sort((a, b) => inOrder(rows[a], rows[b]) || a - b);
  const front = [];
  if (rows.length && rows[0].length <= 2) {
    let best = Infinity;
    for (const place of order) {
      const last = rows[place][1] ?? (front.length ? Infinity : -Infinity);
      if (last < best) { front.push(place); best = last; }
    }
    return front;
  }
  // A row can only be beaten, or equalled, by one before it in this order.
  for (const place of order) {
    if (!front.some((kept) => rows[kept].every((value, column) => value <= rows[place][column]))) front.push(place);
  }
  return front;
}

// Places of the points that stand, each among the points of its subject.
function frontOf(points, keys) {
  const standing = new Set();
  if (!keys.length) return standing;
  for (const subject of subjects) {
    const own = points.filter((place) => report.points[place].subject === subject);
    const known = own.filter((place) => lossesOf(report.points[place], keys) !== null);
    for (const place of undominated(known.map((each) => lossesOf(report.points[each], keys)))) standing.add(known[place]);
  }
  return standing;
}

// Volume between rows of losses and the reference point 1, …, 1: exact, for one to three columns.
function volume(rows) {
  const inside = rows.filter((row) => row.every((value) => value < 1));
  if (!inside.length) return 0;
  const columns = inside[0].length;
  if (columns === 1) return 1 - Math.min(...inside.map((row) => row[0]));
  const ordered = [...inside].sort((a, b) => a[columns - 1] - b[columns - 1]);
  let total = 0;
  let lowest = 1;
  for (let place = 0; place < ordered.length; place += 1) {
    const height = (place + 1 < ordered.length ? ordered[place + 1][columns - 1] : 1) - ordered[place][columns - 1];
    if (columns === 2) {
      lowest = Math.min(lowest, ordered[place][0]);
      total += height * (1 - lowest);
    } else if (height > 0) {
      total += height * volume(ordered.slice(0, place + 1).map((row) => row.slice(0, columns - 1)));
    }
  }
  return total;
}

// A row a subject and group: the share of the box of all points of the subject that the group dominates. The box spans
// from the best to the worst values; the worst are the reference point. An objective in which all are equal is left out.
function hypervolumes(points, keys) {
  const rows = [];
  for (const subject of subjects) {
    const own = points.filter((place) => report.points[place].subject === subject);
    const known = own.filter((place) => lossesOf(report.points[place], keys) !== null);
    if (!known.length) continue;
    const table = known.map((place) => lossesOf(report.points[place], keys));
    const best = keys.map((_, column) => Math.min(...table.map((row) => row[column])));
    const worst = keys.map((_, column) => Math.max(...table.map((row) => row[column])));
    const wide = keys.map((_, column) => column).filter((column) => worst[column] > best[column]);
    const standing = frontOf(known, keys);
    const present = groups.filter((group) => known.some((place) => report.points[place].group === group));
    const parts = present.map((group) => [group, known.map((place) => report.points[place].group === group)]);
    if (present.length > 1) parts.push(["all", known.map(() => true)]);
    for (const [group, mask] of parts) {
      const chosen = table.filter((_, place) => mask[place]);
      const front = undominated(chosen).map((place) => chosen[place]);
      const scaled = front.map((row) => wide.map((column) => (row[column] - best[column]) / (worst[column] - best[column])));
      rows.push({
        subject, group, points: chosen.length, standing: known.filter((place, at) => mask[at] && standing.has(place)).length,
        percent: wide.length ? 100 * volume(scaled) : 0,
        reference: keys.map((key, column) => (measureOf(key).direction === "max" ? -worst[column] : worst[column])),
      });
    }
  }
  return rows;
}

// The description of a machine as its file has it: its base with the changes.
function descriptionOf(machine) {
  const description = JSON.parse(JSON.stringify(report.descriptions[machine.base]));
  for (const { place, value } of machine.changes) {
    let here = description;
    for (const key of place.slice(0, -1)) here = here[key];
    here[place[place.length - 1]] = value;
  }
  return description;
}
