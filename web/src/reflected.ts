/**
 * The settings of a terminal as attributes, each with the property that reflects it.
 *
 * A property that a framework has set before the element was defined counts from then on.
 */
import { ATTRIBUTES, type Attribute, readFontSize, readTheme, type Theme } from './settings.ts';

const PROPERTIES = [
  'src',
  'template',
  'token',
  'theme',
  'fontSize',
  'autostart',
  'readOnly',
  'command',
  'clipboard',
  'images',
  'screenReader',
] as const;

export abstract class Reflected extends HTMLElement {
  static readonly observedAttributes: readonly string[] = ATTRIBUTES;

  /** The gateway's base URL. `null`: where the element comes from. */
  get src(): string | null {
    return this.getAttribute('src');
  }

  set src(value: string | null) {
    this.#text('src', value);
  }

  /** What the sandbox is started from. `null`: the gateway's default. */
  get template(): string | null {
    return this.getAttribute('template');
  }

  set template(value: string | null) {
    this.#text('template', value);
  }

  /** An embed token: the site's permission to open one session. */
  get token(): string | null {
    return this.getAttribute('token');
  }

  set token(value: string | null) {
    this.#text('token', value);
  }

  get theme(): Theme {
    return readTheme(this.getAttribute('theme'));
  }

  set theme(value: Theme) {
    this.#text('theme', value);
  }

  /** In px. `null`: what suits the width. */
  get fontSize(): number | null {
    return readFontSize(this.getAttribute('font-size'));
  }

  set fontSize(value: number | null) {
    this.#text('font-size', value === null ? null : String(value));
  }

  /** Whether a session starts without anybody asking. */
  get autostart(): boolean {
    return this.hasAttribute('autostart');
  }

  set autostart(value: boolean) {
    this.toggleAttribute('autostart', value);
  }

  /** Whether only the page types (`run`), and not the visitor. */
  get readOnly(): boolean {
    return this.hasAttribute('readonly');
  }

  set readOnly(value: boolean) {
    this.toggleAttribute('readonly', value);
  }

  /** Run once in every fresh session. */
  get command(): string | null {
    return this.getAttribute('command');
  }

  set command(value: string | null) {
    this.#text('command', value);
  }

  /** Whether programs may put text into the visitor's clipboard (OSC 52). None can read it. */
  get clipboard(): boolean {
    return this.hasAttribute('clipboard');
  }

  set clipboard(value: boolean) {
    this.toggleAttribute('clipboard', value);
  }

  /** Whether programs may draw images (sixel, iTerm's protocol). */
  get images(): boolean {
    return this.hasAttribute('images');
  }

  set images(value: boolean) {
    this.toggleAttribute('images', value);
  }

  /** Whether the output is also there for screen readers. */
  get screenReader(): boolean {
    return this.hasAttribute('screen-reader');
  }

  set screenReader(value: boolean) {
    this.toggleAttribute('screen-reader', value);
  }

  /** To be called when the element is connected. */
  protected upgradeProperties(): void {
    for (const name of PROPERTIES) {
      if (!Object.hasOwn(this, name)) continue;
      const value = this[name];
      delete (this as Record<string, unknown>)[name];
      (this as Record<string, unknown>)[name] = value;
    }
  }

  #text(name: Attribute, value: string | null): void {
    if (value === null || value === undefined) this.removeAttribute(name);
    else this.setAttribute(name, value);
  }
}
