// Chromium with the page in it, and a terminal that tests can read.
import { chromium } from 'playwright-core';

const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
const WAIT_MS = 20_000;

export const DESKTOP = { viewport: { width: 1440, height: 900 } };
export const PHONE = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true };

export function launch() {
  return chromium.launch({
    executablePath: CHROMIUM,
    args: [
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
}

/** One visitor: a tab with an empty profile. */
export class Visitor {
  /** Errors of the page and of its console, refusals by the content security policy among them. */
  errors = [];

  static async open(browser, url, options = {}) {
    const context = await browser.newContext({ ...DESKTOP, ignoreHTTPSErrors: true, ...options });
    const visitor = new Visitor(context, await context.newPage());
    await visitor.page.goto(url);
    return visitor;
  }

  constructor(context, page) {
    this.context = context;
    this.page = page;
    page.setDefaultTimeout(WAIT_MS);
    page.on('pageerror', (error) => this.errors.push(error.message));
    page.on('console', (message) => message.type() === 'error' && this.errors.push(message.text()));
  }

  /** Lets the test cut the connection: `cut` closes the newest socket. Call before the page is loaded again. */
  async watchSockets() {
    await this.page.addInitScript(() => {
      window.sockets = [];
      window.WebSocket = class extends WebSocket {
        constructor(...args) {
          super(...args);
          window.sockets.push(this);
        }
      };
    });
  }

  /** Closes the newest socket and waits until the page knows: its state is still `connected` until then. */
  cut() {
    return this.page.evaluate(
      () =>
        new Promise((done) => {
          const socket = window.sockets.at(-1);
          socket.addEventListener('close', () => done());
          socket.close();
        }),
    );
  }

  /** What the terminal shows; nothing while the page has none yet, which whoever waits may be early for. */
  text() {
    return this.page.evaluate(() => document.querySelector('belljar-terminal')?.text?.() ?? '');
  }

  state() {
    return this.page.evaluate(() => document.querySelector('belljar-terminal')?.state ?? { name: 'absent' });
  }

  size() {
    return this.page.evaluate(() => document.querySelector('belljar-terminal').size);
  }

  run(command) {
    return this.page.evaluate((text) => document.querySelector('belljar-terminal').run(text), command);
  }

  paste(text) {
    return this.page.evaluate((pasted) => document.querySelector('belljar-terminal').paste(pasted), text);
  }

  /** Waits for text that matches, and returns the match. */
  async sees(pattern, ms = WAIT_MS) {
    const match = await this.#until(async () => (await this.text()).match(pattern), ms);
    if (match) return match;
    const { name } = await this.state();
    throw new Error(
      `${ms} ms without ${pattern} (state: ${name}); the screen shows:\n${(await this.text()).slice(-800)}`,
    );
  }

  /** Waits for a shell prompt at the end of the screen. */
  prompt() {
    return this.sees(/[$#]\s*$/);
  }

  async is(name, ms = WAIT_MS) {
    const state = await this.#until(async () => {
      const now = await this.state();
      return now.name === name ? now : null;
    }, ms);
    if (state) return state;
    throw new Error(`not ${name} after ${ms} ms but ${JSON.stringify(await this.state())}`);
  }

  close() {
    return this.context.close();
  }

  async #until(probe, ms) {
    const deadline = Date.now() + ms;
    for (;;) {
      const found = await probe();
      if (found || Date.now() > deadline) return found;
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
  }
}
