/**
 * `<belljar-terminal>`: a terminal in a sealed sandbox, as one element.
 *
 *     <belljar-terminal src="https://terminals.example.com" template="base" autostart></belljar-terminal>
 *
 * Attributes: `src` (the gateway's base URL; default: the page's own origin), `template`, `autostart`.
 * Events, all bubbling out of shadow roots: `state` (detail: `State`), `ready`, `exit`, `latency` (detail: ms).
 */
import xtermCss from '@xterm/xterm/css/xterm.css?inline';
import { Connection, type Socket, type State } from './connection.ts';
import type { Notice, Ready } from './protocol.ts';
import { isReport, Screen } from './screen.ts';
import { Status } from './status.ts';
import { type LeaseStore, tabStore } from './store.ts';
import terminalCss from './terminal.css?inline';

/** A window being dragged gives a new size every frame; the program needs the last one. */
const RESIZE_MS = 80;

/** Elements alive in this page, by gateway and template, so that each finds its own shell after a reload. */
const alive = new Map<string, Set<number>>();

export class BelljarTerminal extends HTMLElement {
  #parts: { connection: Connection; screen: Screen; status: Status; leave: AbortController } | null = null;
  #release: () => void = () => {};
  #resizeTimer: ReturnType<typeof setTimeout> | undefined;
  #accelerated = false;

  connectedCallback(): void {
    const root = this.shadowRoot ?? this.attachShadow({ mode: 'open' });
    root.adoptedStyleSheets = [sheet(xtermCss), sheet(terminalCss)];
    root.innerHTML = '<div class="frame"><div class="screen" part="screen"></div></div>';
    const frame = root.querySelector('.frame') as HTMLElement;
    const leave = new AbortController();

    const status = new Status(frame, {
      start: () => this.#start(),
      fresh: () => this.restart(),
      extend: () => {
        this.#parts?.connection.extend();
        status.active();
        this.focus();
      },
      retry: () => connection.retryNow(),
      leave: () => connection.detach(),
    });
    const screen = new Screen(root.querySelector('.screen') as HTMLElement, {
      data: (text) => {
        if (connection.replaying && isReport(text)) return;
        this.#type(text);
      },
      binary: (text) => this.#type(Uint8Array.from(text, (unit) => unit.charCodeAt(0) & 0xff)),
      resized: (cols, rows) => {
        clearTimeout(this.#resizeTimer);
        this.#resizeTimer = setTimeout(() => connection.resize(cols, rows), RESIZE_MS);
      },
    });
    const base = new URL(this.getAttribute('src') ?? '/', document.baseURI).href;
    const template = this.getAttribute('template');
    const connection = new Connection({
      base,
      template,
      store: this.#claimStore(`belljar:${base}:${template ?? ''}`),
      createSocket: (url, protocol) => new WebSocket(url, protocol) as Socket,
      // Without an answer there is nothing to do: the session's own timers end it later.
      endSession: (url, token) => {
        const headers = { authorization: `Bearer ${token}` };
        fetch(url, { method: 'DELETE', headers, keepalive: true }).catch(() => {});
      },
      listener: {
        state: (state) => this.#onState(state),
        ready: (ready) => this.#onReady(ready),
        reset: () => screen.reset(),
        output: (bytes, done) => screen.write(bytes, done),
        notice: (notice) => this.#onNotice(notice),
        latency: (ms) => {
          status.setLatency(ms);
          this.#emit('latency', ms);
        },
      },
    });
    this.#parts = { connection, screen, status, leave };

    const { signal } = leave;
    const dark = matchMedia('(prefers-color-scheme: dark)');
    screen.setDark(dark.matches);
    dark.addEventListener('change', () => screen.setDark(dark.matches), { signal });
    addEventListener('online', () => connection.wake(), { signal });
    const seen = () => connection.setVisible(document.visibilityState === 'visible');
    document.addEventListener('visibilitychange', seen, { signal });
    seen();
    if (this.hasAttribute('autostart')) this.#start();
  }

  /** The session lives on for a while, so that an element that is moved in the page keeps its shell. */
  disconnectedCallback(): void {
    clearTimeout(this.#resizeTimer);
    this.#parts?.leave.abort();
    this.#parts?.connection.detach();
    this.#parts?.status.dispose();
    this.#parts?.screen.dispose();
    this.#parts = null;
    this.#accelerated = false;
    this.#release();
  }

  get state(): State {
    return this.#parts?.connection.state ?? { name: 'idle' };
  }

  /** In characters. */
  get size(): { cols: number; rows: number } {
    return this.#parts?.screen.size ?? { cols: 0, rows: 0 };
  }

  override focus(): void {
    this.#parts?.screen.focus();
  }

  /** Types `text` and Enter, as if at the keyboard. Starts a session if there is none. */
  run(text: string): void {
    if (this.state.name === 'idle' || this.state.name === 'ended') this.#start();
    this.#type(`${text.replace(/\r?\n/g, '\r')}\r`);
  }

  /** Puts `text` into the terminal without running it, where the program knows bracketed paste. */
  paste(text: string): void {
    this.#parts?.screen.paste(text);
  }

  /** Throws the session away and starts a new one. */
  restart(): void {
    if (this.#parts === null) return;
    const { connection, screen } = this.#parts;
    screen.fit();
    connection.restart(screen.size.cols, screen.size.rows);
  }

  /** What stands on the screen and in its scrollback. */
  text(): string {
    return this.#parts?.screen.text() ?? '';
  }

  #start(): void {
    if (this.#parts === null) return;
    const { connection, screen } = this.#parts;
    screen.fit();
    connection.start(screen.size.cols, screen.size.rows);
  }

  #type(data: string | Uint8Array): void {
    if (this.#parts === null) return;
    const { connection, status } = this.#parts;
    const taken = connection.input(data);
    if (taken) status.active();
    else if (connection.state.name === 'connected') status.hint('That is too much to paste at once.');
  }

  #onState(state: State): void {
    const shown = this.#parts;
    if (shown === null) return;
    const hadFocus = this.shadowRoot?.activeElement !== null;
    shown.status.setState(state);
    if (state.name === 'ended' && hadFocus) {
      this.shadowRoot?.querySelector<HTMLElement>('.go:not(:disabled)')?.focus({ preventScroll: true });
    }
    if (state.name === 'starting' && hadFocus) shown.screen.focus();
    this.#emit('state', state);
    if (state.name === 'ended' && state.end.kind === 'exit') this.#emit('exit', state.end.exit);
  }

  #onReady(ready: Ready): void {
    this.#parts?.screen.setReadOnly(ready.readOnly);
    if (!this.#accelerated) {
      this.#accelerated = true;
      void this.#parts?.screen.accelerate();
    }
    // The token opens the session: it is nobody else's business.
    const { token: _, ...rest } = ready;
    this.#emit('ready', rest);
  }

  #onNotice(notice: Notice): void {
    const status = this.#parts?.status;
    if (status === undefined) return;
    const { code, message, remainingMs } = notice;
    if (code === 'idle_warning' && remainingMs !== null) {
      status.warnIdle(remainingMs);
    } else if (code === 'expiry_warning' && remainingMs !== null) {
      status.setRemaining(remainingMs);
      status.hint(message);
    } else if (code === 'bad_message') {
      // Our mistake, and nothing that a visitor could mend.
      console.warn(`belljar: ${message}`);
    } else {
      status.hint(message);
    }
  }

  /** Takes the lowest free number, so that the elements of a reloaded page get the same ones again. */
  #claimStore(key: string): LeaseStore {
    const taken = alive.get(key) ?? new Set<number>();
    alive.set(key, taken);
    let number = 0;
    while (taken.has(number)) number += 1;
    taken.add(number);
    this.#release = () => taken.delete(number);
    return tabStore(number === 0 ? key : `${key}#${number}`);
  }

  #emit(type: string, detail: unknown): void {
    this.dispatchEvent(new CustomEvent(type, { detail, bubbles: true, composed: true }));
  }
}

const sheets = new Map<string, CSSStyleSheet>();

/** One style sheet object for all elements of a page. */
function sheet(css: string): CSSStyleSheet {
  let made = sheets.get(css);
  if (made === undefined) {
    made = new CSSStyleSheet();
    made.replaceSync(css);
    sheets.set(css, made);
  }
  return made;
}

if (customElements.get('belljar-terminal') === undefined) {
  customElements.define('belljar-terminal', BelljarTerminal);
}

declare global {
  interface HTMLElementTagNameMap {
    'belljar-terminal': BelljarTerminal;
  }
}
