// Concepts: which channel tells of which column of the data, and what the channels may be called.

const CONCEPT_CHANNELS = 40; // of the heat map
const hasConcepts = () => state.data.columns.length > 1 || state.data.names !== null;
const conceptOf = (target) => cut(state.data.targets[target].replace(/^column:/, ""));

function conceptsView() {
  return [h("section", {}, h("h1", {}, "Concepts"), h("p", { class: "quiet" }, "What the channels tell of.")),
    state.data.columns.length > 1 && columnsPart(state.data.columns), state.data.names && namesPart(state.data.names)];
}

// the numbers of every column that is a target, in the group that is chosen
const conceptNumbers = (target, name) => floats(state.data.ranking[target][state.group][name]);

// the three best channels of each column, until there are enough, best first
function conceptChannels(columns) {
  const shown = shownPlaces(), best = columns.map((target) => {
    const rank = conceptNumbers(target, "rank");
    return shown.filter((place) => !Number.isNaN(rank[place])).sort((a, b) => rank[a] - rank[b]);
  });
  const chosen = new Set();
  for (let depth = 0; depth < 3; depth++) for (const places of best) if (chosen.size < CONCEPT_CHANNELS && depth < places.length) chosen.add(places[depth]);
  return { best, chosen: [...chosen].sort((a, b) => a - b) };
}

function columnsPart(columns) {
  const { best, chosen } = conceptChannels(columns), names = columns.map(conceptOf);
  const of = Object.fromEntries(["score", "score_low", "score_high", "pearson"].map((name) => [name, columns.map((target) => conceptNumbers(target, name))]));
  const said = (i, place) => `${format(of.score[i][place])} (${between(of.score_low[i][place], of.score_high[i][place], format, " to ")})`;
  const open = (i, place) => () => { state.target = columns[i]; openChannel(state.names[place].name); };
  const link = (i, place, text) => h("span", { class: "pick" }, h("button", { type: "button", class: "link", onclick: open(i, place) }, text), " ", h("span", { class: "quiet" }, said(i, place)));
  const bestColumns = (place) => columns.map((_, i) => i).filter((i) => !Number.isNaN(of.score[i][place])).sort((a, b) => of.score[b][place] - of.score[a][place]);
  if (!chosen.length) return h("section", {}, h("h2", {}, "Columns"), h("p", { class: "empty" }, "No channel that is shown is ranked for a column here."));
  return h("section", {}, h("h2", {}, "Columns"),
    h("p", { class: "quiet" }, `A dark cell: the channel tells much of the column. Where the intervals of two columns overlap, it may tell of both alike. For ${groupText()}.`, fewImages()),
    chart({ title: "Score by column and channel", name: "concepts", height: 150 + 26 * columns.length, alt: `Heat map of ${columns.length} columns by ${chosen.length} channels`,
      caption: "The best channels of each column. With the pointer on a cell: score, its 95 % interval, and whether the channel rises or falls with the column (Pearson). A click opens the channel.",
      traces: () => [{ type: "heatmap", x: chosen.map((_, j) => j), y: columns.map((_, i) => i), z: columns.map((_, i) => chosen.map((place) => of.score[i][place])), zmin: 0, zmax: 1, colorscale: heatScale(), hoverongaps: false,
        colorbar: { thickness: 10, outlinewidth: 0, title: { text: "score", side: "right" } }, text: columns.map((_, i) => chosen.map((place) => `${label(names[i], 60)}, ${label(state.names[place].name, 60)}<br>score ${said(i, place)}<br>Pearson ${format(of.pearson[i][place])}`)), hovertemplate: "%{text}<extra></extra>" }],
      layout: { xaxis: { tickvals: chosen.map((_, j) => j), ticktext: chosen.map((place) => label(state.names[place].name)), showgrid: false, zeroline: false }, yaxis: { tickvals: columns.map((_, i) => i), ticktext: names.map((name) => label(name) + " "), showgrid: false, zeroline: false, autorange: "reversed" } },
      click: (point) => open(point.y, chosen[point.x])(),
      table: () => [["column", "layer", "channel", "score", "score_low", "score_high", "pearson"], ...columns.flatMap((_, i) => chosen.map((place) => [names[i], state.names[place].layer, state.names[place].channel, ...["score", "score_low", "score_high", "pearson"].map((name) => of[name][i][place])]))] }),
    h("div", { class: "pair" },
      plainTable("concept-columns", ["column", "its best channels"], columns.map((_, i) => [names[i], best[i].slice(0, 3).map((place) => link(i, place, cut(state.names[place].name)))])),
      plainTable("concept-channels", ["channel", "its best columns"], chosen.map((place) => [cut(state.names[place].name), bestColumns(place).slice(0, 2).map((i) => link(i, place, names[i]))]))));
}

// a table whose cells are all read from the left
const plainTable = (id, titles, rows) => h("div", { class: "scroll", tabindex: 0 }, h("table", { id }, h("thead", {}, h("tr", {}, titles.map((title) => h("th", { scope: "col", class: "left" }, title)))),
  h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell) => h("td", { class: "left wrap" }, cell)))))));

const aucText = ([word, auc, low, high]) => `${cut(word)} (AUC ${format(auc, 2)}, ${format(low, 2)} to ${format(high, 2)})`;
const holds = ([, , low]) => low > 0.5;

// a line for the page of a channel; nothing where no word holds
function nameText(name) {
  const entries = state.data.names?.channels[name];
  return entries && holds(entries[0]) ? h("p", { id: "suggested" }, term("suggested_name", "May be called"), ` ${aucText(entries[0])}`) : null;
}

function namesPart({ by, words, images, channels }) {
  const rank = numbersOf("rank");
  const shown = Object.keys(channels).filter(isShown).sort((a, b) => (rank[state.placeOf.get(a)] || Infinity) - (rank[state.placeOf.get(b)] || Infinity) || state.placeOf.get(a) - state.placeOf.get(b));
  const rows = shown.map((name) => [h("a", { href: address("channel", name) }, cut(name)), holds(channels[name][0]) ? aucText(channels[name][0]) : h("span", { class: "quiet" }, `none holds; the best was ${aucText(channels[name][0])}`),
    h("span", { class: "quiet" }, channels[name].slice(1).filter(holds).map(aucText).join("; "))]);
  return h("section", {}, h("h2", {}, term("suggested_name", "Suggested names")),
    h("p", { class: "quiet" }, `By ${cut(by)}: the best of ${whole(words)} words, chosen on half of ${whole(images)} sampled images. The AUC is of the other half: 1, the tenth of the images that activate the channel most are all more like the word than the rest; 0.5, the word says nothing.`),
    shown.length ? plainTable("names", ["channel", "may be called", "next"], rows) : h("p", { class: "empty" }, "No channel that is shown has a name."),
    shown.length > 0 && h("p", {}, h("button", { type: "button", onclick: () => save("names.csv", csv([["channel", "word", "auc", "auc_low", "auc_high"], ...shown.flatMap((name) => channels[name].map((entry) => [name, ...entry]))])) }, "CSV of these names")));
}
