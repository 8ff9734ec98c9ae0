// Data of this file, decoded when it is asked for: packed JSON and scripts, float32 arrays, channels, images.

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

async function unpack(id) {
  const packed = bytesOf(document.getElementById(id).textContent.trim());
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

function floats(held) {
  if (held.values) return held.values;
  held.values = Array.from(new Float32Array(bytesOf(held.f32).buffer));
  return held.values;
}

const pictureOf = (row) => {
  const element = document.getElementById("image-" + row);
  return element === null ? null : element.textContent.trim();
};

const channelCache = new Map();
function channelData(index) {
  if (!channelCache.has(index)) channelCache.set(index, JSON.parse(document.getElementById("channel-" + index).textContent));
  return channelCache.get(index);
}

let plotlyReady = null;
function plotly() {
  if (plotlyReady === null) {
    plotlyReady = unpack("packed-plotly").then((source) => {
      const script = document.createElement("script");
      script.textContent = source;
      document.head.append(script);
      return window.Plotly;
    });
  }
  return plotlyReady;
}
