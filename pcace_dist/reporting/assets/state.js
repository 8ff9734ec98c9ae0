// What is being looked at: target, group, view, channel; and quick access to the numbers. The address holds it all.

const state = { target: 0, group: 0, view: "overview", channel: null, data: null, names: [], starts: {}, pageOf: new Map(), overlay: "overlay" };

function takeData(data) {
  state.data = data;
  let start = 0;
  for (const layer of data.layers) {
    state.starts[layer.name] = start;
    for (let i = 0; i < layer.channels; i++) state.names.push({ layer: layer.name, channel: i, name: `${layer.name}/${i}` });
    start += layer.channels;
  }
  data.pages.forEach(([layer, channel], index) => state.pageOf.set(`${layer}/${channel}`, index));
}

const block = () => state.data.ranking[state.target][state.group];
const numbersOf = (name) => floats(block()[name]);
const placeOf = (layer, channel) => state.starts[layer] + channel;
const blockKey = () => `${state.target}/${state.group}`;
const statusOf = (place) => state.data.statuses[numbersOf("status")[place]];
const normOf = (place) => {
  const { layer, channel } = state.names[place];
  return floats(state.data.layers.find((entry) => entry.name === layer).norms)[channel];
};
const whereText = () => {
  const { targets, groups, groupBy } = state.data;
  const group = groupBy === null ? "all images" : `${groupBy} ${groups[state.group].name}`;
  return `target ${targets[state.target]}, ${group} (${whole(groups[state.group].images)} images)`;
};

function address(view = state.view, channel = state.channel) {
  const parts = [view, state.target, state.group];
  if (view === "channel" && channel !== null) parts.push(encodeURIComponent(channel));
  return "#" + parts.join("/");
}

function readAddress() {
  const [view, target, group, channel] = location.hash.slice(1).split("/");
  if (!view || !views[view]) return;
  state.view = view;
  state.target = Math.min(Math.max(0, Number(target) || 0), state.data.targets.length - 1);
  state.group = Math.min(Math.max(0, Number(group) || 0), state.data.groups.length - 1);
  if (channel) state.channel = decodeURIComponent(channel);
}

function go(view, channel = state.channel) {
  const wanted = address(view, channel);
  if (location.hash === wanted) show();
  else location.hash = wanted;
}
const openChannel = (name) => go("channel", name);
