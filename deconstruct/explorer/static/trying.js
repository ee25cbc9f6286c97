// While a text is read, the page says so; a second click would only wait behind the first.
"use strict";
(() => {
  const form = document.getElementById("trying");
  const told = document.getElementById("waiting");
  form.addEventListener("submit", (event) => {
    if (form.getAttribute("aria-busy") === "true") return event.preventDefault();
    form.setAttribute("aria-busy", "true");
    told.textContent = told.dataset.says;
  });
  // A page that the browser has kept is not waiting any more.
  window.addEventListener("pageshow", () => {
    form.removeAttribute("aria-busy");
    if (told.textContent === told.dataset.says) told.textContent = "";
  });
})();
