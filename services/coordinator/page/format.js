// Numbers and elements for people. Text goes into the page as text only (textContent), never as markup.

export function count(n) {
  if (n == null || !isFinite(n)) return '–';
  if (Math.abs(n) >= 1e9) return (n / 1e9).toFixed(2) + 'G';
  if (Math.abs(n) >= 1e7) return (n / 1e6).toFixed(1) + 'M';
  return Math.round(n).toLocaleString('en');
}

export function fixed(n, digits) { return n == null || !isFinite(n) ? '–' : n.toFixed(digits); }

export function percent(n) { return n == null || !isFinite(n) ? '–' : (100 * n).toFixed(1) + '%'; }

// A small number with two significant digits: 0.0031, 4.2e-7.
export function tiny(n) {
  if (n == null || !isFinite(n)) return '–';
  if (n === 0) return '0';
  return Math.abs(n) < 1e-3 ? n.toExponential(1) : n.toPrecision(2);
}

export function time(seconds) {
  if (seconds == null || seconds < 0 || !isFinite(seconds)) return '?';
  const s = Math.round(seconds), two = (n) => String(n).padStart(2, '0');
  if (s >= 86400) return `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
  if (s >= 3600) return `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
  return `${Math.floor(s / 60)}:${two(s % 60)}`;
}

// Hours as a meter shows them: 0.0042, 1.27, 3,800.
export function hours(h) {
  if (h == null || !isFinite(h)) return '–';
  if (h === 0) return '0';
  return h >= 100 ? Math.round(h).toLocaleString('en') : h >= 1 ? h.toFixed(2) : h.toPrecision(2);
}

export function money(amount, currency) {
  if (amount == null || !isFinite(amount)) return '–';
  const size = Math.abs(amount);
  return currency + (size >= 1000 ? Math.round(amount).toLocaleString('en') : size > 0 && size < 1 ? amount.toPrecision(2) : amount.toFixed(2));
}

// element('td', {class: 'n'}, 'text', child, ...)
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value != null) made.setAttribute(name, value);
  }
  for (const child of children) made.append(child);
  return made;
}

// Puts the children in place of those that are there, unless they say the same.
export function replace(parent, ...children) {
  const holder = document.createElement('div');
  holder.append(...children);
  if (parent.innerHTML !== holder.innerHTML) parent.replaceChildren(...holder.childNodes);
}
