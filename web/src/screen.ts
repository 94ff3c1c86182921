/** The part that shows characters: xterm.js with its addons, and nothing about sessions. */
import { FitAddon } from '@xterm/addon-fit';
import { WebLinksAddon } from '@xterm/addon-web-links';
import { type ITerminalAddon, Terminal } from '@xterm/xterm';
import { readCopy } from './clipboard.ts';
import type { Look } from './look.ts';
import { FONT_PX } from './settings.ts';
import { type Shortcut, shortcut } from './shortcuts.ts';
import { COLOURS, CONTRAST_RATIO } from './theme.ts';
import { countCells } from './widths.ts';

export interface ScreenListener {
  /** Typed, pasted, or answered to a query of the program: text that goes out as UTF-8. */
  data(text: string): void;
  /** Old mouse reports: one byte per UTF-16 unit. */
  binary(text: string): void;
  resized(cols: number, rows: number): void;
  /** A key that is not the program's. */
  shortcut(name: Exclude<Shortcut, 'copy'>): void;
  /** A program asks for `text` to be put into the clipboard. */
  copied(text: string): void;
}

export const FONT =
  'ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace';
/** The smallest characters in px that a screen of a given size is drawn with: beyond that it scrolls. */
const MIN_FONT_PX = 7;
/** Below this width in px, a smaller font buys the columns that most programs need. */
const NARROW_PX = 520;
/** What is typed is announced as what it is, together with the way out. */
const LABEL = 'Terminal. Control Shift Enter leaves it.';
/** Images of one terminal: 32 MiB of pixels, and the oldest go. The addon's own limit is four times that. */
const IMAGES = {
  storageLimit: 32,
  pixelLimit: 4 * 1024 * 1024,
  sixelSizeLimit: 8_000_000,
  iipSizeLimit: 8_000_000,
};
/** RIS (ECMA-48 §8.3.105). As bytes in the stream it takes effect between what came before and what follows. */
const RESET = new Uint8Array([0x1b, 0x63]);

export class Screen {
  readonly #xterm: Terminal;
  readonly #fit = new FitAddon();
  readonly #host: HTMLElement;
  readonly #observer: ResizeObserver;
  readonly #listener: ScreenListener;
  #frame = 0;
  /** In px; `null`: what suits the width. */
  #font: number | null = null;
  /** In px, added to that: the visitor's choice. */
  #zoom = 0;
  /** A size that is not ours to choose. */
  #fixed: { cols: number; rows: number } | null = null;

  constructor(host: HTMLElement, listener: ScreenListener) {
    this.#host = host;
    this.#listener = listener;
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
    this.#xterm.parser.registerOscHandler(52, (data) => {
      const text = readCopy(data);
      if (text !== null) listener.copied(text);
      return true;
    });
    this.#xterm.open(host);
    this.#xterm.textarea?.setAttribute('aria-label', LABEL);
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

  /** The size of characters in px, before anything that has to fit. */
  get fontSize(): number {
    const font = this.#font ?? (this.#host.clientWidth < NARROW_PX ? 12 : 14);
    return Math.min(FONT_PX.most, Math.max(FONT_PX.least, font + this.#zoom));
  }

  /** Whether the program has asked for arrow keys of its own kind (DECCKM). */
  get applicationKeys(): boolean {
    return this.#xterm.modes.applicationCursorKeysMode;
  }

  setFont(px: number | null): void {
    this.#font = px;
    this.fit();
  }

  /** Larger by `px`, or for `null` as it was. */
  zoom(px: number | null): void {
    const before = this.fontSize;
    this.#zoom = px === null ? 0 : this.#zoom + px;
    // At its end it does not count on.
    if (px !== null && this.fontSize === before) this.#zoom -= px;
    this.fit();
  }

  fit(): void {
    if (this.#host.clientWidth === 0) return;
    const font = this.fontSize;
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

  /** From now on the screen has this size, and its characters are as large as fits; `null`: as many as fit. */
  setSize(size: { cols: number; rows: number } | null): void {
    this.#fixed = size;
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

  setLook(look: Look): void {
    this.#xterm.options.theme = COLOURS[look];
    this.#xterm.options.minimumContrastRatio = CONTRAST_RATIO[look];
  }

  /** Whether the output is there for screen readers too, at the price of some speed. */
  setScreenReader(on: boolean): void {
    this.#xterm.options.screenReaderMode = on;
  }

  load(addon: ITerminalAddon): void {
    this.#xterm.loadAddon(addon);
  }

  /** Draws images from now on. */
  async showImages(): Promise<void> {
    const { ImageAddon } = await import('@xterm/addon-image');
    this.load(new ImageAddon(IMAGES));
  }

  /** Draws with WebGL from now on where that works; the DOM renderer takes over when the context is lost. */
  async accelerate(): Promise<void> {
    try {
      const { WebglAddon } = await import('@xterm/addon-webgl');
      const addon = new WebglAddon();
      addon.onContextLoss(() => addon.dispose());
      this.#xterm.loadAddon(addon);
      // Its cells are whole pixels.
      this.fit();
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

  #key(event: KeyboardEvent): boolean {
    const name = shortcut(event);
    if (name === null) return true;
    if (name === 'copy') {
      if (event.type === 'keydown') this.#copy(event);
    } else {
      event.preventDefault();
      if (event.type === 'keydown') this.#listener.shortcut(name);
    }
    return false;
  }

  /** As in other terminals. Ctrl-C stays an interrupt. */
  #copy(event: KeyboardEvent): void {
    if (!this.#xterm.hasSelection()) return;
    event.preventDefault();
    void navigator.clipboard?.writeText(this.#xterm.getSelection()).catch(() => {});
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
