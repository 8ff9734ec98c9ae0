// What is being looked at: target, group, view, channel, filters; and quick access to the numbers. The address holds it all.

const state = { target: 0, group: 0, view: "overview", channel: null, data: null, names: [], starts: {}, placeOf: new Map(), pageOf: new Map(), filters: {}, overlay: "overlay", crop: true };

function takeData(data) {
  state.data = data;
  for (const layer of data.layers) {
    state.starts[layer.name] = state.names.length;
    for (let channel = 0; channel < layer.channels; channel++) {
      const name = `${layer.name}/${channel}`;
      state.placeOf.set(name, state.names.length);
      state.names.push({ layer: layer.name, channel, name });
    }
  }
  data.pages.forEach(([layer, channel], index) => state.pageOf.set(`${layer}/${channel}`, index));
}

const block = () => state.data.ranking[state.target][state.group];
const numbersOf = (name) => floats(block()[name]);
const columnsOf = (...names) => names.map(numbersOf);
const placeOf = (layer, channel) => state.starts[layer] + channel;
const blockKey = () => `${state.target}/${state.group}`;
const statusOf = (place) => state.data.statuses[numbersOf("status")[place]];
const effectStatusOf = (place) => state.data.effectStatuses[numbersOf("effect_status")[place]];
const hasEffects = () => numbersOf("effect").some((value) => !Number.isNaN(value));
const isRanked = () => numbersOf("rank").some((value) => !Number.isNaN(value));
const imagesHere = () => state.data.groups[state.group].images;
const normsOfAll = () => {
  state.norms ??= state.data.layers.flatMap((layer) => floats(layer.norms));
  return state.norms;
};
const groupText = () => {
  const { groups, groupBy } = state.data;
  return `${groupBy === null ? "all images" : `${cut(groupBy)} ${cut(groups[state.group].name)}`} (${whole(imagesHere())} images)`;
};
const whereText = (target = state.target) => `target ${cut(state.data.targets[target])}, ${groupText()}`;

function address(view = state.view, channel = state.channel) {
  const parts = [view, state.target, state.group];
  if (view === "channel" && channel !== null) parts.push(encodeURIComponent(channel));
  const filters = new URLSearchParams(state.filters).toString();
  return "#" + parts.join("/") + (filters && "?" + filters);
}

function readAddress() {
  const [path, query] = location.hash.slice(1).split("?");
  const [view, target, group, channel] = path.split("/");
  if (!Object.hasOwn(views, view)) return;
  state.view = view;
  state.target = Math.min(Math.max(0, Number(target) || 0), state.data.targets.length - 1);
  state.group = Math.min(Math.max(0, Number(group) || 0), state.data.groups.length - 1);
  if (channel) state.channel = decodeURIComponent(channel);
  state.filters = Object.fromEntries([...new URLSearchParams(query)].filter(([name]) => Object.hasOwn(FILTERS, name)));
}

function go(view, channel = state.channel) {
  const wanted = address(view, channel);
  if (location.hash === wanted) show();
  else location.hash = wanted;
}
const openChannel = (name) => go("channel", name);
