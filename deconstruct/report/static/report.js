// The report's own: a word finds what holds it, tables are sorted, figures are saved.
"use strict";
(() => {
  const make = (name, words) => {
    const made = document.createElement(name);
    if (words) made.textContent = words;
    return made;
  };

  // Search. Digits alone are a latent's number, which must be met whole.
  const find = document.getElementById("find");
  const things = [...document.querySelectorAll(".findable")].map((element) => ({
    element,
    text: (element.dataset.find || "").toLocaleLowerCase(),
    latents: (element.dataset.latents || "").split(" "),
  }));
  if (find) {
    find.hidden = false;
    const words = document.getElementById("words");
    const hits = document.getElementById("hits");
    let first = null;
    const look = () => {
      const asked = words.value.trim().toLocaleLowerCase();
      document.body.classList.toggle("finding", asked !== "");
      const number = /^\d+$/.test(asked);
      first = null;
      let n = 0;
      for (const { element, text, latents } of things) {
        const hit = asked !== "" && (latents.includes(asked) || (!number && text.includes(asked)) ||
          (number && text.split(/\s+/).includes(asked)));
        element.classList.toggle("hit", hit);
        if (!hit) continue;
        n += 1;
        if (!first || (number && element.id === `latent-${asked}`)) first = element;
      }
      hits.textContent = asked === "" ? "" : n === 1 ? "1 place" : `${n} places`;
    };
    let due = 0;
    words.addEventListener("input", () => {
      clearTimeout(due);
      due = setTimeout(look, 60);
    });
    words.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      look();
      if (!first) return;
      first.closest("details")?.setAttribute("open", "");
      first.scrollIntoView({ block: "center" });
    });
    document.addEventListener("keydown", (event) => {
      if (event.key !== "/" || event.target.closest("input, textarea")) return;
      event.preventDefault();
      words.focus();
    });
  }

  // Tables. A heading becomes a button; a second press turns the order round.
  const value = (row, place) => {
    const cell = row.cells[place];
    const text = cell.dataset.sort ?? cell.textContent.trim();
    const number = parseFloat(text.replaceAll(",", ""));
    return Number.isNaN(number) ? text.toLocaleLowerCase() : number;
  };
  const order = (a, b) => {
    if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
    return typeof a === "number" ? -1 : 1;
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, place) => {
      const button = make("button", head.textContent);
      button.type = "button";
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === (head.classList.contains("num") ? "descending" : "ascending");
        const up = head.classList.contains("num") ? down : !down;
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const body = table.tBodies[0];
        const rows = [...body.rows].map((row) => [value(row, place), row]);
        rows.sort((a, b) => (up ? 1 : -1) * order(a[0], b[0]));
        body.append(...rows.map(([, row]) => row));
      });
    });
  }

  // Figures, as they are drawn just now.
  for (const figure of document.querySelectorAll("figure.figure")) {
    const button = make("button", "save as SVG");
    button.type = "button";
    button.className = "save";
    button.addEventListener("click", () => {
      const drawing = figure.querySelector(".drawing svg");
      const text = new XMLSerializer().serializeToString(drawing);
      const link = make("a");
      link.href = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
      link.download = `${figure.id.replace("figure-", "")}.svg`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
    figure.querySelector("details").before(button);
  }

  // Where the reader is.
  const links = new Map([...document.querySelectorAll("nav.strip a[href^='#']")].map((link) => [link.hash.slice(1), link]));
  const here = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const link = links.get(target.id);
      if (link && isIntersecting) {
        for (const other of links.values()) other.removeAttribute("aria-current");
        link.setAttribute("aria-current", "true");
      }
    }
  }, { rootMargin: "-10% 0px -80% 0px" });
  for (const section of document.querySelectorAll("main > section")) here.observe(section);
})();
