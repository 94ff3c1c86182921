/** How many cells a character takes: what the shell's `wcwidth` (glibc, Unicode 14 and later) says. */
import { Unicode11Addon } from '@xterm/addon-unicode11';
import type { IUnicodeVersionProvider, Terminal } from '@xterm/xterm';

/**
 * Emoji younger than the addon's tables, which count them as one cell. Ranges include places that Unicode has
 * kept free for more of them, so that they need no care every year. (EastAsianWidth.txt, W from 1F300 on.)
 */
const YOUNGER: readonly (readonly [number, number])[] = [
  [0x1f6d6, 0x1f6d7],
  [0x1f6dc, 0x1f6df],
  [0x1f6fb, 0x1f6fc],
  [0x1f7f0, 0x1f7f0],
  [0x1f90c, 0x1f90c],
  [0x1f972, 0x1f979],
  [0x1f9a3, 0x1f9ad],
  [0x1f9cb, 0x1f9cc],
  [0x1fa70, 0x1faff],
];

/** `terminal` counts cells in this way from now on. Character by character: glibc knows no grapheme clusters. */
export function countCells(terminal: Terminal): void {
  const register = (provider: IUnicodeVersionProvider) => {
    const older = provider.wcwidth.bind(provider);
    provider.wcwidth = (codepoint) => (isYounger(codepoint) ? 2 : older(codepoint));
    terminal.unicode.register(provider);
    terminal.unicode.activeVersion = provider.version;
  };
  // The addon keeps its tables to itself and only hands them to the terminal it is loaded into.
  new Unicode11Addon().activate({ unicode: { register } } as unknown as Terminal);
}

function isYounger(codepoint: number): boolean {
  return codepoint >= 0x1f6d6 && YOUNGER.some(([first, last]) => codepoint >= first && codepoint <= last);
}
