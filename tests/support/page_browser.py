#!/usr/bin/env python3
"""Opens the run's page in headless Chromium, uses it, and says what is there as one line of JSON.

    page_browser.py URL [--points N] [--problem TEXT] [--screenshot FILE] [--dark] [--width W --height H]

Waits until the curves have N points in all, then filters the samples by verdict and by problem. Chromium is driven
over DevTools through two pipes (--remote-debugging-pipe), with nothing beyond Python's library. "errors" holds every
console error, uncaught exception and refusal of the page's policy. Exit status 77: there is no Chromium.
"""
import argparse, base64, json, os, shutil, subprocess, sys, tempfile, threading, time

LIMIT_S = 120  # of the whole

OBSERVE = """(() => {
  const text = (id) => document.getElementById(id).textContent;
  return {
    points: Object.fromEntries([...document.querySelectorAll('.chart')].map((c) => [c.id, Number(c.dataset.points)])),
    marks: Number(document.getElementById('chart-length').dataset.marks),
    workers: [...document.querySelectorAll('#workers-rows tr')].map((r) => r.textContent),
    stages: document.querySelectorAll('#stages-rows tr').length,
    services: [...document.querySelectorAll('#cost-rows tr')].map((r) => r.firstChild.textContent),
    state: text('state'), waits: text('waits'), figures: document.querySelectorAll('.figure').length,
    updates: Number(document.documentElement.dataset.updates),
    overflow: document.documentElement.scrollWidth > document.documentElement.clientWidth,
  };
})()"""
SAMPLES = """({
  verdicts: [...document.querySelectorAll('#samples-list li[data-id]')].map((li) => li.dataset.verdict),
  problems: [...document.querySelectorAll('#samples-list .text')].map((e) => e.textContent),
  problem: document.getElementById('sample-problem')?.textContent,
  response: document.getElementById('sample-response')?.textContent,
  scripts: document.querySelectorAll('#samples script, #samples img, #samples iframe').length,
  injected: typeof window.injected,
})"""
SET = """(() => {
  const field = document.getElementById('filters').elements[%s];
  field.value = %s;
  field.dispatchEvent(new Event('input', {bubbles: true}));
})()"""


class Browser:
    def __init__(self, chromium, profile, width, height):
        to_child, self.out = os.pipe()
        self.inp, from_child = os.pipe()

        def place():  # DevTools reads 3 and writes 4
            keep = os.dup(from_child)
            os.dup2(to_child, 3)
            os.dup2(keep, 4)
            for end in (3, 4):  # dup2 of an end onto itself leaves it closed on exec
                os.set_inheritable(end, True)

        self.process = subprocess.Popen(
            [chromium, '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
             '--disable-extensions', f'--window-size={width},{height}', f'--user-data-dir={profile}',
             '--remote-debugging-pipe', 'about:blank'],
            preexec_fn=place, close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        os.close(to_child)
        os.close(from_child)
        self.buffer, self.next, self.session, self.errors = b'', 0, None, []

    def read(self):
        while b'\0' not in self.buffer:
            part = os.read(self.inp, 1 << 16)
            if not part:
                raise RuntimeError('Chromium has ended')
            self.buffer += part
        message, self.buffer = self.buffer.split(b'\0', 1)
        message = json.loads(message)
        self.note(message)
        return message

    def note(self, message):
        method, params = message.get('method'), message.get('params', {})
        if method == 'Runtime.exceptionThrown':
            details = params['exceptionDetails']
            self.errors.append(details.get('exception', {}).get('description', details['text']))
        elif method == 'Runtime.consoleAPICalled' and params['type'] in ('error', 'warning', 'assert'):
            self.errors.append(' '.join(str(a.get('value', a.get('description'))) for a in params['args']))
        elif method == 'Log.entryAdded' and params['entry']['level'] in ('error', 'warning'):
            self.errors.append(params['entry']['text'])

    def call(self, method, **params):
        self.next += 1
        message = {'id': self.next, 'method': method, 'params': params}
        if self.session:
            message['sessionId'] = self.session
        os.write(self.out, json.dumps(message).encode() + b'\0')
        while True:
            answer = self.read()
            if answer.get('id') == self.next:
                if 'error' in answer:
                    raise RuntimeError(f'{method}: {answer["error"]}')
                return answer['result']

    def open(self, url, dark):
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        self.session = self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        for domain in ('Runtime', 'Log', 'Page'):
            self.call(f'{domain}.enable')
        if dark:
            self.call('Emulation.setEmulatedMedia', features=[{'name': 'prefers-color-scheme', 'value': 'dark'}])
        self.call('Page.navigate', url=url)

    def value(self, expression):
        result = self.call('Runtime.evaluate', expression=expression, returnByValue=True, awaitPromise=True)
        if 'exceptionDetails' in result:
            raise RuntimeError(result['exceptionDetails']['exception'].get('description', expression))
        return result['result'].get('value')

    def wait(self, condition):
        """Until the page says that it holds; asked there, so that no time is spent here."""
        self.value(f'new Promise((done) => {{ const ask = () => ({condition}) ? done(true) : setTimeout(ask, 50); ask(); }})')


def use(browser, arguments):
    browser.open(arguments.url, arguments.dark)
    browser.wait(f"""document.documentElement?.dataset.updates >= 1 && {arguments.points} <=
        [...document.querySelectorAll('.chart')].reduce((n, c) => n + Number(c.dataset.points), 0)""")
    seen = browser.value(OBSERVE)
    seen['all'] = browser.value(SAMPLES)
    for verdict in ('incorrect', 'correct'):
        browser.value(SET % (json.dumps('verdict'), json.dumps(verdict)))
        browser.wait(f"""[...document.querySelectorAll('#samples-list li[data-id]')].every(
            (li) => li.dataset.verdict === '{verdict}') && document.getElementById('samples-list').children.length > 0""")
        seen[verdict] = browser.value(SAMPLES)
    browser.value(SET % (json.dumps('verdict'), json.dumps('')))
    if arguments.problem:
        browser.value(SET % (json.dumps('problem'), json.dumps(arguments.problem)))
        browser.wait(f"""document.querySelectorAll('#samples-list li[data-id]').length > 0 &&
            [...document.querySelectorAll('#samples-list li[data-id]')].every(
                (li) => (li.dataset.problem + li.textContent).includes({json.dumps(arguments.problem)}))""")
        browser.value("document.querySelector('#samples-list li[data-id]').click()")
        seen['problem'] = browser.value(SAMPLES)
        browser.value("document.querySelector('#axis input[value=time]').click()")
    if arguments.screenshot:
        picture = browser.call('Page.captureScreenshot', format='png')
        with open(arguments.screenshot, 'wb') as out:
            out.write(base64.b64decode(picture['data']))
    # Whatever the page logs while it goes on.
    browser.wait(f'document.documentElement.dataset.updates > {seen["updates"] + 1}')
    seen['errors'] = browser.errors
    return seen


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('url')
    parser.add_argument('--points', type=int, default=1)
    parser.add_argument('--problem', default='')
    parser.add_argument('--screenshot')
    parser.add_argument('--dark', action='store_true')
    parser.add_argument('--width', type=int, default=1360)
    parser.add_argument('--height', type=int, default=900)
    arguments = parser.parse_args()
    chromium = shutil.which('chromium')
    if chromium is None:
        print('page_browser: no chromium: run deploy/setup --tests', file=sys.stderr)
        return 77
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(chromium, profile, arguments.width, arguments.height)
        guard = threading.Timer(LIMIT_S, browser.process.kill)
        guard.start()
        try:
            print(json.dumps(use(browser, arguments)))
        finally:
            guard.cancel()
            browser.process.kill()
            browser.process.wait()
    return 0


if __name__ == '__main__':
    sys.exit(main())
