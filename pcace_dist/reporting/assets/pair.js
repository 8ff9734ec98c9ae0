// Score against effect: what a channel tells about the output, and what the model does with it.

const CORNERS = {
  "tells and does": { text: "tells and does: look here", x: 1, y: 1 },
  "a witness": { text: "tells, not used: a witness", x: 1, y: 0 },
  "part of a team": { text: "used, tells little alone: a part of a team", x: 0, y: 1 },
  neither: { text: "neither", x: 0, y: 0 },
};

const medianOf = (values) => {
  const sorted = values.filter((value) => !Number.isNaN(value)).sort((a, b) => a - b);
  return sorted.length ? (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2 : NaN;
};

// the lines between the corners: the medians of all channels of this target and group, whatever the filters show
const middle = { key: null, score: NaN, effect: NaN };
function middleOfAll() {
  if (middle.key !== blockKey()) Object.assign(middle, { key: blockKey(), score: medianOf(numbersOf("score")), effect: medianOf(numbersOf("effect")) });
  return middle;
}

function cornerOf(place) {
  const [score, effect] = columnsOf("score", "effect").map((values) => values[place]);
  if (Number.isNaN(score) || Number.isNaN(effect)) return null;
  const x = Number(score >= middleOfAll().score), y = Number(effect >= middleOfAll().effect);
  return Object.keys(CORNERS).find((name) => CORNERS[name].x === x && CORNERS[name].y === y);
}

function pairFigure() {
  const [score, low, high, effect, effectLow, effectHigh, rank, effectRank] = columnsOf("score", "score_low", "score_high", "effect", "effect_low", "effect_high", "rank", "effect_rank");
  const shown = shownPlaces().filter((place) => cornerOf(place) !== null);
  const layers = state.data.layers;
  const depth = new Map(layers.map((layer, i) => [layer.name, i]));
  const ticks = layers.map((_, i) => i).filter((i) => layers.length <= 8 || i % Math.ceil(layers.length / 8) === 0);
  const narrow = innerWidth < 640;
  const line = (more) => ({ type: "line", line: { width: 1, dash: "dash", color: cssColour("--soft") }, ...more });
  const middles = middleOfAll();
  return [chart({
    title: "What channels tell, and what the model does with them", name: "score-effect", height: 460,
    caption: "A point is a channel; its colour is its layer. Dashed: the medians. To the right: it tells much about the output. Up: much of the output goes through it. Click one to see what it responds to.",
    alt: `Score against effect of ${shown.length} channels`,
    traces: () => [{
      type: shown.length > 4000 ? "scattergl" : "scatter", mode: "markers", x: shown.map((p) => score[p]), y: shown.map((p) => effect[p]), customdata: shown,
      marker: { size: shown.length > 2000 ? 4 : 8, opacity: 0.8, color: shown.map((p) => depth.get(state.names[p].layer)), cmin: 0, cmax: Math.max(1, layers.length - 1), colorscale: mapScale(),
        colorbar: { thickness: 10, outlinewidth: 0, tickvals: ticks, ticktext: ticks.map((i) => plain(cut(layers[i].name, narrow ? 12 : 24))), tickfont: { color: cssColour("--ink") } } },
      text: shown.map((p) => `${plain(cut(state.names[p].name, 80))}<br>score ${format(score[p])} (${format(low[p])} to ${format(high[p])}), rank ${rank[p]}<br>effect ${format(effect[p])} (${format(effectLow[p])} to ${format(effectHigh[p])}), rank ${effectRank[p]}`),
      hovertemplate: "%{text}<extra></extra>",
    }],
    layout: () => ({ xaxis: { title: { text: "score: what a channel tells" }, zeroline: false }, yaxis: { title: { text: "effect: what the model does with it" }, range: withRoom(shown.map((p) => effect[p])) },
      shapes: [line({ x0: middles.score, x1: middles.score, y0: 0, y1: 1, yref: "paper" }), line({ x0: 0, x1: 1, xref: "paper", y0: middles.effect, y1: middles.effect })],
      annotations: Object.entries(CORNERS).map(([name, { text, x, y }]) => ({ text: `<b>${narrow ? name : text.replace(": ", ":<br>")}</b>`, x, y, xref: "paper", yref: "paper", xanchor: x ? "right" : "left", yanchor: y ? "top" : "bottom",
        align: x ? "right" : "left", showarrow: false, bgcolor: cssColour("--raised"), opacity: 0.85, font: { size: 11, color: cssColour("--ink") } })) }),
    click: (point) => openChannel(state.names[point.customdata].name),
    table: () => [["layer", "channel", "score", "score_low", "score_high", "effect", "effect_low", "effect_high", "corner"],
      ...shown.map((p) => [state.names[p].layer, state.names[p].channel, score[p], low[p], high[p], effect[p], effectLow[p], effectHigh[p], cornerOf(p)])],
  }), cornerLinks(shown)];
}

// the names of the corners stand above and below all points
function withRoom(values) {
  const low = Math.min(...values), high = Math.max(...values), room = 0.15 * (high - low || 1);
  return [low - room, high + room];
}

// how many channels a corner has; a click shows them as a table
function cornerLinks(shown) {
  const counts = Object.fromEntries(Object.keys(CORNERS).map((name) => [name, 0]));
  for (const place of shown) counts[cornerOf(place)] += 1;
  return h("p", { class: "corners", id: "corners" }, Object.entries(CORNERS).map(([name, { text }]) =>
    h("button", { type: "button", class: "plain", onclick: () => { state.filters.corner = name; go("ranking"); } }, `${text} (${whole(counts[name])})`)));
}
