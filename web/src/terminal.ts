/**
 * `<belljar-terminal>`: a terminal in a sealed sandbox, as one element.
 *
 *     <belljar-terminal src="https://terminals.example.com" template="base" autostart></belljar-terminal>
 *
 * Attributes: `src` (the gateway's base URL; default: the page's own origin), `template`, `autostart`.
 * Events, all bubbling out of shadow roots: `state` (detail: `State`), `ready`, `exit`, `latency` (detail: ms),
 * `leave` (a guest goes on with a terminal of its own).
 */
import xtermCss from '@xterm/xterm/css/xterm.css?inline';
import { Connection, type Socket, type State } from './connection.ts';
import { Owner } from './owner.ts';
import type { Notice, Ready } from './protocol.ts';
import { FONT, isReport, Screen } from './screen.ts';
import { Sharing } from './sharing.ts';
import { Status } from './status.ts';
import { type Lease, type LeaseStore, shareStore, tabStore } from './store.ts';
import terminalCss from './terminal.css?inline';

/** A window being dragged gives a new size every frame; the program needs the last one. */
const RESIZE_MS = 80;

/** Elements alive in this page, by gateway and template, so that each finds its own shell after a reload. */
const alive = new Map<string, Set<number>>();

export class BelljarTerminal extends HTMLElement {
  #parts: {
    connection: Connection;
    screen: Screen;
    status: Status;
    sharing: Sharing;
    leave: AbortController;
  } | null = null;
  /** Somebody else's session, which this element watches. */
  #share: Lease | null = null;
  /** Of the session at hand, or the one that has just ended. */
  #owner: Owner | null = null;
  #stopReplay: () => void = () => {};
  #release: () => void = () => {};
  #resizeTimer: ReturnType<typeof setTimeout> | undefined;
  #accelerated = false;

  connectedCallback(): void {
    const root = this.shadowRoot ?? this.attachShadow({ mode: 'open' });
    root.adoptedStyleSheets = [sheet(xtermCss), sheet(terminalCss)];
    root.innerHTML = '<div class="frame"><div class="screen" part="screen"></div></div>';
    const frame = root.querySelector('.frame') as HTMLElement;
    const leave = new AbortController();

    const guest = this.#share !== null;
    frame.toggleAttribute('data-guest', guest);
    const listener = {
      start: () => this.#go(),
      fresh: () => this.restart(),
      extend: () => {
        this.#parts?.connection.extend();
        status.active();
        this.focus();
      },
      retry: () => connection.retryNow(),
      leave: () => connection.detach(),
      share: () => void sharing.toggle(),
      replay: () => void this.#replay(),
    };
    const status = new Status(frame, listener, guest);
    const sharing = new Sharing(frame, document.baseURI, () => this.focus());
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
    const base = this.#base;
    const template = this.getAttribute('template');
    const connection = new Connection({
      base,
      template,
      store:
        this.#share === null
          ? this.#claimStore(`belljar:${base}:${template ?? ''}`)
          : shareStore(this.#share),
      guest,
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
        size: (cols, rows) => screen.setSize(cols, rows),
        viewers: (count) => {
          status.setViewers(count);
          sharing.setViewers(count);
        },
      },
    });
    this.#parts = { connection, screen, status, sharing, leave };

    const { signal } = leave;
    const dark = matchMedia('(prefers-color-scheme: dark)');
    screen.setDark(dark.matches);
    dark.addEventListener('change', () => screen.setDark(dark.matches), { signal });
    addEventListener('online', () => connection.wake(), { signal });
    const seen = () => connection.setVisible(document.visibilityState === 'visible');
    document.addEventListener('visibilitychange', seen, { signal });
    seen();
    if (this.hasAttribute('autostart')) this.start();
  }

  /** The session lives on for a while, so that an element that is moved in the page keeps its shell. */
  disconnectedCallback(): void {
    clearTimeout(this.#resizeTimer);
    this.#stopReplay();
    this.#parts?.leave.abort();
    this.#parts?.connection.detach();
    this.#parts?.status.dispose();
    this.#parts?.screen.dispose();
    this.#parts = null;
    this.#accelerated = false;
    this.#release();
    this.#release = () => {};
  }

  get state(): State {
    return this.#parts?.connection.state ?? { name: 'idle' };
  }

  /** In characters. */
  get size(): { cols: number; rows: number } {
    return this.#parts?.screen.size ?? { cols: 0, rows: 0 };
  }

  /** The gateway's base URL. */
  get #base(): string {
    return new URL(this.getAttribute('src') ?? '/', document.baseURI).href;
  }

  override focus(): void {
    this.#parts?.screen.focus();
  }

  /** Starts a session, or goes back to the one that this tab still holds. */
  start(): void {
    if (this.#parts === null) return;
    const { connection, screen } = this.#parts;
    this.#stopReplay();
    screen.fit();
    connection.start(screen.size.cols, screen.size.rows);
  }

  /** Watches the session that `share` opens, instead of one of its own; `null`: its own again. */
  watch(share: Lease | null): void {
    this.#share = share;
    if (this.#parts !== null) {
      this.disconnectedCallback();
      this.connectedCallback();
    }
    if (this.state.name === 'idle') this.start();
  }

  /** Types `text` and Enter, as if at the keyboard. Starts a session if there is none. */
  run(text: string): void {
    if (this.state.name === 'idle' || this.state.name === 'ended') this.start();
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
    this.#stopReplay();
    screen.fit();
    connection.restart(screen.size.cols, screen.size.rows);
  }

  /** What stands on the screen and in its scrollback. */
  text(): string {
    return this.#parts?.screen.text() ?? '';
  }

  /** The card's button: on with the same session or, where there is nothing more to watch, with an own one. */
  #go(): void {
    const { state } = this;
    const over = state.name === 'ended' && (state.end.kind === 'exit' || state.end.kind === 'error');
    const wait = state.name === 'ended' && state.end.kind === 'error' && state.end.retryAt !== null;
    if (this.#share === null || !over || wait) {
      this.start();
      return;
    }
    this.watch(null);
    this.#emit('leave', null);
  }

  /** Plays what was recorded of the session that has ended, in front of everything else. */
  async #replay(): Promise<void> {
    const [root, shown, owner] = [this.shadowRoot, this.#parts, this.#owner];
    if (root === null || shown === null || owner === null) return;
    try {
      const [{ css, play }, cast] = await Promise.all([import('./replay.ts'), owner.recording()]);
      if (shown !== this.#parts || this.state.name !== 'ended') return;
      const player = sheet(css);
      if (!root.adoptedStyleSheets.includes(player)) {
        root.adoptedStyleSheets = [player, ...root.adoptedStyleSheets];
      }
      const host = document.createElement('div');
      host.className = 'replay';
      host.innerHTML =
        '<div class="stage"></div><button class="leave" type="button">Close the replay</button>';
      root.querySelector('.frame')?.append(host);
      const dispose = play(cast, host.querySelector('.stage') as HTMLElement, FONT);
      this.#stopReplay = () => {
        this.#stopReplay = () => {};
        dispose();
        host.remove();
      };
      host.querySelector('.leave')?.addEventListener('click', () => this.#stopReplay());
    } catch (error) {
      shown.status.hint((error as Error).message);
    }
  }

  #type(data: string | Uint8Array): void {
    if (this.#parts === null) return;
    const { connection, status } = this.#parts;
    const taken = connection.input(data);
    if (taken) status.active();
    else if (connection.state.name !== 'connected') return;
    else if (connection.state.ready.readOnly) status.hint('You are watching: what you type is not sent.');
    else status.hint('That is too much to paste at once.');
  }

  #onState(state: State): void {
    const shown = this.#parts;
    if (shown === null) return;
    const hadFocus = this.shadowRoot?.activeElement !== null;
    shown.status.setState(state);
    if (state.name === 'ended' && hadFocus) {
      this.shadowRoot?.querySelector<HTMLElement>('.go:not(:disabled)')?.focus({ preventScroll: true });
    }
    if (state.name !== 'connected') shown.sharing.setOwner(null);
    if (state.name === 'starting' && hadFocus) shown.screen.focus();
    this.#emit('state', state);
    if (state.name === 'ended' && state.end.kind === 'exit') this.#emit('exit', state.end.exit);
  }

  #onReady(ready: Ready): void {
    const shown = this.#parts;
    if (shown === null) return;
    shown.screen.setReadOnly(ready.readOnly);
    shown.status.setRecorded(ready.recorded);
    shown.status.setViewers(0);
    shown.sharing.setViewers(0);
    const { lease } = shown.connection;
    this.#owner = lease === null || this.#share !== null ? null : new Owner(this.#base, lease);
    shown.sharing.setOwner(this.#owner);
    if (!this.#accelerated) {
      this.#accelerated = true;
      void shown.screen.accelerate();
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
    } else if (code === 'recorded') {
      status.setRecorded(true);
    } else if (code === 'bad_message') {
      // Our mistake, and nothing that a visitor could mend.
      console.warn(`belljar: ${message}`);
    } else {
      if (code === 'recording_stopped') status.setRecorded(false);
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
