/** Files that an owner drops on the terminal or chooses, and those that an owner takes out of it. */
import type { Owner } from './owner.ts';

/** Files brought at once. More are a directory's worth, which is better packed into one. */
const MAX_FILES = 20;

const MARKUP = `
<div class="drop" part="drop" hidden>Drop files to put them into the home directory.</div>
<section class="panel" part="panel" aria-label="Files of this terminal" hidden>
  <div class="panel-row">
    <span class="panel-said">Into the home directory, by dropping them here or:</span>
    <button class="files-choose" part="button" type="button">Choose files</button>
    <input class="files-chosen" type="file" multiple hidden>
  </div>
  <form class="panel-row">
    <input class="panel-link" required aria-label="File to download" placeholder="notes.txt">
    <button part="button">Download</button>
  </form>
  <div class="panel-row">
    <span class="panel-said files-said" role="status"></span>
    <button class="panel-close" part="button" type="button">Close</button>
  </div>
</section>
`;

export interface FilesListener {
  /** Something to tell the visitor while the panel is closed. */
  said(text: string): void;
  closed(): void;
}

export class Files {
  readonly #drop: HTMLElement;
  readonly #panel: HTMLElement;
  readonly #listener: FilesListener;
  #owner: Owner | null = null;

  constructor(frame: HTMLElement, listener: FilesListener) {
    this.#listener = listener;
    const before = frame.lastElementChild;
    frame.insertAdjacentHTML('beforeend', MARKUP);
    this.#drop = (before?.nextElementSibling ?? frame.firstElementChild) as HTMLElement;
    this.#panel = frame.lastElementChild as HTMLElement;

    const chosen = this.#part<HTMLInputElement>('.files-chosen');
    this.#part('.files-choose').addEventListener('click', () => chosen.click());
    chosen.addEventListener('change', () => {
      void this.#bring([...(chosen.files ?? [])]);
      chosen.value = '';
    });
    this.#part('form').addEventListener('submit', (event) => {
      event.preventDefault();
      void this.#take(this.#part<HTMLInputElement>('.panel-link').value);
    });
    this.#part('.panel-close').addEventListener('click', () => this.close());
    this.#panel.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') this.close();
    });

    frame.addEventListener('dragover', (event) => {
      if (this.#owner === null || !event.dataTransfer?.types.includes('Files')) return;
      event.preventDefault();
      this.#drop.hidden = false;
    });
    frame.addEventListener('dragleave', ({ relatedTarget }) => {
      if (!frame.contains(relatedTarget as Node | null)) this.#drop.hidden = true;
    });
    frame.addEventListener('drop', (event) => {
      this.#drop.hidden = true;
      if (this.#owner === null || event.dataTransfer === null) return;
      event.preventDefault();
      void this.#bring([...event.dataTransfer.files]);
    });
  }

  /** Whose terminal it is; `null` while there is none. */
  setOwner(owner: Owner | null): void {
    this.#owner = owner;
    if (owner === null) this.hide();
  }

  open(): void {
    this.#panel.hidden = false;
    this.#part('.files-said').textContent = '';
    this.#part('.files-choose').focus({ preventScroll: true });
  }

  close(): void {
    this.hide();
    this.#listener.closed();
  }

  hide(): void {
    this.#panel.hidden = true;
    this.#drop.hidden = true;
  }

  async #bring(files: File[]): Promise<void> {
    const owner = this.#owner;
    if (owner === null || files.length === 0) return;
    if (files.length > MAX_FILES) {
      this.#say(`At most ${MAX_FILES} files at once: pack them into one.`);
      return;
    }
    let name = '';
    try {
      for (const file of files) {
        name = file.name;
        this.#say(`Bringing ${name} …`);
        await owner.bring(name, file);
      }
      this.#say(files.length === 1 ? `${name} is there.` : `${files.length} files are there.`);
    } catch (error) {
      this.#say(`${name} was not brought. ${(error as Error).message}`);
    }
  }

  async #take(path: string): Promise<void> {
    const owner = this.#owner;
    if (owner === null) return;
    const name = path.slice(path.lastIndexOf('/') + 1);
    try {
      this.#say(`Fetching ${name} …`);
      const url = URL.createObjectURL(await owner.take(path));
      const link = document.createElement('a');
      link.href = url;
      link.download = name;
      link.click();
      // By then the browser has begun to read it.
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
      this.#say(`${name} is yours.`);
    } catch (error) {
      this.#say((error as Error).message);
    }
  }

  #say(text: string): void {
    this.#part('.files-said').textContent = text;
    if (this.#panel.hidden) this.#listener.said(text);
  }

  #part<T extends HTMLElement = HTMLElement>(selector: string): T {
    return this.#panel.querySelector(selector) as T;
  }
}
