/** The part that shows characters: xterm.js with its addons, and nothing about sessions. */
import { FitAddon } from '@xterm/addon-fit';
import { WebLinksAddon } from '@xterm/addon-web-links';
import { Terminal } from '@xterm/xterm';
import { DARK, LIGHT } from './theme.ts';
import { countCells } from './widths.ts';

export interface ScreenListener {
  /** Typed, pasted, or answered to a query of the program: text that goes out as UTF-8. */
  data(text: string): void;
  /** Old mouse reports: one byte per UTF-16 unit. */
  binary(text: string): void;
  resized(cols: number, rows: number): void;
}

export const FONT =
  'ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace';
/** The smallest characters in px that a screen of a given size is drawn with: beyond that it scrolls. */
const MIN_FONT_PX = 7;
/** Below this width in px, a smaller font buys the columns that most programs need. */
const NARROW_PX = 520;
/** RIS (ECMA-48 §8.3.105). As bytes in the stream it takes effect between what came before and what follows. */
const RESET = new Uint8Array([0x1b, 0x63]);

export class Screen {
  readonly #xterm: Terminal;
  readonly #fit = new FitAddon();
  readonly #host: HTMLElement;
  readonly #observer: ResizeObserver;
  #frame = 0;
  /** A size that is not ours to choose. */
  #fixed: { cols: number; rows: number } | null = null;

  constructor(host: HTMLElement, listener: ScreenListener) {
    this.#host = host;
    this.#xterm = new Terminal({
      allowProposedApi: true,
      cursorBlink: !matchMedia('(prefers-reduced-motion: reduce)').matches,
      fontFamily: FONT,
      lineHeight: 1.15,
      macOptionIsMeta: true,
      rightClickSelectsWord: true,
      scrollback: 5000,
    });
    this.#xterm.loadAddon(this.#fit);
    this.#xterm.loadAddon(new WebLinksAddon());
    countCells(this.#xterm);
    this.#xterm.attachCustomKeyEventHandler((event) => this.#key(event));
    this.#xterm.onData((text) => listener.data(text));
    this.#xterm.onBinary((text) => listener.binary(text));
    this.#xterm.onResize(({ cols, rows }) => listener.resized(cols, rows));
    this.#xterm.open(host);
    this.fit();
    this.#observer = new ResizeObserver(() => {
      cancelAnimationFrame(this.#frame);
      this.#frame = requestAnimationFrame(() => this.fit());
    });
    this.#observer.observe(host);
  }

  get size(): { cols: number; rows: number } {
    return { cols: this.#xterm.cols, rows: this.#xterm.rows };
  }

  fit(): void {
    if (this.#host.clientWidth === 0) return;
    const font = this.#host.clientWidth < NARROW_PX ? 12 : 14;
    this.#xterm.options.fontSize = font;
    if (this.#fixed === null) {
      this.#fit.fit();
      return;
    }
    const { cols, rows } = this.#fixed;
    const room = this.#fit.proposeDimensions();
    if (room !== undefined) {
      const scale = Math.min(1, room.cols / cols, room.rows / rows);
      this.#xterm.options.fontSize = Math.max(MIN_FONT_PX, Math.floor(font * scale * 2) / 2);
    }
    this.#xterm.resize(cols, rows);
  }

  /** From now on the screen has this size, and its characters are as large as fits. */
  setSize(cols: number, rows: number): void {
    this.#fixed = { cols, rows };
    this.fit();
  }

  write(bytes: Uint8Array, done: () => void): void {
    this.#xterm.write(bytes, done);
  }

  reset(): void {
    this.#xterm.write(RESET);
  }

  focus(): void {
    this.#xterm.focus();
  }

  /** Wraps the text in bracketed-paste marks if the program asked for them. */
  paste(text: string): void {
    this.#xterm.paste(text);
  }

  setReadOnly(readOnly: boolean): void {
    this.#xterm.options.disableStdin = readOnly;
  }

  setDark(dark: boolean): void {
    this.#xterm.options.theme = dark ? DARK : LIGHT;
    // Programs choose colours for dark screens.
    this.#xterm.options.minimumContrastRatio = dark ? 1 : 4.5;
  }

  /** Draws with WebGL from now on where that works; the DOM renderer takes over when the context is lost. */
  async accelerate(): Promise<void> {
    try {
      const { WebglAddon } = await import('@xterm/addon-webgl');
      const addon = new WebglAddon();
      addon.onContextLoss(() => addon.dispose());
      this.#xterm.loadAddon(addon);
    } catch {
      // No WebGL here, or the file could not be fetched: nothing is lost but speed.
    }
  }

  /** Everything on the screen and in its scrollback, wrapped lines joined. */
  text(): string {
    const buffer = this.#xterm.buffer.active;
    let text = '';
    for (let y = 0; y < buffer.length; y += 1) {
      const line = buffer.getLine(y);
      if (line === undefined) break;
      const wraps = buffer.getLine(y + 1)?.isWrapped === true;
      text += line.translateToString(!wraps) + (wraps ? '' : '\n');
    }
    return text.trimEnd();
  }

  dispose(): void {
    this.#observer.disconnect();
    cancelAnimationFrame(this.#frame);
    this.#xterm.dispose();
  }

  /** Ctrl-Shift-C copies, as in other terminals; Ctrl-C stays an interrupt. */
  #key(event: KeyboardEvent): boolean {
    if (event.type !== 'keydown' || !event.ctrlKey || !event.shiftKey || event.code !== 'KeyC') return true;
    if (this.#xterm.hasSelection()) {
      event.preventDefault();
      void navigator.clipboard?.writeText(this.#xterm.getSelection()).catch(() => {});
    }
    return false;
  }
}

/**
 * Whether `text` is an answer that the screen gives by itself: device attributes and status, cursor position,
 * modes, colours, window size, focus.
 */
export function isReport(text: string): boolean {
  return REPORT.test(text);
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: escape sequences are made of them.
const REPORT = /^\x1b(?:\[[?>]?[\d;]*(?:\$y|[cnRtIO])|[\]P][^\x07\x1b]*(?:\x07|\x1b\\))$/;
