// The editor of the SQL page: completion from what the store has, and a way to stop.
"use strict";
(() => {
  const one = (id) => document.getElementById(id), form = one("sql"), text = one("query"), list = one("offers");
  const known = JSON.parse(one("known").textContent);
  let offered = [], at = -1, word = "";

  const columnsOf = (name) => {
    if (known.relations[name]) return known.relations[name];
    const alias = new RegExp(`\\b(\\w+)\\s+(?:as\\s+)?${name}\\b`, "gi");
    for (const found of text.value.matchAll(alias)) if (known.relations[found[1]]) return known.relations[found[1]];
    return [];
  };
  const fitting = () => { // after FROM: relations; after a dot: its columns; in quotes: runs and labels
    const before = text.value.slice(0, text.selectionStart);
    const quoted = before.match(/^(?:[^']*'[^']*')*[^']*'([^']*)$/s);
    if (quoted) { word = quoted[1]; return known.values; }
    word = before.match(/[\w.]*$/)[0];
    if (word.includes(".")) { const [table, part] = [word.slice(0, word.lastIndexOf(".")), word.slice(word.lastIndexOf(".") + 1)]; word = part; return columnsOf(table); }
    if (/\b(from|join|describe|summarize)\s+\w*$/i.test(before)) return [...Object.keys(known.relations), ...known.tables];
    return [...new Set(Object.values(known.relations).flat()), ...Object.keys(known.relations), ...known.macros, ...known.keywords];
  };
  const close = () => { list.hidden = true; offered = []; at = -1; text.removeAttribute("aria-activedescendant"); };
  const mark = (to) => {
    at = to;
    [...list.children].forEach((item, k) => item.setAttribute("aria-selected", String(k === at)));
    if (at >= 0) { text.setAttribute("aria-activedescendant", `offer-${at}`); list.children[at].scrollIntoView({ block: "nearest" }); }
    else text.removeAttribute("aria-activedescendant");
  };
  const offer = (always) => {
    const names = fitting(), low = word.toLowerCase();
    offered = low || always ? names.filter((name) => name.toLowerCase().startsWith(low) && name.toLowerCase() !== low).slice(0, 40) : [];
    list.replaceChildren(...offered.map((name, k) => {
      const item = document.createElement("li");
      item.id = `offer-${k}`; item.role = "option"; item.textContent = name;
      item.addEventListener("mousedown", (event) => { event.preventDefault(); take(k); });
      return item;
    }));
    list.hidden = !offered.length;
    mark(offered.length && always ? 0 : -1);
  };
  const insert = (words, instead = 0) => {
    text.focus();
    text.setRangeText(words, text.selectionStart - instead, text.selectionEnd, "end");
  };
  const take = (k) => { insert(offered[k], word.length); close(); };
  const run = () => { close(); form.requestSubmit(); };

  text.addEventListener("input", () => offer(false));
  text.addEventListener("blur", () => setTimeout(close, 100));
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run();
    else if (event.key === " " && event.ctrlKey) offer(true);
    else if (list.hidden) return;
    else if (event.key === "ArrowDown") mark(Math.min(at + 1, offered.length - 1));
    else if (event.key === "ArrowUp") mark(Math.max(at - 1, -1));
    else if ((event.key === "Enter" || event.key === "Tab") && at >= 0) take(at);
    else if (event.key === "Escape") close();
    else return;
    event.preventDefault();
  });
  one("questions").addEventListener("change", (event) => {
    if (event.target.value) { text.value = event.target.value; text.focus(); }
  });
  one("about").addEventListener("change", (event) => { // questions name the run that is chosen
    const to = new URL(location.href);
    to.search = new URLSearchParams({ run: event.target.value });
    location.assign(to);
  });
  for (const button of document.querySelectorAll("[data-inserts]")) button.addEventListener("click", () => insert(button.dataset.inserts));

  // While an answer is being made: its query stops as soon as the browser no longer waits for it.
  form.addEventListener("submit", () => { one("stop").hidden = false; one("run").disabled = true; });
  one("stop").addEventListener("click", () => { window.stop(); one("stop").hidden = true; one("run").disabled = false; });
  addEventListener("pageshow", () => { one("stop").hidden = true; one("run").disabled = false; });
})();
