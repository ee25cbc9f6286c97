// The map: drawn, moved, read point by point, and asked what marks a selection.
"use strict";
(async () => {
  const P = window.points, one = (id) => document.getElementById(id);
  const set = JSON.parse(one("settings").textContent), ofLatents = set.of === "latents";
  const canvas = one("canvas"), pen = canvas.getContext("2d"), view = new P.View();
  const data = await (await fetch(`${set.base}/points?of=${set.of}`)).json(), n = data.ids.length;
  const chosen = set.selected ? P.unpacked(set.selected) : new Set();
  const hidden = new Set();
  let way = set.ways[0] || "all", strength = null, tool = "lasso", ring = null, cross = null, corner = null, told = -1, due = false;
  one("wait").remove();
  view.span(data.x, data.y);

  const part = async (path, into) => { // a part of a page that the server made: text in it is text
    const answer = await fetch(path), page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const found = page.querySelector("main") || page.body;
    into.replaceChildren(...found.childNodes);
  };
  const group = (at) => (strength ? 0 : data.ways[way].of[at]);
  const isShown = (at) => !!strength || !hidden.has(data.ways[way].of[at]);
  const again = () => { if (!due) { due = true; requestAnimationFrame(() => { due = false; paint(); }); } };

  const paint = () => {
    const ratio = devicePixelRatio || 1, box = canvas.getBoundingClientRect();
    if (canvas.width !== Math.round(box.width * ratio) || canvas.height !== Math.round(box.height * ratio)) {
      canvas.width = Math.round(box.width * ratio); canvas.height = Math.round(box.height * ratio);
    }
    view.size(box.width, box.height);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, box.width, box.height);
    const base = n > 20000 ? 1.2 : n > 5000 ? 2 : 3, r = Math.min(7, base * Math.sqrt(view.zoom) ** 0.7);
    const order = strength ? strength.order : null;
    for (let k = 0; k < n; k++) {
      const at = order ? order[k] : k;
      if (!isShown(at)) continue;
      const [x, y] = view.at(data.x[at], data.y[at]);
      if (x < -9 || y < -9 || x > box.width + 9 || y > box.height + 9) continue;
      const dim = chosen.size && !chosen.has(data.ids[at]);
      pen.globalAlpha = dim ? 0.16 : strength ? 0.95 : 0.78;
      pen.fillStyle = strength ? P.amber(strength.share[at]) : P.colour(group(at));
      if (n > 20000) pen.fillRect(x - r, y - r, 2 * r, 2 * r);
      else P.draw(pen, x, y, strength && strength.share[at] > 0 ? r * (1 + strength.share[at]) : r, strength ? "circle" : P.shape(group(at)));
    }
    pen.globalAlpha = 1;
    if (!strength) names();
    const ink = getComputedStyle(canvas).color;
    pen.strokeStyle = ink; pen.fillStyle = ink; pen.lineWidth = 1.5;
    if (told >= 0) { const [x, y] = view.at(data.x[told], data.y[told]); pen.beginPath(); pen.arc(x, y, r + 4, 0, 7); pen.stroke(); }
    if (ring) { pen.setLineDash([5, 4]); pen.beginPath(); ring.forEach(([x, y], k) => (k ? pen.lineTo(x, y) : pen.moveTo(x, y))); pen.closePath(); pen.stroke(); pen.setLineDash([]); }
    if (cross) { pen.beginPath(); pen.moveTo(cross[0] - 10, cross[1]); pen.lineTo(cross[0] + 10, cross[1]); pen.moveTo(cross[0], cross[1] - 10); pen.lineTo(cross[0], cross[1] + 10); pen.stroke(); }
  };
  const names = () => { // groups are named where their middle is
    const { names, of } = data.ways[way];
    if (ofLatents || names.length > 12 || names.length < 2 || way === "split" || way === "probe") return;
    pen.font = "600 13px system-ui, sans-serif"; pen.textAlign = "center"; pen.lineJoin = "round";
    names.forEach((name, g) => {
      const mine = [...of.keys()].filter((at) => of[at] === g);
      if (hidden.has(g) || !mine.length) return;
      const middle = (of) => mine.map((at) => of[at]).sort((a, b) => a - b)[mine.length >> 1];
      const [x, y] = view.at(middle(data.x), middle(data.y));
      pen.strokeStyle = P.isDark() ? "#14161acc" : "#ffffffd9"; pen.lineWidth = 5; pen.strokeText(name.slice(0, 40), x, y);
      pen.fillStyle = P.isDark() ? "#fff" : "#17191c"; pen.fillText(name.slice(0, 40), x, y);
    });
  };
  const nearest = (px, py, most) => {
    let best = -1, least = most * most;
    for (let at = 0; at < n; at++) {
      if (!isShown(at)) continue;
      const [x, y] = view.at(data.x[at], data.y[at]), d = (x - px) ** 2 + (y - py) ** 2;
      if (d < least) { least = d; best = at; }
    }
    return best;
  };
  let waiting = 0;
  const tell = (at) => { // what stands there, a little later, so that the pointer may pass over others
    if (at < 0 || at === told) return;
    told = at; again(); clearTimeout(waiting);
    waiting = setTimeout(() => part(`${set.base}/point?id=${data.ids[at]}${ofLatents ? "&of=latents" : ""}`, one("told")), 60);
  };
  const select = async () => {
    const rings = ring; ring = corner = null;
    if (!rings || rings.length < 3) return again();
    chosen.clear();
    for (let at = 0; at < n; at++) if (isShown(at) && P.within(...view.at(data.x[at], data.y[at]), rings)) chosen.add(data.ids[at]);
    again();
    await ask();
  };
  const ask = async () => {
    one("clear").hidden = !chosen.size;
    const url = new URL(location.href), room = one("marks");
    for (const name of ["selected", "cluster", "label", "massive"]) url.searchParams.delete(name);
    if (chosen.size) url.searchParams.set("selected", P.packed([...chosen]));
    history.replaceState(null, "", url);
    if (!chosen.size) return room.replaceChildren();
    room.setAttribute("aria-busy", "true");
    await part(`${set.base}/marks?selected=${P.packed([...chosen])}${ofLatents ? "&of=latents" : ""}`, room);
    room.removeAttribute("aria-busy");
  };

  const legend = () => {
    const room = one("legend");
    room.replaceChildren();
    if (strength) { room.append(`silent to ${strength.most.toPrecision(3)}: mean activation of latent ${strength.latent} in each document`); return; }
    const { names, of } = data.ways[way], counts = new Array(names.length).fill(0);
    for (const g of of) counts[g]++;
    names.forEach((name, g) => {
      const label = document.createElement("label"), box = document.createElement("input"), swatch = document.createElement("canvas");
      box.type = "checkbox"; box.checked = !hidden.has(g);
      box.addEventListener("change", () => { if (box.checked) hidden.delete(g); else hidden.add(g); again(); });
      swatch.width = swatch.height = 28; swatch.className = "swatch"; swatch.setAttribute("aria-hidden", "true");
      const ink = swatch.getContext("2d"); ink.fillStyle = P.colour(g); P.draw(ink, 14, 14, 8, P.shape(g));
      const words = document.createElement("span"); words.textContent = `${name} `;
      const count = document.createElement("span"); count.className = "quiet"; count.textContent = counts[g].toLocaleString("en");
      label.append(box, swatch, words, count); room.append(label);
    });
  };
  const choose = async () => {
    const wanted = one("way").value || "all";
    if (one("which")) one("which").hidden = wanted !== "latent";
    if (wanted !== "latent") { way = wanted; strength = null; hidden.clear(); }
    else if (one("latent").value !== "") {
      const answer = await fetch(`${set.base}/strengths?latent=${Number(one("latent").value)}`);
      if (!answer.ok) { await part(answer.url, one("told")); return; }
      const found = await answer.json(), by = new Map(found.ids.map((id, k) => [id, found.mean[k]]));
      const means = data.ids.map((id) => by.get(id) || 0), most = means.reduce((a, b) => Math.max(a, b), 0);
      strength = { latent: one("latent").value, most, share: means.map((v) => (most ? Math.sqrt(v / most) : 0)), order: [...means.keys()].sort((a, b) => means[a] - means[b]) };
    }
    legend(); again();
  };
  window.map = { canvas, view, again, nearest, tell, select, chosen, ask, data, set, ofLatents,
    get tool() { return tool; }, set tool(to) { tool = to; },
    get ring() { return ring; }, set ring(to) { ring = to; again(); },
    get cross() { return cross; }, set cross(to) { cross = to; again(); },
    get corner() { return corner; }, set corner(to) { corner = to; } };
  one("way").addEventListener("change", choose);
  if (one("latent")) one("latent").addEventListener("change", choose);
  one("clear").addEventListener("click", () => { chosen.clear(); again(); ask(); });
  one("clear").hidden = !chosen.size;
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { legend(); again(); });
  new ResizeObserver(again).observe(canvas);
  await choose();
  document.dispatchEvent(new Event("map"));
  one("map").dataset.ready = "yes";
})();
