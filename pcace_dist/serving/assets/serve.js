// Keeps an open page up to date: asks for it again every few seconds, and puts its live parts in place of these.
// The server says how often (data-every); where it no longer does, the page is loaded anew.

const seconds = () => Number(document.body.dataset.every ?? 0);

async function again() {
  if (document.hidden) return;
  const answer = await fetch(location.href).catch(() => null);
  if (!answer?.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (!fresh.body.dataset.every && document.body.dataset.every && !document.querySelector("#rows")) return location.reload();
  document.body.dataset.every = fresh.body.dataset.every ?? "";
  document.querySelectorAll("[data-live]").forEach((part) => replace(part, fresh.getElementById(part.id)));
}

function replace(part, fresh) {
  if (!fresh || part.isEqualNode(fresh)) return;
  const chosen = new Set([...part.querySelectorAll("input:checked")].map((box) => box.value));
  const focus = part.contains(document.activeElement) ? key(document.activeElement) : null;
  part.replaceWith(document.adoptNode(fresh));
  for (const box of fresh.querySelectorAll("input")) box.checked = chosen.has(box.value);
  if (focus) [...fresh.querySelectorAll("a, input")].find((one) => key(one) === focus)?.focus();
}

const key = (element) => element.href ?? element.value;

while (seconds()) {
  await new Promise((done) => setTimeout(done, 1000 * seconds()));
  await again();
}
