// The page of a run: asks the coordinator every second (every ten while nobody looks) and shows what it says.
import {Charts} from './charts.js';
import {count, element, fixed, hours, money, percent, replace, time, tiny} from './format.js';
import {Samples} from './samples.js';

const EVERY_MS = 1000, HIDDEN_MS = 10000, TIMEOUT_MS = 8000;
const get = (id) => document.getElementById(id);
// What the published recipe took (DeepScaleR-1.5B-Preview).
const PUBLISHED = {name: 'DeepScaleR', gpu_hours: 3800, money: 4500};

async function fetchJson(path) {
  const response = await fetch(path, {signal: AbortSignal.timeout(TIMEOUT_MS)});
  if (!response.ok) throw new Error(`${path}: HTTP ${response.status}`);
  return response.json();
}

const known = {steps: [], evaluations: [], stages: []};
const charts = new Charts(get('charts'));
const samples = new Samples(fetchJson);
let runId = '', lastAnswer = Date.now();

// Brings the curves up to the status: steps that are missing are fetched, those that a roll-back took are dropped.
async function updateHistory(status) {
  if (status.run_id !== runId) {
    runId = status.run_id;
    known.steps = [];
    known.evaluations = [];
  }
  const cut = known.steps.length > status.step;
  known.steps.length = Math.min(known.steps.length, status.step);
  known.evaluations = known.evaluations.filter((e) => e.step <= status.step);
  const evaluated = status.evaluation != null && !known.evaluations.some((e) => e.step === status.evaluation.step);
  const stages = JSON.stringify(status.stages) !== JSON.stringify(known.stages);
  if (known.steps.length === status.step && !evaluated && !stages && !cut) return false;
  known.stages = status.stages;
  // A report may fill in later, and an evaluation may end after its step was fetched: look back a little.
  let from = known.evaluations.length ? Math.max(0, known.steps.length - 3) : 0;
  for (let more = true; more;) {
    const part = await fetchJson(`api/steps?from=${from}`);
    for (const s of part.steps) known.steps[s.step] = s;
    for (const e of part.evaluations) {
      known.evaluations = known.evaluations.filter((other) => other.step !== e.step || other.set !== e.set);
      known.evaluations.push(e);
    }
    from = part.next;
    more = !part.done && from < status.step;
  }
  known.evaluations.sort((a, b) => a.step - b.step);
  return true;
}

function figure(value, name, more = '') {
  return element('div', {class: 'figure'}, element('b', {}, value), element('span', {}, name), element('span', {}, more));
}

function drawFigures(status) {
  const {last, evaluation: e, cost} = status;
  const limit = status.stages.find((s) => s.index === status.stage)?.context_tokens;
  const speed = stepSpeed() ?? status.tokens_per_second;
  replace(get('figures'),
    figure(`${count(status.step)} / ${count(status.steps_total)}`, 'steps', `${time(status.elapsed_seconds)} so far, ${time(status.eta_seconds)} to go`),
    figure(limit ? count(limit) : '–', 'tokens of context', `stage ${status.stage + 1}${status.held ? ', held by an operator' : ''}`),
    figure(e ? fixed(e.pass_at_1, 3) : '–', 'pass@1, held out', e ? `${fixed(e.ci95[0], 3)} to ${fixed(e.ci95[1], 3)}, step ${e.step}` : 'not measured yet'),
    figure(fixed(last?.reward, 3), 'reward', last ? `pass rate ${fixed(last.pass_rate, 3)}` : ''),
    figure(percent(last?.truncation), 'truncated', last ? `mean length ${fixed(last.length, last.length < 1000 ? 1 : 0)}` : ''),
    figure(count(speed), 'tokens/s', `${count(status.generated_tokens)} generated`),
    figure(tiny(last?.mismatch_max), 'largest mismatch, nats', last ? `mean ${tiny(last.mismatch_mean)}` : ''),
    cost ? costFigure(cost) : figure(tiny(last?.kl), 'KL to the base'));
}

function costFigure(cost) {
  const used = cost.gpu_hours > 0 ? `${hours(cost.gpu_hours)} GPU-h` : `${hours(cost.core_hours)} core-h`;
  return cost.money > 0 ? figure(money(cost.money, cost.currency), 'spent', `${used}, ${money(cost.money_per_hour, cost.currency)}/h`)
    : figure(used.split(' ')[0], used.endsWith('GPU-h') ? 'GPU-hours' : 'core-hours', 'no prices are given');
}

// Over the last steps: the workers' own figure is of the last moment, and stands still while the learner trains.
function stepSpeed() {
  const steps = known.steps, last = steps.at(-1), first = steps.at(-6) ?? steps[0];
  if (!last || last === first) return null;
  const seconds = last.train_elapsed_seconds - first.train_elapsed_seconds;
  return seconds > 0 ? (last.train_generated_tokens - first.train_generated_tokens) / seconds : null;
}

function drawWorkers(workers) {
  get('workers-count').textContent = workers.length ? count(workers.length) : '';
  replace(get('workers-rows'), ...(workers.length ? workers.map((w) => element('tr', {},
    element('td', {class: 'tight'}, w.id, element('small', {}, w.address)),
    element('td', {}, element('span', {class: `mark ${w.state}`}, w.state), element('small', {}, w.reason)),
    element('td', {class: 'n'}, count(w.tokens_per_second)),
    element('td', {class: 'n'}, w.version < 0 ? '–' : String(w.version)),
    element('td', {class: 'n'}, String(w.leases)),
    element('td', {class: 'n'}, `${fixed(w.heartbeat_age_seconds, 1)} s ago`)))
    : [row(6, 'no worker has joined yet')]));
}

const row = (columns, text) => element('tr', {}, element('td', {colspan: columns, class: 'nothing'}, text));

function drawStages(status) {
  get('stages-held').textContent = status.held ? 'held by an operator: no rule ends this one' : '';
  replace(get('stages-rows'), ...status.stages.map((s) => element('tr', {},
    element('td', {}, String(s.index + 1)),
    element('td', {class: 'n'}, count(s.context_tokens)),
    element('td', {class: 'tight'}, `${s.first_step + 1} to ${s.last_step < 0 ? '…' : s.last_step + 1}`),
    element('td', {}, s.last_step < 0 ? 'under way' : s.reason))));
}

// A figure with its 95% interval below.
const range = (middle, low, high, show) => element('td', {class: 'n'}, show(middle), element('small', {}, `${show(low)} to ${show(high)}`));

function projectionRow(name, p, cost) {
  if (!p) return element('tr', {}, element('td', {}, name), element('td', {colspan: 4, class: 'n quiet'}, 'not known yet'));
  return element('tr', {}, element('td', {}, name, element('small', {}, `to step ${count(p.last_step + 1)}`)),
    range(p.seconds, p.seconds_low, p.seconds_high, time),
    p.gpu_hours > 0 ? range(p.gpu_hours, p.gpu_hours_low, p.gpu_hours_high, hours) : element('td', {class: 'n'}, '–'),
    element('td', {class: 'n'}, hours(p.core_hours)),
    p.money > 0 ? range(p.money, p.money_low, p.money_high, (m) => money(m, cost.currency)) : element('td', {class: 'n'}, '–'));
}

function drawCost(cost) {
  get('cost').hidden = cost == null;
  if (cost == null) return;
  const priced = (m) => m > 0 ? money(m, cost.currency) : '–';
  const line = (name, holds, r, kind) => element('tr', {class: kind}, element('td', {}, name), element('td', {}, holds),
    element('td', {class: 'n'}, hours(r.gpu_hours)), element('td', {class: 'n'}, hours(r.core_hours)), element('td', {class: 'n'}, priced(r.money)));
  replace(get('cost-rows'),
    ...cost.services.map((s) => line(s.service, s.processes === 0 ? 'nothing'
      : `${s.processes} × ` + (s.gpus > 0 ? `${s.gpus / s.processes} ${s.gpu_type}` : `${s.cores / s.processes} cores`), s)),
    line('in all', cost.money_per_hour > 0 ? `${money(cost.money_per_hour, cost.currency)} an hour` : '', cost, 'sum'),
    line('last step', '', {gpu_hours: cost.last_step.gpu_hours, core_hours: cost.last_step.core_hours, money: cost.last_step.money}));
  replace(get('cost-projection'),
    projectionRow('stage, at the latest', cost.stage_end, cost), projectionRow('run', cost.run_end, cost),
    element('tr', {class: 'aside'}, element('td', {}, PUBLISHED.name, element('small', {}, 'as published')), element('td', {class: 'n'}, '–'),
      element('td', {class: 'n'}, `${hours(PUBLISHED.gpu_hours)} A100`), element('td', {class: 'n'}, '–'),
      element('td', {class: 'n'}, money(PUBLISHED.money, '$'))));
}

function drawHead(status) {
  document.title = `${status.run_id || 'Crescendo'}: step ${status.step}`;
  get('run').textContent = status.run_id;
  get('state').textContent = status.state;
  get('state').dataset.state = status.state;
  const bar = get('progress');
  bar.setAttribute('aria-valuemax', status.steps_total);
  bar.setAttribute('aria-valuenow', status.step);
  bar.firstElementChild.style.width = `${status.steps_total > 0 ? 100 * status.step / status.steps_total : 0}%`;
  const waits = get('waits');
  const text = status.awaiting !== '' ? `Waits: ${status.awaiting}`
    : status.state === 'finished' ? 'The run is finished.' : 'Nothing is late.';
  if (waits.textContent !== text) waits.textContent = text;
  waits.className = `waits ${status.awaiting === '' ? '' : 'late'}`;
}

function drawLost(error) {
  const silence = (Date.now() - lastAnswer) / 1000;
  if (silence < 3) return;
  get('state').textContent = 'no answer';
  get('state').dataset.state = 'lost';
  get('waits').className = 'waits lost';
  get('waits').textContent = `The coordinator has not answered for ${time(silence)} (${error.message}). Below is the last that it said.`;
}

async function update() {
  try {
    const status = await fetchJson('api/status');
    lastAnswer = Date.now();
    const changed = await updateHistory(status);
    drawHead(status);
    drawFigures(status);
    if (changed || !charts.last) charts.draw(known, status.step);
    drawWorkers(status.workers);
    drawStages(status);
    drawCost(status.cost);
    await samples.refresh();
    get('updated').textContent = `· updated ${new Date().toLocaleTimeString()}`;
    document.documentElement.dataset.updates = String(1 + Number(document.documentElement.dataset.updates ?? 0));
  } catch (error) {
    drawLost(error);
  }
  setTimeout(update, document.hidden ? HIDDEN_MS : EVERY_MS);
}

get('axis').addEventListener('change', (event) => {
  charts.axis = event.target.value;
  charts.draw(known, known.steps.length);
});
document.addEventListener('visibilitychange', () => charts.draw(known, known.steps.length));
update();
