'use strict';
// Pictures of a profile: the roofline, the tree of blocks, the arena. Text is always set as text, never as markup.

const SVG = 'http://www.w3.org/2000/svg';
const COLOURS = ['#5b8ff9', '#f6a04d', '#57b894', '#e8684a', '#9270ca', '#6dc8ec', '#d4a72c', '#e884b4', '#7a8ba8', '#8fbf4d'];

function element(kind, attributes = {}, text) {
  const made = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function html(kind, classes, text) {
  const made = document.createElement(kind);
  if (classes) made.className = classes;
  if (text !== undefined) made.textContent = text;
  return made;
}

// Three significant digits with a prefix: 1.23 G.
function si(value, unit) {
  const steps = [[1e15, 'P'], [1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k'], [1, '']];
  const [size, prefix] = steps.find(([s]) => value >= s) || [1, ''];
  const number = value / size;
  return (number >= 100 ? number.toFixed(0) : number >= 10 ? number.toFixed(1) : number.toFixed(2)) + ' ' + prefix + unit;
}

function time(ms) {
  if (ms >= 10000) return (ms / 1000).toFixed(1) + ' s';
  if (ms >= 1000) return (ms / 1000).toFixed(2) + ' s';
  if (ms >= 100) return ms.toFixed(0) + ' ms';
  if (ms >= 1) return ms.toFixed(ms >= 10 ? 1 : 2) + ' ms';
  return (ms * 1000).toFixed(ms >= 0.01 ? 0 : 1) + ' µs';
}

function size(bytes) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let step = 0;
  while (bytes >= 1024 && step < 4) { bytes /= 1024; step++; }
  return (step ? bytes.toFixed(bytes >= 100 ? 0 : 1) : bytes) + ' ' + units[step];
}

function percent(part) {
  return (100 * part).toFixed(part >= 0.0995 ? 0 : 1) + ' %';
}

// Shows lines beside the pointer while it is over a target.
function hover(target, lines) {
  const tip = document.getElementById('tip');
  target.addEventListener('pointermove', (e) => {
    const [first, ...rest] = lines();
    tip.replaceChildren(html('b', '', first), ...rest.map((line) => html('span', '', line)));
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const x = e.clientX + 16 + box.width > innerWidth ? e.clientX - 12 - box.width : e.clientX + 16;
    const y = e.clientY + 16 + box.height > innerHeight ? e.clientY - 12 - box.height : e.clientY + 16;
    tip.style.left = Math.max(4, x) + 'px';
    tip.style.top = Math.max(4, y) + 'px';
  });
  target.addEventListener('pointerleave', () => { tip.hidden = true; });
}

// Powers of ten from one value to another, and what lies between them where there are few.
function ticks(low, high) {
  const out = [];
  const steps = Math.log10(high / low) > 3.5 ? [1] : [1, 3];
  for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++) {
    for (const s of steps) if (s * 10 ** p >= low * 0.999 && s * 10 ** p <= high * 1.001) out.push(s * 10 ** p);
  }
  return out;
}

function roofline(svg, groups, roofs, colour, choose) {
  const [W, H, L, R, T, B] = [620, 400, 62, 14, 14, 38];
  svg.setAttribute('viewBox', `0 0 ${W} ${H}`);
  const dots = groups.filter((g) => g.flop > 0 && g.bytes > 0 && g.ms > 0);
  const intensity = (g) => g.flop / g.bytes;
  const rate = (g) => g.flop / (g.ms / 1000);
  const ridge = roofs.flops / roofs.bytes;
  const xs = [...dots.map(intensity), ridge];
  const ys = [...dots.map(rate), roofs.flops];
  const [x0, x1] = [Math.min(...xs) / 1.8, Math.max(...xs) * 1.8];
  // A few slow dots may lie far below; most of the room is for the others.
  const [y0, y1] = [Math.max(Math.min(...ys) / 1.8, roofs.flops / 1e6), Math.max(...ys) * 1.7];
  const x = (v) => L + (W - L - R) * Math.log(v / x0) / Math.log(x1 / x0);
  const y = (v) => H - B - (H - T - B) * Math.log(Math.max(v, y0) / y0) / Math.log(y1 / y0);
  for (const v of ticks(x0, x1)) {
    svg.append(element('line', { class: 'grid', x1: x(v), x2: x(v), y1: T, y2: H - B }));
    svg.append(element('text', { x: x(v), y: H - B + 15, 'text-anchor': 'middle' }, v >= 1 ? String(v) : v.toPrecision(1)));
  }
  for (const v of ticks(y0, y1)) {
    svg.append(element('line', { class: 'grid', x1: L, x2: W - R, y1: y(v), y2: y(v) }));
    svg.append(element('text', { x: L - 7, y: y(v) + 4, 'text-anchor': 'end' }, si(v, '').replace(/\.0+ /, ' ')));
  }
  svg.append(element('text', { x: (L + W - R) / 2, y: H - 3, 'text-anchor': 'middle' }, 'flop per byte'));
  svg.append(element('text', { x: 11, y: (T + H - B) / 2, 'text-anchor': 'middle', transform: `rotate(-90 11 ${(T + H - B) / 2})` }, 'flop/s'));
  const left = Math.max(x0, y0 / roofs.bytes);
  const line = `M${x(left)} ${y(left * roofs.bytes)} L${x(ridge)} ${y(roofs.flops)} L${W - R} ${y(roofs.flops)}`;
  svg.append(element('path', { class: 'under', d: `${line} V${H - B} H${x(left)} Z` }));
  svg.append(element('path', { class: 'roof', d: line }));
  svg.append(element('text', { x: W - R - 4, y: y(roofs.flops) - 7, 'text-anchor': 'end' }, si(roofs.flops, 'FLOP/s, measured')));
  const along = Math.sqrt(left * ridge);
  const slope = Math.atan2(y(ridge * roofs.bytes) - y(left * roofs.bytes), x(ridge) - x(left)) * 180 / Math.PI;
  svg.append(element('text', { transform: `translate(${x(along) - 6} ${y(along * roofs.bytes) - 7}) rotate(${slope})`, 'text-anchor': 'middle' }, si(roofs.bytes, 'B/s, measured')));
  const most = Math.max(...dots.map((g) => g.ms));
  for (const g of dots.sort((a, b) => b.ms - a.ms)) {
    const dot = element('circle', { class: 'dot', cx: x(intensity(g)), cy: y(rate(g)), r: 3 + 17 * Math.sqrt(g.ms / most), fill: colour(g.op) });
    dot.dataset.key = g.key;
    hover(dot, () => describe(g));
    dot.addEventListener('click', () => choose(g.key));
    svg.append(dot);
  }
}

function describe(g) {
  const lines = [g.key];
  if (g.kernels) lines.push(`${g.nodes} node${g.nodes > 1 ? 's' : ''}, ${[...g.kernels].join(', ')}`);
  lines.push(`${time(g.ms)} · ${percent(g.share)} of the run · ± ${percent(g.spread)}`);
  if (g.warm || g.flushed) lines.push(`warm ${time(g.warm)} · flushed ${time(g.flushed)}`);
  lines.push(`${si(g.flop / (g.ms / 1000), 'FLOP/s')} · ${si(g.bytes / (g.ms / 1000), 'B/s')} · ${percent(g.roof / g.ms)} of the roof`);
  lines.push(`${si(g.flop, 'FLOP')} · ${size(g.bytes)} moved · ${size(g.weights)} of weights`);
  lines.push(`at the roof ${time(g.roof)}: ${time(Math.max(0, g.ms - g.roof))} to win`);
  return lines;
}

// A block's time and its children's, from the paths of the nodes.
function treeOf(nodes) {
  const root = { name: 'network', path: '', ms: 0, roof: 0, flop: 0, children: new Map(), nodes: 0, ops: {} };
  for (const n of nodes) {
    let at = root;
    const steps = ['', ...n.parts];
    steps.forEach((part, depth) => {
      if (depth) {
        if (!at.children.has(part)) {
          const path = at.path ? `${at.path}.${part}` : part;
          at.children.set(part, { name: part, path, ms: 0, roof: 0, flop: 0, children: new Map(), nodes: 0, ops: {} });
        }
        at = at.children.get(part);
      }
      at.ms += n.ms; at.roof += n.roof; at.flop += n.flop; at.nodes++;
      at.ops[n.op] = (at.ops[n.op] || 0) + n.ms;
    });
  }
  return root;
}

function mix(hex, amount) {
  const part = (i) => parseInt(hex.slice(i, i + 2), 16);
  return `rgb(${[1, 3, 5].map((i) => Math.round(part(i) + (255 - part(i)) * amount)).join(' ')})`;
}

function tree(box, root, colour, choose) {
  const rows = [];
  const total = root.ms;
  const place = (block, from, depth) => {
    rows.push({ block, from, depth });
    let at = from;
    for (const child of [...block.children.values()].sort((a, b) => b.ms - a.ms)) {
      place(child, at, depth + 1);
      at += child.ms;
    }
  };
  const draw = (top) => {
    rows.length = 0;
    place(top, 0, 0);
    const deepest = Math.max(...rows.map((r) => r.depth));
    box.replaceChildren();
    box.style.height = (deepest + 1) * 24 + 'px';
    for (const { block, from, depth } of rows) {
      const width = block.ms / top.ms;
      if (width < 0.0012) continue;
      const [op, share] = Object.entries(block.ops).sort((a, b) => b[1] - a[1])[0];
      const cell = html('button', 'cell', width > 0.02 ? block.name : '');
      cell.type = 'button';
      // No border and no room for a name, so that what is thin is as wide as its time.
      if (width <= 0.02) cell.classList.add('thin');
      cell.style.left = 100 * from / top.ms + '%';
      cell.style.width = 100 * width + '%';
      cell.style.top = depth * 24 + 'px';
      // A block of several ops is paler the less its first op takes of it.
      cell.style.background = mix(colour(op), 0.12 + 0.5 * (1 - share / block.ms));
      hover(cell, () => [
        block.path || root.name, `${time(block.ms)} · ${percent(block.ms / total)} of the run · ${block.nodes} nodes`,
        ...Object.entries(block.ops).sort((a, b) => b[1] - a[1]).slice(0, 4).map(([o, ms]) => `${o} ${time(ms)}`),
        `${percent(block.roof / block.ms)} of the roof: ${time(Math.max(0, block.ms - block.roof))} to win`,
      ]);
      cell.addEventListener('click', () => { document.getElementById('tip').hidden = true; choose(block); });
      box.append(cell);
    }
  };
  return draw;
}

function arena(svg, memory, nodes, plan, colour) {
  const slabs = 1 + Math.max(0, ...memory.map((m) => m[4]));
  const [W, H, L, R, T, B] = [1280, 300, 66, 8, 8, 30];
  svg.setAttribute('viewBox', `0 0 ${W} ${H}`);
  const steps = nodes.length;
  const ends = Array.from({ length: slabs }, (_, s) => Math.max(1, ...memory.filter((m) => m[4] === s).map((m) => m[5] + m[6])));
  const bases = ends.map((_, s) => ends.slice(0, s).reduce((a, b) => a + b, 0));
  const all = ends.reduce((a, b) => a + b, 0);
  const x = (step) => L + (W - L - R) * step / (steps + 1);
  const y = (bytes) => H - B - (H - T - B) * bytes / all;
  for (let i = 0; i <= 4; i++) {
    const bytes = all * i / 4;
    svg.append(element('line', { class: 'grid', x1: L, x2: W - R, y1: y(bytes), y2: y(bytes) }));
    svg.append(element('text', { x: L - 7, y: y(bytes) + 4, 'text-anchor': 'end' }, size(bytes)));
  }
  const every = Math.max(1, Math.ceil(steps / 12 / 5) * 5);
  for (let s = 0; s < steps; s += every) svg.append(element('text', { x: x(s), y: H - B + 15, 'text-anchor': 'middle' }, s));
  svg.append(element('text', { x: (L + W - R) / 2, y: H - 2, 'text-anchor': 'middle' }, 'step'));
  const ops = new Map(nodes.map((n) => [n.path, n.op]));
  for (const [name, scratch, first, last, slab, offset, bytes] of memory) {
    if (bytes === 0) continue;
    const top = bases[slab] + offset + bytes;
    const rect = element('rect', {
      class: 'block', x: x(first), y: y(top), width: Math.max(1.2, x(last + 1) - x(first)), height: Math.max(0.8, y(top - bytes) - y(top)),
      fill: ops.has(name) ? colour(ops.get(name)) : '#9aa3b2', 'fill-opacity': scratch ? 0.35 : 0.78,
    });
    hover(rect, () => [name, `${scratch ? 'scratch, ' : ''}${size(bytes)} at ${size(offset)}`, `steps ${first} to ${last}`]);
    svg.append(rect);
  }
  // The bytes that are alive, as a line: what lies above it is lost to gaps.
  const line = nodes.map((n, i) => `${i ? 'L' : 'M'}${x(i)} ${y(n.live)} L${x(i + 1)} ${y(n.live)}`).join(' ');
  svg.append(element('path', { class: 'roof', d: line, 'stroke-opacity': 0.85, 'pointer-events': 'none' }));
}
