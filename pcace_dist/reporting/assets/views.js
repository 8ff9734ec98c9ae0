// The other views: groups side by side and the map.

function groupsView() {
  const across = state.data.across.find((entry) => entry.target === state.target) || state.data.across[0];
  const { groups, tree } = across;
  const rows = across.channels.map((_, i) => i).filter((i) => isShown(across.channels[i]));
  const channels = rows.map((i) => across.channels[i]), score = rows.map((i) => across.score[i]);
  const top = tree.length ? 0.16 : 0;
  return [h("section", {}, h("h1", {}, "Across groups"), h("p", { class: "quiet" }, `The ${channels.length} channels with the highest mean score, in ${whole(groups.length)} groups; target ${cut(state.data.targets[across.target])}. Like stands beside like (average linkage of the scores).`),
    chart({ title: "Scores by channel and group", name: "across-groups", height: 180 + 15 * channels.length, alt: `Heat map of ${channels.length} channels by ${groups.length} groups`,
      caption: "Click a cell to open the channel in that group.",
      traces: () => [{ type: "heatmap", z: score, x: groups.map((_, i) => i), y: channels.map((_, i) => i), colorscale: heatScale(), hoverongaps: false, colorbar: { thickness: 10, outlinewidth: 0, title: { text: "score", side: "right" } },
        customdata: channels.map((c) => groups.map((g) => [c, g])), text: channels.map((c) => groups.map((g) => `${label(c, 60)}, ${label(g, 60)}`)), hovertemplate: "%{text}: %{z:.3f}<extra></extra>" },
        ...tree.map(([x, y]) => ({ type: "scatter", mode: "lines", x, y, xaxis: "x", yaxis: "y2", line: { width: 1, color: cssColour("--soft") }, hoverinfo: "skip" }))],
      layout: { xaxis: { tickvals: groups.map((_, i) => i), ticktext: groups.map((g) => label(g)), showgrid: false, zeroline: false, side: "bottom", type: "linear", range: [-0.5, groups.length - 0.5] },
        yaxis: { tickvals: channels.map((_, i) => i), ticktext: channels.map((c) => label(c) + " "), showgrid: false, zeroline: false, domain: [0, 1 - top], range: [channels.length - 0.5, -0.5] },
        yaxis2: { domain: [1 - top, 1], visible: false, rangemode: "tozero" } },
      click: (point) => {
        if (!point.customdata) return;
        const group = state.data.groups.findIndex((entry) => entry.name === point.customdata[1]);
        if (group >= 0) state.group = group;
        openChannel(point.customdata[0]);
      },
      table: () => [["channel", ...groups], ...channels.map((c, i) => [c, ...score[i]])] }))];
}

const heatScale = () => (document.documentElement.dataset.scheme === "dark"
  ? [[0, "#1b1f23"], [0.5, "#1f6f8b"], [1, "#e0f4fa"]] : [[0, "#f6f8f9"], [0.5, "#6cb0c6"], [1, "#0b3c4d"]]);

const mapScale = () => (document.documentElement.dataset.scheme === "dark"
  ? [[0, "#5b2a86"], [0.5, "#c4517a"], [1, "#ffd166"]] : [[0, "#f4c95d"], [0.5, "#d1495b"], [1, "#3b1c5a"]]); // both ends stand out from the page
const groupColours = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7A7A7A"];
const mapState = { value: null, kind: "cells", groups: "all" };
function mapView() {
  const { places, groups, groupBy } = state.data;
  const grouped = groupBy !== null;
  const byGroup = grouped && mapState.value === places.values.length; // targets come first, groups last
  const passes = (value) => value !== undefined && (value.channel === undefined || isShown(value.channel));
  const entry = byGroup || passes(places.values[mapState.value]) ? mapState.value : state.target;
  const chosen = byGroup ? { name: groupBy } : places.values[entry];
  const latitude = floats(places.latitude), longitude = floats(places.longitude), values = byGroup ? places.group : floats(chosen.values);
  const wanted = (i) => !grouped || (mapState.groups === "all" ? !byGroup || places.group[i] >= 0 : places.group[i] === state.group);
  const rows = latitude.map((_, i) => i).filter((i) => !Number.isNaN(latitude[i]) && !Number.isNaN(longitude[i]) && !Number.isNaN(values[i]) && wanted(i));
  const choose = (id, label, key, options) => h("select", { id, "aria-label": label, onchange: (event) => { mapState[key] = key === "value" ? Number(event.target.value) : event.target.value; show(); } },
    options.filter(Boolean).map(([value, text]) => h("option", { value, selected: value === (key === "value" ? entry : mapState[key]) }, cut(text))));
  const tools = [choose("map-value", "What the map shows", "value", [...places.values.map((value, i) => passes(value) && [i, value.name]), grouped && [places.values.length, groupBy]]),
    !byGroup && choose("map-kind", "Cells or single images", "kind", [["cells", "mean by cell"], ["points", "single images"]]),
    grouped && choose("map-groups", "Which groups", "groups", [["all", "all groups"], ["one", `${cut(groupBy)} ${cut(groups[state.group].name)}`]])];
  const nameOf = (i) => (grouped && places.group[i] >= 0 ? `<br>${label(groupBy)} ${label(groups[places.group[i]].name, 60)}` : "");
  const cells = cellsOf(rows, longitude, latitude, values);
  const scale = 1 / Math.cos((cells.middle * Math.PI) / 180);
  const colour = () => ({ colorscale: mapScale(), colorbar: { thickness: 10, outlinewidth: 0 } });
  const points = (some, marker, more) => ({ type: "scatter", mode: "markers", x: some.map((i) => longitude[i]), y: some.map((i) => latitude[i]), text: some.map(nameOf), marker: { size: 7, ...marker }, ...more });
  const traces = () => {
    if (byGroup) return groups.map((group, g) => points(rows.filter((i) => places.group[i] === g), { color: groupColours[g % groupColours.length] }, { name: label(group.name), hovertemplate: "%{x:.4f}, %{y:.4f}%{text}<extra></extra>" })).filter((trace) => trace.x.length);
    if (mapState.kind === "points") return [points(rows, { ...colour(), color: rows.map((i) => values[i]) }, { hovertemplate: "%{x:.4f}, %{y:.4f}: %{marker.color:.3g}%{text}<extra></extra>" })];
    return [{ type: "heatmap", x: cells.x, y: cells.y, z: cells.mean, ...colour(), hoverongaps: false, customdata: cells.count, hovertemplate: "%{x:.4f}, %{y:.4f}: %{z:.3g} (%{customdata} images)<extra></extra>" }];
  };
  const shown = grouped && mapState.groups === "one" ? `${cut(groupBy)} ${cut(groups[state.group].name)}` : grouped ? "all groups" : "all images";
  return [h("section", {}, h("h1", {}, "Map"), h("p", { class: "quiet" }, `Sampled images by ${cut(places.columns[0])} and ${cut(places.columns[1])}; ${shown}.`), h("div", { class: "table-tools" }, ...tools.filter(Boolean)),
    chart({ title: cut(chosen.name), name: "map", height: 560, width: 720, alt: `Map of ${cut(chosen.name)}`, caption: `${whole(rows.length)} sampled images${mapState.kind === "cells" && !byGroup ? `, ${cells.count.length} by ${cells.count.length} cells; cells without an image are left empty` : ""}. Drawn without a base map: the page loads nothing from elsewhere.`,
      traces, layout: { showlegend: byGroup, xaxis: { title: { text: label(places.columns[1]) }, constrain: "domain", zeroline: false }, yaxis: { title: { text: label(places.columns[0]) }, constrain: "domain", zeroline: false, scaleanchor: "x", scaleratio: Number.isFinite(scale) ? scale : 1 } },
      table: () => [[places.columns[0], places.columns[1], chosen.name, ...(grouped && !byGroup ? [groupBy] : [])], ...rows.map((i) => [latitude[i], longitude[i], byGroup ? groups[values[i]].name : values[i], ...(grouped && !byGroup ? [places.group[i] < 0 ? "" : groups[places.group[i]].name] : [])])] }),
    grouped && !byGroup && byGroupFigure(chosen, places))];
}

// about eight images to a cell, so that a mean is more than one image's value
function cellsOf(rows, longitude, latitude, values, side = Math.max(4, Math.min(24, Math.round(Math.sqrt(rows.length / 8))))) {
  const range = (of) => {
    const held = rows.map((i) => of[i]);
    const low = Math.min(...held), high = Math.max(...held);
    return [low, high > low ? (high - low) / side : 1];
  };
  const [west, dx] = range(longitude), [south, dy] = range(latitude);
  const sum = Array.from({ length: side }, () => new Array(side).fill(0)), count = sum.map((row) => [...row]);
  for (const i of rows) {
    const x = Math.min(side - 1, Math.floor((longitude[i] - west) / dx)), y = Math.min(side - 1, Math.floor((latitude[i] - south) / dy));
    sum[y][x] += values[i];
    count[y][x] += 1;
  }
  return { x: sum.map((_, i) => west + (i + 0.5) * dx), y: sum.map((_, i) => south + (i + 0.5) * dy), count, middle: south + (side / 2) * dy,
    mean: sum.map((row, y) => row.map((total, x) => (count[y][x] ? total / count[y][x] : null))) };
}

function byGroupFigure(chosen, places) {
  const values = floats(chosen.values);
  const means = state.data.groups.map((_, g) => {
    const held = values.filter((value, i) => places.group[i] === g && !Number.isNaN(value));
    return held.length ? held.reduce((a, b) => a + b, 0) / held.length : null;
  });
  const names = state.data.groups.map((group) => group.name);
  return chart({ title: `${cut(chosen.name)}, by group`, name: "map-by-group", height: 260, alt: "Mean by group",
    traces: () => [{ type: "bar", x: names.map((_, i) => i), y: means, text: names.map((name) => label(name, 60)), textposition: "none", marker: { color: means.map((_, g) => (g === state.group ? tone(1) : tone(0))) }, hovertemplate: "%{text}: %{y:.3g}<extra></extra>" }],
    layout: { xaxis: { tickvals: names.map((_, i) => i), ticktext: names.map((name) => label(name)) } }, table: () => [["group", "mean"], ...names.map((name, i) => [name, means[i]])] });
}
