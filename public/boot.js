// Starts the islands: loads the wasm and hands each <leptos-island> to the function of its name, outermost first.
const here = document.getElementById("boot").dataset;
document.documentElement.dataset.script = "on";
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
