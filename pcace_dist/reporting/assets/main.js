// The page's life: decode the data, draw the view that the address asks for, keep controls and keys in step.

const views = {
  overview: { title: () => "Overview", draw: overview, there: () => true },
  ranking: { title: () => "Ranking", draw: rankingView, there: () => true },
  channel: { title: () => "Channels", draw: channelView, there: () => true },
  evidence: { title: () => evidenceTitle(), draw: evidenceView, there: () => state.data.cam !== null },
  concepts: { title: () => "Concepts", draw: conceptsView, there: hasConcepts },
  trust: { title: () => "Trust", draw: trustView, there: hasTrust },
  groups: { title: () => "Groups", draw: groupsView, there: () => state.data.across.length > 0 },
  map: { title: () => "Map", draw: mapView, there: () => state.data.places !== null },
  comparison: { title: () => "Comparison", draw: comparisonView, there: () => state.data.compared.length > 0 || state.data.history !== null },
};
const shownViews = () => Object.entries(views).filter(([, view]) => view.there());

function show() {
  const view = views[state.view], main = document.getElementById("main");
  const focused = main.contains(document.activeElement) ? document.activeElement.id : "";
  main.replaceChildren(...view.draw().flat(3).filter(Boolean));
  levelHeadings(main);
  explainTerms(main);
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  forgetCharts();
  updateFilters();
  document.getElementById("nav").replaceChildren(...shownViews().map(([name, { title }]) =>
    h("a", { href: address(name), "aria-current": name === state.view ? "page" : null }, title())));
  document.getElementById("target").value = String(state.target);
  document.getElementById("group").value = String(state.group);
  const here = address();
  if (location.hash !== here) history.replaceState(null, "", here);
}

// titles of figures stand one level below what precedes them: screen readers list headings by level
function levelHeadings(main) {
  let parts = false;
  for (const heading of main.querySelectorAll("h2, h3")) {
    if (heading.tagName === "H2") parts = true;
    else if (!parts) heading.setAttribute("aria-level", "2");
  }
}

function fillControls() {
  const { targets, groups, groupBy } = state.data;
  const fill = (id, names, key) => {
    const select = document.getElementById(id);
    select.replaceChildren(...names.map((name, i) => h("option", { value: i }, cut(name))));
    select.addEventListener("change", () => { state[key] = Number(select.value); show(); });
    document.getElementById(id + "-control").hidden = names.length < 2;
  };
  fillFilters();
  fill("target", targets, "target");
  fill("group", groups.map((group) => group.name), "group");
  document.getElementById("group-label").textContent = cut(groupBy || "Group", 20);
  document.getElementById("run-title").textContent = state.data.title;
  const { ended, versions, job } = state.data.made, made = Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(", ");
  document.getElementById("made").textContent = [ended && `This run ended on ${ended}.`, made && `Made with ${made}.`].filter(Boolean).join(" ");
  document.getElementById("job").textContent = job;
  const terms = Object.entries(state.data.glossary).filter(([name]) => !/_(low|high|plan)$/.test(name)).map(([name, sentence]) => [name.replaceAll("_", " "), sentence]).sort(([a], [b]) => a.localeCompare(b));
  document.getElementById("terms").append(...terms.map(([name, sentence]) => h("div", {}, h("dt", {}, name), h("dd", {}, sentence))));
  document.getElementById("notes").replaceChildren(...state.data.notes.map((note) => h("p", {}, note)));
}

function takeScheme(scheme) {
  document.documentElement.dataset.scheme = scheme;
  const button = document.getElementById("scheme");
  button.textContent = scheme === "dark" ? "Light" : "Dark";
  redrawAll();
}

function onKey(event) {
  if (event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const number = Number(event.key);
  const names = shownViews().map(([name]) => name);
  if (event.key === "/") {
    event.preventDefault();
    document.getElementById("search").focus();
  } else if (number >= 1 && number <= names.length) go(names[number - 1]);
  else if (state.view === "channel" && event.key === "ArrowRight") step(1);
  else if (state.view === "channel" && event.key === "ArrowLeft") step(-1);
}

async function begin() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  takeScheme(system.matches ? "dark" : "light");
  system.addEventListener("change", () => takeScheme(system.matches ? "dark" : "light"));
  document.getElementById("scheme").addEventListener("click", () => takeScheme(document.documentElement.dataset.scheme === "dark" ? "light" : "dark"));
  takeData(JSON.parse(await unpack("packed-data")));
  state.smallImages = state.data.imageSide <= 64;
  fillControls();
  readAddress();
  addEventListener("hashchange", () => {
    const before = state.view;
    readAddress();
    show();
    if (before === state.view) return;
    document.getElementById("main").focus({ preventScroll: true }); // the tab that was clicked is gone
    scrollTo(0, 0);
  });
  addEventListener("keydown", onKey);
  watchPrinting();
  show();
  document.documentElement.dataset.ready = "yes";
}

begin().catch((error) => {
  document.getElementById("main").textContent = "This browser cannot open the report: " + error.message + ". A version of 2023 or later is needed.";
  throw error;
});
