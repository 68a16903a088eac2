// Put into the head of a copy of a page: collects what goes wrong, uses the page as a person would, and leaves a verdict in it.
(() => {
  'use strict';
  const faults = [];
  const found = {};
  addEventListener('error', (e) => faults.push(`error: ${e.message || 'a resource was not loaded'}`), true);
  addEventListener('unhandledrejection', (e) => faults.push(`rejected: ${e.reason}`));
  addEventListener('securitypolicyviolation', (e) => faults.push(`blocked: ${e.violatedDirective} ${e.blockedURI}`));
  for (const level of ['error', 'warn']) {
    console[level] = (...words) => faults.push(`console.${level}: ${words.join(' ')}`);
  }

  const all = (selector) => [...document.querySelectorAll(selector)];
  const one = (selector) => {
    const element = document.querySelector(selector);
    if (element === null) throw new Error(`no ${selector}`);
    return element;
  };
  const point = (element, kind, clientX, clientY) =>
    element.dispatchEvent(new PointerEvent(kind, { bubbles: kind === 'pointermove', clientX, clientY }));

  // Moves the pointer over an element: the text of the tooltip, which must lie within the window and go again.
  function hover(element, x, y) {
    const box = element.getBoundingClientRect();
    point(element, 'pointermove', x ?? box.left + box.width / 2, y ?? box.top + box.height / 2);
    const tip = one('#tip');
    const text = tip.hidden ? null : tip.textContent;
    const at = tip.getBoundingClientRect();
    if (text !== null && (at.width === 0 || at.left < 0 || at.right > innerWidth)) faults.push(`tooltip out of sight: ${text}`);
    point(element, 'pointerleave');
    if (!tip.hidden) faults.push('the tooltip stays');
    return text;
  }

  // Clicks a heading twice: the rows after each click, which must be the same rows in opposite orders.
  function sort(table, column) {
    const rows = () => [...table.tBodies[0].rows].map((row) => row.textContent);
    const before = rows();
    const heading = () => table.tHead.rows[0].cells[column];
    heading().click();
    const first = rows();
    const state = heading().getAttribute('aria-sort');
    heading().click();
    const second = rows();
    if (state === null || state === heading().getAttribute('aria-sort')) faults.push('a click does not turn the order');
    const same = (a, b) => a.join('\n') === b.join('\n');
    if (!same([...before].sort(), [...second].sort())) faults.push('sorting loses rows');
    return { rows: before.length, changed: !same(first, second), values: [...table.tBodies[0].rows].map((r) => r.cells[column].textContent) };
  }

  const CHECKS = {
    profile() {
      found.sort = sort(one('#table'), 3);
      found.row = hover(one('#table tbody tr'));
      found.dot = hover(one('#roofline .dot'));
      found.cell = hover(one('#tree .cell'));
      found.block = hover(one('#memory rect.block'));
      found.dots = all('#roofline .dot').length;
      const cells = all('#tree .cell');
      cells[1].click();
      found.zoomed = [cells.length, all('#tree .cell').length, one('#up').hidden];
      one('#up').click();
      found.back = all('#tree .cell').length;
      one('#roofline .dot').dispatchEvent(new MouseEvent('click', { bubbles: true }));
      found.chosen = all('#table tr.on').length;
      const rows = all('#table tbody tr').length;
      one('#filter').value = 'conv2d';
      one('#filter').dispatchEvent(new Event('input'));
      const left = all('#table tbody tr');
      found.filtered = [rows, left.length, left.every((row) => row.textContent.includes('conv2d'))];
      one('#by').value = 'path';
      one('#by').dispatchEvent(new Event('change'));
      found.nodes = all('#table tbody tr').length;
    },
    tables() {
      found.tables = all('table').filter((t) => t.tHead.rows[0].cells[1].tabIndex === 0).map((t) => sort(t, 1));
      found.plots = all('svg[data-x]').map((svg) => {
        const mark = svg.querySelector('circle:not(.at), rect, polyline');
        const box = mark.getBoundingClientRect();
        if (mark.tagName !== 'polyline') return hover(svg, box.left + box.width / 2, box.top + 1);
        const first = new DOMPoint(mark.points[0].x, mark.points[0].y).matrixTransform(svg.getScreenCTM());
        return hover(svg, first.x + 1, first.y);
      });
      found.pictures = all('img').map((i) => i.naturalWidth);
    },
  };

  addEventListener('load', () => {
    try {
      CHECKS[document.getElementById('data') ? 'profile' : 'tables']();
    } catch (e) {
      faults.push(`check: ${e.stack}`);
    }
    found.wide = document.documentElement.scrollWidth - innerWidth;
    found.fetched = performance.getEntriesByType('resource').map((r) => r.name).filter((n) => !n.startsWith('data:'));
    const verdict = document.createElement('pre');
    verdict.id = 'verdict';
    verdict.textContent = JSON.stringify({ faults, found });
    document.body.append(verdict);
  });
})();
