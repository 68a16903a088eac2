'use strict';
// Tables that are sorted by a click on a heading, and values beside the pointer in plots.

const numberOf = (text) => {
  const value = parseFloat(text.replace('−', '-'));
  return Number.isNaN(value) ? null : value;
};

function sort(table, column, heading) {
  const down = heading.getAttribute('aria-sort') !== 'descending';
  for (const other of table.tHead.rows[0].cells) other.removeAttribute('aria-sort');
  heading.setAttribute('aria-sort', down ? 'descending' : 'ascending');
  const numbers = heading.classList.contains('n');
  const cell = (row) => row.cells[column].textContent;
  const order = (a, b) => {
    if (!numbers) return cell(a).localeCompare(cell(b), undefined, { numeric: true }) * (down ? -1 : 1);
    const [x, y] = [numberOf(cell(a)), numberOf(cell(b))];
    // What has no number stands last, whichever way.
    if (x === null || y === null) return (x === null) - (y === null);
    return (x - y) * (down ? -1 : 1);
  };
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
}

for (const table of document.querySelectorAll('table')) {
  if (table.tBodies[0].rows.length < 2) continue;
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    heading.tabIndex = 0;
    heading.addEventListener('click', () => sort(table, column, heading));
    heading.addEventListener('keydown', (e) => { if (e.key === 'Enter') sort(table, column, heading); });
  });
}

// Farther than this from a mark, in units of the plot, the pointer is at none.
const NEAR = 24;
const SVG = 'http://www.w3.org/2000/svg';
const tip = document.getElementById('tip');

const marks = (svg) => [...svg.querySelectorAll('g[data-name]')].flatMap((group) => {
  const name = group.dataset.name;
  const number = (mark, attribute) => Number(mark.getAttribute(attribute));
  const dots = [...group.querySelectorAll('circle')].map((c) => ({ name, x: number(c, 'cx'), y: number(c, 'cy') }));
  const bars = [...group.querySelectorAll('rect')].map((r) => ({ name, x: number(r, 'x') + number(r, 'width') / 2, y: number(r, 'y') }));
  const lines = [...group.querySelectorAll('polyline')].flatMap((l) => [...l.points].map((p) => ({ name, x: p.x, y: p.y })));
  return [...dots, ...bars, ...lines];
});

function short(value) {
  const size = Math.abs(value);
  return size !== 0 && (size >= 1e5 || size < 1e-3) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

for (const svg of document.querySelectorAll('svg[data-x]')) {
  const [x0, x1, left, right] = svg.dataset.x.split(' ').map(Number);
  const [y0, y1, bottom, top] = svg.dataset.y.split(' ').map(Number);
  const at = document.createElementNS(SVG, 'circle');
  at.setAttribute('class', 'at');
  at.setAttribute('r', 5);
  at.style.display = 'none';
  svg.append(at);
  let known = null;
  const hide = () => { tip.hidden = true; at.style.display = 'none'; };
  svg.addEventListener('pointermove', (e) => {
    known ??= marks(svg);
    const place = new DOMPoint(e.clientX, e.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const away = (m) => Math.hypot(m.x - place.x, m.y - place.y);
    const nearest = known.reduce((best, m) => (best === null || away(m) < away(best) ? m : best), null);
    if (nearest === null || away(nearest) > NEAR) return hide();
    at.setAttribute('cx', nearest.x);
    at.setAttribute('cy', nearest.y);
    at.style.display = '';
    const x = x0 + (nearest.x - left) / (right - left) * (x1 - x0);
    const y = y0 + (nearest.y - bottom) / (top - bottom) * (y1 - y0);
    const name = document.createElement('b');
    name.textContent = nearest.name;
    tip.replaceChildren(name, `${svg.dataset.across} ${short(x)} · ${svg.dataset.up} ${short(y)}`);
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(4, e.clientX + 16 + box.width > innerWidth ? e.clientX - 12 - box.width : e.clientX + 16) + 'px';
    tip.style.top = Math.max(4, e.clientY + 16 + box.height > innerHeight ? e.clientY - 12 - box.height : e.clientY + 16) + 'px';
  });
  svg.addEventListener('pointerleave', hide);
}
