// State and controls: which size, whose types, which colours; everything else follows from them.

const data = JSON.parse(document.getElementById("data").textContent);
const get = (id) => document.getElementById(id);
const STEPS = 1000;
const CHOSEN = "chosen size";

const base = data.header_bytes + data.fixed_bytes;
const groups = data.problem?.groups ?? [];
const smallest = base + bytesOf(groups, groups.map(() => 0));
const largest = base + bytesOf(groups, groups.map(({ choices }) => choices.length - 1));
let chosen = null;

/** The answer at a size of the whole file: {asked, bytes, cost, bound, types}; types by tensor. */
function solved(asked) {
  const answer = solve({ groups, budget: asked - base });
  const types = data.tensors.map(() => null);
  groups.forEach((group, i) => group.tensors.forEach((tensor) => (types[tensor] = group.choices[answer.picks[i]].type)));
  return { asked, ...answer, bytes: base + answer.bytes, types };
}

const atStep = (step) => Math.round(smallest * (largest / smallest) ** (step / STEPS));
const stepOf = (bytes) => Math.round((STEPS * Math.log(bytes / smallest)) / Math.log(largest / smallest));
const bpwOf = (types) =>
  (data.fixed_bits + types.reduce((bits, type, i) => bits + data.tensors[i].n_params * data.types[type].bpw, 0)) / data.n_params;

/** Predicted cost of types that were priced; null if one was not. */
function predicted(types) {
  const costs = types.map((type, i) => data.tensors[i].costs[type]);
  return costs.every((cost) => cost !== undefined) ? costs.reduce((a, b) => a + b, 0) : null;
}

function counts(types) {
  const found = new Map();
  for (const type of types) found.set(type, (found.get(type) ?? 0) + 1);
  return [...found].sort((a, b) => b[1] - a[1]).map(([type, n]) => `${n} ${data.types[type]?.name ?? "other"}`).join(", ");
}

function showAnswer() {
  const rows = [
    ["File", human(chosen.bytes)],
    ["Bytes", chosen.bytes.toLocaleString("en")],
    ["Bits per weight", bpwOf(chosen.types).toFixed(3)],
    [data.in_nats ? "Predicted KLD, nats per token" : "Predicted cost", number(chosen.cost, 4)],
    ["No allocation costs less than", number(Math.min(chosen.bound, chosen.cost), 4)],
    ["Types", counts(chosen.types)],
  ];
  get("answer").replaceChildren(
    ...rows.map(([name, text]) => {
      const made = element("div", "", name === "Types" ? { class: "all" } : {});
      made.append(element("dt", name), element("dd", text));
      return made;
    }),
  );
  get("asked").value = String(chosen.asked);
  get("asked-error").textContent = "";
  get("slider").value = stepOf(chosen.asked);
  get("slider").setAttribute("aria-valuetext", `${human(chosen.bytes)}, ${bpwOf(chosen.types).toFixed(2)} bits per weight, predicted ${number(chosen.cost)}`);
}

/** The types that the map, the table and the recipe show. */
function shownTypes() {
  const which = get("allocation").value;
  return which === CHOSEN ? chosen.types : data.candidates[Number(which)].types;
}

/** What a cell of the map shows for each colouring, and the scale. */
function mapCells(types) {
  const by = get("colour").value;
  const log = (value) => (value > 0 ? Math.log10(value) : null);
  const values = types.map((type, i) => {
    const { costs, score } = data.tensors[i];
    if (by === "score") return log(score);
    return by === "cost" ? log(costs[type]) : (data.types[type]?.bpw ?? null);
  });
  const known = values.filter((value) => value !== null);
  const cells = types.map((type, i) => {
    const { name, costs, score, shape } = data.tensors[i];
    const typed = data.types[type]?.name ?? "-";
    const label = { type: typed, cost: number(costs[type], 2), score: number(score, 2) }[by];
    const priced = costs[type] === undefined ? "" : `<br>predicted cost ${number(costs[type])}${data.in_nats ? " nats per token" : ""}`;
    const scored = score === null ? "" : `<br>score ${number(score)}`;
    return { value: values[i], label, hover: `<b>${plain(name)}</b> ${shape.join(" x ")}<br>${typed}, ${data.types[type]?.bpw ?? "-"} bpw${priced}${scored}` };
  });
  let [low, high] = [Math.min(...known), Math.max(...known)];
  if (by !== "type") low = Math.max(low, high - 5); // five decades are told apart
  if (!(high > low)) high = low + 1;
  const ticks = by === "type" ? undefined : Array.from({ length: 9 }, (_, i) => Math.ceil(low) + i).filter((t) => t <= high);
  const title = { type: "bits per weight", cost: "predicted cost", score: "score" }[by];
  return { cells, scale: { low, high, title, ticks, names: ticks?.map((t) => `1e${t}`) } };
}

function showTensors() {
  const types = shownTypes();
  const { cells, scale } = mapCells(types);
  drawMap(get("map"), data.tensors, cells, scale);
  const outside = data.tensors.map((tensor, i) => [tensor, cells[i]]).filter(([tensor]) => tensor.block === null);
  get("outside").replaceChildren(...outside.map(([tensor, cell]) => element("span", `${tensor.name}: ${cell.label}`)));
  const rows = data.tensors.map(({ name, shape, costs, score }, i) => {
    const type = data.types[types[i]];
    return [name, shape.join(" x "), type?.name ?? "-", type ? String(type.bpw) : "-", number(costs[types[i]]), number(score)];
  });
  fillTable(get("tensors"), "Every tensor", ["tensor", "shape", "type", "bpw", "predicted cost", "score"], rows);
  const lines = data.tensors.map(({ name, pattern }, i) => [name, pattern, data.types[types[i]]?.name.toLowerCase()]);
  const all = [...lines.filter(([, , type]) => type), ...data.kept].sort((a, b) => (a[0] < b[0] ? -1 : 1));
  get("recipe").value = all.map(([, pattern, type]) => `${pattern}=${type}\n`).join("");
  get("copied").textContent = "";
}

let curve = [];
const showPareto = () => drawPareto(get("pareto"), data, curve, chosen);

function choose(bytes) {
  chosen = solved(Math.min(Math.max(bytes, smallest), largest));
  showAnswer();
  get("allocation").value = CHOSEN;
  showTensors();
  showPareto();
}

function showFiles() {
  const rows = data.candidates.map((c) => {
    const m = c.measured ?? {};
    const kld = c.measured ? `${number(m.mean_kld, 4)} ± ${number(m.se_kld, 2)}` : "-";
    const top1 = c.measured ? `${(100 * m.same_top1).toFixed(2)} %` : "-";
    const guess = c.predicted ?? predicted(c.types);
    return [c.name, human(c.bytes), c.bpw.toFixed(2), kld, number(m.median_kld), number(m.p999_kld), top1, number(m.ppl, 5), number(guess), c.front ? "yes" : ""];
  });
  const header = ["file", "size", "bpw", "mean KLD", "median", "99.9 %", "same top-1", "PPL", "predicted", "on the front"];
  fillTable(get("files"), "Figures of every file", header, rows);
}

function listAllocations() {
  const named = data.candidates.map((c, i) => element("option", c.label, { value: String(i) }));
  get("allocation").replaceChildren(...(groups.length ? [element("option", CHOSEN, { value: CHOSEN })] : []), ...named);
}

function listen() {
  let waiting = 0;
  get("slider").addEventListener("input", () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => choose(atStep(Number(get("slider").value))));
  });
  get("exact").addEventListener("submit", (event) => {
    event.preventDefault();
    const bytes = fileBytes(get("asked").value, data);
    const fits = bytes >= smallest && bytes <= largest;
    const range = `${human(smallest)} to ${human(largest)} are possible`;
    if (fits) choose(bytes);
    else get("asked-error").textContent = Number.isNaN(bytes) ? "not understood; write it like 4.8bpw or 15.3GiB" : range;
  });
  get("allocation").addEventListener("change", showTensors);
  get("colour").addEventListener("change", showTensors);
  get("copy").addEventListener("click", async () => {
    get("recipe").select();
    let done = false;
    try {
      await navigator.clipboard.writeText(get("recipe").value);
      done = true;
    } catch {
      done = document.execCommand("copy"); // pages from a file may have no clipboard of the new kind
    }
    get("copied").textContent = done ? "copied" : "selected: press Ctrl-C";
  });
  get("save").addEventListener("click", () => {
    const link = element("a", "", { download: `${data.model}.tensor_types.txt` });
    link.href = URL.createObjectURL(new Blob([get("recipe").value], { type: "text/plain" }));
    link.click();
    URL.revokeObjectURL(link.href);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    showTensors();
    showPareto();
  });
}

get("about").textContent =
  `${data.arch || "unknown"} architecture, ${number(data.n_params / 1e6)} million weights, ${data.tensors.length} quantizable tensors; ` +
  `source ${data.source.file}, ${data.source.bpw.toFixed(2)} bpw` +
  (data.gpu_budget ? "; the GPU has a budget of its own: another size is solved by the command alone" : "");
listAllocations();
listen();
showFiles();
if (groups.length) {
  curve = Array.from({ length: 41 }, (_, i) => solved(atStep((i * STEPS) / 40))).filter((point) => point.cost > 0);
  choose(base + data.problem.budget);
} else {
  get("solver").hidden = true;
  showTensors();
  showPareto();
}
document.documentElement.dataset.ready = "yes"; // for tests
