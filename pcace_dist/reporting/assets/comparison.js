// What changed: the runs of the schedule over time, and this run against another.

function comparisonView() {
  return [h("section", {}, h("h1", {}, "Comparison"), h("p", { class: "quiet" }, "What changed since earlier runs; ", whereText(), ".", fewImages())),
    state.data.compared.length > 0 && comparisonPart(), state.data.history && historyPart(state.data.history)];
}

const dayOf = (entry) => entry.published.slice(0, 16).replace("T", " ");
const LINES = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7A7A7A"];

function historyPart({ output, runs, of, scores }) {
  const found = scores.find(isHere) || { channels: [], scores: [] };
  const shown = found.channels.map((_, i) => i).filter((i) => isShown(found.channels[i]));
  const days = runs.map(dayOf), read = of.map((i) => days[i]), drifted = runs.map((run) => run.drift.length > 0);
  const line = (name, values, colour, dash) => ({ type: "scatter", mode: "lines+markers", name, x: days, y: values, line: { width: 2, color: colour, dash }, marker: { size: 8, color: drifted.map((drift) => (drift ? tone(1) : colour)) }, hovertemplate: `%{x}: %{y:.3f}<extra>${name}</extra>` });
  const dates = { type: "date", title: { text: "published (UTC)" } };
  return h("section", {}, h("h2", {}, "History"),
    h("p", { class: "quiet" }, `The ${whole(runs.length)} runs that ${cut(output)} has published up to this one. A flat line near 1 is a ranking that holds; a dip says when it changed. Orange points: drift was reported.`),
    h("div", { class: "pair" },
      chart({ title: "Agreement with the run before", name: "history", height: 300, alt: "Agreement of each run with the one before", caption: "Means over targets and groups; none where the two runs are not comparable.",
        traces: () => [line("Kendall's tau", runs.map((run) => run.kendall), tone(0), "solid"), line("top in common", runs.map((run) => run.overlap), cssColour("--soft"), "dot")],
        layout: { showlegend: true, legend: { orientation: "h", y: 1.15 }, xaxis: dates, yaxis: { range: [Math.min(0, ...runs.map((run) => run.kendall ?? 0)), 1.05] } },
        table: () => [["published", "kendall", "overlap"], ...runs.map((run) => [run.published, run.kendall, run.overlap])] }),
      shown.length > 0 && chart({ title: "Scores of the best channels", name: "history-scores", height: 300, alt: `Scores of ${shown.length} channels over ${of.length} runs`, caption: "Of the channels that are best now, in the runs that are kept. Lines that stay apart are an order that holds.",
        traces: () => shown.map((i, at) => ({ type: "scatter", mode: "lines+markers", name: label(found.channels[i]), x: read, y: found.scores[i], line: { width: 1.5, color: LINES[at % LINES.length] }, marker: { size: 6 }, hovertemplate: `%{x}: %{y:.3f}<extra>${label(found.channels[i], 60)}</extra>` })),
        layout: { showlegend: true, xaxis: dates, yaxis: { title: { text: "score" }, rangemode: "tozero" } },
        table: () => [["published", ...shown.map((i) => found.channels[i])], ...of.map((run, at) => [runs[run].published, ...shown.map((i) => found.scores[i][at])])] })),
    h("div", { class: "scroll", tabindex: 0 }, h("table", { id: "history" }, h("thead", {}, h("tr", {}, ["published", "run", "why", "images", "moved", "Kendall", "top in common", "verdict"].map((title, i) => h("th", { scope: "col", class: [0, 1, 2, 7].includes(i) ? "left" : null }, title)))),
      h("tbody", {}, runs.toReversed().map((run) => h("tr", {}, h("td", { class: "left" }, dayOf(run)), h("td", { class: "left" }, cut(run.run)), h("td", { class: "left" }, run.why), h("td", {}, whole(run.images)),
        h("td", {}, run.moved === null ? "–" : `${whole(run.moved)} of ${whole(run.judged)}`), h("td", {}, format(run.kendall)), h("td", {}, format(run.overlap)), h("td", { class: "left wrap" }, [run.verdict ?? "first", ...run.drift].join("; "))))))));
}

function comparisonPart() {
  const seen = state.data.compared.find((entry) => entry.target === state.target && entry.group === state.group);
  const title = h("h2", {}, "Against another run");
  if (!seen) return h("section", {}, title, h("p", { class: "empty" }, "The other run has no such target and group."));
  const rank = numbersOf("rank"), score = numbersOf("score"), other = floats(seen.rank), otherScore = floats(seen.score), moved = floats(seen.moved);
  const shown = shownPlaces().filter((p) => !Number.isNaN(rank[p]) && !Number.isNaN(other[p]));
  const movers = [...shown].sort((a, b) => Math.abs(other[b] - rank[b]) - Math.abs(other[a] - rank[a])).slice(0, 20);
  const top = Math.min(20, shown.length);
  const kept = shown.filter((p) => rank[p] <= top && other[p] <= top).length;
  return h("section", {}, title,
    h("p", { class: "quiet" }, "Points on the diagonal kept their rank. What is far from it and not orange moved by no more than the noise of both runs."),
    h("p", { class: "quiet" }, `${cut(state.data.against)}: Spearman ${seen.spearman === null ? "–" : format(seen.spearman, 3)}; ${kept} of the top ${top} are in both; ${shown.filter((p) => moved[p]).length} channels moved.`),
    h("div", { class: "pair" },
      chart({ title: "Ranks", name: "comparison-ranks", height: 380, alt: "Rank here against rank in the other run", caption: `Orange: ${state.data.judged}.`,
        traces: () => [{ type: "scatter", mode: "markers", x: shown.map((p) => other[p]), y: shown.map((p) => rank[p]), customdata: shown, text: shown.map((p) => label(state.names[p].name, 60)), marker: { size: 6, opacity: 0.75, color: shown.map((p) => (moved[p] ? tone(1) : tone(0))) }, hovertemplate: "%{text}: %{x} to %{y}<extra></extra>" }],
        layout: { xaxis: { title: { text: "rank in the other run" }, autorange: "reversed" }, yaxis: { title: { text: "rank here" }, autorange: "reversed" } }, click: (point) => openChannel(state.names[point.customdata].name),
        table: () => [["channel", "rank", "other_rank", "score", "other_score", "moved"], ...shown.map((p) => [state.names[p].name, rank[p], other[p], score[p], otherScore[p], moved[p]])] }),
      chart({ title: "Largest moves", name: "comparison-moves", height: 380, alt: "Channels that moved most",
        traces: () => movers.map((p) => ({ type: "scatter", mode: "lines+markers", x: ["the other run", "here"], y: [other[p], rank[p]], name: label(state.names[p].name, 60), line: { width: 1.5, color: moved[p] ? tone(1) : tone(0) }, text: [label(state.names[p].name, 60), label(state.names[p].name, 60)], hovertemplate: "%{text}: %{y}<extra></extra>" })),
        layout: { yaxis: { autorange: "reversed", title: { text: "rank" } } }, table: () => [["channel", "other_rank", "rank"], ...movers.map((p) => [state.names[p].name, other[p], rank[p]])] })));
}
