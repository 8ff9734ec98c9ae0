// Filters: which channels every view shows. They stand in the address, by name.

const atLeast = (column) => (place, value) => numbersOf(column)[place] >= Number(value);
const FILTERS = {
  search: { label: "Search", keeps: (place, value) => words(value).every((word) => state.names[place].name.toLowerCase().includes(word) || statusOf(place) === word) },
  layer: { label: "Layer", options: () => state.data.layers.map((layer) => layer.name), keeps: (place, value) => state.names[place].layer === value },
  score: { label: "Score at least", keeps: atLeast("score"), step: 0.05 },
  effect: { label: "Effect at least", keeps: atLeast("effect"), step: 0.01 },
  support: { label: "Support at least", keeps: atLeast("support"), step: 0.05 },
  corner: { label: "Corner", options: () => Object.keys(CORNERS), keeps: (place, value) => cornerOf(place) === value },
  status: { label: "Status", options: () => state.data.statuses, keeps: (place, value) => statusOf(place) === value },
};
const words = (text) => text.toLowerCase().split(/\s+/).filter(Boolean);

// the places of the channels that pass all filters, in the order of the layers
const kept = { key: null, places: [], set: new Set() };
function shownPlaces() {
  const key = `${blockKey()} ${JSON.stringify(state.filters)}`;
  if (kept.key !== key) {
    const tests = Object.entries(state.filters).map(([name, value]) => (place) => FILTERS[name].keeps(place, value));
    kept.places = state.names.map((_, place) => place).filter((place) => tests.every((test) => test(place)));
    kept.set = new Set(kept.places);
    kept.key = key;
  }
  return kept.places;
}
const isShown = (name) => { shownPlaces(); return kept.set.has(state.placeOf.get(name)); };
const shownLayers = () => { const names = new Set(shownPlaces().map((place) => state.names[place].layer)); return state.data.layers.filter((layer) => names.has(layer.name)); };

function setFilter(name, value) {
  if (value === "") delete state.filters[name];
  else state.filters[name] = value;
  show();
}

function clearFilters() {
  state.filters = {};
  show();
}

function filterField(name) {
  const { label, options, step } = FILTERS[name];
  const change = (event) => setFilter(name, event.target.value);
  const attributes = { id: name === "search" ? "search" : `filter-${name}`, title: state.data.glossary[name] };
  const field = options ? h("select", { ...attributes, onchange: change }, h("option", { value: "" }, "all"), options().map((value) => h("option", { value }, cut(value.replaceAll("_", " ")))))
    : step ? h("input", { ...attributes, type: "number", step, onchange: change })
      : h("input", { ...attributes, type: "search", placeholder: "Search layer or channel", "aria-label": "Search layer or channel", oninput: change });
  return name === "search" ? field : h("label", { "data-filter": name }, label, " ", field);
}

function fillFilters() {
  const others = Object.keys(FILTERS).filter((name) => name !== "search");
  document.getElementById("filters").replaceChildren(filterField("search"),
    h("details", {}, h("summary", {}, "Filters"), h("div", { class: "fields" }, others.map(filterField))),
    h("span", { class: "quiet small", id: "shown", role: "status" }), h("button", { type: "button", class: "plain", id: "clear-filters", onclick: clearFilters }, "Clear"));
}

function updateFilters() {
  for (const name of Object.keys(FILTERS)) {
    const field = document.getElementById(name === "search" ? "search" : `filter-${name}`);
    const value = state.filters[name] ?? "";
    if (field.value !== value) field.value = value;
  }
  for (const name of ["effect", "corner"]) document.querySelector(`[data-filter=${name}]`).hidden = !hasEffects();
  document.getElementById("shown").textContent = `${whole(shownPlaces().length)} of ${whole(state.names.length)} channels`;
  document.getElementById("clear-filters").hidden = Object.keys(state.filters).length === 0;
}
