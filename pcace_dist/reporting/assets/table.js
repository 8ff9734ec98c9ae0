// The ranking as a table: sorts by any column, opens channels; the filters choose its rows.

// key, title, how a value reads, whether the first click sorts upwards (null: it does not sort), whether only runs with effects have it
const COLUMNS = [
  ["rank", "rank", whole, true], ["rank_interval", "95 % of ranks", null, null], ["name", "channel", null, true], ["score", "score", format, false], ["interval", "95 % interval", null, null],
  ["effect", "effect", format, false, true], ["effect_interval", "95 % interval", null, null, true], ["effect_rank", "by effect", whole, true, true],
  ["support", "support", format, true], ["layer_rank", "in layer", whole, true], ["score_first_component", "first component", format, false],
  ["pearson", "pearson", format, false], ["mean_activation", "mean activation", short, false], ["norm", "weight norm", short, false],
  ["clamped", "clamped", format, false], ["status", "status", null, true],
];
const LEFT = ["name", "status"];
const shownColumns = () => COLUMNS.filter(([, , , , ofEffects]) => !ofEffects || hasEffects());
const NUMBERS = ["rank", "rank_low", "rank_high", "layer_rank", "score", "score_low", "score_high", "effect", "effect_low", "effect_high", "effect_rank", "effect_rank_low", "effect_rank_high",
  "support", "score_first_component", "pearson", "mean_activation", "clamped"];
const PAGE_ROWS = 200;
const tableState = { sort: "rank", ascending: true, rows: PAGE_ROWS };

function rankingView() {
  const rows = rankingRows();
  const body = h("tbody");
  const more = h("button", { type: "button" }, "Show more");
  const headers = shownColumns().map(([key, title, , first]) => h("th", { class: LEFT.includes(key) ? "left" : null, scope: "col", "data-key": key, title: state.data.glossary[key] },
    first === null ? title : h("button", { type: "button", onclick: () => sortBy(key, first) }, title)));
  const fill = () => {
    body.replaceChildren(...sorted(rows).slice(0, tableState.rows).map(tableRow));
    more.hidden = rows.length <= tableState.rows;
    for (const header of headers) {
      if (header.dataset.key === tableState.sort) header.setAttribute("aria-sort", tableState.ascending ? "ascending" : "descending");
      else header.removeAttribute("aria-sort");
    }
  };
  const sortBy = (key, first) => {
    tableState.ascending = tableState.sort === key ? !tableState.ascending : first;
    tableState.sort = key;
    tableState.rows = PAGE_ROWS;
    fill();
  };
  more.addEventListener("click", () => { tableState.rows += 1000; fill(); });
  fill();
  return [h("section", {}, h("h1", {}, "Ranking"), h("p", { class: "quiet" }, "Channels by maximal correlation, ", whereText(), ".", fewImages()),
    h("div", { class: "table-tools" }, h("button", { type: "button", id: "ranking-csv", onclick: () => save("ranking.csv", csv(tableCells(sorted(rows)))) }, `CSV of these ${whole(rows.length)} channels`)),
    h("div", { class: "scroll" }, h("table", { id: "ranking" }, h("thead", {}, h("tr", {}, headers)), body)), h("p", {}, more))];
}

function rankingRows() {
  const columns = NUMBERS.map((name) => [name, numbersOf(name)]);
  const norms = normsOfAll();
  return shownPlaces().map((place) => {
    const row = { name: state.names[place].name, place, status: statusOf(place), norm: norms[place], effect_status: effectStatusOf(place) };
    for (const [name, values] of columns) row[name] = values[place];
    return row;
  });
}

const collator = new Intl.Collator("en", { numeric: true });
function sorted(rows) {
  const { sort, ascending } = tableState;
  return rows.sort((a, b) => {
    const x = a[sort], y = b[sort];
    if (typeof x === "string") return (ascending ? 1 : -1) * collator.compare(x, y) || a.place - b.place;
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || a.place - b.place;
    return (ascending ? x - y : y - x) || a.place - b.place;
  });
}

const between = (low, high, show, and = "–") => (Number.isNaN(low) ? "" : `${show(low)}${and}${show(high)}`);

function tableRow(row) {
  const cells = shownColumns().map(([key, , text]) => {
    if (key === "name") return h("td", { class: "left" }, h("a", { class: "name", href: address("channel", row.name), title: row.name.length > 60 ? row.name : null }, cut(row.name)));
    if (key === "score") return h("td", {}, format(row.score), fewSupport(row.support));
    if (key === "interval") return h("td", {}, intervalTrack(row));
    if (key === "rank_interval") return h("td", {}, between(row.rank_low, row.rank_high, whole));
    if (key === "effect") return h("td", { title: row.effect_status === "ok" ? null : row.effect_status.replaceAll("_", " ") }, format(row.effect));
    if (key === "effect_interval") return h("td", {}, between(row.effect_low, row.effect_high, format, " to "));
    if (key === "effect_rank") return h("td", { title: between(row.effect_rank_low, row.effect_rank_high, whole) }, whole(row.effect_rank));
    if (key === "status") return h("td", { class: "left quiet" }, row.status.replaceAll("_", " "));
    return h("td", {}, text(row[key]));
  });
  return h("tr", {}, cells);
}

function intervalTrack({ score, score_low, score_high }) {
  const percent = (value) => `${Math.max(0, Math.min(100, 100 * value))}%`;
  if (Number.isNaN(score)) return null;
  return h("span", { class: "bar-track", title: between(score_low, score_high, format, " to ") },
    !Number.isNaN(score_low) && h("i", { style: `left:${percent(score_low)};width:${percent(score_high - score_low)}` }), h("b", { style: `left:${percent(score)}` }));
}

function tableCells(rows) {
  const keys = [...NUMBERS, "norm", "status", "effect_status"];
  const { targets, groups, groupBy } = state.data;
  return [["target", groupBy ?? "group", "layer", "channel", ...keys], ...rows.map((row) => {
    const { layer, channel } = state.names[row.place];
    return [targets[state.target], groups[state.group].name, layer, channel, ...keys.map((key) => row[key])];
  })];
}

// -- warnings, beside the number that they concern

const fewSupport = (support) => support < state.data.smallSupport && h("span", { class: "few", title: state.data.glossary.few_support }, "few");
const fewImages = () => imagesHere() < state.data.fewImages && h("span", { class: "few", title: state.data.glossary.few_images }, `few images: intervals are of use from ${whole(state.data.fewImages)} on`);
