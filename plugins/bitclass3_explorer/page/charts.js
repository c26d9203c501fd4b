// The two charts, drawn by plotly in the page's own colours.

const CONFIG = { displayModeBar: false, responsive: true };
const SERIES = { ours: ["bitclass3", "circle"], stock: ["llama.cpp stock mix", "square"], compared: ["compared file", "diamond"] };
const COLUMN_WIDTH = 62; // pixels: a type's name fits
const ROW_HEIGHT = 22;
// light throughout, darker with the value: dark text can be read on all of it, in either mode
const SCALE = [[0, "#fdf3c8"], [0.5, "#86d0b4"], [1, "#5b9bd8"]];
const ON_SCALE = "#10151a";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function layout(more) {
  const axis = { gridcolor: colour("line"), linecolor: colour("line"), zeroline: false, automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("ink"), family: "system-ui, sans-serif", size: 13 },
    hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("line"), font: { color: colour("ink") }, align: "left" },
    dragmode: false,
    ...more,
    xaxis: { ...axis, fixedrange: true, ...more.xaxis },
    yaxis: { ...axis, fixedrange: true, ...more.yaxis },
  };
}

function series(kind, data, unit) {
  const [name, symbol] = SERIES[kind] ?? SERIES.compared;
  const shown = data.candidates.filter((c) => c.kind === kind && c.measured?.mean_kld > 0).sort((a, b) => a.bytes - b.bytes);
  return {
    name,
    mode: kind !== "compared" && shown.length > 1 ? "lines+markers" : "markers",
    x: shown.map((c) => c.bytes / unit),
    y: shown.map((c) => c.measured.mean_kld),
    error_y: { type: "data", array: shown.map((c) => c.measured.se_kld ?? 0), thickness: 1.2, width: 3 },
    marker: { symbol, size: 9, color: colour(kind) },
    line: { color: colour(kind), width: 1.5 },
    text: shown.map((c) => `${plain(c.name)}<br>${human(c.bytes)}, ${c.bpw.toFixed(2)} bpw<br>mean KLD ${number(c.measured.mean_kld, 4)} ± ${number(c.measured.se_kld, 2)}`),
    hovertemplate: "%{text}<extra></extra>",
  };
}

/** Size against mean KLD: files as measured, the predicted curve (points of bytes and cost), the chosen size. */
export function drawPareto(target, data, curve, chosen) {
  const unit = Math.max(...data.candidates.map((c) => c.bytes)) >= 1e10 ? 1e9 : 1e6;
  const most = 1.1 * Math.max(...data.candidates.map((c) => c.bytes), chosen?.bytes ?? 0); // what lies far beyond would flatten the rest
  const traces = Object.keys(SERIES).map((kind) => series(kind, data, unit)).filter((trace) => trace.x.length);
  curve = curve.filter((point) => point.bytes <= most);
  if (data.in_nats && curve.length) {
    traces.unshift({
      name: "predicted, any size",
      mode: "lines",
      x: curve.map((p) => p.bytes / unit),
      y: curve.map((p) => p.cost),
      line: { color: colour("faint"), width: 1.2, dash: "dot" },
      hovertemplate: `%{x:.2f}: predicted %{y:.3~g}<extra></extra>`,
    });
    if (chosen)
      traces.push({
        name: "chosen size, predicted",
        mode: "markers",
        x: [chosen.bytes / unit],
        y: [chosen.cost],
        marker: { symbol: "star", size: 15, color: colour("chosen") },
        hovertemplate: `chosen: predicted %{y:.3~g}<extra></extra>`,
      });
  }
  const more = {
    margin: { t: 10, r: 12, b: 45, l: 60 },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    xaxis: { title: { text: `file size (${unit === 1e9 ? "GB" : "MB"})` } },
    yaxis: { title: { text: "mean KLD, nats/token" }, type: "log", tickformat: ".3~g", dtick: "D2" },
  };
  Plotly.react(target, traces, layout(more), CONFIG);
  const measured = data.candidates.filter((c) => c.measured);
  target.setAttribute("aria-label", `File size against mean KLD of ${measured.length} files; the figures stand in the table below`);
}

/** A map of blocks (rows) and roles (columns); `cells` are {value, label, hover} by tensor or null, `scale` says how to colour. */
export function drawMap(target, tensors, cells, scale) {
  const inner = tensors.map((tensor, i) => ({ tensor, cell: cells[i] })).filter(({ tensor }) => tensor.block !== null);
  const blocks = [...new Set(inner.map(({ tensor }) => tensor.block))].sort((a, b) => a - b);
  const roles = [...new Set(inner.map(({ tensor }) => tensor.role))].sort();
  const grid = (empty) => blocks.map(() => roles.map(() => empty));
  const [z, text, hover] = [grid(null), grid(""), grid("")];
  for (const { tensor, cell } of inner) {
    const [row, column] = [blocks.indexOf(tensor.block), roles.indexOf(tensor.role)];
    if (cell?.value !== null && cell !== null) z[row][column] = cell.value;
    text[row][column] = cell?.label ?? "";
    hover[row][column] = cell?.hover ?? "";
  }
  target.style.width = `max(100%, ${roles.length * COLUMN_WIDTH + 150}px)`;
  target.style.height = `${blocks.length * ROW_HEIGHT + 150}px`;
  const trace = {
    type: "heatmap", x: roles.map(plain), y: blocks.map(String), z, text, customdata: hover,
    texttemplate: "%{text}", textfont: { size: 11, color: ON_SCALE }, hovertemplate: "%{customdata}<extra></extra>", hoverongaps: false, xgap: 1, ygap: 1,
    colorscale: SCALE, zmin: scale.low, zmax: scale.high,
    colorbar: { title: { text: scale.title, side: "right" }, thickness: 12, tickvals: scale.ticks, ticktext: scale.names, outlinewidth: 0 },
  };
  const more = {
    margin: { t: 95, r: 10, b: 10, l: 45 },
    xaxis: { side: "top", tickangle: -40, type: "category", showgrid: false },
    yaxis: { title: { text: "block" }, autorange: "reversed", type: "category", showgrid: false, dtick: 1 },
  };
  Plotly.react(target, [trace], layout(more), CONFIG);
  target.setAttribute("aria-label", `${scale.title} of ${inner.length} tensors in ${blocks.length} blocks; the values stand in the table below`);
}
