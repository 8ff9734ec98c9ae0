// The whole report as a paper: all views one below the other, in light colours, as wide as a page; then it is printed.

const PAPER = { channels: 3, rows: 60, height: 820 }; // pages of the best channels; rows of the ranking; pixels of a chart, which stands on one page
const paper = { element: null, drawn: null, scheme: null };

// Lays out the paper beside the page; resolves when its charts and pictures are there.
function layOutPaper() {
  if (paper.element !== null) return paper.drawn;
  paper.scheme = document.documentElement.dataset.scheme;
  document.documentElement.dataset.scheme = "light";
  paper.element = h("div", { id: "paper" }, paperHead(), shownViews().map(([name]) => paperView(name)), paperEnd());
  document.body.append(paper.element);
  for (const element of paper.element.querySelectorAll("[id]")) element.removeAttribute("id"); // the page has them
  for (const element of paper.element.querySelectorAll("details")) element.open = true;
  for (const plot of paper.element.querySelectorAll(".plot")) plot.style.height = `${Math.min(PAPER.height, parseFloat(plot.style.height))}px`;
  for (const image of paper.element.querySelectorAll("img")) image.loading = "eager";
  document.documentElement.dataset.paper = "yes";
  paper.drawn = Promise.all([
    ...[...redraws].filter((entry) => paper.element.contains(entry.plot)).map((entry) => entry.draw()),
    ...[...paper.element.querySelectorAll("img")].map((image) => image.decode().catch(() => null))]);
  return paper.drawn;
}

function putPaperAway() {
  if (paper.element === null) return;
  paper.element.remove();
  delete document.documentElement.dataset.paper;
  document.documentElement.dataset.scheme = paper.scheme;
  paper.element = paper.drawn = null;
  forgetCharts();
}

function paperView(name) {
  const { channel } = state, { rows } = tableState;
  const drawn = [];
  tableState.rows = PAPER.rows;
  for (const each of name === "channel" ? paperChannels() : [channel]) {
    state.channel = each;
    drawn.push(h("div", { class: "view" }, views[name].draw()));
  }
  Object.assign(state, { channel });
  Object.assign(tableState, { rows });
  if (name === "ranking" && shownPlaces().length > PAPER.rows) drawn[0].append(h("p", { class: "quiet" }, `The first ${PAPER.rows} of ${whole(shownPlaces().length)} channels; rankings.parquet has all.`));
  return drawn;
}

// the channel that is being looked at, then the best ones
function paperChannels() {
  const rank = numbersOf("rank");
  const best = pagesShown().filter((name) => !Number.isNaN(rank[state.placeOf.get(name)])).sort((a, b) => rank[state.placeOf.get(a)] - rank[state.placeOf.get(b)]);
  const chosen = state.view === "channel" ? [state.channel] : [];
  const names = [...new Set([...chosen, ...best])].slice(0, PAPER.channels);
  return names.length ? names : [state.channel];
}

const paperHead = () => h("header", {}, h("p", { class: "quiet" }, `pcace report; ${state.data.title}; `, whereText()),
  ["notes", "shown"].map((id) => document.getElementById(id).cloneNode(true)));

function paperEnd() {
  return h("div", { class: "view" }, h("section", {}, h("h2", {}, "Terms"), document.getElementById("terms").cloneNode(true)),
    h("section", {}, ["made", "job"].map((id) => document.getElementById(id).cloneNode(true))));
}

async function printPaper() {
  await layOutPaper();
  print();
}

function watchPrinting() {
  addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "p") return;
    event.preventDefault(); // a chart takes a moment
    printPaper();
  });
  addEventListener("beforeprint", layOutPaper);
  addEventListener("afterprint", putPaperAway);
}
