// What the explorer's pages need of scripts: slow parts that come after, keys, and the choice of
// two runs. Parts of pages come from this server alone, which has escaped all that is in them.
"use strict";
(() => {
  // An element with `data-load` is filled by what that address answers.
  const load = async (place) => {
    const address = place.dataset.load;
    delete place.dataset.load;
    place.setAttribute("aria-busy", "true");
    try {
      const answer = await fetch(address, { headers: { Accept: "text/html" } });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (!answer.ok) throw new Error(page.querySelector("main p")?.textContent || answer.statusText);
      const parts = [...page.body.childNodes].map((node) => document.importNode(node, true));
      place.replaceChildren(...parts);
      begin(place);
    } catch (error) {
      place.textContent = `This part did not come: ${error.message}`;
    }
    place.removeAttribute("aria-busy");
  };
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      load(entry.target);
    }
  }, { rootMargin: "400px" });
  const begin = (within) => {
    for (const place of within.querySelectorAll("[data-load]")) seen.observe(place);
    window.deconstruct?.watch(within);
    choose(within);
  };

  // Keys: what an element's `data-key` names, and two that every page has.
  const typing = (target) => target.closest("input, textarea, select, [contenteditable]");
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
    const help = document.getElementById("keys");
    if (event.key === "?" && help) {
      help.open ? help.close() : help.showModal();
    } else {
      const one = [...document.querySelectorAll("[data-key]")].find((it) => it.dataset.key === event.key);
      if (!one || help?.open) return;
      one.matches("input, textarea") ? (one.focus(), one.select()) : one.click();
    }
    event.preventDefault();
  });
  document.addEventListener("click", (event) => {
    const opened = event.target.closest("[data-opens]");
    if (opened) document.getElementById(opened.dataset.opens)?.showModal();
  });

  // Rows that hold a word that is typed; a table that is sorted by a column on a click.
  const filter = (field) => {
    const words = field.value.toLowerCase();
    for (const row of document.querySelectorAll(`#${field.dataset.filters} tbody tr`)) {
      row.hidden = !row.textContent.toLowerCase().includes(words);
    }
  };
  document.addEventListener("input", (event) => {
    if (event.target.dataset?.filters) filter(event.target);
  });
  const cell = (row, place) => {
    const one = row.cells[place];
    const number = Number(one.dataset.value ?? "x");
    return Number.isNaN(number) ? one.textContent.trim().toLowerCase() : number;
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("th > button.sorts");
    if (!button) return;
    const head = button.closest("th");
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = head.closest("table").tBodies[0];
    const rows = [...body.rows].map((row) => [cell(row, head.cellIndex), row]);
    rows.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1));
    body.replaceChildren(...rows.map(([, row]) => row));
  });

  // Two boxes that are ticked make the address that compares their runs.
  const choose = (within) => {
    const go = within.querySelector("[data-compares]");
    if (!go) return;
    const boxes = [...document.querySelectorAll("input[name=compared]")];
    const told = () => {
      const chosen = boxes.filter((box) => box.checked).map((box) => box.value);
      go.disabled = chosen.length !== 2;
      for (const box of boxes) box.disabled = chosen.length >= 2 && !box.checked;
      return chosen;
    };
    for (const box of boxes) box.addEventListener("change", told);
    go.addEventListener("click", () => {
      location.assign("/compare/" + told().map(encodeURIComponent).join("/"));
    });
    told();
  };

  window.explorer = { begin };
  begin(document);
})();
