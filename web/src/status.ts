/** Everything around the characters: the bar, and the card that stands in front while there is no shell. */
import type { End, State } from './connection.ts';
import { about, clock, type Sentence, sayEnd, sayGuestEnd, sayQueue } from './words.ts';

export interface StatusListener {
  start(): void;
  fresh(): void;
  extend(): void;
  retry(): void;
  /** Give up the place in line. */
  leave(): void;
  share(): void;
  replay(): void;
  tools(): void;
}

/** From here on the time left is a countdown by the second. */
const NEAR_END_MS = 5 * 60_000;
const URGENT_MS = 60_000;
/** A start that takes longer than this says how long it has been. */
const SLOW_START_MS = 3_000;
const HINT_MS = 6_000;

type Tone = 'off' | 'busy' | 'good' | 'warn' | 'bad';

const MARKUP = `
<div class="veil" part="veil">
  <div class="card" part="card">
    <svg class="jar" viewBox="0 0 48 48" aria-hidden="true">
      <circle class="knob" cx="24" cy="6.5" r="2.5"/>
      <path class="dome" pathLength="1" d="M10 40V23a14 14 0 0 1 28 0v17"/>
      <path class="shine" d="M15.5 31V23a8.5 8.5 0 0 1 4-7.2"/>
      <path class="base" d="M5 41.5h38"/>
    </svg>
    <p class="title"></p>
    <p class="detail"></p>
    <div class="ways">
      <button class="go" part="button" type="button"></button>
      <button class="replay-go" part="button" type="button" hidden>Replay</button>
    </div>
  </div>
</div>
<div class="bar" part="bar">
  <span class="dot"></span>
  <span class="label"></span>
  <button class="act" part="button" type="button"></button>
  <span class="rec" title="This session is being recorded" hidden>Recorded</span>
  <button class="share" part="button" type="button" title="Let others watch this terminal" hidden>
    <svg viewBox="0 0 16 16" aria-hidden="true"><path d="M1.5 8S4 3.5 8 3.5 14.5 8 14.5 8 12 12.5 8 12.5 1.5 8 1.5 8Z"/><circle cx="8" cy="8" r="2"/></svg>
    <span class="share-label">Share</span>
  </button>
  <span class="latency" title="Time for a key press to travel to the sandbox and back"></span>
  <span class="left" title="Time until this terminal is thrown away"></span>
  <button class="fresh" part="button" type="button" title="Throw this terminal away and start a fresh one"
    aria-label="Throw this terminal away and start a fresh one">
    <svg viewBox="0 0 16 16" aria-hidden="true"><path d="M13 8a5 5 0 1 1-1.6-3.7M13 2v3h-3"/></svg>
  </button>
  <button class="more" part="button" type="button" title="Tools" aria-label="Tools" aria-expanded="false">
    <svg viewBox="0 0 16 16" aria-hidden="true"><path d="M3 4.5h5M11 4.5h2M3 11.5h2M8 11.5h5"/><circle cx="9.5" cy="4.5" r="1.5"/><circle cx="6.5" cy="11.5" r="1.5"/></svg>
  </button>
</div>
<div class="said" role="status"></div>
`;

export class Status {
  readonly #root: HTMLElement;
  readonly #listener: StatusListener;
  #state: State = { name: 'idle' };
  #latencyMs: number | null = null;
  /** `Date.now()` values; `null` while nothing ends. */
  #expiresAt: number | null = null;
  #idleEndsAt: number | null = null;
  #hint: { text: string; until: number } | null = null;
  #ticker: ReturnType<typeof setInterval> | null = null;
  #said = '';
  #go: () => void = () => {};
  #viewers = 0;
  #recorded = false;
  #readOnly = false;
  #replayable = false;
  #act: () => void = () => {};

  /** `guest`: somebody else's session is being watched. */
  constructor(
    root: HTMLElement,
    listener: StatusListener,
    private readonly guest: boolean,
  ) {
    this.#root = root;
    this.#listener = listener;
    root.insertAdjacentHTML('beforeend', MARKUP);
    this.#part('.go').addEventListener('click', () => this.#go());
    this.#part('.act').addEventListener('click', () => this.#act());
    this.#part('.share').addEventListener('click', () => listener.share());
    this.#part('.replay-go').addEventListener('click', () => listener.replay());
    this.#part('.fresh').addEventListener('click', () => listener.fresh());
    this.opener.addEventListener('click', () => listener.tools());
    this.#render();
  }

  /** The button that opens the tools. */
  get opener(): HTMLElement {
    return this.#part('.more');
  }

  setState(state: State): void {
    // What was worth a hint before is no news about what comes now.
    if (state.name !== this.#state.name) this.#hint = null;
    this.#state = state;
    if (state.name !== 'connected') {
      this.#latencyMs = null;
      this.#idleEndsAt = null;
    }
    if (state.name === 'connected') {
      const { remainingMs } = state.ready;
      this.#expiresAt = remainingMs === null ? null : Date.now() + remainingMs;
    }
    if (state.name === 'starting') this.#replayable = false;
    this.#render();
  }

  setLatency(ms: number): void {
    this.#latencyMs = ms;
    this.#render();
  }

  setRemaining(ms: number): void {
    this.#expiresAt = Date.now() + ms;
    this.#render();
  }

  warnIdle(remainingMs: number): void {
    this.#idleEndsAt = Date.now() + remainingMs;
    this.#render();
  }

  setViewers(count: number): void {
    this.#viewers = count;
    this.#render();
  }

  /** Whether the session is recorded now, and whether its owner may watch it again afterwards. */
  setRecorded(recorded: boolean): void {
    this.#recorded = recorded;
    this.#replayable ||= recorded;
    this.#render();
  }

  /** Whether the page keeps the keyboard to itself. */
  setReadOnly(readOnly: boolean): void {
    this.#readOnly = readOnly;
    this.#render();
  }

  /** The visitor did something. */
  active(): void {
    if (this.#idleEndsAt === null) return;
    this.#idleEndsAt = null;
    this.#render();
  }

  /** Says `text` once to those who listen. It stands until the state has something else to say. */
  announce(text: string): void {
    this.#part('.said').replaceChildren(text);
  }

  hint(text: string): void {
    this.#hint = { text, until: Date.now() + HINT_MS };
    this.#render();
  }

  dispose(): void {
    if (this.#ticker !== null) clearInterval(this.#ticker);
    this.#ticker = null;
  }

  #render(): void {
    const now = Date.now();
    const ticks = this.#card(now);
    const counts = this.#bar(now);
    const wanted = ticks || counts;
    if (wanted && this.#ticker === null) this.#ticker = setInterval(() => this.#render(), 1000);
    if (!wanted) this.dispose();
  }

  /** Returns whether it shows something that changes with time. */
  #card(now: number): boolean {
    const state = this.#state;
    this.#go = () => this.#listener.start();
    const card = (title: string, detail: string, action: string | null, enabled = true) => {
      this.#text('.title', title);
      this.#text('.detail', detail);
      const go = this.#part<HTMLButtonElement>('.go');
      go.hidden = action === null;
      go.disabled = !enabled;
      this.#text('.go', action ?? '');
    };
    this.#root.dataset.state = state.name;
    switch (state.name) {
      case 'idle':
        card('A fresh Linux terminal', 'Sealed, and thrown away when you leave.', 'Start');
        return false;
      case 'starting': {
        const waited = now - state.since;
        card('Sealing a fresh sandbox', waited < SLOW_START_MS ? '' : `${about(waited - 999)} so far`, null);
        return true;
      }
      case 'queued': {
        const { title, detail } = sayQueue(
          state.position,
          state.readyAt === null ? null : state.readyAt - now,
        );
        card(title, detail, 'Leave the line');
        this.#go = () => this.#listener.leave();
        return state.readyAt !== null;
      }
      case 'ended': {
        const { title, detail, action } = this.#sayEnd(state.end, state.resumable);
        const wait = state.end.kind === 'error' && state.end.retryAt !== null ? state.end.retryAt - now : 0;
        card(title, detail, wait > 0 ? `${action} in ${about(wait)}` : action, wait <= 0);
        return wait > 0;
      }
      default:
        return false;
    }
  }

  #bar(now: number): boolean {
    const state = this.#state;
    let tone: Tone = 'off';
    let label = '';
    /** What is read out: the same without the seconds. */
    let said: string | null = null;
    let act: [string, () => void] | null = null;
    let ticks = false;
    switch (state.name) {
      case 'idle':
        label = 'Not started';
        said = '';
        break;
      case 'starting':
        [tone, label] = ['busy', 'Starting'];
        break;
      case 'queued':
        [tone, label] = ['busy', 'Waiting in line'];
        said = sayQueue(state.position, null).title;
        break;
      case 'connected':
        [tone, label] = ['good', this.#present(state.ready.readOnly)];
        ticks = this.#expiresAt !== null;
        if (this.#idleEndsAt !== null) {
          tone = 'warn';
          label = `Closing in ${clock(this.#idleEndsAt - now)}. Still there?`;
          said = 'Still there? This terminal closes soon.';
          act = ["I'm here", () => this.#listener.extend()];
        } else if (this.#hint !== null && now < this.#hint.until) {
          [tone, label] = ['warn', this.#hint.text];
        }
        break;
      case 'reconnecting': {
        tone = 'warn';
        const wait = state.retryAt === null ? 0 : state.retryAt - now;
        const trying = state.attempt === 0 ? 'Going back to your shell' : 'Connection lost. Reconnecting';
        label = wait > 999 ? `Connection lost. Trying again in ${about(wait)}` : trying;
        said = trying;
        if (state.attempt > 0) act = ['Retry now', () => this.#listener.retry()];
        ticks = state.retryAt !== null;
        break;
      }
      case 'ended': {
        const { title, detail } = this.#sayEnd(state.end, state.resumable);
        [tone, label] = state.end.kind === 'exit' ? ['off', 'Ended'] : ['bad', 'Not connected'];
        if (this.#hint !== null && now < this.#hint.until) [tone, label] = ['warn', this.#hint.text];
        said = `${title}. ${detail}`;
        break;
      }
    }
    this.#root.dataset.tone = tone;
    this.#text('.label', label);
    const button = this.#part<HTMLButtonElement>('.act');
    button.hidden = act === null;
    if (act !== null) {
      this.#text('.act', act[0]);
      this.#act = act[1];
    }
    const live = state.name === 'connected';
    this.#text('.latency', live && this.#latencyMs !== null ? `${this.#latencyMs} ms` : '');
    const left = live && this.#expiresAt !== null ? this.#expiresAt - now : null;
    const leftText = left === null ? '' : `${left < NEAR_END_MS ? clock(left) : about(left)} left`;
    this.#text('.left', leftText);
    this.#root.toggleAttribute('data-urgent', left !== null && left < URGENT_MS);
    this.#part('.fresh').hidden = !live || this.guest;
    this.#part('.rec').hidden = !live || !this.#recorded;
    this.#part('.share').hidden = !live || this.guest;
    this.#root.toggleAttribute('data-shared', this.#viewers > 0);
    this.#text('.share-label', this.#viewers === 0 ? 'Share' : `${this.#viewers} watching`);
    this.#part('.replay-go').hidden = state.name !== 'ended' || !this.#replayable || this.guest;
    this.#say(said ?? label);
    return ticks;
  }

  #sayEnd(end: End, resumable: boolean): Sentence {
    return this.guest ? sayGuestEnd(end) : sayEnd(end, resumable);
  }

  #present(readOnly: boolean): string {
    if (readOnly) return 'Watching, read only';
    if (this.guest) return 'Watching, you can type';
    return this.#readOnly ? 'Connected, read only' : 'Connected';
  }

  /** Only what is new, or a screen reader repeats it every second. */
  #say(text: string): void {
    if (text === this.#said) return;
    this.#said = text;
    this.#text('.said', text);
  }

  #text(selector: string, text: string): void {
    const node = this.#part(selector);
    if (node.textContent !== text) node.textContent = text;
  }

  #part<T extends HTMLElement = HTMLElement>(selector: string): T {
    return this.#root.querySelector<T>(selector) as T;
  }
}
