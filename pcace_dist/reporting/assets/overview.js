// Overview: what was run, the score of every channel by layer, the best channels with their intervals.

function overview() {
  const { data } = state;
  return [
    h("section", {}, h("h1", {}, data.title), h("p", { class: "quiet" }, "Which channels tell the most about the model's output, ", whereText(), ".", fewImages()),
      h("dl", { class: "facts" }, data.facts.filter(([, value]) => value).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))))),
    !isRanked() ? h("section", {}, h("p", { class: "empty" }, "No channel is ranked for ", whereText(), ". The notes above say why."))
      : h("section", {}, hasEffects() && pairFigure(), scoresByLayer(), h("div", { class: "pair" }, topChannels(), distribution())),
    h("section", {}, h("div", { class: "pair" }, isRanked() && explainedFigure(), stagesFigure())),
  ];
}

function scoresByLayer() {
  const score = numbersOf("score"), low = numbersOf("score_low"), high = numbersOf("score_high"), rank = numbersOf("rank");
  const shown = shownPlaces().filter((place) => !Number.isNaN(score[place]));
  const layers = shownLayers();
  const index = Object.fromEntries(layers.map((layer, i) => [layer.name, i]));
  const spread = (place) => ((state.names[place].channel * 0.618034) % 1) * 0.7 - 0.35;
  return chart({
    title: "Score of every channel, by layer", name: "scores-by-layer", height: 340,
    caption: "A point is a channel; the sideways spread only keeps points apart. Click one to see what it responds to.",
    alt: `Scores of ${shown.length} channels by layer`,
    traces: () => [{
      type: shown.length > 4000 ? "scattergl" : "scatter", mode: "markers", x: shown.map((p) => index[state.names[p].layer] + spread(p)), y: shown.map((p) => score[p]),
      customdata: shown, marker: { size: shown.length > 2000 ? 4 : 7, opacity: 0.75, color: shown.map((p) => (rank[p] <= 10 ? tone(1) : tone(0))) },
      text: shown.map((p) => `${label(state.names[p].name, 60)}<br>rank ${rank[p]}, score ${format(score[p])} (${format(low[p])} to ${format(high[p])})`),
      hovertemplate: "%{text}<extra></extra>",
    }],
    layout: { xaxis: { tickvals: layers.map((_, i) => i), ticktext: layers.map((layer) => label(layer.name)), showgrid: false, zeroline: false },
      yaxis: { title: { text: "score" }, rangemode: "tozero" } },
    click: (point) => openChannel(state.names[point.customdata].name),
    table: () => [["layer", "channel", "score", "score_low", "score_high", "rank"],
      ...shown.map((p) => [state.names[p].layer, state.names[p].channel, score[p], low[p], high[p], rank[p]])],
  });
}

function topChannels(count = 15) {
  const [score, low, high, rank, rankLow, rankHigh] = ["score", "score_low", "score_high", "rank", "rank_low", "rank_high"].map(numbersOf);
  const top = shownPlaces().filter((p) => !Number.isNaN(rank[p])).sort((a, b) => rank[a] - rank[b]).slice(0, count).reverse();
  const settled = (p) => rankHigh[p] - rankLow[p] <= 1;
  return chart({
    title: "Top channels", name: "top-channels", height: 40 + 24 * Math.max(4, top.length),
    caption: "Bars are 95 % intervals of the score. Hollow points: the rank is not settled, its 95 % interval (in brackets) spans three ranks or more. " + topWords(),
    alt: "The best channels with intervals",
    traces: () => [{
      type: "scatter", mode: "markers", x: top.map((p) => score[p]), y: top.map((_, i) => i), customdata: top,
      error_x: { type: "data", symmetric: false, array: top.map((p) => high[p] - score[p]), arrayminus: top.map((p) => score[p] - low[p]), thickness: 1.5, width: 0, color: tone(0) },
      marker: { size: 9, color: top.map((p) => (settled(p) ? tone(0) : cssColour("--raised"))), line: { width: 1.5, color: tone(0) } },
      text: top.map((p) => `${label(state.names[p].name, 60)}: rank ${rank[p]} [${short(rankLow[p])} to ${short(rankHigh[p])}], score ${format(score[p])}`),
      hovertemplate: "%{text}<extra></extra>",
    }],
    layout: { margin: { l: 20, r: 12, t: 4, b: 36 }, xaxis: { title: { text: "score" } }, yaxis: { showgrid: false,
      tickvals: top.map((_, i) => i), ticktext: top.map((p) => `${label(state.names[p].name)}  [${short(rankLow[p])}–${short(rankHigh[p])}] `) } },
    click: (point) => openChannel(state.names[point.customdata].name),
    table: () => [["layer", "channel", "rank", "rank_low", "rank_high", "score", "score_low", "score_high"],
      ...top.toReversed().map((p) => [state.names[p].layer, state.names[p].channel, rank[p], rankLow[p], rankHigh[p], score[p], low[p], high[p]])],
  });
}

function distribution() {
  const score = numbersOf("score");
  const layers = shownLayers();
  const values = new Map(layers.map((layer) => [layer.name, []]));
  for (const place of shownPlaces()) if (!Number.isNaN(score[place])) values.get(state.names[place].layer).push(score[place]);
  const of = (layer) => values.get(layer.name);
  return chart({
    title: "Distribution within each layer", name: "distribution", height: Math.max(400, 40 + 24 * layers.length),
    caption: "Median, quartiles and range of the scores.", alt: "Distribution of scores by layer",
    traces: () => layers.toReversed().map((layer) => ({ type: "box", x: of(layer), name: label(layer.name) + " ", orientation: "h", line: { width: 1.2, color: tone(0) },
      fillcolor: cssColour("--accent-soft"), boxpoints: false, hoverinfo: "x+name" })),
    layout: { margin: { l: 20, r: 12, t: 4, b: 36 }, xaxis: { title: { text: "score" }, rangemode: "tozero" }, yaxis: { showgrid: false } },
    table: () => [["layer", "score"], ...layers.flatMap((layer) => of(layer).map((value) => [layer.name, value]))],
  });
}

function explainedFigure() {
  const layers = shownLayers();
  const components = state.data.layers[0].explained.length;
  return chart({
    title: "What the components explain", name: "explained-variance", height: 60 + 26 * Math.max(5, layers.length),
    caption: "Share of the variance of a channel's map that its principal axes hold, mean over the layer's channels, by component.",
    alt: "Explained variance by layer",
    traces: () => Array.from({ length: components }, (_, j) => ({ type: "bar", orientation: "h", name: `component ${j + 1}`, x: layers.map((l) => l.explained[j]), y: layers.map((l) => label(l.name) + " "),
      marker: { color: tone(0), opacity: 1 - 0.75 * (j / Math.max(1, components - 1)) }, hovertemplate: `component ${j + 1}: %{x:.2f}<extra>%{y}</extra>` })),
    layout: { barmode: "stack", margin: { l: 20, r: 12, t: 4, b: 36 }, xaxis: { range: [0, 1], tickformat: ".0%" }, yaxis: { autorange: "reversed", showgrid: false } },
    table: () => [["layer", ...Array.from({ length: components }, (_, j) => `component_${j + 1}`)], ...layers.map((l) => [l.name, ...l.explained])],
  });
}

function stagesFigure() {
  const stages = Object.entries(state.data.stages).filter(([, seconds]) => seconds > 0);
  return chart({
    title: "Where the time went", name: "stages", height: 60 + 26 * Math.max(5, stages.length), caption: "Seconds of the run by stage, as its driver saw them.",
    alt: "Seconds by stage",
    traces: () => [{ type: "bar", orientation: "h", x: stages.map(([, s]) => s), y: stages.map(([name]) => name.replaceAll("_", " ") + " "), marker: { color: tone(0) }, hovertemplate: "%{x:.1f} s<extra>%{y}</extra>" }],
    layout: { margin: { l: 20, r: 12, t: 4, b: 36 }, xaxis: { title: { text: "seconds" } }, yaxis: { autorange: "reversed", showgrid: false } },
    table: () => [["stage", "seconds"], ...stages],
  });
}
