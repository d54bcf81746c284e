// The curves: one canvas each (Chart.js), with the stages' boundaries as dashed lines.
import {count, element, fixed, percent, time, tiny} from './format.js';

const COLORS = ['--blue', '--red', '--green', '--violet', '--amber', '--quiet'];
const step = (value) => (s) => s[value];

// Each chart: its lines, of steps (value), of evaluations (evaluation) or of stages (stage).
const CHARTS = [
  {id: 'pass', title: 'pass@1 and reward', max: 1, text: (v) => fixed(v, 3), lines: [
    {name: 'pass@1, held out', color: 0, evaluation: (e) => e.pass_at_1, dots: true},
    {name: 'reward', color: 2, value: step('reward')}]},
  {id: 'truncation', title: 'Truncated', min: 0, text: percent, lines: [
    {name: 'share of samples cut by the limit', color: 1, value: step('truncation')}]},
  {id: 'length', title: 'Length', min: 0, text: count, lines: [
    {name: 'tokens of a response', color: 3, value: step('length')},
    {name: 'context limit', color: 5, stage: true}]},
  {id: 'kl', title: 'KL and entropy', min: 0, text: tiny, lines: [
    {name: 'KL to the base', color: 0, value: step('kl')},
    {name: 'entropy', color: 4, value: step('entropy')}]},
  {id: 'mismatch', title: 'Mismatch', log: true, text: tiny, lines: [
    {name: 'largest |log p learner − rollout|', color: 4, value: step('mismatch_max')},
    {name: 'mean', color: 5, value: step('mismatch_mean')}]},
  {id: 'throughput', title: 'Throughput', min: 0, text: count, lines: [
    {name: 'tokens/s of a step', color: 2, rate: true}]},
];

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Where a stage begins, and its limit.
const stageLines = {
  id: 'stageLines',
  afterDatasetsDraw(chart) {
    const {ctx, chartArea: area, scales} = chart;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = color('--quiet');
    ctx.font = '11px system-ui, "DejaVu Sans", sans-serif';
    ctx.setLineDash([3, 3]);
    for (const mark of chart.$marks || []) {
      const x = scales.x.getPixelForValue(mark.x);
      if (!(x > area.left && x < area.right)) continue;
      ctx.beginPath();
      ctx.moveTo(x, area.top);
      ctx.lineTo(x, area.bottom);
      ctx.stroke();
      ctx.save();
      ctx.fillStyle = color('--panel');
      ctx.fillRect(x + 2, area.top - 1, ctx.measureText(mark.text).width + 4, 13);
      ctx.restore();
      ctx.fillText(mark.text, x + 4, area.top + 9);
    }
    ctx.restore();
  },
};

function options(spec) {
  const grid = {color: color('--line'), drawTicks: false}, ticks = {color: color('--quiet'), font: {size: 11}};
  return {
    animation: false, parsing: false, normalized: true, maintainAspectRatio: false,
    interaction: {mode: 'index', intersect: false, axis: 'x'},
    elements: {point: {radius: 0, hoverRadius: 3, hitRadius: 6}, line: {borderWidth: 1.8}},
    scales: {
      x: {type: 'linear', min: 0, grid: {display: false}, border: {color: color('--line')},
        ticks: {...ticks, maxTicksLimit: 7, maxRotation: 0, padding: 4, callback(v) { return this.chart.$axis === 'time' ? time(v) : tick(spec, v, count); }}},
      y: {type: spec.log ? 'logarithmic' : 'linear', min: spec.log ? undefined : spec.min ?? 0, max: spec.max, grid,
        afterFit(scale) { scale.width = 52; },
        ticks: {...ticks, maxTicksLimit: spec.log ? 4 : 6, padding: 6, callback: (v) => spec.log ? tiny(v) : tick(spec, v)}},
    },
    plugins: {
      legend: {display: false},
      decimation: {enabled: true, algorithm: 'lttb', samples: 500, threshold: 1500},
      tooltip: {animation: false, displayColors: true, callbacks: {
        title: (items) => items.length ? items[0].dataset.$title(items[0].raw) : '',
        label: (item) => ` ${item.dataset.label}: ${spec.text(item.raw.y)}`}},
    },
  };
}

const tick = (spec, v, text = spec.text) => text === percent ? Math.round(100 * v) + '%'
  : Math.abs(v) >= 1e6 ? Number((v / 1e6).toPrecision(3)) + 'M' : Math.abs(v) >= 1000 ? Number((v / 1000).toPrecision(3)) + 'k' : String(Number(v.toPrecision(3)));

export class Charts {
  constructor(parent) {
    this.axis = 'steps';
    this.charts = CHARTS.map((spec) => {
      const canvas = element('canvas', {role: 'img', 'aria-label': spec.title});
      const empty = element('p', {class: 'empty'}, 'no step is trained yet');
      const caption = element('figcaption', {}, element('b', {}, spec.title),
        ...spec.lines.map((line) => element('span', {class: `key c${line.color}`}, line.name)));
      const figure = element('figure', {class: 'chart', id: `chart-${spec.id}`, 'data-points': '0'},
        caption, element('div', {class: 'plot'}, canvas, empty));
      parent.append(figure);
      return {spec, canvas, empty, figure, chart: null};
    });
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.recolor());
  }

  // history: {steps, evaluations, stages}, in order; trained: steps so far.
  draw(history, trained) {
    for (const entry of this.charts) this.drawOne(entry, history, trained);
  }

  recolor() {
    for (const entry of this.charts) {
      entry.chart?.destroy();
      entry.chart = null;
    }
    if (this.last) this.draw(...this.last);
  }

  x(record) {
    if (!record) return 0;
    if (this.axis === 'tokens') return record.train_generated_tokens;
    if (this.axis === 'time') return record.train_elapsed_seconds;
    return record.step;
  }

  points(line, {steps, evaluations, stages}, trained) {
    // After step k the run has trained k + 1 steps; an evaluation of k was taken before step k.
    const after = (s) => this.axis === 'steps' ? s.step + 1 : this.x(s);
    const before = (k) => k === 0 ? 0 : this.axis === 'steps' ? k : this.x(steps[k - 1]);
    // Of several sets the first is the run's curve.
    if (line.evaluation) return evaluations.filter((e) => e.set === evaluations[0].set).map((e) => ({x: this.x(e), y: line.evaluation(e), of: e}));
    if (line.stage) {
      const drawn = stages.filter((s) => s.first_step <= trained);
      return drawn.flatMap((s, i) => [
        {x: before(s.first_step), y: s.context_tokens, of: s},
        {x: before(i + 1 < drawn.length ? drawn[i + 1].first_step : trained), y: s.context_tokens, of: s}]);
    }
    const of = steps.filter((s) => s.reported !== false);
    if (line.rate) {
      return of.map((s, i) => {
        const seconds = s.train_elapsed_seconds - (i ? of[i - 1].train_elapsed_seconds : 0);
        return {x: after(s), y: seconds > 0 ? s.generated_tokens / seconds : null, of: s};
      });
    }
    return of.map((s) => ({x: after(s), y: line.value(s), of: s}));
  }

  drawOne(entry, history, trained) {
    this.last = [history, trained];
    const {spec, canvas} = entry;
    const floor = spec.log ? 1e-9 : -Infinity;
    const datasets = spec.lines.map((line) => ({
      label: line.name, borderColor: color(COLORS[line.color]), backgroundColor: color(COLORS[line.color]),
      data: this.points(line, history, trained).filter((p) => p.y != null).map((p) => ({...p, y: Math.max(p.y, floor)})),
      pointRadius: line.dots ? 2.5 : undefined, borderDash: line.stage ? [4, 3] : undefined, borderWidth: line.stage ? 1.2 : 1.8,
      $title: (p) => p.of.step == null ? `from step ${p.of.first_step}` : line.evaluation ? `after step ${p.of.step}` : `step ${p.of.step + 1}`,
    }));
    if (!entry.chart) entry.chart = new window.Chart(canvas, {type: 'line', data: {datasets: []}, options: options(spec), plugins: [stageLines]});
    const known = entry.chart.data.datasets;
    datasets.forEach((made, i) => known[i] ? Object.assign(known[i], made) : known.push(made));
    entry.chart.$axis = this.axis;
    const {steps, stages} = history;
    entry.chart.$marks = stages.filter((s) => s.first_step > 0 && s.first_step <= trained).map((s) => ({
      x: this.axis === 'steps' ? s.first_step : this.x(steps[s.first_step - 1]), text: count(s.context_tokens)}));
    const ends = datasets.flatMap((d) => d.data.slice(-1).map((p) => p.x));
    entry.chart.options.scales.x.max = ends.length ? Math.max(...ends) || undefined : undefined;
    const total = datasets.reduce((n, d, i) => n + (spec.lines[i].stage ? 0 : d.data.length), 0);
    entry.figure.dataset.points = String(total);
    entry.figure.dataset.marks = String(entry.chart.$marks.length);
    entry.empty.hidden = total > 0;
    canvas.style.visibility = total > 0 ? 'visible' : 'hidden';
    entry.chart.update('none');
  }
}
