// How far to trust the ranking: who is in its true top, its expected stability, ablation curves, the sets that carry the output.

const hasTrust = () => Object.values(state.data.trust).some((part) => part !== null);
const isHere = (entry) => entry.target === state.target && entry.group === state.group;

function trustView() {
  const { top, stability, evaluation, sets } = state.data.trust;
  return [h("section", {}, h("h1", {}, "Trust"), h("p", { class: "quiet" }, "How far the ranking holds; ", whereText(), ".", fewImages())),
    top && topPart(top.find(isHere)), stability && stabilityPart(stability.find(isHere)), evaluation && evaluationPart(evaluation), sets && setsPart(sets)];
}

const nothingHere = (command) => h("p", { class: "empty" }, `Nothing of this target and group is in the run; ${command} adds it.`);

// Who is in the true top, in a sentence; empty where it is not known.
function topWords() {
  const found = state.data.trust.top?.find(isHere);
  if (!found || found.of === found.top) return "";
  const { top, of, surely, possibly, expected } = found;
  return `In the true top ${top}, that of more images and another pilot, are surely ${surely}, possibly ${possibly} of all ${whole(of)} channels; of the ${top} first, ${format(expected, 1)} are expected there.`;
}

function topPart(found) {
  if (!topWords()) return null;
  const shown = found.channels.toReversed();
  const colours = { surely: tone(1), possibly: tone(0) };
  return h("section", {}, h("h2", {}, "Top"), h("p", {}, topWords()),
    chart({ title: `Who is in the true top ${found.top}`, name: "membership", height: 60 + 20 * Math.max(4, shown.length), width: 720, alt: `Probability of channels to be in the true top ${found.top}`,
      caption: `The probability of the likeliest channels of all layers. Orange: surely in, by so many images.`,
      traces: () => [{ type: "bar", orientation: "h", x: shown.map((each) => each.in_top_probability), y: shown.map((_, i) => i), marker: { color: shown.map((each) => colours[each.in_top]) }, text: shown.map((each) => label(`${each.layer}/${each.channel}`, 60)), textposition: "none", hovertemplate: "%{text}: %{x:.2f}<extra></extra>" }],
      layout: { margin: { l: 20, r: 12, t: 4, b: 36 }, xaxis: { range: [0, 1], title: { text: "probability" } }, yaxis: { showgrid: false, tickvals: shown.map((_, i) => i), ticktext: shown.map((each) => label(`${each.layer}/${each.channel}`) + " ") } },
      table: () => [["layer", "channel", "in_top", "in_top_probability"], ...found.channels.map(Object.values)] }));
}

function stabilityPart(found) {
  const title = h("h2", {}, "Stability");
  if (!found) return h("section", {}, title, h("p", { class: "empty" }, "No channel is ranked here."));
  const { levels, top } = found;
  const images = levels.map((level) => level.images);
  const wanted = `${format(100 * found.share, 0)} % of the top ${top} in common`;
  const told = (key) => levels.length > 0 && levels[0][key] !== undefined; // of a top of all channels nothing can be
  const line = (key, name, colour, dash = "solid") => ({ type: "scatter", mode: "lines+markers", name, x: images, y: levels.map((level) => level[key]), line: { width: 2, color: colour, dash }, marker: { size: 7 }, hovertemplate: `%{x:,} images: %{y:.2f}<extra>${name}</extra>` });
  return h("section", {}, title,
    h("p", { class: "quiet" }, "Two rankings from other images, so many each, would agree by so much: what the errors of the scores make one expect, given the plan; dotted, where each has a pilot of its own. Where the line is flat, more images change little. pcace stability measures it too."),
    told("overlap_expected") && h("p", {}, found.enough === null ? `${wanted}: not with 64 times the images, as the scores are too close to one another.` : `${wanted}: about ${whole(found.enough)} images; ${whole(found.images)} are here.`),
    chart({ title: "Expected agreement", name: "stability", height: 280, width: 720, alt: "Expected agreement of two rankings by number of images",
      traces: () => [["spearman_expected", "Spearman", tone(0)], ["overlap_expected", `top ${top} in common`, tone(1)],
        ["spearman_another_pilot", "Spearman, another pilot", tone(0), "dot"], ["overlap_another_pilot", `top ${top}, another pilot`, tone(1), "dot"]]
        .filter(([key]) => told(key)).map((one) => line(...one)),
      layout: { showlegend: true, legend: { orientation: "h", y: 1.15 }, xaxis: { type: "log", title: { text: "images of each" }, tickvals: images, ticktext: images.map(whole) }, yaxis: { range: [0, 1.03] } },
      table: () => [Object.keys(levels[0] ?? {}), ...levels.map(Object.values)] }));
}

function evaluationPart({ verdict, curves }) {
  const layers = new Set(shownLayers().map((layer) => layer.name));
  const here = curves.filter((curve) => isHere(curve) && layers.has(curve.layer));
  return h("section", {}, h("h2", {}, "Evaluation"),
    h("p", { class: "quiet" }, "Channels are replaced one after the other, in the order of a ranking, on images that it has not seen: what the output loses. The steeper a line rises, the more its order finds what the model uses. Shaded: 5 to 95 % of random orders."),
    Object.values(verdict).map((sentence) => h("p", {}, sentence)),
    here.length ? h("div", { class: "small-multiples" }, here.map(curveOfLayer)) : nothingHere("pcace evaluate"));
}

const ORDERS_SHOWN = { pcace: 0, effect: 1 }; // in colour, the others in grey
function curveOfLayer({ layer, replacement, k, orders, band }) {
  const names = Object.keys(orders).sort((a, b) => (a in ORDERS_SHOWN) - (b in ORDERS_SHOWN));
  const colourOf = (name) => (name in ORDERS_SHOWN ? tone(ORDERS_SHOWN[name]) : cssColour("--soft"));
  const edge = (values, more) => ({ type: "scatter", mode: "lines", x: k, y: values, line: { width: 0 }, hoverinfo: "skip", ...more });
  return chart({ title: `${cut(layer)}, by ${replacement.replaceAll("_", " ")}`, name: `evaluation-${layer}-${replacement}`, height: 240, alt: `Ablation curves of ${cut(layer)}`, caption: "Blue: pcace, the score. Orange: effect. Grey: other orders, named on hover.",
    traces: () => [...(band ? [edge(band[0]), edge(band[1], { fill: "tonexty", fillcolor: cssColour("--accent") + "22" })] : []),
      ...names.map((name) => ({ type: "scatter", mode: "lines+markers", name, x: k, y: orders[name], line: { width: name in ORDERS_SHOWN ? 2.5 : 1, color: colourOf(name) }, marker: { size: name in ORDERS_SHOWN ? 6 : 3 }, opacity: name in ORDERS_SHOWN ? 1 : 0.6,
        hovertemplate: `%{x} channels: %{y:.3f}<extra>${label(name)}</extra>` }))],
    layout: { xaxis: { type: "log", title: { text: "channels replaced" }, tickvals: k, ticktext: k.map(whole) }, yaxis: { title: { text: "lost (1 − r²)" }, rangemode: "tozero" } },
    table: () => [["order", ...k], ...names.map((name) => [name, ...orders[name]]), ...(band ? [["random_5", ...band[0]], ["random_95", ...band[1]]] : [])] });
}

function setsPart({ by, share, sets, duplicates }) {
  const here = sets.filter(isHere), shares = Object.keys(here[0]?.sizes || {});
  const does = by === "effect" ? "carry" : "tell";
  const size = ({ channels, low, high }) => h("td", {}, whole(channels), within(low === null ? "" : between(low, high, whole)));
  const links = (layer, channels) => h("td", { class: "left wrap" }, channels.map((channel) => [h("a", { href: address("channel", `${layer}/${channel}`) }, channel), " "]));
  return h("section", {}, h("h2", {}, "Sets"),
    h("p", { class: "quiet" }, `The fewest channels found that together ${does} so much of what their whole layer ${by === "effect" ? "does to" : "tells about"} the output, with 95 % intervals. Few: the output hangs on a handful; many: it is spread over the layer.`),
    here.length ? h("div", { class: "scroll" }, h("table", { id: "sets" }, h("thead", {}, h("tr", {}, h("th", { class: "left" }, "layer"), h("th", {}, "channels"), shares.map((each) => h("th", {}, `${format(100 * each, 0)} %`)), h("th", { class: "left" }, `the set of ${format(100 * share, 0)} %`))),
      h("tbody", {}, here.map((found) => h("tr", {}, h("td", { class: "left" }, cut(found.layer)), h("td", {}, whole(found.of)), shares.map((each) => size(found.sizes[each])), links(found.layer, found.channels)))))) : nothingHere("pcace select"),
    duplicates.length > 0 && h("p", { class: "quiet" }, "As good as one: ", duplicates.slice(0, 20).map(({ layer, channels }) => `${cut(layer)} ${channels.join(" and ")}`).join("; "), duplicates.length > 20 ? ` and ${whole(duplicates.length - 20)} more pairs.` : "."));
}
