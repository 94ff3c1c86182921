/** The bar that looks for text on the screen and in its scrollback. A file of its own, for those who look. */
import { SearchAddon } from '@xterm/addon-search';
import type { Look } from './look.ts';
import type { Screen } from './screen.ts';
import { FOUND } from './theme.ts';

const MARKUP = `
<form class="find" part="find" role="search" hidden>
  <input class="find-text" type="text" aria-label="Find in the terminal" autocomplete="off" autocapitalize="off" spellcheck="false">
  <span class="find-count" role="status"></span>
  <button class="find-before" part="button" type="button" title="Before this (Shift+Enter)" aria-label="Find the one before">↑</button>
  <button class="find-after" part="button" type="submit" title="After this (Enter)" aria-label="Find the one after">↓</button>
  <button class="find-close" part="button" type="button" title="Close (Escape)" aria-label="Close">✕</button>
</form>
`;

/** Matches that are marked at once. */
const MOST_MARKED = 1000;

export class Find {
  readonly #addon = new SearchAddon({ highlightLimit: MOST_MARKED });
  readonly #form: HTMLFormElement;
  readonly #field: HTMLInputElement;
  readonly #look: () => Look;
  readonly #closed: () => void;

  constructor(frame: HTMLElement, screen: Screen, look: () => Look, closed: () => void) {
    this.#look = look;
    this.#closed = closed;
    screen.load(this.#addon);
    frame.insertAdjacentHTML('beforeend', MARKUP);
    this.#form = frame.querySelector('.find') as HTMLFormElement;
    this.#field = this.#part('.find-text') as HTMLInputElement;
    this.#addon.onDidChangeResults(({ resultIndex, resultCount }) => {
      if (this.#field.value === '') this.#count('');
      else if (resultCount === 0) this.#count('Not there');
      else if (resultCount >= MOST_MARKED) this.#count(`${MOST_MARKED} and more`);
      else this.#count(`${resultIndex + 1} of ${resultCount}`);
    });
    this.#field.addEventListener('input', () => this.#go('after', true));
    this.#form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.#go('after');
    });
    this.#part('.find-before').addEventListener('click', () => this.#go('before'));
    this.#part('.find-close').addEventListener('click', () => this.close());
    this.#form.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') this.close();
      if (event.key !== 'Enter' || !event.shiftKey) return;
      event.preventDefault();
      this.#go('before');
    });
  }

  open(): void {
    this.#form.hidden = false;
    this.#field.focus({ preventScroll: true });
    this.#field.select();
    if (this.#field.value !== '') this.#go('after', true);
  }

  close(): void {
    this.#form.hidden = true;
    this.#addon.clearDecorations();
    this.#closed();
  }

  /** `again`: what is found now may stay, if it still fits. */
  #go(where: 'before' | 'after', again = false): void {
    const text = this.#field.value;
    if (text === '') {
      this.#addon.clearDecorations();
      this.#count('');
      return;
    }
    const found = FOUND[this.#look()];
    // The one at hand is selected, and so has a colour of its own.
    const decorations = {
      matchBackground: found,
      matchOverviewRuler: found,
      activeMatchColorOverviewRuler: found,
    };
    const options = { decorations, incremental: again };
    if (where === 'before') this.#addon.findPrevious(text, options);
    else this.#addon.findNext(text, options);
  }

  #count(text: string): void {
    this.#part('.find-count').textContent = text;
  }

  #part(selector: string): HTMLElement {
    return this.#form.querySelector(selector) as HTMLElement;
  }
}
