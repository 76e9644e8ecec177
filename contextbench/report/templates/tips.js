/* Tooltips of points and curves, by pointer and by keyboard. */

function enhanceTips() {
  const tip = document.getElementById("tip");
  let owner = null;

  function show(element, event) {
    owner = element;
    tip.textContent = element.getAttribute("aria-label");
    tip.hidden = false;
    element.setAttribute("aria-describedby", "tip");
    place(element, event);
  }

  function hide() {
    if (owner) owner.removeAttribute("aria-describedby");
    owner = null;
    tip.hidden = true;
  }

  function place(element, event) {
    const box = (element.querySelector(".marker") || element).getBoundingClientRect();
    const x = event ? event.clientX : box.left + box.width / 2;
    const y = event ? event.clientY : box.top;
    const width = document.documentElement.clientWidth;
    const left = Math.max(6, Math.min(x + 14, width - tip.offsetWidth - 6));
    const above = y - tip.offsetHeight - 12;
    tip.style.left = `${left + scrollX}px`;
    tip.style.top = `${(above > 4 ? above : y + 18) + scrollY}px`;
  }

  for (const element of document.querySelectorAll("[data-tip]")) {
    // The title is for readers without scripts; with them it would show a second tooltip.
    element.querySelector("title").remove();
    element.addEventListener("pointerenter", (event) => show(element, event));
    element.addEventListener("pointermove", (event) => place(element, event));
    element.addEventListener("pointerleave", hide);
    element.addEventListener("focus", () => show(element));
    element.addEventListener("blur", hide);
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
  });
}
