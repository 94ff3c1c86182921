import type { ITheme } from '@xterm/xterm';
import type { Look } from './look.ts';

/**
 * Colours of the screen. Backgrounds match `--belljar-screen` in terminal.css, so that the padding around the
 * characters has the same colour; every foreground has a contrast of at least 4.5 on them, black and white aside.
 */
const DARK: ITheme = {
  background: '#0c1312',
  foreground: '#d8e3df',
  cursor: '#8fd9c4',
  cursorAccent: '#0c1312',
  selectionBackground: '#2c4f48',
  black: '#24302d',
  red: '#f08a7d',
  green: '#8ccf8f',
  yellow: '#e2c37a',
  blue: '#86b6ea',
  magenta: '#cfa4e0',
  cyan: '#7fd0c7',
  white: '#d8e3df',
  brightBlack: '#7d918b',
  brightRed: '#ffa99d',
  brightGreen: '#a9e3ab',
  brightYellow: '#f3d99a',
  brightBlue: '#a8ccf5',
  brightMagenta: '#e2c0ef',
  brightCyan: '#a0e6de',
  brightWhite: '#ffffff',
};

const LIGHT: ITheme = {
  background: '#fcfdfc',
  foreground: '#1d2926',
  cursor: '#1f7a68',
  cursorAccent: '#fcfdfc',
  selectionBackground: '#c3e3da',
  black: '#1d2926',
  red: '#b3372b',
  green: '#2b7336',
  yellow: '#855f0c',
  blue: '#245fa8',
  magenta: '#86459c',
  cyan: '#13716a',
  white: '#d3dcd9',
  brightBlack: '#5c6e69',
  brightRed: '#c8442f',
  brightGreen: '#257a3a',
  brightYellow: '#8a6100',
  brightBlue: '#2b6cc4',
  brightMagenta: '#9a4fb3',
  brightCyan: '#0f7a72',
  brightWhite: '#ffffff',
};

const CONTRAST: ITheme = {
  background: '#000000',
  foreground: '#ffffff',
  cursor: '#ffff00',
  cursorAccent: '#000000',
  selectionBackground: '#ffff00',
  selectionForeground: '#000000',
  black: '#000000',
  red: '#ff9a8f',
  green: '#7dff7d',
  yellow: '#ffff54',
  blue: '#a8c8ff',
  magenta: '#ffa8ff',
  cyan: '#54ffff',
  white: '#ffffff',
  brightBlack: '#bfbfbf',
  brightRed: '#ffb8b0',
  brightGreen: '#a8ffa8',
  brightYellow: '#ffff9a',
  brightBlue: '#c8dcff',
  brightMagenta: '#ffc8ff',
  brightCyan: '#9affff',
  brightWhite: '#ffffff',
};

export const COLOURS: Record<Look, ITheme> = { light: LIGHT, dark: DARK, contrast: CONTRAST };

/** Programs choose colours for dark screens, so a light one has to see to it that they can be read. */
export const CONTRAST_RATIO: Record<Look, number> = { light: 4.5, dark: 1, contrast: 7 };

/** Behind text that was looked for. */
export const FOUND: Record<Look, string> = { light: '#f3dfa6', dark: '#574812', contrast: '#5a4b00' };
