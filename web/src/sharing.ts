/** The panel above the bar in which an owner shares the terminal and stops sharing it. */
import { shareLink } from './link.ts';
import type { Owner } from './owner.ts';

const MARKUP = `
<section class="panel" part="panel" aria-label="Share this terminal" hidden>
  <p class="panel-text"></p>
  <div class="panel-row">
    <input class="panel-link" readonly aria-label="Link to watch this terminal">
    <button class="panel-copy" part="button" type="button">Copy</button>
  </div>
  <div class="panel-row">
    <span class="panel-said" role="status"></span>
    <button class="panel-stop" part="button" type="button">Stop sharing</button>
    <button class="panel-close" part="button" type="button">Close</button>
  </div>
</section>
`;

const INVITATION = 'Whoever has this link can watch, but not type. It ends with this terminal.';

export class Sharing {
  readonly #panel: HTMLElement;
  readonly #page: string;
  readonly #closed: () => void;
  #owner: Owner | null = null;
  #link: string | null = null;
  #viewers = 0;

  /** `page` is the address that shows a shared terminal. */
  constructor(frame: HTMLElement, page: string, closed: () => void) {
    this.#page = page;
    this.#closed = closed;
    frame.insertAdjacentHTML('beforeend', MARKUP);
    this.#panel = frame.querySelector('.panel') as HTMLElement;
    this.#part('.panel-copy').addEventListener('click', () => void this.#copy());
    this.#part('.panel-stop').addEventListener('click', () => void this.#stop());
    this.#part('.panel-close').addEventListener('click', () => this.close());
    this.#panel.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') this.close();
    });
  }

  /** Whose terminal is to be shared; `null` while there is none. */
  setOwner(owner: Owner | null): void {
    if (owner?.lease.session !== this.#owner?.lease.session) this.#link = null;
    this.#owner = owner;
    if (owner === null) this.#panel.hidden = true;
  }

  setViewers(count: number): void {
    this.#viewers = count;
    this.#render();
  }

  /** Opens the panel with a link, or closes it. */
  async toggle(): Promise<void> {
    if (!this.#panel.hidden) {
      this.close();
      return;
    }
    const owner = this.#owner;
    if (owner === null) return;
    this.#say('');
    this.#panel.hidden = false;
    this.#render();
    if (this.#link === null) {
      try {
        this.#link = shareLink(this.#page, await owner.share());
      } catch (error) {
        this.#say((error as Error).message);
        return;
      }
    }
    this.#render();
    await this.#copy();
  }

  close(): void {
    this.hide();
    this.#closed();
  }

  hide(): void {
    this.#panel.hidden = true;
  }

  async #copy(): Promise<void> {
    const field = this.#part<HTMLInputElement>('.panel-link');
    field.focus({ preventScroll: true });
    field.select();
    try {
      await navigator.clipboard.writeText(field.value);
      this.#say('Copied');
    } catch {
      // Denied, or a page without TLS: the link is selected, so that a key copies it.
      this.#say('Copy the link from the field above');
    }
  }

  async #stop(): Promise<void> {
    try {
      await this.#owner?.stopSharing();
      this.#link = null;
      this.close();
    } catch (error) {
      this.#say((error as Error).message);
    }
  }

  #render(): void {
    const watching = this.#viewers === 0 ? '' : ` ${this.#viewers} watching now.`;
    this.#part('.panel-text').textContent = INVITATION + watching;
    this.#part<HTMLInputElement>('.panel-link').value = this.#link ?? '';
    this.#part<HTMLButtonElement>('.panel-copy').disabled = this.#link === null;
  }

  #say(text: string): void {
    this.#part('.panel-said').textContent = text;
  }

  #part<T extends HTMLElement = HTMLElement>(selector: string): T {
    return this.#panel.querySelector<T>(selector) as T;
  }
}
