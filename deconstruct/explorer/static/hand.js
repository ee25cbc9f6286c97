// Hands on the map: mouse, fingers and keys.
"use strict";
document.addEventListener("map", () => {
  const m = window.map, { canvas, view } = m, fingers = new Map();
  let moving = false, from = null;
  const where = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  const box = (a, b) => [[a[0], a[1]], [b[0], a[1]], [b[0], b[1]], [a[0], b[1]]];

  canvas.addEventListener("pointerdown", (event) => {
    const at = where(event);
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, at);
    m.cross = null; m.corner = null;
    moving = m.tool === "move" || event.shiftKey || event.button === 1 || fingers.size > 1;
    from = at; m.ring = moving ? null : [at];
  });
  canvas.addEventListener("pointermove", (event) => {
    const at = where(event), before = fingers.get(event.pointerId);
    if (!before) { m.tell(m.nearest(...at, 14)); return; }
    if (fingers.size === 2) { // two fingers: what is between them stays between them
      const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
      const far = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
      view.near(far(at, other) / Math.max(1, far(before, other)), other[0], other[1]);
    } else if (moving) view.move(at[0] - before[0], at[1] - before[1]);
    else m.ring = m.tool === "box" ? box(from, at) : [...m.ring, at];
    fingers.set(event.pointerId, at);
    m.again();
  });
  const up = (event) => {
    if (!fingers.delete(event.pointerId) || moving) return;
    const at = where(event), isClick = !m.ring || Math.hypot(at[0] - from[0], at[1] - from[1]) < 4 && m.ring.length < 6;
    if (isClick) { m.ring = null; m.tell(m.nearest(...at, 20)); } else m.select();
  };
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", (event) => { fingers.delete(event.pointerId); m.ring = null; });
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); view.near(Math.exp(-event.deltaY / 300), ...where(event)); m.again(); }, { passive: false });

  const middle = () => [view.width / 2, view.height / 2];
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = m.cross || middle(), step = steps[event.key];
    if (step) {
      const far = event.shiftKey ? 64 : 12;
      m.cross = [Math.min(view.width, Math.max(0, at[0] + step[0] * far)), Math.min(view.height, Math.max(0, at[1] + step[1] * far))];
      if (m.corner) m.ring = box(m.corner, m.cross); else m.tell(m.nearest(...m.cross, 40));
    } else if (event.key === "Enter") {
      if (m.corner) { m.ring = box(m.corner, at); m.select(); } else { m.cross = at; m.corner = at; m.ring = box(at, at); }
    } else if (event.key === "Escape") { m.corner = null; m.ring = null; m.cross = null; }
    else if (event.key === "+" || event.key === "=") view.near(1.4, ...at);
    else if (event.key === "-") view.near(1 / 1.4, ...at);
    else if (event.key === "0") view.all();
    else if (event.key === "o") { const near = m.nearest(...at, 40); if (near >= 0) location.href = `${m.set.run}/${m.ofLatents ? "latent" : "doc"}/${m.data.ids[near]}`; }
    else return;
    event.preventDefault(); event.stopPropagation(); m.again();
  });
  canvas.addEventListener("focus", () => { if (canvas.matches(":focus-visible")) m.cross = m.cross || middle(); });
  canvas.addEventListener("blur", () => { m.cross = null; m.corner = null; m.ring = null; });

  const tools = document.querySelectorAll("[data-tool]");
  for (const button of tools) button.addEventListener("click", () => {
    m.tool = button.dataset.tool;
    canvas.dataset.tool = m.tool;
    for (const other of tools) other.setAttribute("aria-pressed", String(other === button));
  });
  document.getElementById("nearer").addEventListener("click", () => { view.near(1.5, ...middle()); m.again(); });
  document.getElementById("farther").addEventListener("click", () => { view.near(1 / 1.5, ...middle()); m.again(); });
  document.getElementById("whole").addEventListener("click", () => { view.all(); m.again(); });
});
