/** The row of keys that keyboards on glass do not have. */

const MARKUP = `
<div class="keys" part="keys" role="toolbar" aria-label="More keys" hidden>
  <button type="button" part="button" data-key="escape">Esc</button>
  <button type="button" part="button" data-key="tab">Tab</button>
  <button type="button" part="button" data-key="control" aria-pressed="false">Ctrl</button>
  <button type="button" part="button" data-key="left" aria-label="Left">←</button>
  <button type="button" part="button" data-key="up" aria-label="Up">↑</button>
  <button type="button" part="button" data-key="down" aria-label="Down">↓</button>
  <button type="button" part="button" data-key="right" aria-label="Right">→</button>
  <button type="button" part="button" data-key="/">/</button>
  <button type="button" part="button" data-key="-">-</button>
  <button type="button" part="button" data-key="|">|</button>
  <button type="button" part="button" data-key="~">~</button>
</div>
`;

const ARROWS: Record<string, string> = { up: 'A', down: 'B', right: 'C', left: 'D' };

/** What a key of the row types. `application`: the program has asked for arrows of its own kind (DECCKM). */
export function sequence(key: string, control: boolean, application: boolean): string {
  const arrow = ARROWS[key];
  if (arrow !== undefined) {
    if (control) return `\x1b[1;5${arrow}`;
    return `\x1b${application ? 'O' : '['}${arrow}`;
  }
  if (key === 'escape') return '\x1b';
  if (key === 'tab') return '\t';
  return control ? controlled(key) : key;
}

/** `text` with Ctrl held, if it is one key that has such a meaning. */
export function controlled(text: string): string {
  if (text === ' ' || text === '2') return '\0';
  if (text === '-' || text === '/') return '\x1f';
  const code = text.toUpperCase().charCodeAt(0);
  return text.length === 1 && code >= 0x40 && code <= 0x5f ? String.fromCharCode(code & 0x1f) : text;
}

export interface KeysListener {
  type(text: string): void;
  /** Whether the program has asked for arrows of its own kind. */
  application(): boolean;
}

export class Keys {
  readonly #row: HTMLElement;
  readonly #control: HTMLElement;

  constructor(frame: HTMLElement, listener: KeysListener) {
    frame.insertAdjacentHTML('beforeend', MARKUP);
    this.#row = frame.querySelector('.keys') as HTMLElement;
    this.#control = this.#row.querySelector('[data-key="control"]') as HTMLElement;
    // The focus stays where it is: without it the keyboard on the glass would go away.
    this.#row.addEventListener('pointerdown', (event) => event.preventDefault());
    this.#row.addEventListener('click', ({ target }) => {
      const key = (target as Element).closest<HTMLElement>('[data-key]')?.dataset.key;
      if (key === undefined) return;
      if (key === 'control') this.#hold(!this.held);
      else listener.type(sequence(key, this.#release(), listener.application()));
    });
    this.shown = matchMedia('(pointer: coarse)').matches;
  }

  get shown(): boolean {
    return !this.#row.hidden;
  }

  set shown(shown: boolean) {
    this.#row.hidden = !shown;
    this.#hold(false);
  }

  /** Ctrl counts for the next key. */
  get held(): boolean {
    return this.#control.ariaPressed === 'true';
  }

  /** What becomes of `text` that was typed on the keyboard. */
  apply(text: string): string {
    return this.#release() ? controlled(text) : text;
  }

  #release(): boolean {
    const { held } = this;
    if (held) this.#hold(false);
    return held;
  }

  #hold(held: boolean): void {
    this.#control.ariaPressed = String(held);
  }
}
