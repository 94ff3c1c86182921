/** The panel above the bar with what a visitor may change, and the keys to know. */
import { THEMES, type Theme } from './settings.ts';

export type Tool =
  | 'fresh'
  | 'files'
  | 'find'
  | 'fullscreen'
  | 'reader'
  | 'keys'
  | 'smaller'
  | 'actual'
  | 'larger';

export interface ToolsListener {
  use(tool: Tool): void;
  theme(theme: Theme): void;
  /** The panel is closed by key: where to now? */
  closed(): void;
}

/** How things stand when the panel is opened. */
export interface Setup {
  theme: Theme;
  fontSize: number;
  reader: boolean;
  keys: boolean;
  /** Whether there is a session of its own, to throw away or to bring files to. */
  own: boolean;
}

const NAMES: Record<Theme, string> = {
  auto: 'As the page',
  light: 'Light',
  dark: 'Dark',
  contrast: 'High contrast',
};

const MARKUP = `
<section class="panel tools" part="panel" aria-label="Tools of this terminal" hidden>
  <div class="panel-row">
    <span class="tool-name">Text size</span>
    <button type="button" part="button" data-tool="smaller" title="Ctrl -" aria-label="Smaller text">−</button>
    <button type="button" part="button" data-tool="actual" title="Ctrl 0" class="tool-size"></button>
    <button type="button" part="button" data-tool="larger" title="Ctrl +" aria-label="Larger text">+</button>
  </div>
  <label class="panel-row">
    <span class="tool-name">Colours</span>
    <select part="select">${THEMES.map((theme) => `<option value="${theme}">${NAMES[theme]}</option>`).join('')}</select>
  </label>
  <div class="panel-row tool-row">
    <button type="button" part="button" data-tool="find" title="Ctrl Shift F">Find</button>
    <button type="button" part="button" data-tool="fullscreen">Full screen</button>
    <button type="button" part="button" data-tool="keys" aria-pressed="false">More keys</button>
    <button type="button" part="button" data-tool="reader" aria-pressed="false">Screen reader</button>
    <button type="button" part="button" data-tool="files">Files</button>
    <button type="button" part="button" data-tool="fresh">Throw away, start fresh</button>
  </div>
  <p class="panel-text"><kbd>Ctrl</kbd> <kbd>Shift</kbd> <kbd>Enter</kbd> leaves the terminal for the rest of the page.</p>
</section>
`;

export class Tools {
  readonly #panel: HTMLElement;
  readonly #opener: HTMLElement;
  readonly #theme: HTMLSelectElement;

  /** `opener` is the button that the panel belongs to. */
  constructor(frame: HTMLElement, opener: HTMLElement, listener: ToolsListener) {
    frame.insertAdjacentHTML('beforeend', MARKUP);
    this.#panel = frame.querySelector('.tools') as HTMLElement;
    this.#opener = opener;
    this.#theme = this.#panel.querySelector('select') as HTMLSelectElement;
    this.#tool('fullscreen').hidden = !document.fullscreenEnabled;
    this.#theme.addEventListener('change', () => listener.theme(this.#theme.value as Theme));
    this.#panel.addEventListener('click', ({ target }) => {
      const tool = (target as Element).closest<HTMLElement>('[data-tool]')?.dataset.tool;
      if (tool !== undefined) listener.use(tool as Tool);
    });
    this.#panel.addEventListener('keydown', (event) => {
      if (event.key !== 'Escape') return;
      this.close();
      listener.closed();
    });
  }

  toggle(setup: Setup): void {
    if (!this.#panel.hidden) {
      this.close();
      return;
    }
    this.show(setup);
    this.#panel.hidden = false;
    this.#opener.ariaExpanded = 'true';
    this.#panel.querySelector<HTMLElement>('button:not([hidden])')?.focus({ preventScroll: true });
  }

  show({ theme, fontSize, reader, keys, own }: Setup): void {
    this.#tool('fresh').hidden = !own;
    this.#tool('files').hidden = !own;
    this.#theme.value = theme;
    this.#tool('actual').textContent = `${fontSize} px`;
    this.#tool('actual').ariaLabel = `Text of ${fontSize} px: back to normal`;
    this.#tool('reader').ariaPressed = String(reader);
    this.#tool('keys').ariaPressed = String(keys);
  }

  close(): void {
    this.#panel.hidden = true;
    this.#opener.ariaExpanded = 'false';
  }

  #tool(name: Tool): HTMLElement {
    return this.#panel.querySelector(`[data-tool="${name}"]`) as HTMLElement;
  }
}
