// Figures: a frame with a caption and two buttons (PNG, CSV) around a chart or a strip of images.

const cssColour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const tone = (index) => cssColour(["--accent", "--mark"][index]);

function frame({ title, caption, name, png, table, body }) {
  const tools = h("div", { class: "tools" },
    png && h("button", { type: "button", onclick: png, "aria-label": `Save ${title} as PNG` }, "PNG"),
    table && h("button", { type: "button", onclick: () => save(fileName(name, "csv"), csv(table())), "aria-label": `Save ${title} as CSV` }, "CSV"));
  return h("figure", { class: "figure" }, h("div", { class: "head" }, h("h3", {}, title), tools), body,
    caption && h("figcaption", {}, caption));
}

// names of layers may hold anything, names of files may not
const fileName = (name, suffix) => cut(name.replace(/[^\w. -]+/g, "_")) + (suffix ? "." + suffix : "");

function layoutOf(extra) {
  const ink = cssColour("--ink"), soft = cssColour("--soft"), line = cssColour("--line");
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, tickcolor: line, automargin: true };
  const { xaxis, yaxis, ...rest } = extra;
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: cssColour("--sans"), size: 12, color: ink },
    margin: { l: 48, r: 12, t: 8, b: 40 }, colorway: [tone(0), tone(1)], hovermode: "closest", showlegend: false, dragmode: "zoom",
    hoverlabel: { bgcolor: cssColour("--raised"), bordercolor: line, font: { color: ink } },
    legend: { font: { color: soft } }, ...rest,
    xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis },
  };
}

// spec: title, caption, name, alt, height, width (at most), traces(), layout or layout(), table(), click(point)
function chart(spec) {
  const plot = h("div", { class: "plot", role: "img", "aria-label": spec.alt || spec.title, style: `height:${spec.height || 300}px;${spec.width ? `max-width:${spec.width}px` : ""}` });
  const draw = async () => {
    const library = await plotly();
    if (!plot.isConnected) return;
    await library.react(plot, spec.traces(), layoutOf(typeof spec.layout === "function" ? spec.layout() : spec.layout || {}), { displayModeBar: false, responsive: true });
    if (spec.click && !plot.dataset.clicks) {
      plot.dataset.clicks = "yes";
      plot.on("plotly_click", (event) => spec.click(event.points[0]));
    }
    plot.dataset.drawn = "yes";
  };
  const png = async () => (await plotly()).downloadImage(plot, { format: "png", scale: 2, filename: fileName(spec.name) });
  const watcher = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) { watcher.disconnect(); draw(); }
  }, { rootMargin: "400px" });
  watcher.observe(plot);
  redraws.add({ plot, draw });
  return frame({ ...spec, png, body: plot });
}

const redraws = new Set();
function redrawAll() {
  for (const entry of redraws) if (entry.plot.dataset.drawn) entry.draw();
}

// charts that are no longer on the page; a browser has few contexts for large ones
function forgetCharts() {
  for (const entry of redraws) {
    if (entry.plot.isConnected) continue;
    if (entry.plot.dataset.drawn) window.Plotly.purge(entry.plot);
    redraws.delete(entry);
  }
}

// -- strips of images

// box: what a position sees, as shares of the image (left, top, width, height); a click shows the whole image
function tileOf({ src, map, attribution, box, label, alt, pixels }) {
  if (src === null) return null;
  const kind = pixels ? " pixels" : "";
  const pictures = [h("img", { class: "under" + kind, src, alt, loading: "lazy" }), map && h("img", { class: "over", src: map, alt: "" }),
    attribution && h("img", { class: "pixels attribution", src: attribution, alt: "" })];
  const [x, y, wide, high] = box || [0, 0, 1, 1];
  const style = box || attribution ? `--x:${x};--y:${y};--wide:${wide};--high:${high};--ratio:${state.data.imageRatio}` : null;
  const stack = box ? h("button", { type: "button", class: "stack boxed", style, "aria-pressed": "false", title: "Show the whole image, or what the channel's strongest position sees of it", onclick: (event) => {
    const tile = event.currentTarget.parentNode;
    event.currentTarget.setAttribute("aria-pressed", String(tile.classList.toggle("turned")));
  } }, pictures, h("span", { class: "field" })) : h("span", { class: "stack", style }, pictures);
  return h("div", { class: ["tile", map && "mapped", attribution && "attributed"].filter(Boolean).join(" ") }, stack, label && h("span", { class: "label" }, label));
}

// tiles: what tileOf takes; each also has `cells` for the CSV
function strip({ title, caption, name, tiles, header }) {
  const shown = tiles.filter((tile) => tile.src !== null);
  const body = h("div", { class: "strip" }, shown.map(tileOf));
  const table = () => [header, ...tiles.map((tile) => tile.cells)];
  return frame({ title, caption, name, body, table, png: () => savePictures(shown, name) });
}

async function savePictures(tiles, name) {
  const side = 160, gap = 8, columns = Math.min(8, tiles.length), label = 18;
  const canvas = h("canvas", { width: columns * (side + gap) + gap, height: Math.ceil(tiles.length / columns) * (side + gap + label) + gap });
  const pen = canvas.getContext("2d");
  pen.fillStyle = cssColour("--raised");
  pen.fillRect(0, 0, canvas.width, canvas.height);
  for (const [i, tile] of tiles.entries()) {
    const x = gap + (i % columns) * (side + gap), y = gap + Math.floor(i / columns) * (side + gap + label);
    pen.imageSmoothingEnabled = !tile.pixels;
    const [left, top, wide, high] = (state.crop && tile.box) || [0, 0, 1, 1], long = Math.max(wide * state.data.imageRatio, high);
    for (const src of [tile.src, tile.map]) {
      if (!src) continue;
      const image = new Image();
      image.src = src;
      await image.decode();
      const { naturalWidth: width, naturalHeight: height } = image;
      if (tile.box) pen.drawImage(image, left * width, top * height, wide * width, high * height, x, y, (side * wide * state.data.imageRatio) / long, (side * high) / long);
      else pen.drawImage(image, x, y, side, side);
      pen.imageSmoothingEnabled = true;
    }
    pen.fillStyle = cssColour("--ink");
    pen.font = "11px sans-serif";
    pen.fillText(tile.label || "", x, y + side + 13, side);
  }
  canvas.toBlob((blob) => save(fileName(name, "png"), blob));
}
