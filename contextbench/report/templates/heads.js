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
  const front = plot.querySelector("[data-front]");
  if (!front) return;
  const points = [...plot.querySelectorAll(".point:not(.off)")]
    .map(({ dataset }) => [Number(dataset.x), Number(dataset.y)])
    .sort(([x1, y1], [x2, y2]) => x1 - x2 || y1 - y2);
  let path = "";
  let best = Infinity;
  for (const [x, y] of points) {
    if (y >= best) continue; // pixels count downwards: a lower one has a higher score
    path += path ? `L${x},${best}L${x},${y}` : `M${x},${y}`;
    best = y;
  }
  front.setAttribute("d", path && `${path}L${front.dataset.right},${best}`);
}
