// How search orders pages: as Sphinx does, but for pages that answer questions, which come first among equals.
const HOW_TO = ["many-classes", "small-data", "slow", "s3", "concepts", "segmentation", "ray-cluster", "monitoring"];
const FIRST = {
  "docs/questions": 12, "docs/overlap": 8, "docs/first-hour": 2,
  ...Object.fromEntries(HOW_TO.map((name) => [`docs/${name}`, 7])),
};
var Scorer = {
  score: ([docname, , , , score]) => score + (FIRST[docname] ?? 0),
  objNameMatch: 11, objPartialMatch: 6, objPrio: { 0: 15, 1: 5, 2: -5 }, objPrioDefault: 0,
  title: 15, partialTitle: 7, term: 5, partialTerm: 2,
};
