// Points on a canvas: where they are, what they look like, which are near. No page's business.
"use strict";
(() => {
  // Okabe and Ito's colours, each with a shape, so that no group is told by its hue alone.
  const LIGHT = ["#0072b2", "#d55e00", "#009e73", "#b0588f", "#8a6d00", "#3b9fd8", "#8c3b00", "#5a6069"];
  const DARK = ["#56b4e9", "#ff8a3d", "#2fc79a", "#e39ac6", "#f0d442", "#9fd3f5", "#e69f00", "#a4abb6"];
  const SHAPES = ["circle", "square", "up", "diamond", "down", "cross", "plus", "ring"];
  const isDark = () => matchMedia("(prefers-color-scheme: dark)").matches;
  const colour = (group) => (isDark() ? DARK : LIGHT)[group % LIGHT.length];
  const shape = (group) => SHAPES[(group + Math.floor(group / 8)) % SHAPES.length];

  const draw = (pen, x, y, r, kind) => {
    const s = r * 0.9;
    pen.beginPath();
    if (kind === "square") pen.rect(x - s, y - s, 2 * s, 2 * s);
    else if (kind === "up") { pen.moveTo(x, y - r * 1.2); pen.lineTo(x + r * 1.1, y + s); pen.lineTo(x - r * 1.1, y + s); }
    else if (kind === "down") { pen.moveTo(x, y + r * 1.2); pen.lineTo(x + r * 1.1, y - s); pen.lineTo(x - r * 1.1, y - s); }
    else if (kind === "diamond") { pen.moveTo(x, y - r * 1.3); pen.lineTo(x + r * 1.3, y); pen.lineTo(x, y + r * 1.3); pen.lineTo(x - r * 1.3, y); }
    else if (kind === "cross" || kind === "plus") {
      const a = r * 1.2, turn = kind === "cross" ? Math.PI / 4 : 0;
      for (const angle of [turn, turn + Math.PI / 2]) {
        const dx = Math.cos(angle) * a, dy = Math.sin(angle) * a;
        pen.moveTo(x - dx, y - dy); pen.lineTo(x + dx, y + dy);
      }
      pen.lineWidth = r * 0.8; pen.strokeStyle = pen.fillStyle; pen.stroke(); return;
    } else pen.arc(x, y, r, 0, 2 * Math.PI);
    if (kind === "ring") { pen.lineWidth = r * 0.6; pen.strokeStyle = pen.fillStyle; pen.stroke(); } else pen.fill();
  };

  // The one hue for strength: amber, from the paper's grey to full.
  const amber = (share) => {
    const from = isDark() ? [58, 63, 72] : [214, 218, 224], to = isDark() ? [255, 191, 60] : [178, 95, 0];
    return `rgb(${from.map((one, at) => Math.round(one + (to[at] - one) * share)).join()})`;
  };

  // A view of the grid of 0 to 10,000 on a canvas of some pixels; y grows upwards on the grid.
  class View {
    constructor() { this.zoom = 1; this.x = this.y = 5000; this.wide = this.high = 10000; }
    span(xs, ys) { // what is to fit: the points lie around the middle of the grid
      const reach = (of) => Math.max(1000, 2 * of.reduce((most, one) => Math.max(most, Math.abs(one - 5000)), 0));
      this.wide = reach(xs); this.high = reach(ys);
    }
    size(width, height) { this.width = width; this.height = height; this.unit = 0.92 * Math.min(width / this.wide, height / this.high); }
    scale() { return this.unit * this.zoom; }
    at(x, y) { return [(x - this.x) * this.scale() + this.width / 2, (this.y - y) * this.scale() + this.height / 2]; }
    grid(px, py) { return [(px - this.width / 2) / this.scale() + this.x, this.y - (py - this.height / 2) / this.scale()]; }
    move(dx, dy) { this.x -= dx / this.scale(); this.y += dy / this.scale(); }
    near(factor, px, py) {
      const [x, y] = this.grid(px, py);
      this.zoom = Math.min(200, Math.max(0.5, this.zoom * factor));
      const [nx, ny] = this.at(x, y);
      this.move(px - nx, py - ny);
    }
    all() { this.zoom = 1; this.x = this.y = 5000; }
  }

  const within = (px, py, ring) => {
    let inside = false;
    for (let i = 0, j = ring.length - 1; i < ring.length; j = i++) {
      const [xi, yi] = ring[i], [xj, yj] = ring[j];
      if (yi > py !== yj > py && px < ((xj - xi) * (py - yi)) / (yj - yi) + xi) inside = !inside;
    }
    return inside;
  };

  // A set of numbers as the server reads it: bit n % 8 of byte n >> 3, in base64.
  const packed = (numbers) => {
    const bytes = new Uint8Array(Math.floor(Math.max(-1, ...[numbers.reduce((a, b) => Math.max(a, b), -1)]) / 8) + 1);
    for (const n of numbers) bytes[n >> 3] |= 1 << (n & 7);
    let text = "";
    for (const byte of bytes) text += String.fromCharCode(byte);
    return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
  };
  const unpacked = (text) => {
    const found = new Set(), held = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    for (let at = 0; at < held.length; at++) for (let bit = 0; bit < 8; bit++) if (held.charCodeAt(at) >> bit & 1) found.add(at * 8 + bit);
    return found;
  };
  window.points = { colour, shape, draw, amber, isDark, View, within, packed, unpacked };
})();
