// Starts the islands: loads the wasm and hands each <leptos-island> to the function of its name, outermost first.
const here = document.getElementById("boot").dataset;
document.documentElement.dataset.script = "on";

// A form that is on its way is not sent a second time by a double click; after a while it is, should the answer be lost.
const AGAIN_MS = 10_000;
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post") return;
  if ("sent" in form.dataset) return event.preventDefault();
  form.dataset.sent = "";
  setTimeout(() => delete form.dataset.sent, AGAIN_MS);
});
// A page that comes back from the browser's memory begins afresh.
addEventListener("pageshow", () => {
  for (const form of document.forms) delete form.dataset.sent;
});

if (document.querySelector("leptos-island")) {
  const islands = await import(here.js);
  await islands.default({ module_or_path: here.wasm });
  islands.hydrate();
  for (const island of document.querySelectorAll("leptos-island")) {
    const start = islands[island.dataset.component];
    if (start) await start(island);
    else console.error(`no island ${island.dataset.component}`);
  }
}
