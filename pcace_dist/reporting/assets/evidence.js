// Class evidence: Grad-CAM beside what the ranked channels that pass the filters add up to.

const evidenceTitle = () => (state.data.classes ? "Class evidence" : "Evidence");

// what the ranked channels that pass the filters add up to, not negative, and its correlation with Grad-CAM
function rankedMap(entry, kept) {
  const all = kept.length === entry.parts.length;
  const values = entry.cam.map((row, y) => row.map((_, x) => Math.max(0, kept.reduce((sum, i) => sum + entry.parts[i][y][x], 0))));
  return { values, agreement: all ? entry.agreement : correlation(entry.cam.flat(), values.flat()) };
}

function correlation(x, y) {
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  const [a, b] = [x, y].map((values) => { const middle = mean(values); return values.map((value) => value - middle); });
  const dot = (u, v) => u.reduce((sum, value, i) => sum + value * v[i], 0);
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

// a map as a picture to lay over its image: clear at zero, bright at its largest value (pictures.py draws the others so)
function heatPicture(values) {
  const height = values.length, width = values[0].length, most = Math.max(...values.flat()) || 1;
  const canvas = h("canvas", { width, height }), pen = canvas.getContext("2d"), image = pen.createImageData(width, height);
  values.flat().forEach((value, i) => { const ramp = value / most; image.data.set([255, 70 + 160 * ramp ** 1.5, 40 * (1 - ramp), 225 * ramp ** 0.8], 4 * i); });
  pen.putImageData(image, 0, 0);
  return canvas.toDataURL();
}

function evidenceView() {
  const { cam } = state.data;
  const all = cam.weights[state.group] || [], kept = all.map((_, i) => i).filter((i) => isShown(`${cam.layer}/${all[i][0]}`));
  const weights = kept.map((i) => all[i]);
  const entries = cam.entries.filter((entry) => entry.group === state.group && pictureOf(entry.row) !== null)
    .map((entry) => { const ranked = rankedMap(entry, kept); return { ...entry, agreement: ranked.agreement, heat: heatPicture(entry.cam), ranked: heatPicture(ranked.values) }; });
  const agreements = entries.map((entry) => entry.agreement).filter((value) => value !== null && !Number.isNaN(value));
  const mean = agreements.length ? agreements.reduce((a, b) => a + b, 0) / agreements.length : NaN;
  const tile = (entry, map, label, alt) => tileOf({ src: pictureOf(entry.row), map, label, alt, pixels: state.smallImages });
  const body = h("div", { class: "evidence" }, entries.map((entry) => {
    const where = state.data.rows[entry.row];
    const name = `image ${where.file} row ${where.row}`;
    return h("div", { class: "strip" }, tile(entry, null, rowLabel(entry.row), name), tile(entry, entry.heat, `Grad-CAM, output ${entry.output}`, `Grad-CAM of ${name}`),
      weights.length > 0 && tile(entry, entry.ranked, `ranked channels · agreement ${format(entry.agreement, 2)}`, `Map of the ranked channels of ${name}`));
  }));
  const which = `${weights.length < all.length ? `those of the ${all.length} best channels that pass the filters (${weights.length})` : `the ${all.length} best channels`}`;
  return [h("section", {}, h("h1", {}, evidenceTitle()), h("p", { class: "quiet" }, `Do the ranked channels of ${cut(cam.layer)} look where the evidence for the output is? For `, whereText(0), "."),
    frame({ title: `Grad-CAM beside the ranked channels of ${cut(cam.layer)}`, name: "class-evidence", body: entries.length ? body : h("p", { class: "empty" }, "No images of this group were drawn; choose another."),
      caption: `Grad-CAM: the layer's maps weighted by the gradient of the output. Ranked channels: the maps of ${which}, weighted by their score and the sign of their correlation. Agreement: correlation of the two maps over their positions; mean ${format(mean, 2)}.`,
      table: () => [["file", "row", "output", "agreement"], ...entries.map((e) => [state.data.rows[e.row].file, state.data.rows[e.row].row, e.output, e.agreement])],
      png: () => savePictures(entries.flatMap((e) => [{ src: pictureOf(e.row), label: rowLabel(e.row) }, { src: pictureOf(e.row), map: e.heat, label: "Grad-CAM" }, { src: pictureOf(e.row), map: e.ranked, label: "ranked channels" }]), "class-evidence") }),
    weights.length === 0 ? h("p", { class: "empty" }, `None of the best channels of ${cut(cam.layer)} passes the filters.`) : chart({ title: "Weights of the ranked channels", name: "channel-weights", height: 230, alt: "Weights of the ranked channels",
      traces: () => [{ type: "bar", x: weights.map(([c]) => `${label(cam.layer)}/${c} `), y: weights.map(([, w]) => w), marker: { color: weights.map(([, w]) => (w < 0 ? tone(1) : tone(0))) }, hovertemplate: "%{x}: %{y:.3f}<extra></extra>" }],
      layout: { yaxis: { title: { text: "score × sign" } } }, click: (point) => openChannel(`${cam.layer}/${weights[point.pointNumber][0]}`), table: () => [["channel", "weight"], ...weights] }))];
}
