// The ranking as a table: sorts by any column, searches names, opens channels.

const COLUMNS = [
  ["rank", "rank", (v) => whole(v), true], ["name", "channel", null, true], ["score", "score", (v) => format(v), false], ["interval", "95 % interval", null, null],
  ["rankInterval", "95 % of ranks", null, null], ["layer_rank", "in layer", (v) => whole(v), true], ["score_first_component", "first component", (v) => format(v), false],
  ["pearson", "pearson", (v) => format(v), false], ["mean_activation", "mean activation", (v) => short(v), false], ["norm", "weight norm", (v) => short(v), false],
  ["clamped", "clamped", (v) => format(v, 3), false], ["support", "support", (v) => format(v), true], ["status", "status", null, true],
];
const PAGE_ROWS = 200;
const tableState = { sort: "rank", ascending: true, search: "", rows: PAGE_ROWS };

function rankingView() {
  const rows = rankingRows();
  const body = h("tbody");
  const more = h("button", { type: "button" }, "Show more");
  const count = h("span", { class: "quiet small", role: "status" });
  const search = h("input", { type: "search", id: "search", placeholder: "Search layer or channel", "aria-label": "Search layer or channel", value: tableState.search });
  const headers = COLUMNS.map(([key, title, , first]) => h("th", { class: key === "name" || key === "status" ? "left" : null, scope: "col", "data-key": key },
    first === null ? title : h("button", { type: "button", onclick: () => sortBy(key, first) }, title)));
  const fill = () => {
    const found = sorted(rows.filter((row) => matches(row)));
    body.replaceChildren(...found.slice(0, tableState.rows).map(tableRow));
    count.textContent = `${whole(Math.min(found.length, tableState.rows))} of ${whole(found.length)} channels`;
    more.hidden = found.length <= tableState.rows;
    for (const header of headers) {
      if (header.dataset.key === tableState.sort) header.setAttribute("aria-sort", tableState.ascending ? "ascending" : "descending");
      else header.removeAttribute("aria-sort");
    }
  };
  const sortBy = (key, first) => {
    tableState.ascending = tableState.sort === key ? !tableState.ascending : first;
    tableState.sort = key;
    fill();
  };
  more.addEventListener("click", () => { tableState.rows += 1000; fill(); });
  search.addEventListener("input", () => { tableState.search = search.value; tableState.rows = PAGE_ROWS; fill(); });
  fill();
  const save_ = h("button", { type: "button", onclick: () => save("ranking.csv", csv(tableCells(sorted(rows.filter(matches))))) }, "CSV");
  return [h("section", {}, h("h1", {}, "Ranking"), h("p", { class: "quiet" }, "Channels by maximal correlation, ", whereText(), "."),
    h("div", { class: "table-tools" }, search, count, save_),
    h("div", { class: "scroll" }, h("table", { id: "ranking" }, h("thead", {}, h("tr", {}, headers)), body)), h("p", {}, more))];
}

function rankingRows() {
  const columns = Object.fromEntries(["rank", "score", "score_low", "score_high", "rank_low", "rank_high", "layer_rank", "score_first_component", "pearson", "mean_activation", "clamped", "support"].map((name) => [name, numbersOf(name)]));
  return state.names.map((entry, place) => {
    const row = { name: entry.name, place, status: statusOf(place), norm: normOf(place) };
    for (const [name, values] of Object.entries(columns)) row[name] = values[place];
    return row;
  });
}

const matches = (row) => tableState.search.toLowerCase().split(/\s+/).every((word) => row.name.toLowerCase().includes(word) || row.status === word);

function sorted(rows) {
  const { sort, ascending } = tableState;
  const collator = new Intl.Collator("en", { numeric: true });
  return rows.sort((a, b) => {
    const x = a[sort], y = b[sort];
    if (typeof x === "string") return (ascending ? 1 : -1) * collator.compare(x, y);
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || a.place - b.place;
    return (ascending ? x - y : y - x) || a.place - b.place;
  });
}

function tableRow(row) {
  const percent = (value) => `${Math.max(0, Math.min(100, 100 * value))}%`;
  const track = Number.isNaN(row.score) ? null : h("span", { class: "bar-track", title: `${format(row.score_low)} to ${format(row.score_high)}` },
    !Number.isNaN(row.score_low) && h("i", { style: `left:${percent(row.score_low)};width:${percent(row.score_high - row.score_low)}` }), h("b", { style: `left:${percent(row.score)}` }));
  const cells = COLUMNS.map(([key, , text]) => {
    if (key === "name") return h("td", { class: "left" }, h("a", { href: address("channel", row.name) }, row.name));
    if (key === "interval") return h("td", {}, track);
    if (key === "rankInterval") return h("td", {}, Number.isNaN(row.rank_low) ? "" : `${row.rank_low}–${row.rank_high}`);
    if (key === "status") return h("td", { class: "left quiet" }, row.status.replaceAll("_", " "));
    return h("td", {}, text(row[key]));
  });
  return h("tr", {}, cells);
}

function tableCells(rows) {
  const keys = ["name", "rank", "rank_low", "rank_high", "layer_rank", "score", "score_low", "score_high", "score_first_component", "pearson", "mean_activation", "norm", "clamped", "support", "status"];
  return [keys, ...rows.map((row) => keys.map((key) => row[key]))];
}
