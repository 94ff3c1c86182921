/**
 * `<belljar-terminal>`: a terminal in a sealed sandbox, as one element. docs/embedding.md says what a page can do
 * with it; `reflected.ts` has its attributes.
 *
 * Events, all bubbling out of shadow roots: `state` (detail: `State`), `ready`, `exit`, `latency` (detail: ms),
 * `leave` (a guest goes on with a terminal of its own).
 */
import xtermCss from '@xterm/xterm/css/xterm.css?inline';
import { Connection, type Socket, type State } from './connection.ts';
import { Files } from './files.ts';
import type { Find } from './find.ts';
import { Keys } from './keys.ts';
import { type Look, lookFor, type Surroundings, watchSurroundings } from './look.ts';
import { Owner } from './owner.ts';
import type { Exit, Notice, Ready } from './protocol.ts';
import { Reflected } from './reflected.ts';
import { FONT, isReport, Screen } from './screen.ts';
import type { Attribute } from './settings.ts';
import { Sharing } from './sharing.ts';
import type { Shortcut } from './shortcuts.ts';
import { Status } from './status.ts';
import { type Lease, type LeaseStore, shareStore, tabStore } from './store.ts';
import terminalCss from './terminal.css?inline';
import { type Tool, Tools } from './tools.ts';

/** A window being dragged gives a new size every frame; the program needs the last one. */
const RESIZE_MS = 80;
/** The gateway's own bounds. */
const MOST = { cols: 1000, rows: 500 };

/** Elements alive in this page, by gateway and template, so that each finds its own shell after a reload. */
const alive = new Map<string, Set<number>>();

/** What an element in a page consists of. */
interface Parts {
  connection: Connection;
  screen: Screen;
  status: Status;
  sharing: Sharing;
  keys: Keys;
  files: Files;
  tools: Tools;
  frame: HTMLElement;
  leave: AbortController;
}

// biome-ignore lint/suspicious/noUnsafeDeclarationMerging: the interface has no members but overloads.
export class BelljarTerminal extends Reflected {
  /** Where terminals are that have no `src`; `null`: at the page's own origin. */
  static gateway: string | null = null;

  #parts: Parts | null = null;
  /** Somebody else's session, which this element watches. */
  #share: Lease | null = null;
  /** Of the session at hand, or the one that has just ended. */
  #owner: Owner | null = null;
  /** Of the screen at hand, once somebody has looked for something. */
  #find: Promise<Find> | null = null;
  #around: Surroundings | null = null;
  #stopReplay: () => void = () => {};
  #release: () => void = () => {};
  #resizeTimer: ReturnType<typeof setTimeout> | undefined;
  #accelerated = false;
  #imaging = false;
  #moving = false;

  connectedCallback(): void {
    this.upgradeProperties();
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
      share: () => {
        tools.close();
        files.hide();
        void sharing.toggle();
      },
      replay: () => void this.#replay(),
      tools: () => {
        sharing.hide();
        files.hide();
        tools.toggle(this.#setup(screen, keys));
      },
    };
    const screen = new Screen(root.querySelector('.screen') as HTMLElement, {
      data: (text) => {
        const report = isReport(text);
        if (report && connection.replaying) return;
        if (report) this.#type(text);
        else if (this.readOnly) status.hint('Here only the page types.');
        else this.#type(keys.apply(text));
      },
      binary: (text) => {
        if (!this.readOnly) this.#type(Uint8Array.from(text, (unit) => unit.charCodeAt(0) & 0xff));
      },
      resized: (cols, rows) => {
        clearTimeout(this.#resizeTimer);
        this.#resizeTimer = setTimeout(() => connection.resize(cols, rows), RESIZE_MS);
      },
      shortcut: (name) => this.#use(name),
      copied: (text) => {
        if (this.clipboard && !connection.replaying) void this.#copy(text);
      },
    });
    const keys = new Keys(frame, {
      type: (text) => {
        if (!this.readOnly) this.#type(text);
      },
      application: () => screen.applicationKeys,
    });
    const status = new Status(frame, listener, guest);
    const base = this.#base;
    const sharing = new Sharing(frame, base, () => this.focus());
    const files = new Files(frame, {
      said: (text) => status.hint(text),
      closed: () => this.focus(),
    });
    const tools = new Tools(frame, status.opener, {
      use: (tool) => this.#use(tool),
      theme: (theme) => {
        this.theme = theme;
      },
      closed: () => this.focus(),
    });
    const { template } = this;
    const connection = new Connection({
      base,
      template,
      permission: () => this.token,
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
        ready: (ready, fresh) => this.#onReady(ready, fresh),
        reset: () => screen.reset(),
        output: (bytes, done) => screen.write(bytes, done),
        notice: (notice) => this.#onNotice(notice),
        latency: (ms) => {
          status.setLatency(ms);
          this.#emit('latency', ms);
        },
        size: (cols, rows) => screen.setSize({ cols, rows }),
        viewers: (count) => {
          status.setViewers(count);
          sharing.setViewers(count);
        },
      },
    });
    this.#parts = { connection, screen, status, sharing, keys, files, tools, frame, leave };

    const { signal } = leave;
    watchSurroundings(
      this,
      (around) => {
        this.#around = around;
        this.#paint();
      },
      signal,
    );
    addEventListener('online', () => connection.wake(), { signal });
    const seen = () => connection.setVisible(document.visibilityState === 'visible');
    document.addEventListener('visibilitychange', seen, { signal });
    seen();
    screen.setFont(this.fontSize);
    screen.setScreenReader(this.screenReader);
    status.setReadOnly(this.readOnly);
    this.#showImages();
    if (this.autostart) this.start();
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
    this.#find = null;
    this.#accelerated = false;
    this.#imaging = false;
    this.#release();
    this.#release = () => {};
  }

  attributeChangedCallback(name: Attribute, before: string | null, now: string | null): void {
    if (this.#parts === null || before === now) return;
    const { screen, status } = this.#parts;
    switch (name) {
      case 'src':
      case 'template':
        this.#move();
        break;
      case 'theme':
        this.#paint();
        break;
      case 'font-size':
        screen.setFont(this.fontSize);
        break;
      case 'autostart':
        if (this.autostart && this.state.name === 'idle') this.start();
        break;
      case 'readonly':
        status.setReadOnly(this.readOnly);
        break;
      case 'images':
        this.#showImages();
        break;
      case 'screen-reader':
        screen.setScreenReader(this.screenReader);
        break;
      // Read when they are needed.
      case 'token':
      case 'command':
      case 'clipboard':
        break;
    }
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
    const src = this.src ?? BelljarTerminal.gateway ?? '/';
    if (URL.canParse(src, document.baseURI)) return new URL(src, document.baseURI).href;
    console.warn(`belljar: src is no address: ${src}`);
    return new URL('/', document.baseURI).href;
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
    this.#again();
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

  /** From now on `cols` by `rows` characters, drawn as large as fits; without a size: as many as fit. */
  resize(cols?: number, rows?: number): void {
    const whole = (value: number | undefined, most: number) =>
      Math.min(most, Math.max(2, Math.floor(value ?? 0) || 2));
    const fixed = cols !== undefined && rows !== undefined;
    if (this.#share !== null) return;
    this.#parts?.screen.setSize(
      fixed ? { cols: whole(cols, MOST.cols), rows: whole(rows, MOST.rows) } : null,
    );
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

  /** The same element with other parts: from somewhere else, or of somebody else. */
  #again(): void {
    if (this.#parts === null) return;
    this.disconnectedCallback();
    this.connectedCallback();
  }

  /** To another gateway or template, once the page has set all that it wants to set. */
  #move(): void {
    if (this.#moving) return;
    this.#moving = true;
    queueMicrotask(() => {
      this.#moving = false;
      const { name } = this.state;
      this.#again();
      if (name !== 'idle' && name !== 'ended') this.start();
    });
  }

  get #look(): Look {
    return this.#around === null ? 'light' : lookFor(this.theme, this.#around);
  }

  #paint(): void {
    if (this.#parts === null) return;
    this.#parts.frame.dataset.look = this.#look;
    this.#parts.screen.setLook(this.#look);
  }

  #showImages(): void {
    if (!this.images || this.#imaging) return;
    this.#imaging = true;
    // Without the file there are no images, as before.
    this.#parts?.screen.showImages().catch(() => {
      this.#imaging = false;
    });
  }

  #setup(screen: Screen, keys: Keys): Parameters<Tools['show']>[0] {
    return {
      theme: this.theme,
      fontSize: screen.fontSize,
      reader: this.screenReader,
      keys: keys.shown,
      own: this.state.name === 'connected' && this.#share === null,
    };
  }

  #use(tool: Tool | Exclude<Shortcut, 'copy'>): void {
    if (this.#parts === null) return;
    const { screen, status, keys, tools, files } = this.#parts;
    switch (tool) {
      case 'find':
        tools.close();
        void this.#search();
        return;
      case 'leave':
        status.opener.focus();
        status.announce('You have left the terminal. Tab goes on.');
        return;
      case 'files':
        tools.close();
        files.open();
        return;
      case 'fresh':
        tools.close();
        this.restart();
        this.focus();
        return;
      case 'fullscreen':
        tools.close();
        if (document.fullscreenElement === null) void this.requestFullscreen().catch(() => {});
        else void document.exitFullscreen();
        this.focus();
        return;
      case 'reader':
        this.screenReader = !this.screenReader;
        break;
      case 'keys':
        keys.shown = !keys.shown;
        break;
      case 'larger':
        screen.zoom(1);
        break;
      case 'smaller':
        screen.zoom(-1);
        break;
      case 'actual':
        screen.zoom(null);
        break;
    }
    tools.show(this.#setup(screen, keys));
  }

  /** Opens the bar that finds text. */
  async #search(): Promise<void> {
    const shown = this.#parts;
    if (shown === null) return;
    this.#find ??= import('./find.ts').then(
      ({ Find }) =>
        new Find(
          shown.frame,
          shown.screen,
          () => this.#look,
          () => this.focus(),
        ),
    );
    const finding = this.#find;
    try {
      (await finding).open();
    } catch {
      if (this.#find === finding) this.#find = null;
      shown.status.hint('The search could not be loaded.');
    }
  }

  /** Puts what a program has copied into the clipboard. */
  async #copy(text: string): Promise<void> {
    const status = this.#parts?.status;
    try {
      await navigator.clipboard.writeText(text);
      status?.hint('Copied to the clipboard.');
    } catch {
      status?.hint('A program wanted to copy something, which this page may not do.');
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
    if (state.name !== 'connected') {
      shown.sharing.setOwner(null);
      shown.files.setOwner(null);
    }
    if (state.name === 'starting' && hadFocus) shown.screen.focus();
    if (state.name !== 'idle' && !this.#accelerated) {
      this.#accelerated = true;
      void shown.screen.accelerate();
    }
    this.#emit('state', state);
    if (state.name === 'ended' && state.end.kind === 'exit') this.#emit('exit', state.end.exit);
  }

  #onReady(ready: Ready, fresh: boolean): void {
    const shown = this.#parts;
    if (shown === null) return;
    shown.screen.setReadOnly(ready.readOnly);
    shown.status.setRecorded(ready.recorded);
    shown.status.setViewers(0);
    shown.sharing.setViewers(0);
    const { lease } = shown.connection;
    this.#owner = lease === null || this.#share !== null ? null : new Owner(this.#base, lease);
    shown.sharing.setOwner(this.#owner);
    shown.files.setOwner(this.readOnly ? null : this.#owner);
    this.#emit('ready', ready);
    const { command } = this;
    if (fresh && command !== null && this.#share === null) this.run(command);
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

/** What those who listen are given. */
export interface TerminalEvents {
  state: CustomEvent<State>;
  ready: CustomEvent<Ready>;
  exit: CustomEvent<Exit>;
  latency: CustomEvent<number>;
  leave: CustomEvent<null>;
}

// With the class: nothing but the types of its events.
export interface BelljarTerminal {
  addEventListener<K extends keyof TerminalEvents>(
    type: K,
    listener: (this: BelljarTerminal, event: TerminalEvents[K]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject,
    options?: boolean | AddEventListenerOptions,
  ): void;
}

declare global {
  interface HTMLElementTagNameMap {
    'belljar-terminal': BelljarTerminal;
  }
}
