// One channel: what activates it, how its transform looks, how sure its score is.

function channelView() {
  const name = state.placeOf.has(state.channel) ? state.channel : bestChannel();
  state.channel = name;
  const place = state.placeOf.get(name);
  const page = state.pageOf.get(name);
  const held = page === undefined ? null : channelData(page);
  return [
    h("section", { "data-overlay": state.overlay, "data-crop": state.crop ? "yes" : "no", id: "channel" }, channelHead(name, place), channelNumbers(place),
      held === null ? h("p", { class: "empty" }, "No pictures were drawn for this channel; pcace report --top N draws more of each layer.") : [
        portrait(held, name), state.data.showsImages && [exemplars(held, name), ofGroup(held, name), wrong(held, name), spread(held, name), extremes(held, name)]]),
    held !== null && h("section", {}, transforms(held, name), h("div", { class: "pair" }, fitFigure(held, name), growthFigure(held, name, place))),
  ];
}

function bestChannel() {
  const rank = numbersOf("rank");
  const places = shownPlaces().length ? shownPlaces() : state.names.map((_, place) => place);
  return state.names[places.reduce((best, place) => (rank[place] < (rank[best] || Infinity) ? place : best))].name;
}

function channelHead(name, place) {
  const options = pagesShown();
  const listed = options.includes(name) ? options : [name, ...options];
  const select = h("select", { id: "channel-picker", "aria-label": "Channel", onchange: (event) => openChannel(event.target.value) },
    listed.map((option) => h("option", { value: option, selected: option === name }, cut(option))));
  return h("div", { class: "title-row" },
    h("div", {}, h("h1", {}, "Channel ", h("span", { class: "name", title: name.length > 60 ? name : null }, cut(name))), h("p", { class: "quiet" }, unitOf(name), whereText(), fewImages()), nameText(name)),
    h("div", { class: "picker" },
      h("button", { type: "button", id: "previous", onclick: () => step(-1), "aria-label": "Channel ranked above" }, "←"), select,
      h("button", { type: "button", id: "next", onclick: () => step(1), "aria-label": "Channel ranked below" }, "→"), state.data.showsImages && [overlaySwitch(), cropSwitch()]));
}

// what a channel of a transformer is, where the model says it
function unitOf(name) {
  const { layer, channel } = state.names[state.placeOf.get(name)];
  const { said } = layerOf(layer);
  if (said.mlp) return `MLP channel ${channel}; `;
  if (!said.parts) return "";
  const inPart = channel % (said.heads * said.width), part = said.parts[(channel - inPart) / (said.heads * said.width)];
  return `head ${Math.floor(inPart / said.width)}, ${part} channel ${inPart % said.width} of ${said.width}; `;
}
const layerOf = (name) => state.data.layers.find((layer) => layer.name === name);

// tokens that are no patches of the image: the CLS token and registers, with their values
const apartText = (layer, values) => (values || []).map((value, i) => `${layerOf(layer).apart[i]} ${short(value)}`).join(", ");

const pagesShown = () => state.data.pages.map(([layer, channel]) => `${layer}/${channel}`).filter(isShown);

// to the neighbour in the ranking that has a page and passes the filters
function step(by) {
  const rank = numbersOf("rank");
  const rankOf = (name) => rank[state.placeOf.get(name)] || Infinity;
  const order = pagesShown().sort((a, b) => rankOf(a) - rankOf(b));
  const at = order.indexOf(state.channel);
  if (order.length) openChannel(order[Math.min(order.length - 1, Math.max(0, at + by))]);
}

function overlaySwitch() {
  const choices = [["overlay", "Overlay"], ["attribution", "Attribution"], ["image", "Image"], ["map", "Map"]];
  return h("span", { class: "segmented", role: "group", "aria-label": "What the pictures show" }, choices.map(([value, label]) =>
    h("button", { type: "button", "data-value": value, "aria-pressed": String(state.overlay === value), onclick: (event) => {
      state.overlay = value;
      for (const section of document.querySelectorAll("[data-overlay]")) section.dataset.overlay = value;
      for (const button of event.target.parentNode.children) button.setAttribute("aria-pressed", String(button.dataset.value === value));
    } }, label)));
}

const cropSwitch = () => h("button", { type: "button", id: "crop", "aria-pressed": String(state.crop), title: "Cut images to what the channel's strongest position sees", onclick: (event) => {
  state.crop = !state.crop;
  document.getElementById("channel").dataset.crop = state.crop ? "yes" : "no";
  event.target.setAttribute("aria-pressed", String(state.crop));
} }, "Crop");

function channelNumbers(place) {
  const at = (name) => numbersOf(name)[place];
  const ranked = (name) => [whole(at(name)), within(between(at(`${name}_low`), at(`${name}_high`), whole))];
  const valued = (name) => [format(at(name)), within(between(at(`${name}_low`), at(`${name}_high`), format, " to "))];
  const items = statusOf(place) !== "ok" ? [["status", "Status", statusOf(place).replaceAll("_", " ")]] : [
    ["rank", "Rank", ranked("rank")], ["layer_rank", "Rank in the layer", whole(at("layer_rank"))],
    ["score", "Score: tells", [valued("score"), fewSupport(at("support"))]],
    ...(effectStatusOf(place) === "ok" ? [["effect", "Effect: does", valued("effect")], ["effect_rank", "Rank by effect", ranked("effect_rank")]]
      : effectStatusOf(place) === "off" ? [] : [["effect_status", "Effect", effectStatusOf(place).replaceAll("_", " ")]]),
    !Number.isNaN(at("support")) && ["support", "Rests on", `${format(100 * at("support"), 0)} % of the images`],
    ["score_first_component", "First component", format(at("score_first_component"))], ["pearson", "Pearson", format(at("pearson"))], ["mean_activation", "Mean activation", short(at("mean_activation"))]];
  return h("dl", { class: "numbers" }, [...items, ["norm", "Weight norm", short(normsOfAll()[place])]].filter(Boolean).map(([key, name, value]) =>
    h("div", {}, h("dt", {}, term(key, name)), h("dd", {}, value))));
}
const within = (text) => text && h("span", { class: "quiet" }, ` (${text})`);

const rowLabel = (row) => {
  const { data } = state;
  const entry = data.rows[row] || {};
  const parts = [];
  if (entry.group !== undefined && !(data.groupBy !== null && String(entry.label) === entry.group)) parts.push(cut(entry.group));
  if (entry.label !== undefined) parts.push(`label ${cut(String(entry.label))}`);
  if (entry.predicted !== undefined && entry.predicted !== entry.label) parts.push(`predicted ${cut(String(entry.predicted))}`);
  return parts.join(", ");
};

function pictureTiles(tiles, name, what) {
  const { layer } = state.names[state.placeOf.get(name)];
  const { seen } = channelData(state.pageOf.get(name));
  return tiles.map((shown) => {
    const tile = { ...seen[shown.row], ...shown };
    const entry = state.data.rows[tile.row] || {};
    return { src: pictureOf(tile.row), map: tile.map, attribution: tile.attribution, box: tile.box, pixels: state.smallImages, label: [short(tile.value), rowLabel(tile.row), apartText(layer, tile.apart)].filter(Boolean).join(" · "),
      alt: `Image ${entry.file} row ${entry.row}${rowLabel(tile.row) ? ", " + rowLabel(tile.row) : ""}; ${what} of ${cut(name)}: ${short(tile.value)}`,
      cells: [entry.file, entry.row, entry.label, entry.group, entry.predicted, tile.value] };
  });
}
const TILE_HEADER = ["file", "row", "label", "group", "predicted", "value"];

function portrait(held, name) {
  const { layer } = state.names[state.placeOf.get(name)];
  const axes = held.axes.map((src, j) => ({ src, map: null, pixels: true, label: [`component ${j + 1} · ${format(100 * held.explained[j], 0)} %`, apartText(layer, held.axesApart[j])].filter(Boolean).join(" · "),
    alt: `Axis ${j + 1} of ${cut(name)}`, cells: [j + 1, held.explained[j]] }));
  return h("div", { class: held.synthetic ? "portrait" : "" },
    held.synthetic && strip({ title: "Synthetic image", name: `${name}-synthetic`, header: ["image"], tiles: [{ src: held.synthetic, alt: `Synthetic image that excites ${cut(name)}`, cells: ["synthetic"], pixels: false }],
      caption: "What excites it most, drawn by gradient ascent." }),
    axes.length ? strip({ title: "Principal axes of its map", name: `${name}-axes`, header: ["component", "explained"], tiles: axes,
      caption: "The weight of each position in a component: red adds, blue takes away. Below, the share of the map's variance." + (layerOf(layer).apart.length ? " Tokens that are no patches have their weight below." : "") })
      : h("p", { class: "empty" }, "This layer gives one value per channel: there is no map."));
}

function exemplars(held, name) {
  if (!held.exemplars.length) return h("p", { class: "empty" }, "No exemplars were kept for this channel, or their images are no longer there.");
  return strip({ title: "Images that activate it most", name: `${name}-exemplars`, header: TILE_HEADER, tiles: pictureTiles(held.exemplars, name, "mean activation"),
    caption: "Of all images of the run, by the mean of the activation map, which lies over each: clear where it is zero or below (where nearly all of it is below: at its least), bright where it is largest. Below, that mean."
      + (held.exemplars.some((tile) => held.seen[tile.row].box) ? " Each is cut to what the map's largest value sees; click for the whole image." : "")
      + (held.exemplars.some((tile) => held.seen[tile.row].attribution) ? " Attribution: the pixels that raise that value (gradient × input), of the first images. The map is coarse: a position sees more than the pixels it lies over." : "") });
}

function ofGroup(held, name) {
  const tiles = held.ofGroup[state.group];
  return tiles && tiles.length > 0 && strip({ title: `Images of ${cut(state.data.groupBy)} ${cut(state.data.groups[state.group].name)} that activate it most`, name: `${name}-group`, header: TILE_HEADER,
    tiles: pictureTiles(tiles, name, "mean activation"), caption: "Of the group's sampled images, by the mean of the activation map." });
}

function wrong(held, name) {
  const tiles = held.wrong[state.group];
  const { groupsAreLabels, groups, groupBy } = state.data, group = cut(groups[state.group].name);
  return tiles && tiles.length > 0 && strip({ title: groupsAreLabels ? `Images of other classes than ${group} that activate it most` : "Images that the model gets wrong and that activate it most", name: `${name}-wrong`, header: TILE_HEADER,
    tiles: pictureTiles(tiles, name, "mean activation"), caption: groupsAreLabels ? `Of the sampled images: where the channel fires though the label is not ${group}.`
      : `Of the first sampled images${groupBy === null ? "" : " of the group"}: those whose label the model does not predict, with more activation than the mean image.` });
}

function spread(held, name) {
  const tiles = held.spread[state.group];
  return tiles && tiles.length > 0 && strip({ title: "From most to least activation", name: `${name}-spread`, header: TILE_HEADER, tiles: pictureTiles(tiles, name, "mean activation"),
    caption: `Some of the sampled images of ${whereText()}, at equal steps of their order by the mean of the activation map: what the channel does between its ends.` });
}

function extremes(held, name) {
  const ends = held.extremes[blockKey()];
  if (!ends) return h("p", { class: "empty" }, "Images at the ends of the transform were drawn for this channel's best group only; or its transform is not among those published.");
  const both = [["high", "Images where its transform is largest"], ["low", "Images where its transform is smallest"]];
  return h("div", { class: "pair" }, both.map(([end, title]) => strip({ title, name: `${name}-${end}`, header: TILE_HEADER,
    tiles: pictureTiles(ends[end], name, "transform"), caption: end === "high" ? `Of the sampled images, ${whereText()}: the sum of phi_j(x_j), which follows theta(target).` : null })));
}

// between two knots the density has `bins` bars
function densityTrace(knots, counts, axis) {
  const bins = counts.length / (knots.length - 1);
  const x = [], y = [], total = counts.reduce((a, b) => a + b, 0) || 1;
  counts.forEach((count, i) => {
    const k = Math.floor(i / bins), width = (knots[k + 1] - knots[k]) / bins;
    x.push(knots[k] + (i % bins + 0.5) * width);
    y.push(count / total / width);
  });
  return { type: "scatter", mode: "lines", x, y, yaxis: axis, fill: "tozeroy", line: { width: 0, shape: "hvh" }, fillcolor: cssColour("--accent") + "33", hoverinfo: "skip" };
}

function curveFigure({ title, name, x, y, counts, xTitle }) {
  return chart({
    title, name, height: 190, alt: title,
    traces: () => [densityTrace(x, counts, "y2"), { type: "scatter", mode: "lines+markers", x, y, line: { width: 2, color: tone(0) }, marker: { size: 5 }, hovertemplate: "%{x:.3g}: %{y:.3g}<extra></extra>" }],
    layout: { margin: { l: 36, r: 6, t: 4, b: 34 }, xaxis: { title: { text: label(xTitle, 60), font: { size: 11 } } },
      yaxis2: { overlaying: "y", side: "right", visible: false, rangemode: "tozero", fixedrange: true } },
    table: () => [["knot", "value"], ...x.map((knot, i) => [knot, y[i]])],
  });
}

function transforms(held, name) {
  const curve = held.curves[blockKey()];
  if (!curve) return h("p", { class: "empty" }, "This channel's transforms are not published for this target and group.");
  const target = state.data.targets[state.target];
  return [h("h2", {}, "Transforms"), h("p", { class: "quiet small" }, `Lines: the transforms that make the target and the channel agree most. Shaded: where the ${whole(curve.rows)} sampled images lie.`),
    h("div", { class: "small-multiples" },
      curveFigure({ title: "theta of the target", name: `${name}-theta`, x: curve.y, y: curve.theta, counts: curve.yDensity, xTitle: target }),
      curve.x.map((knots, j) => curveFigure({ title: `phi of component ${j + 1}`, name: `${name}-phi-${j + 1}`, x: knots, y: curve.phi[j], counts: curve.density[j], xTitle: `component ${j + 1}` })))];
}

function fitFigure(held, name) {
  const curve = held.curves[blockKey()];
  if (!curve || !curve.scatter) return null;
  const [x, y] = curve.scatter;
  return chart({
    title: "How well they agree", name: `${name}-fit`, height: 290, caption: "Sampled images: the channel's summed transform against the target's, both standardised. The score is the correlation over all images, corrected for bias.",
    alt: "Scatter of the channel's transform against the target's",
    traces: () => [{ type: "scatter", mode: "markers", x, y, marker: { size: 5, opacity: 0.6, color: tone(0) }, hovertemplate: "%{x:.2f}, %{y:.2f}<extra></extra>" }],
    layout: { xaxis: { title: { text: "sum of phi(x)" } }, yaxis: { title: { text: "theta(target)" } } },
    table: () => [["sum_of_phi", "theta"], ...x.map((value, i) => [value, y[i]])],
  });
}

function growthFigure(held, name, place) {
  const steps = held.steps[blockKey()];
  if (!steps) return null;
  const images = [...steps.images, state.data.groups[state.group].images];
  const own = { score: numbersOf("score")[place], low: steps.own[0], high: steps.own[1] };
  const series = ["score", "low", "high"].map((key) => [...steps[key], own[key]]);
  const keep = images.map((_, i) => i).filter((i) => series[0][i] !== null && !Number.isNaN(series[0][i]));
  const [score, low, high] = series.map((values) => keep.map((i) => values[i]));
  const n = keep.map((i) => images[i]);
  return chart({
    title: "Score against images read", name: `${name}-growth`, height: 290, alt: "Score with interval by number of images",
    caption: n.length > 1 ? "What the run would have found from the first images of its random sample, with 95 % intervals given the plan: what more images alone would change, not another pilot. The last point is the run itself." : "The sample holds too few images of this group for earlier points; the point is the run itself.",
    traces: () => [{ type: "scatter", mode: "lines+markers", x: n, y: score, line: { width: 2, color: tone(0) }, marker: { size: 7 },
      error_y: { type: "data", symmetric: false, array: high.map((v, i) => v - score[i]), arrayminus: low.map((v, i) => score[i] - v), thickness: 1.2, width: 3, color: tone(0) },
      hovertemplate: "%{x:,} images: %{y:.3f}<extra></extra>" }],
    layout: { xaxis: { type: "log", title: { text: "images" }, tickvals: n, ticktext: n.map((v) => whole(v)) }, yaxis: { title: { text: "score" }, range: [0, 1.02] } },
    table: () => [["images", "score", "score_low", "score_high"], ...n.map((v, i) => [v, score[i], low[i], high[i]])],
  });
}
