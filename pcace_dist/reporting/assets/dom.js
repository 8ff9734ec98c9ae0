// Elements. Text is always set as text, never as markup: names of files and groups come from the data.

function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

// Plotly reads a little markup in its texts: what comes from the data must not be read so.
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

// long names lose their middle; the whole name is in the table and in what is saved
const cut = (text, most = 60) => (text.length <= most ? text : `${text.slice(0, most >> 1)}…${text.slice(-(most >> 1) + 1)}`);
const label = (text, most = 28) => plain(cut(text, most)); // in charts

// a term of the page with its sentence
const term = (name, text) => h("span", { class: "term", title: state.data.glossary[name] }, text);

// the first use of each term in the sentences of a view
function explainTerms(view) {
  for (const name of state.data.terms) {
    const use = new RegExp(`\\b${name}s?\\b`, "i");
    const texts = [...view.querySelectorAll("p, figcaption")].flatMap((sentence) => [...sentence.childNodes]);
    const text = texts.find((node) => node.nodeType === Node.TEXT_NODE && use.test(node.data));
    if (!text) continue;
    const [word] = use.exec(text.data), found = text.splitText(text.data.search(use));
    found.splitText(word.length);
    found.replaceWith(term(name.replaceAll(" ", "_"), word));
  }
}

const format = (value, digits = 3) => (value === null || value === undefined || Number.isNaN(value) ? "–" : value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1"));
const short = (value) => (value === null || value === undefined || Number.isNaN(value) ? "–" : Number(value.toPrecision(3)).toString());
const whole = (value) => (value === null || value === undefined || Number.isNaN(value) ? "–" : value.toLocaleString("en"));

function save(name, blob) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function csv(rows) {
  const cell = (value) => {
    const text = value === null || value === undefined || Number.isNaN(value) ? "" : String(value);
    return /[",\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  };
  return new Blob([rows.map((row) => row.map(cell).join(",")).join("\n") + "\n"], { type: "text/csv" });
}
