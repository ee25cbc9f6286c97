// Figures come alive as they come into sight: each drawing is replaced by Vega's of the same
// figure. `ast` has Vega interpret its expressions, so that no policy need allow `eval`.
"use strict";
(() => {
  const options = {
    actions: false, renderer: "svg", ast: true, defaultStyle: false,
    tooltip: { disableDefaultStyle: true },
    logLevel: 1, // errors alone: what figures warn of is known when they are drawn for the file
    loader: { load: () => Promise.reject(new Error("figures have their data")) },
  };
  const enliven = async (figure) => {
    const drawing = figure.querySelector(".drawing");
    const made = document.createElement("div");
    try {
      await vegaEmbed(made, JSON.parse(figure.querySelector("script.spec").textContent), options);
      made.querySelector("svg")?.setAttribute("aria-hidden", "true"); // as it was drawn
      drawing.replaceChildren(...made.childNodes);
      drawing.classList.add("live");
    } catch (error) {
      console.warn("a figure stays as it was drawn:", error.message);
    }
  };
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      enliven(entry.target);
    }
  }, { rootMargin: "300px" });
  const watch = (within) => {
    if (!window.vegaEmbed) return;
    for (const script of within.querySelectorAll("figure script.spec")) {
      seen.observe(script.closest("figure"));
    }
  };
  window.deconstruct = { watch };
  watch(document);
})();
