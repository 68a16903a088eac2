// The page of a profile.

const data = JSON.parse(document.getElementById('data').textContent);
const byId = (id) => document.getElementById(id);
const opsByTime = [...new Set([...data.nodes].sort((a, b) => b.ms - a.ms).map((n) => n.op))];
const colour = (op) => COLOURS[Math.max(0, opsByTime.indexOf(op)) % COLOURS.length];
const block = (parts) => {
  const indexed = parts.map((p, i) => (/\.\d/.test(p) ? i : -1)).filter((i) => i >= 0).slice(0, 2);
  return parts.slice(0, (indexed.length ? indexed[indexed.length - 1] : 0) + 1).join('.');
};
const KEYS = {
  shape: (n) => n.shape, op: (n) => `${n.op}:${n.kernel}`, block: (n) => block(n.parts), path: (n) => n.path,
};

function grouped(key) {
  const groups = new Map();
  for (const n of data.nodes) {
    const k = KEYS[key](n);
    if (!groups.has(k)) {
      groups.set(k, { key: k, op: n.op, nodes: 0, kernels: new Set(), ms: 0, warm: 0, flushed: 0, roof: 0, flop: 0, bytes: 0, weights: 0, variance: 0, launches: 0 });
    }
    const g = groups.get(k);
    g.nodes++;
    g.kernels.add(n.kernel);
    for (const field of ['ms', 'warm', 'flushed', 'roof', 'flop', 'bytes', 'weights', 'launches']) g[field] += n[field];
    g.variance += (n.spread * n.ms) ** 2;
  }
  const all = [...groups.values()];
  for (const g of all) {
    g.share = g.ms / data.busy;
    g.spread = Math.sqrt(g.variance) / g.ms;
    g.won = Math.max(0, g.ms - g.roof);
    g.part = g.roof / g.ms;
    g.flops = g.flop / (g.ms / 1000);
    g.rate = g.bytes / (g.ms / 1000);
    g.names = [...g.kernels].join(', ');
  }
  return all;
}

const COLUMNS = [
  ['key', '', 'text'], ['names', 'kernel', 'text'], ['nodes', 'nodes'], ['ms', 'time'], ['spread', '±'], ['share', 'share'],
  ['warm', 'warm'], ['flushed', 'flushed'], ['flops', 'FLOP/s'], ['rate', 'B/s'], ['part', 'of roof'], ['won', 'to win'],
];
const SHOW = {
  ms: time, warm: (v) => (v ? time(v) : '–'), flushed: (v) => (v ? time(v) : '–'), won: time, share: percent,
  spread: (v) => '± ' + percent(v), flops: (v) => (v ? si(v, '') : '–'), rate: (v) => si(v, ''), part: percent,
};
const view = { by: 'shape', sort: 'won', down: true, filter: '', chosen: null };

function table() {
  const head = html('tr');
  for (const [field, name, kind] of COLUMNS) {
    const th = html('th', kind || '', field === 'key' ? byId('by').selectedOptions[0].textContent : name);
    th.dataset.field = field;
    th.tabIndex = 0;
    if (view.sort === field) th.setAttribute('aria-sort', view.down ? 'descending' : 'ascending');
    const sort = () => {
      if (view.sort === field) view.down = !view.down;
      else { view.sort = field; view.down = kind !== 'text'; }
      table();
    };
    th.addEventListener('click', sort);
    th.addEventListener('keydown', (e) => { if (e.key === 'Enter') sort(); });
    head.append(th);
  }
  byId('table').tHead.replaceChildren(head);
  const wanted = view.filter.toLowerCase();
  const rows = grouped(view.by).filter((g) => `${g.key} ${g.op}:${g.names}`.toLowerCase().includes(wanted));
  const order = (a, b) => (typeof a === 'string' ? a.localeCompare(b) : a - b);
  rows.sort((a, b) => (view.down ? -1 : 1) * order(a[view.sort], b[view.sort]));
  byId('table').tBodies[0].replaceChildren(...rows.map((g) => {
    const tr = html('tr', g.key === view.chosen ? 'on' : '');
    for (const [field, , kind] of COLUMNS) {
      const td = html('td', (kind || '') + (field === 'key' ? ' name' : ''), SHOW[field] ? SHOW[field](g[field]) : String(g[field]));
      if (field === 'part') {
        const meter = html('span', 'meter');
        meter.append(html('i'));
        meter.firstChild.style.width = Math.min(100, 100 * g.part) + '%';
        td.append(meter);
      }
      tr.append(td);
    }
    hover(tr, () => describe(g));
    return tr;
  }));
}

function choose(key) {
  view.by = 'shape';
  byId('by').value = 'shape';
  view.chosen = view.chosen === key ? null : key;
  document.querySelectorAll('.dot').forEach((dot) => dot.classList.toggle('on', dot.dataset.key === view.chosen));
  table();
  document.querySelector('tr.on')?.scrollIntoView({ block: 'nearest' });
}

function cards() {
  const card = (name, value, note) => {
    const box = html('div');
    const dd = html('dd', '', value);
    if (note) dd.append(' ', html('small', '', note));
    box.append(html('dt', '', name), dd);
    byId('cards').append(box);
  };
  const atRoof = data.nodes.reduce((sum, n) => sum + n.roof, 0);
  card('a run', time(data.wall), '± ' + percent(data.wallSpread));
  card('rate', si(data.plan.flop / (data.wall / 1000), 'FLOP/s'), percent(data.plan.flop / (data.wall / 1000) / data.roofs.flops) + ' of matmul');
  card('at the roof', time(atRoof), percent(atRoof / data.busy) + ' of kernels');
  card('kernels', percent(data.accounted), 'of the run');
  card('gaps', time(data.gaps), `${data.plan.launches} launches`);
  card('arena', size(data.plan.arena), '+ ' + percent(data.plan.arena / Math.max(1, data.plan.lowest) - 1) + ' over the least');
  card('weights', size(data.plan.weights));
}

function bars() {
  const groups = grouped('shape').sort((a, b) => b.won - a.won).slice(0, 9);
  const most = Math.max(...groups.map((g) => g.ms));
  for (const g of groups) {
    const bar = html('div', 'bar');
    const track = html('div', 'track');
    const [at, over] = [html('i'), html('i')];
    at.style.cssText = `width:${100 * Math.min(g.roof, g.ms) / most}%;background:var(--calm)`;
    over.style.cssText = `width:${100 * g.won / most}%;background:var(--warn)`;
    track.append(at, over);
    bar.append(html('div', 'name', g.key), html('div', 'num', time(g.won)), html('div', 'num', percent(g.part)), track);
    hover(bar, () => describe(g));
    bar.addEventListener('click', () => choose(g.key));
    byId('won').append(bar);
  }
}

function start() {
  byId('subject').textContent = data.subject;
  byId('where').textContent = `${data.device.name} · ${data.device.model} · ${data.device.driver}`;
  cards();
  roofline(byId('roofline'), grouped('shape'), data.roofs, colour, choose);
  bars();
  const root = treeOf(data.nodes);
  const draw = tree(byId('tree'), root, colour, (chosen) => {
    draw(chosen.children.size || chosen === root ? chosen : root);
    byId('up').hidden = chosen === root;
  });
  draw(root);
  byId('up').addEventListener('click', () => { draw(root); byId('up').hidden = true; });
  for (const op of opsByTime) {
    const item = html('span');
    const key = html('i', 'key');
    key.style.background = colour(op);
    item.append(key, op);
    byId('legend').append(item);
  }
  byId('memory-about').textContent = `Every activation at its place, over the ${data.nodes.length} steps of a run; the line is what is alive. ` +
    `${size(data.plan.arena)}, where ${size(data.plan.lowest)} is the least that any arena needs.`;
  arena(byId('memory'), data.memory, data.nodes, data.plan, colour);
  byId('by').addEventListener('change', (e) => { view.by = e.target.value; table(); });
  byId('filter').addEventListener('input', (e) => { view.filter = e.target.value; table(); });
  table();
  const load = data.load === null ? '' : ` · load ${data.load.toFixed(2)} at the start`;
  byId('foot').textContent = `muybridge ${data.engine} · ${new Date(data.time * 1000).toISOString().slice(0, 16).replace('T', ' ')} UTC · median of ${data.runs} runs${load}` +
    ` · roofs: ${data.roofs.product}; ${data.roofs.copy}`;
  document.body.dataset.ready = 'yes';
}

start();
