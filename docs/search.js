// How search orders pages: as Sphinx does, but for pages that answer questions, which come first among equals.
const FIRST = { "docs/questions": 10, "docs/first-hour": 2 };
var Scorer = {
  score: ([docname, , , , score]) => score + (FIRST[docname] ?? 0),
  objNameMatch: 11, objPartialMatch: 6, objPrio: { 0: 15, 1: 5, 2: -5 }, objPrioDefault: 0,
  title: 15, partialTitle: 7, term: 5, partialTerm: 2,
};
