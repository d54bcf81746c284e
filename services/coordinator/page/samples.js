// The newest samples: a list that can be filtered, and one of them in full beside it.
import {count, element, fixed, replace} from './format.js';

const FILTERS = ['verdict', 'purpose', 'problem', 'truncated'];

export class Samples {
  constructor(fetchJson) {
    this.fetchJson = fetchJson;
    this.form = document.getElementById('filters');
    this.list = document.getElementById('samples-list');
    this.detail = document.getElementById('sample');
    this.counted = document.getElementById('samples-count');
    this.samples = [];
    this.selected = null;  // id
    this.newest = -1;
    this.readHash();
    this.form.addEventListener('input', () => this.changed());
    this.form.addEventListener('submit', (event) => event.preventDefault());
    this.list.addEventListener('click', (event) => {
      const item = event.target.closest('li[data-id]');
      if (item) this.select(Number(item.dataset.id));
    });
    this.list.addEventListener('keydown', (event) => this.key(event));
    this.show(null);
  }

  // The filters stand in the address, so that they can be sent to somebody.
  readHash() {
    if (!location.hash.startsWith('#samples?')) return;
    const wanted = new URLSearchParams(location.hash.slice('#samples?'.length));
    for (const name of FILTERS) {
      const field = this.form.elements[name];
      if (field.type === 'checkbox') field.checked = wanted.get(name) === '1';
      else field.value = wanted.get(name) ?? '';
    }
    document.getElementById('samples').scrollIntoView();
  }

  query() {
    const query = new URLSearchParams();
    for (const name of FILTERS) {
      const field = this.form.elements[name];
      const value = field.type === 'checkbox' ? (field.checked ? '1' : '') : field.value.trim();
      if (value) query.set(name, value);
    }
    return query;
  }

  changed() {
    const query = String(this.query());
    history.replaceState(null, '', query ? `#samples?${query}` : location.pathname);
    this.newest = -1;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.refresh().catch(() => {}), 150);
  }

  // Asks for what the filters let through. With `follow` off, only when they have changed.
  async refresh() {
    if (this.newest >= 0 && !this.form.elements.follow.checked) return;
    const query = this.query();
    query.set('max', '100');
    const asked = String(query);
    const {samples, newest, kept} = await this.fetchJson(`api/samples?${query}`);
    const now = this.query();
    now.set('max', '100');
    if (asked !== String(now) || newest === this.newest) return;
    this.newest = newest;
    this.samples = samples;
    this.counted.textContent = kept === 0 ? 'none are kept: coordinator.samples_kept is 0'
      : `newest first, ${samples.length} shown, ${count(newest)} seen`;
    this.drawList();
    if (this.selected == null || (this.form.elements.follow.checked && !this.chosen)) this.show(samples[0] ?? null);
  }

  drawList() {
    const items = this.samples.map((s) => element('li',
      {role: 'option', id: `sample-${s.id}`, 'data-id': s.id, 'data-problem': s.problem_id, 'data-verdict': s.verdict, 'aria-selected': String(s.id === this.selected)},
      element('div', {class: 'line'}, element('span', {class: `mark ${s.verdict}`}, s.verdict),
        element('span', {class: 'quiet'}, s.purpose === 'training' ? `step ${s.step + 1}` : `evaluation ${s.step}`),
        element('span', {}, s.extracted === '' ? '' : `→ ${s.extracted.slice(0, 40)}`),
        element('span', {class: 'quiet n'}, `${count(s.tokens)} tok${s.truncated ? ', cut' : ''}`)),
      element('div', {class: 'text'}, s.problem.slice(0, 160))));
    replace(this.list, ...(items.length ? items : [element('li', {class: 'nothing', role: 'presentation'}, this.nothing())]));
  }

  nothing() {
    return String(this.query()) ? 'no sample is like that' : 'no sample has come yet';
  }

  // By a person: the list stands still from now on.
  select(id) {
    this.chosen = true;
    this.form.elements.follow.checked = false;
    this.show(this.samples.find((s) => s.id === id) ?? null);
  }

  show(sample) {
    this.selected = sample?.id ?? null;
    for (const item of this.list.children) item.setAttribute('aria-selected', String(Number(item.dataset.id) === this.selected));
    if (sample) this.list.setAttribute('aria-activedescendant', `sample-${sample.id}`);
    if (!sample) {
      replace(this.detail, element('p', {class: 'nothing'}, 'A sample’s prompt, response and verdict stand here.'));
      return;
    }
    const fact = (name, value) => [element('dt', {}, name), element('dd', {}, value)];
    const versions = sample.version_min === sample.version_max ? `${sample.version_max}` : `${sample.version_min} to ${sample.version_max}`;
    replace(this.detail,
      element('dl', {},
        ...fact('verdict', element('span', {class: `mark ${sample.verdict}`}, sample.verdict)),
        ...fact('reason', sample.reason || '–'),
        ...fact('answer found', sample.extracted || 'none'),
        ...fact('accepted', sample.gold.join('  or  ') || '–'),
        ...fact('reward', `${fixed(sample.reward, 3)}, ${count(sample.tokens)} tokens${sample.truncated ? ', cut by the limit' : ''}`),
        ...fact('where', `problem ${sample.problem_id}, ${sample.purpose === 'training' ? `step ${sample.step + 1}, group ${sample.group}` : `evaluation at step ${sample.step}`}, sample ${sample.sample}, version ${versions}, ${sample.worker}`)),
      element('h3', {}, 'Problem'), element('pre', {id: 'sample-problem'}, sample.problem),
      element('h3', {}, 'Response'), element('pre', {id: 'sample-response'}, sample.response));
  }

  key(event) {
    const at = this.samples.findIndex((s) => s.id === this.selected);
    const to = {ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: this.samples.length - 1, PageDown: at + 8, PageUp: at - 8}[event.key];
    if (to == null || this.samples.length === 0) return;
    event.preventDefault();
    const next = this.samples[Math.max(0, Math.min(this.samples.length - 1, to))];
    this.select(next.id);
    document.getElementById(`sample-${next.id}`)?.scrollIntoView({block: 'nearest'});
  }
}
