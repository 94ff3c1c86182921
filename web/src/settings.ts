/** What a page may set on a terminal, and how it is spelled. */

export const THEMES = ['auto', 'light', 'dark', 'contrast'] as const;
/** `auto` follows the page around the terminal, and the visitor's system where the page does not say. */
export type Theme = (typeof THEMES)[number];

/** In px. Below, nobody can read it; above, no program has room. */
export const FONT_PX = { least: 8, most: 32 };

export const ATTRIBUTES = [
  'src',
  'template',
  'token',
  'theme',
  'font-size',
  'autostart',
  'readonly',
  'command',
  'clipboard',
  'images',
  'screen-reader',
] as const;
export type Attribute = (typeof ATTRIBUTES)[number];

export function readTheme(text: string | null): Theme {
  return THEMES.find((theme) => theme === text) ?? 'auto';
}

export function readFontSize(text: string | null): number | null {
  const px = Number(text);
  if (!text?.trim() || !Number.isFinite(px)) return null;
  return Math.min(FONT_PX.most, Math.max(FONT_PX.least, px));
}
