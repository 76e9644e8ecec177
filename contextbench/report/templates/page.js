/* Light or dark, and everything else that scripts add to the page. */

function enhanceTheme() {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const preferred = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : preferred.matches);
  const update = () => {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
  };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    update();
  });
  preferred.addEventListener("change", update);
  update();
}

function closeContentsOnPhones() {
  const contents = document.querySelector(".contents details");
  contents.open = matchMedia("(min-width: 1080px)").matches;
}

document.documentElement.classList.add("script");
enhanceTheme();
closeContentsOnPhones();
enhanceTips();
enhanceTables();
enhanceFilters();
enhanceCosts();
enhanceViews();
enhanceGalleries();
