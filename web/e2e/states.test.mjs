// Every state that a visitor can see, played by a script in place of the gateway, so that none has to be waited
// for. Each leaves a screenshot in e2e/screenshots/ for a human to look at.
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { violations } from './axe.mjs';
import { DESKTOP, launch, PHONE, Visitor } from './browser.mjs';
import { startGateway } from './gateway.mjs';

const SCREENSHOTS = fileURLToPath(new URL('./screenshots/', import.meta.url));
const TIME = { timeout: 60_000 };
const NARROW = { ...PHONE, viewport: { width: 320, height: 640 } };
const SIZES = { desktop: DESKTOP, phone: PHONE, narrow: NARROW };

const READY = {
  type: 'ready',
  session: `sess_${'0'.repeat(32)}`,
  token: 'token',
  offset: 0,
  end: 0,
  cols: 80,
  rows: 24,
  readOnly: false,
  idleTimeoutMs: 300_000,
  remainingMs: 1_620_000,
  window: 262_144,
};
const PROMPT = '\x1b[36mvisitor@belljar\x1b[0m:\x1b[34m~\x1b[0m$ ';
const OUTPUT = `${PROMPT}dmesg | head -3\r
[    0.000000] Starting gVisor...\r
[    0.451203] Waiting for children...\r
[    0.776144] Checking naughty and nice process list...\r
${PROMPT}echo '🫙 déjà vu 日本語'\r
🫙 déjà vu 日本語\r
${PROMPT}`;

/** What the gateway says on a socket. `shell` opens the shell first; `sealed` is what its status says. */
const STATES = {
  connected: { shell: true, sees: 'Connected' },
  unsealed: { shell: true, sealed: false, sees: 'Development mode: not sealed' },
  starting: { wait: 4500, sees: 'so far' },
  queued: { says: [{ type: 'queued', position: 3, etaMs: 18_000 }], sees: 'You are number 3 in line' },
  idle: {
    shell: true,
    says: [{ type: 'notice', code: 'idle_warning', message: '', remainingMs: 59_000 }],
    sees: 'Still there?',
  },
  expiry: {
    shell: true,
    says: [
      { type: 'notice', code: 'expiry_warning', message: 'This terminal closes soon.', remainingMs: 42_000 },
    ],
    sees: '0:42 left',
  },
  slowed: {
    shell: true,
    says: [
      { type: 'notice', code: 'input_slowed', message: 'That was fast. Input is slowed down for a moment.' },
    ],
    sees: 'That was fast.',
  },
  reconnecting: { shell: true, close: 1006, refuseLater: true, wait: 4000, sees: 'Retry now' },
  ended: {
    shell: true,
    says: [{ type: 'exit', code: 0, signal: null, reason: 'idle_timeout' }],
    sees: 'Start again',
  },
  'out-of-memory': {
    shell: true,
    says: [{ type: 'exit', code: null, signal: 'SIGKILL', reason: 'out_of_memory' }],
    sees: 'Out of memory',
  },
  'taken-over': { shell: true, close: 4001, sees: 'Use it here' },
  limited: {
    says: [
      {
        type: 'error',
        code: 'rate_limited',
        message: 'Ten terminals an hour is the limit here, and yours are used up.',
        retryAfterMs: 1_440_000,
      },
    ],
    sees: 'Try again in 24 min',
  },
  full: {
    says: [
      {
        type: 'error',
        code: 'at_capacity',
        message: 'Every sandbox is in use. One is free soon.',
        retryAfterMs: 9000,
      },
    ],
    sees: /Try again in \d s/,
  },
};

const LOOKS = [
  ['connected', 'dark', 'desktop'],
  ['connected', 'light', 'desktop'],
  ['connected', 'dark', 'phone'],
  ['connected', 'light', 'phone'],
  ['connected', 'light', 'narrow'],
  ['unsealed', 'dark', 'desktop'],
  ['unsealed', 'light', 'desktop'],
  ['unsealed', 'light', 'narrow'],
  ['starting', 'dark', 'desktop'],
  ['queued', 'light', 'desktop'],
  ['queued', 'dark', 'phone'],
  ['queued', 'light', 'narrow'],
  ['idle', 'dark', 'desktop'],
  ['idle', 'light', 'narrow'],
  ['expiry', 'light', 'desktop'],
  ['slowed', 'dark', 'phone'],
  ['reconnecting', 'dark', 'desktop'],
  ['reconnecting', 'light', 'narrow'],
  ['ended', 'dark', 'desktop'],
  ['ended', 'light', 'phone'],
  ['out-of-memory', 'light', 'narrow'],
  ['taken-over', 'light', 'desktop'],
  ['limited', 'dark', 'phone'],
  ['full', 'light', 'desktop'],
  ['full', 'dark', 'phone'],
];

describe('the states of a terminal', () => {
  let gateway;
  let browser;

  before(async () => {
    mkdirSync(SCREENSHOTS, { recursive: true });
    gateway = await startGateway();
    browser = await launch();
  }, TIME);

  after(async () => {
    await browser?.close();
    await gateway?.stop();
  });

  for (const [name, colorScheme, size] of LOOKS) {
    it(`${name}, ${colorScheme}, ${size}`, TIME, async () => {
      const visitor = await Visitor.open(browser, 'about:blank', { ...SIZES[size], colorScheme });
      const state = STATES[name];
      await play(visitor.page, state);
      await visitor.page.goto(gateway.url);
      await visitor.page.waitForTimeout(state.wait ?? 0);
      await visitor.page.getByText(state.sees).first().waitFor();
      await visitor.page.waitForTimeout(500);
      await visitor.page.screenshot({ path: `${SCREENSHOTS}${name}-${colorScheme}-${size}.png` });
      const overflow = await visitor.page.evaluate(() => {
        const { scrollWidth, clientWidth, scrollHeight, clientHeight } = document.documentElement;
        return { x: scrollWidth - clientWidth, y: scrollHeight - clientHeight };
      });
      assert.deepEqual(overflow, { x: 0, y: 0 }, 'the page scrolls');
      assert.deepEqual(await violations(visitor.page), []);
      await visitor.close();
    });
  }

  it('claims no seal before the gateway has said so', TIME, async () => {
    const visitor = await Visitor.open(browser, 'about:blank');
    const said = (seal) => visitor.page.locator('.seal', { hasText: seal }).waitFor();
    await play(visitor.page, STATES.connected);
    let answer;
    const asked = new Promise((resolve) => {
      answer = resolve;
    });
    await visitor.page.route('**/status', async (route) => {
      await asked;
      await route.fulfill({ json: { isOpen: true, sealed: true } });
    });
    await visitor.page.goto(gateway.url);
    await visitor.is('connected');
    await visitor.page.waitForTimeout(300);
    assert.equal(await visitor.page.locator('header').innerText(), 'Belljar');
    answer();
    await said('Sealed in gVisor');
    await visitor.close();
  });

  it('ends the old session when starting again after the connection was lost', TIME, async () => {
    const visitor = await Visitor.open(browser, 'about:blank');
    await visitor.page.clock.install();
    await play(visitor.page, { ...STATES.reconnecting, wait: 0 });
    const requests = [];
    await visitor.page.route('**/sessions/*', async (route) => {
      requests.push(route.request());
      await route.fulfill({ json: { success: true } });
    });
    await visitor.page.goto(gateway.url);
    await visitor.page.clock.runFor(1000);
    await visitor.is('reconnecting');
    for (let i = 0; i < 20 && (await visitor.state()).name !== 'ended'; i += 1) {
      await visitor.page.clock.runFor(8000);
    }
    assert.equal((await visitor.is('ended')).end.kind, 'lost');
    assert.deepEqual(requests, []);
    await visitor.page.getByRole('button', { name: 'Start again' }).click();
    await visitor.page.clock.runFor(100);
    assert.equal(requests.length, 1);
    const [request] = requests;
    assert.equal(request.method(), 'DELETE');
    assert.equal(request.url(), `${gateway.url}/sessions/${READY.session}`);
    assert.equal(request.headers().authorization, `Bearer ${READY.token}`);
    await visitor.close();
  });

  it('lets a visitor leave the line', TIME, async () => {
    const visitor = await Visitor.open(browser, 'about:blank');
    await play(visitor.page, STATES.queued);
    await visitor.page.goto(gateway.url);
    await visitor.page.getByRole('button', { name: 'Leave the line' }).click();
    await visitor.is('idle');
    await visitor.page.getByRole('button', { name: 'Start' }).waitFor();
    await visitor.close();
  });

  it('"I\'m here" tells the gateway and takes the warning away', TIME, async () => {
    const visitor = await Visitor.open(browser, 'about:blank');
    const said = await play(visitor.page, STATES.idle);
    await visitor.page.goto(gateway.url);
    const button = visitor.page.getByRole('button', { name: "I'm here" });
    await button.click();
    await button.waitFor({ state: 'hidden' });
    assert.ok(said.some((message) => message.type === 'extend'));
    await visitor.close();
  });
});

/** Answers the page's sockets in place of the gateway. Returns the control messages that the page sends. */
async function play(page, state) {
  const said = [];
  let sockets = 0;
  await page.route('**/status', (route) =>
    route.fulfill({ json: { isOpen: true, sealed: state.sealed ?? true } }),
  );
  await page.routeWebSocket(/\/ws(\?|$)/, (socket) => {
    sockets += 1;
    const say = (message) => socket.send(JSON.stringify(message));
    socket.onMessage((data) => {
      if (typeof data !== 'string') return;
      const message = JSON.parse(data);
      said.push(message);
      if (message.type === 'ping') setTimeout(() => say({ type: 'pong', id: message.id }), 9);
    });
    if (sockets > 1 && state.refuseLater) {
      socket.close({ code: 1011 });
      return;
    }
    if (state.shell) {
      say(READY);
      socket.send(Buffer.from(OUTPUT));
    }
    setTimeout(() => {
      for (const message of state.says ?? []) say(message);
      // 1006 cannot be sent: it is what a browser reports for a socket that just went away.
      if (state.close) socket.close({ code: state.close === 1006 ? 1011 : state.close });
    }, 400);
  });
  return said;
}
