/* What is shown of several: a cost, a scale, a view of a table, an example. */

function enhanceCosts() {
  for (const section of document.querySelectorAll("[data-choices]")) {
    const select = section.querySelector("[data-choice]");
    const scales = [...section.querySelectorAll("[data-scales] input")];
    const figures = [...section.querySelectorAll("[data-option]")];
    const current = () => figures.find((each) => each.dataset.option === select.value);

    const showScale = () => {
      const chosen = scales.find((each) => each.checked).value;
      for (const plot of current().querySelectorAll(".plot")) {
        plot.toggleAttribute("hidden", plot.dataset.scale !== chosen);
      }
    };
    const showCost = () => {
      for (const figure of figures) figure.hidden = figure !== current();
      for (const scale of scales) {
        scale.checked = scale.value === current().dataset.first;
        scale.disabled = !current().querySelector(`.plot[data-scale=${scale.value}]`);
      }
      showScale();
    };
    select.addEventListener("change", showCost);
    for (const scale of scales) scale.addEventListener("change", showScale);
    select.selectedIndex = 0; // browsers keep what was chosen before a reload
    showCost();
  }
}

function enhanceViews() {
  for (const form of document.querySelectorAll("[data-views]")) {
    const views = [...form.querySelectorAll("input")];
    const target = form.parentElement.querySelector("table.heat, .examples");
    const update = () => {
      for (const view of views) target.classList.toggle(view.value, view.checked);
    };
    form.addEventListener("change", update);
    form.reset();
    update();
  }
}

function enhanceGalleries() {
  for (const section of document.querySelectorAll("[data-gallery]")) {
    const articles = [...section.querySelectorAll("article")];
    const buttons = articles.map((article) => thumbnail(article));
    const choose = (chosen) => {
      articles.forEach((article, index) => {
        article.classList.toggle("closed", article !== chosen);
        buttons[index].setAttribute("aria-pressed", String(article === chosen));
      });
    };
    buttons.forEach((button, index) => {
      button.addEventListener("click", () => choose(articles[index]));
    });
    section.querySelector(".thumbnails").append(...buttons);
    choose(articles[0]);
  }
}

function thumbnail(article) {
  const button = document.createElement("button");
  const picture = document.createElement("span");
  // Taken from the article, so that every photograph is in the file once.
  const image = article.querySelector("figure > img");
  const photograph = image ? `url(${image.src})` : article.style.getPropertyValue("--photo");
  picture.style.backgroundImage = photograph;
  button.type = "button";
  button.title = article.getAttribute("aria-label");
  button.setAttribute("aria-label", button.title);
  button.append(picture);
  return button;
}
