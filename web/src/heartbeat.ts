import { Timer } from './timer.ts';

const PING_MS = 5_000;
/** Silence after a ping that means the socket is dead. Long, because a sandbox may starve its own agent. */
const SILENCE_MS = 15_000;
/** The same after the network came back or the page was shown: then a dead socket is likely. */
const WAKE_SILENCE_MS = 4_000;

export interface HeartbeatListener {
  ping(id: number): void;
  latency(ms: number): void;
  /** Nothing was heard for too long. A socket by itself may take minutes to find out. */
  dead(): void;
}

/**
 * Measures the latency of one socket after another, and notices when one is dead. While nobody looks at the page
 * it does not ping by itself.
 */
export class Heartbeat {
  #id = 0;
  #sentAt = 0;
  #heardAt = 0;
  #open = false;
  #visible = true;
  readonly #next = new Timer();
  readonly #silence = new Timer();

  constructor(private readonly listener: HeartbeatListener) {}

  /** A socket is ready. */
  start(): void {
    if (this.#visible) this.#ping(SILENCE_MS);
  }

  stop(): void {
    this.#next.clear();
    this.#silence.clear();
    this.#open = false;
  }

  /** Finds out now whether the socket is dead. */
  probe(): void {
    this.#ping(WAKE_SILENCE_MS);
  }

  /** Any message is a sign of life, not only a pong. */
  heard(): void {
    this.#heardAt = Date.now();
  }

  pong(id: number): void {
    if (!this.#open || id !== this.#id) return;
    this.#open = false;
    this.#silence.clear();
    if (this.#visible) this.#next.set(PING_MS, () => this.#ping(SILENCE_MS));
    this.listener.latency(Date.now() - this.#sentAt);
  }

  /** Returns whether that changed anything. */
  setVisible(visible: boolean): boolean {
    if (visible === this.#visible) return false;
    this.#visible = visible;
    if (!visible) {
      this.#next.clear();
      this.#silence.clear();
    }
    return true;
  }

  /** The next ping follows the pong, so that silence is never hidden by a younger ping. */
  #ping(silenceMs: number): void {
    this.#next.clear();
    this.#id += 1;
    this.#sentAt = Date.now();
    this.#open = true;
    this.listener.ping(this.#id);
    this.#watch(silenceMs, silenceMs);
  }

  #watch(silenceMs: number, wait: number): void {
    this.#silence.set(wait, () => {
      const silent = Date.now() - Math.max(this.#heardAt, this.#sentAt);
      if (silent >= silenceMs) this.listener.dead();
      else this.#watch(silenceMs, silenceMs - silent);
    });
  }
}
