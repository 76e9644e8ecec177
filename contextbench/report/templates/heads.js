/* Which heads are shown, in everything of one comparison that belongs to a head. */

function enhanceFilters() {
  for (const form of document.querySelectorAll("[data-filters]")) {
    const update = () => showHeads(form);
    form.addEventListener("input", update);
    // The fields are reset after the event.
    form.addEventListener("reset", () => setTimeout(update));
    form.addEventListener("submit", (event) => event.preventDefault());
    form.reset();
  }
}

function showHeads(form) {
  const text = form.querySelector("input[type=search]").value.trim().toLowerCase();
  const boxes = [...form.querySelectorAll("input[type=checkbox]")];
  const named = (box) => box.dataset.name.toLowerCase().includes(text);
  const shown = new Set(boxes.filter((box) => box.checked && named(box)).map((box) => box.value));
  for (const box of boxes) box.closest("label").classList.toggle("off", !named(box));
  const comparison = form.closest(".comparison");
  for (const element of comparison.querySelectorAll("[data-head]")) {
    element.classList.toggle("off", !shown.has(element.dataset.head));
  }
  for (const plot of comparison.querySelectorAll(".plot")) drawFront(plot);
  const count = shown.size === boxes.length ? "" : `${shown.size} of ${boxes.length} heads shown`;
  form.querySelector("output").textContent = count;
}

function drawFront(plot) {
  const [solid, dotted] = plot.querySelectorAll("[data-front]");
  if (!solid) return;
  const points = [...plot.querySelectorAll(".point:not(.off)")]
    .map(({ dataset }) => ({ ...dataset, x: Number(dataset.x), y: Number(dataset.y) }))
    .sort((one, other) => one.x - other.x || one.y - other.y);
  const paths = { solid: "", dotted: "" };
  let last = null;
  for (const point of points) {
    if (last && point.y >= last.y) continue; // pixels count downwards: a lower one is better
    const kind = last && last.alike.split(" ").includes(point.head) ? "dotted" : "solid";
    if (last) paths[kind] += `M${last.x},${last.y}L${point.x},${last.y}L${point.x},${point.y}`;
    last = point;
  }
  if (last) paths.solid += `M${last.x},${last.y}L${solid.dataset.right},${last.y}`;
  solid.setAttribute("d", paths.solid);
  dotted.setAttribute("d", paths.dotted);
}
